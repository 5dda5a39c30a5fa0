"""What every sub-command shares: flags, checked values in one sentence, finding a model."""

import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tyro.conf import FlagCreatePairsOff, Positional, arg

from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from torch import Tensor

    from marginals.generative import Generative
    from marginals.models import Guidance
    from marginals.sampling import Progress

Run = Positional[
    Annotated[Path, arg(metavar="RUN", help="A run folder, or a model (.safetensors).")]
]
"""The flag type of a trained model."""

OWN = "own"
"""What a picture says of a walk that is part of its model, of a student of few steps."""

FITTED = "fitted"
"""What `--solver` calls the tables that `marginals fit` made for a model."""


class Command(BaseModel):
    """A sub-command: the fields are its flags, `run` does the work and returns the exit code.

    Raises MarginalsError, in one sentence, for a value that makes no sense.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    threads: Annotated[int | None, arg(metavar="INT"), Field(ge=1)] = None
    """CPU threads; by default one per core."""
    debug: FlagCreatePairsOff[bool] = False
    """Show a traceback when something goes wrong (also: MARGINALS_DEBUG=1)."""

    if not TYPE_CHECKING:  # the typed signature pydantic gives is the better one for editors

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise MarginalsError(_sentence(error)) from None

    def run(self) -> int:
        raise NotImplementedError

    @classmethod
    def defaults(cls, argv: list[str]) -> Any:
        """The values of flags that are not given; None for those written in the class."""
        return None


def set_threads(count: int | None) -> None:
    """Let torch use `count` CPU threads; None leaves torch's own choice (one per core)."""
    if count is None:
        return
    import torch

    cores = os.cpu_count() or 1
    if count > 4 * cores:
        raise MarginalsError(
            f"--threads {count} is far more than the {cores} cores of this machine; "
            f"use at most {4 * cores}"
        )
    torch.set_num_threads(count)


def find_model(run: Path) -> Path:
    """The model file that RUN means: the file itself, the one in a run folder, or one that comes
    with the package."""
    from marginals.io.shipped import find

    return find(run)


def device() -> str:
    """Where commands compute: on the GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load(run: Path) -> "Generative":
    """The trained model RUN means, ready for use."""
    from marginals.io.checkpoint import load_model

    return load_model(find_model(run), device())


def walk_settings(
    model: "Generative",
    path: Path,
    solver: str | None,
    steps: int | None,
    guidance: float,
    *,
    levels: str | None = None,
    tolerance: float | None = None,
    temperature: float | None = None,
) -> dict[str, Any]:
    """How the model in ``path`` is sampled; settings that mean nothing to its kind are refused.

    A diffusion model is walked: {"solver", "steps", "guidance"} and "levels" where they are asked
    for, or {"solver", "tolerance", "guidance"} with steps as small as that needs. A ladder draws
    every rung once: {"temperature"}.
    """
    from marginals.io.fitted import load_fitted, table_mark
    from marginals.latent import walked

    if (inside := walked(model)) is not None:
        if temperature is not None:
            raise MarginalsError(
                "--temperature is for ladders of latents, like VAEs; to change the pictures of a "
                "diffusion model use --guidance"
            )
        if inside.walk is not None and (solver, steps, levels, tolerance) == (None,) * 4:
            own = {"solver": OWN, "steps": len(inside.walk.lams), "guidance": guidance}
            return own | {"table": table_mark(inside.walk)}
        fixed = {"--solver": solver, "--steps": steps, "--levels": levels}
        if tolerance is not None:
            if wrong := [name for name, value in fixed.items() if value is not None]:
                raise MarginalsError(f"--tolerance chooses the steps itself: leave {wrong[0]} out")
            return {"solver": "dopri5", "tolerance": tolerance, "guidance": guidance}
        grid = {} if levels is None else {"levels": levels}
        if solver == FITTED:
            if grid:
                raise MarginalsError("a fitted solver has its own levels: leave --levels out")
            table = load_fitted(path, steps, guidance)
            grid, steps = {"table": table_mark(table)}, len(table.lams)
        return {"solver": solver or "auto", "steps": steps or 20, "guidance": guidance} | grid
    given = {
        "--solver": solver,
        "--steps": steps,
        "--levels": levels,
        "--tolerance": tolerance,
    }
    if wrong := [name for name, value in given.items() if value is not None]:
        raise MarginalsError(
            f"{wrong[0]} is for diffusion models; this one is a ladder of latents, like a VAE, and "
            "draws a picture in one go: leave it out"
        )
    if guidance != 1.0:
        raise MarginalsError(
            "--guidance is for diffusion models; for more typical pictures of a ladder of latents "
            "give a --temperature below 1"
        )
    return {"temperature": 1.0 if temperature is None else temperature}


def check_walk_names(solver: str | None, levels: str | None = None) -> None:
    """Refuse mistyped names before anything slow begins."""
    from marginals.io import registry

    if solver is not None and solver != FITTED:
        registry.solver(solver)
    if levels is not None:
        registry.levels(levels)


def _walk_objects(walk: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings of `walk_settings` with objects in place of names."""
    from marginals.io import registry
    from marginals.io.fitted import load_fitted

    if walk["solver"] == OWN:
        return {"guidance": walk["guidance"]}  # the model knows its own levels
    if walk["solver"] == FITTED:
        table = load_fitted(path, walk["steps"], walk["guidance"])
        rest = {key: value for key, value in walk.items() if key != "table"}
        return rest | {"solver": table.solver, "levels": table.levels}
    grid = {"levels": registry.levels(walk["levels"])} if "levels" in walk else {}
    chosen = None if walk["solver"] == "auto" else registry.solver(walk["solver"])
    return walk | {"solver": chosen} | grid


def draw(
    model: "Generative",
    path: Path,
    count: int,
    walk: dict[str, Any],
    seed: int,
    cond: "Tensor | None",
    batch: int = 64,
    guide: "Guidance | None" = None,
) -> "Tensor":
    """Pictures (count, C, H, W) by the settings of `walk_settings`; a walk has a progress bar.
    `guide` stands for the weight of guidance that these name."""
    from tqdm import tqdm

    by = {} if guide is None else {"guidance": guide}
    if "solver" not in walk:
        return model.sample(count, seed=seed, cond=cond, batch=batch, **walk).x
    if "tolerance" in walk:
        return _draw_adaptive(model, count, walk | by, seed=seed, cond=cond, batch=batch)
    with tqdm(desc=f"{walk['solver']}, {walk['steps']} steps", unit=" evaluations") as bar:

        def show(progress: "Progress") -> None:
            bar.total = progress.total * -(-count // batch)
            bar.update()

        options = _walk_objects(walk, path) | by | {"callback": show}
        result = model.sample(count, seed=seed, cond=cond, batch=batch, **options)
    return result.x


def _draw_adaptive(
    model: "Generative", count: int, walk: dict[str, Any], *, batch: int, **options: Any
) -> "Tensor":
    """The same where the number of steps is not known beforehand; says how many it took."""
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    parts, before = -(-count // batch), 0.0
    with tqdm(desc=f"tolerance {walk['tolerance']:g}", total=parts, bar_format=form) as bar:

        def show(share: float) -> None:
            nonlocal before
            bar.update(max(0.0, share - before) if share >= before else share)
            before = share if share < 1.0 else 0.0

        settings = {"tolerance": walk["tolerance"], "guidance": walk["guidance"]}
        result = model.sample(count, batch=batch, advance=show, **settings, **options)
    print(f"the slowest picture took {result.nfe} evaluations")
    return result.x


def class_index(label: str, classes: Sequence[str]) -> int:
    """The index of a class given by index or name; -1 for "none", the unconditional model."""
    if label in classes:
        return classes.index(label)
    if label.lower() == "none":
        return -1
    if not classes:
        raise MarginalsError("this model was trained without classes; leave --label out")
    numbered = any(name.isdecimal() and int(name) != i for i, name in enumerate(classes))
    if label.isdecimal() and int(label) < len(classes) and not numbered:
        return int(label)
    close = difflib.get_close_matches(label.lower(), classes, n=1)
    hint = f"did you mean {close[0]!r}? There are" if close else "the classes are"
    if numbered:
        hint = "some classes are named like numbers, so --label takes names only:"
    names = ", ".join(name if numbered else f"{i} {name}" for i, name in enumerate(classes))
    raise MarginalsError(f"there is no class {label!r}; {hint} {names}")


def check_guidance(path: Path, guidance: float, classes: Sequence[str], index: int | None) -> None:
    """Refuse guidance where there is nothing to guide with: it compares a class with no class.

    `index` is the class that all pictures have, -1 for "no class", None for every class in turn.
    """
    from marginals.io.checkpoint import read_header

    if guidance != 1.0 and not classes:
        raise MarginalsError("--guidance needs a model with classes, and this one has none")
    if guidance != 1.0 and index == -1:
        raise MarginalsError(
            "--guidance strengthens a class, so it means nothing with --label none; leave one out"
        )
    never_without = bool(classes) and read_header(path)["extra"].get("label_dropout") == 0
    if never_without and (guidance != 1.0 or index == -1):
        what = "--guidance" if guidance != 1.0 else "--label none"
        raise MarginalsError(
            f"{what} needs a model that also learned pictures without their class, and this one "
            "was trained with --label-dropout 0; leave it out"
        )


def to_json(value: Any) -> str:
    """`value` as JSON that every program can read, which has no word for NaN and infinity."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise MarginalsError(
            "one of the numbers is NaN or infinite, and JSON has no word for that; leave --json out"
        ) from None


def flag(argv: list[str], name: str) -> str | None:
    """The value given for the flag `name` in `argv` ("--name value" or "--name=value"), if any."""
    for word, following in zip(argv, [*argv[1:], None]):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None


def _sentence(error: ValidationError) -> str:
    """All problems of the flags in one sentence."""
    return "; ".join(_problem(dict(e)) for e in error.errors(include_url=False))


def _problem(error: dict[str, Any]) -> str:
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if not error["loc"]:
        return message
    name = str(error["loc"][0]).replace("_", "-")
    return f"--{name} {message} (it is {error['input']})"
