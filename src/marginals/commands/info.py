"""`marginals info`: what a picture, a model file or a run folder says about itself.

Only headers are read, no weights and no pixels, so the answer comes at once.
"""

import math
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from marginals.commands.common import Command, to_json
from marginals.errors import MarginalsError


class Info(Command):
    """Say how a picture was made, what a model file holds, or how a run is doing.

    Examples:
      marginals info runs/fashion
      marginals info runs/fashion/model.safetensors --json
      marginals info runs/fashion/pictures/SETTINGS/grid.png
    """

    path: Positional[Annotated[Path, arg(metavar="PATH")]]
    """A PNG, a model (.safetensors) or a run folder."""
    as_json: Annotated[FlagCreatePairsOff[bool], arg(name="json")] = False
    """Print one JSON object with everything instead of a summary."""

    def run(self) -> int:
        about = describe(self.path)
        if self.as_json:
            print(to_json(about))
        else:
            print(f"{self.path}: a {about.pop('is')}\n{_summary(about)}")
        return 0


def describe(path: Path) -> dict[str, Any]:
    """Everything `path` says about itself, as JSON values; "is" names what it is."""
    if not path.exists():
        raise MarginalsError(f"there is no file or folder {path}")
    if path.is_dir():
        return _run(path)
    if path.suffix == ".safetensors":
        return _model(path)
    from marginals.io.pictures import read_parameters

    return {"is": "picture", **read_parameters(path)}


def _model(path: Path) -> dict[str, Any]:
    from marginals.io.checkpoint import read_header
    from marginals.io.tensors import read_contents

    contents = read_contents(path)
    parameters = sum(math.prod(shape) for shape in contents.shapes.values())
    if contents.header.get("format") == "marginals classifier":
        rest = {key: value for key, value in contents.header.items() if key != "format"}
        return {"is": "classifier of pictures", "parameters": parameters, **rest}
    header = read_header(path)
    extra = dict(header["extra"])
    if "data" in extra:  # the model says "data" of its statistics
        extra["trained_on_data"] = extra.pop("data")
    return {"is": "model", "parameters": parameters, **header["model"], **extra} | {
        "format_version": header["format_version"],
        "package_version": header["package_version"],
    }


def _run(path: Path) -> dict[str, Any]:
    from marginals.train.config import TrainConfig
    from marginals.train.records import read

    if not (path / "config.yaml").is_file():
        raise MarginalsError(f"{path} is not a run: it holds no config.yaml")
    config = TrainConfig.from_yaml(path / "config.yaml").model_dump(exclude_none=True)
    about: dict[str, Any] = {"is": "run", "config": config}
    if log := read(path / "log.jsonl"):
        about["last"] = log[-1]
    if (path / "model.safetensors").is_file():
        about["model"] = _model(path / "model.safetensors")
        del about["model"]["is"]
    return about


def _summary(about: dict[str, Any], indent: str = "  ") -> str:
    """One line per entry; nested tables are indented, objects of the core read like code."""
    lines = []
    for key, value in about.items():
        if isinstance(value, dict) and "kind" not in value:
            lines += [f"{indent}{key}", _summary(value, indent + "  ")] if value else []
        else:
            lines.append(f"{indent}{key:<16} {_words(value)}")
    return "\n".join(lines)


def _words(value: Any) -> str:
    """{"kind": "Elbo"} -> Elbo(), long lists shortened."""
    if isinstance(value, dict) and set(value) == {"float"}:
        return value["float"]
    if isinstance(value, dict):
        fields = {k: v for k, v in value.items() if k not in ("kind", "config")}
        fields |= config if isinstance(config := value.get("config"), dict) else {}
        inner = ", ".join(f"{k}={_words(v)}" for k, v in fields.items())
        return f"{value['kind']}({inner})" if "kind" in value else f"{{{inner}}}"
    if isinstance(value, list) and len(value) > 16:
        return f"[{_words(value[0])} ... {_words(value[-1])}, {len(value)} values]"
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
