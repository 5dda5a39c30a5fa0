"""`load`: one word or path to (train, held-out) pictures, whatever stands behind it."""

from __future__ import annotations

import difflib
from pathlib import Path

from ..errors import MarginalsError
from . import emoji
from .archive import load_npz
from .builtin import BUILTIN
from .captioned import Captioned
from .fetch import REMOTES, fetched
from .folder import BUDGET, Colours, load_folder
from .pictures import Pictures, PictureSource, split
from .scan import ENDINGS

MAX_HELD_OUT = 2000


def load(
    spec: str | Path,
    *,
    size: int | None = None,
    held_out: int | float | None = None,
    seed: int = 0,
    colours: Colours = "auto",
    budget: int = BUDGET,
    progress: bool = True,
    cache_dir: Path | str | None = None,
) -> tuple[PictureSource, PictureSource]:
    """(train, held out) for a built-in name, a fetched name, a folder, a zip or an `.npz` archive.

    `size` rescales to (size, size); by default everything keeps its size, and folders choose one
    (see `load_folder`, also for `colours` and `budget`). `held_out` (a number or a share) is cut
    off with `seed`; by default the official held-out part is used where there is one, and a tenth,
    at most 2000 pictures, elsewhere. A name wins over a folder of that name: write ./fashion.
    Raises MarginalsError with one sentence for everything that cannot be loaded.
    """
    train, test = _open(str(spec), size, colours, budget, progress, cache_dir)
    if size is not None:
        train, test = _resized(train, size), test and _resized(test, size)
    if held_out is None:
        held_out = min(MAX_HELD_OUT, max(1, len(train) // 10))
    else:
        test = None  # what was asked for is cut from the training part instead
    return (train, test) if test is not None else split(train, held_out, seed)


def names(cache_dir: Path | str | None = None) -> dict[str, str]:
    """Every data set that can be loaded by name, with one line about it."""
    ships = dict.fromkeys(BUILTIN, "ships with marginals")
    remote = {
        name: "fetched"
        if fetched(name, cache_dir)
        else f"get it with `marginals data fetch {name}` ({remote.size / 1e6:.0f} MB)"
        for name, remote in REMOTES.items()
    }
    made = "built" if emoji.built(None, cache_dir) else "make it with `marginals data build emoji`"
    return ships | remote | {"emoji": made}


def _open(
    spec: str,
    size: int | None,
    colours: Colours,
    budget: int,
    progress: bool,
    cache_dir: Path | str | None,
) -> tuple[PictureSource, PictureSource | None]:
    if spec in BUILTIN:
        return BUILTIN[spec]()
    path = Path(spec).expanduser()
    if spec == "emoji":
        archive = emoji.built(size, cache_dir)
        if archive is None:
            raise MarginalsError(
                "emoji has not been built yet; run `marginals data build emoji` once (it needs "
                "pip install 'marginals[emoji]')."
            )
        return load_npz(archive)
    if spec in REMOTES:
        archive = fetched(spec, cache_dir)
        if archive is None:
            raise MarginalsError(
                f"{spec} has not been fetched yet; run `marginals data fetch {spec}` once."
            )
        return load_npz(archive)
    if path.is_dir() or (path.suffix.lower() == ".zip" and path.is_file()):
        return load_folder(path, size=size, colours=colours, budget=budget, progress=progress)
    if path.suffix.lower() == ".npz" and path.is_file():
        return load_npz(path)
    raise MarginalsError(_refusal(spec, path))


def _resized(source: PictureSource, size: int) -> PictureSource:
    """Folders were read at the right size already; what lies in memory is rescaled."""
    return source.resized(size) if isinstance(source, Pictures | Captioned) else source


def _refusal(spec: str, path: Path) -> str:
    if path.suffix.lower() in ENDINGS and path.is_file():
        return f"{spec} is a single picture; give the folder that holds many."
    if path.is_file():
        return f"{spec} is neither a folder of pictures, a zip of one, nor an .npz archive."
    near = difflib.get_close_matches(spec, names(), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return (
        f"there is no data set, folder or archive called {spec}.{hint} Known names are "
        f"{', '.join(names())}; or give the path of a folder of pictures or of an .npz archive."
    )
