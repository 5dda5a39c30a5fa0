"""`marginals train`: learn a data set, or continue a run exactly where it stopped."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import model_validator
from tyro.conf import FlagCreatePairsOff, arg

from marginals.commands.common import flag
from marginals.errors import MarginalsError
from marginals.train.config import TrainConfig
from marginals.train.presets import fitting, preset


class Train(TrainConfig):
    """Train a model on pictures. Ctrl-C stops and saves; --resume continues exactly.

    The run folder holds the model (use it at once with `marginals sample`), the settings as
    config.yaml, a strip of samples from the first step on, and the loss by noise level.

    Examples:
      marginals train --data fashion --minutes 10 --out runs/fashion
      marginals train --data path/to/pictures --size 32 --minutes 60
      marginals train --model hvae --data fashion --minutes 10
      marginals train --model autoencoder --data fashion --out runs/codec
      marginals train --codec runs/codec --model flow --data fashion
      marginals train --model classifier --data fashion --preset 2min --out runs/judge
      marginals train --config runs/fashion/config.yaml --seed 1 --out runs/again
      marginals train --resume runs/fashion --images 400000
    """

    budget: Annotated[
        Literal["2min", "10min", "1h", "overnight", "shapes", "emoji"] | None,
        arg(name="preset", metavar="NAME"),
    ] = None
    """Settings for a time budget: 2min, 10min, 1h or overnight; by default what fits --minutes. Or
    for a task: shapes or emoji, which learn to draw what a text says."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """Start from the settings in this YAML file; other flags replace single ones."""
    resume: Annotated[Path | None, arg(metavar="RUN")] = None
    """Continue this run; only its length and its reports may change."""
    debug: FlagCreatePairsOff[bool] = False
    """Show a traceback when something goes wrong (also: MARGINALS_DEBUG=1)."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        return self  # `settings` settles it: a flag may replace the budget of a preset or a file

    @classmethod
    def defaults(cls, argv: list[str]) -> "Train":
        """Flags that are not given come from --resume, --config, or the preset that fits."""
        resume, config, name = (flag(argv, f"--{n}") for n in ("resume", "config", "preset"))
        if sum(x is not None for x in (resume, config, name)) > 1:
            raise MarginalsError("give one of --resume, --config and --preset, not several")
        if resume is not None:
            values = _read(_run_folder(Path(resume)) / "config.yaml")
        elif config is not None:
            values = _read(Path(config))
        else:
            model = flag(argv, "--model") or "v"
            values = {"model": model, **_preset(name, flag(argv, "--minutes"), model)}
            if flag(argv, "--codec") is not None:
                values["network"] = "dit-latent"  # those of the budgets are for pixels
        # A budget among the flags replaces the one that comes from elsewhere.
        for given, other in (("images", "minutes"), ("minutes", "images")):
            if flag(argv, f"--{given}") is not None:
                values.pop(other, None)
        return cls(**values)

    def settings(self) -> TrainConfig:
        """The checked settings of the run, without the flags that are only for this command."""
        return TrainConfig(**self.model_dump(include=set(TrainConfig.model_fields)))

    def run(self) -> int:
        from marginals.train.run import train

        train(self.settings(), resume=self.resume)
        return 0


def _run_folder(path: Path) -> Path:
    """The folder of a run to continue, if it is one."""
    if not path.is_dir():
        raise MarginalsError(
            f"there is no run folder {path}; give --resume the folder that `marginals train` named "
            "when the run began, or begin a run by leaving --resume away"
        )
    if not (path / "config.yaml").is_file():
        raise MarginalsError(
            f"{path} is not a run: it holds no config.yaml; give --resume the folder of a run"
        )
    return path


def _read(path: Path) -> dict[str, Any]:
    return TrainConfig.from_yaml(path).model_dump()


def _preset(name: str | None, minutes: str | None, model: str) -> dict[str, Any]:
    """The named preset of a model, or the largest whose time fits into `minutes` (None: 10)."""
    if name is not None:
        return preset(name, model)
    try:
        asked = 10.0 if minutes is None else float(minutes)
    except ValueError:
        asked = 10.0  # tyro says what is wrong with it
    return fitting(model, asked)
