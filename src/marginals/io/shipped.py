"""Models that come with the package: weights, and a card that says what they are.

A name such as "emoji" stands for such a model wherever a run folder or a model file is asked for; a
file or folder of that name goes first.
"""

import os
from importlib.resources import files
from pathlib import Path

from marginals.errors import MarginalsError

__all__ = ["find", "names"]


def _folder() -> Path:
    return Path(str(files("marginals"))) / "shipped"


def names() -> list[str]:
    """What there is."""
    return sorted(path.stem for path in _folder().glob("*.safetensors"))


def find(name: str | os.PathLike[str]) -> Path:
    """The model file that a path or the name of a shipped model means.

    Raises MarginalsError where there is neither.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "model.safetensors"
        if not path.is_file():
            raise MarginalsError(
                f"{name} holds no model.safetensors, so no training run has saved there; give the "
                "folder of a run or a .safetensors file"
            )
        return path
    if path.is_file():
        return path
    if str(name) in names():
        return _folder() / f"{name}.safetensors"
    known = f", or name one that comes with marginals: {', '.join(names())}" if names() else ""
    raise MarginalsError(
        f"there is no run folder or model file {name}; train one with `marginals train --out "
        f"{name}`{known}"
    )
