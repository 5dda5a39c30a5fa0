"""`load`: one word or path to (train, held-out) pictures, whatever stands behind it."""

from __future__ import annotations

import difflib
from pathlib import Path

from ..errors import MarginalsError
from .archive import load_npz
from .builtin import BUILTIN
from .pictures import Pictures, PictureSource

MAX_HELD_OUT = 2000


def load(
    spec: str | Path,
    *,
    size: int | None = None,
    held_out: int | float | None = None,
    seed: int = 0,
) -> tuple[PictureSource, PictureSource]:
    """(train, held out) for a built-in name, a fetched name, a folder or an `.npz` archive.

    `size` rescales to (size, size); by default built-in and archived pictures keep their size and
    folders choose one (see `folder`). `held_out` (a number or a share) is cut off with `seed`
    where the data has no official held-out part; by default a tenth, at most 2000.
    """
    name = str(spec)
    if name in BUILTIN:
        return _finish(*BUILTIN[name](), size, held_out, seed)
    path = Path(spec).expanduser()
    if path.suffix == ".npz" and path.is_file():
        return _finish(*load_npz(path), size, held_out, seed)
    raise MarginalsError(_unknown(name))


def _finish(
    train: Pictures,
    test: Pictures | None,
    size: int | None,
    held_out: int | float | None,
    seed: int,
) -> tuple[Pictures, Pictures]:
    if size is not None:
        train, test = train.resized(size), test and test.resized(size)
    if test is None or held_out is not None:
        return train.split(default_held_out(len(train), held_out), seed)
    return train, test


def default_held_out(n: int, asked: int | float | None) -> int | float:
    """What was asked for, or a tenth of n but at most MAX_HELD_OUT."""
    return min(MAX_HELD_OUT, max(1, n // 10)) if asked is None else asked


def _unknown(name: str) -> str:
    known = list(BUILTIN)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return (
        f"there is no data set, folder or archive called {name}.{hint} Known names: "
        f"{', '.join(known)}; or give the path of a folder of pictures or of an .npz archive."
    )
