"""What lies in a folder (or a zip of one): which files are pictures, and which class each has.

The rules, in the order they apply:

1. Hidden files and folders (a leading dot, `__MACOSX`) are ignored; pictures are recognised by
   their ending; everything else is counted as "other".
2. A lone wrapping folder (`pets/pets/cat/...`) is stepped into.
3. Folders named `train` and `test` (or `val`, `valid`, `validation`) side by side are an official
   split; the classes are the folders inside them.
4. Each first-level folder is a class, with all pictures below it. Pictures beside the class
   folders have no label. A single class, or none, means pictures without labels.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from ..errors import MarginalsError

ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("test", "testing", "val", "valid", "validation")
MAX_MEMBER_BYTES = 1 << 29
"""No single picture file is larger than 512 MiB; a zip member that claims to be is refused."""


class Store(Protocol):
    """Files by relative name, with forward slashes."""

    path: Path

    def files(self) -> list[str]: ...
    def folders(self) -> list[str]: ...
    def open(self, name: str) -> IO[bytes]: ...
    def stamp(self, name: str) -> tuple[int, int]:
        """Two numbers that change when the file does."""
        ...


class FolderStore:
    """The files of a folder on disk; linked folders are followed, each real folder once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[str] = []
        self._folders: list[str] = []
        seen: set[str] = set()
        for root, folders, files in os.walk(path, followlinks=True):
            real = os.path.realpath(root)
            if real in seen:  # a link back to where we were
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if not is_hidden(name)]
            relative = Path(root).relative_to(path)
            self._files += [(relative / name).as_posix() for name in files]
            self._folders += [(relative / name).as_posix() for name in folders]

    def files(self) -> list[str]:
        return self._files

    def folders(self) -> list[str]:
        return self._folders

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")

    def stamp(self, name: str) -> tuple[int, int]:
        found = (self.path / name).stat()
        return found.st_size, found.st_mtime_ns


class ZipStore:
    """The members of a zip file, read in place: nothing is unpacked to the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise MarginalsError(f"{path} is no readable zip file ({error}).") from None

    def files(self) -> list[str]:
        return [m.filename for m in self._zip.infolist() if not m.is_dir()]

    def folders(self) -> list[str]:
        return [m.filename.rstrip("/") for m in self._zip.infolist() if m.is_dir()]

    def open(self, name: str) -> IO[bytes]:
        if self._zip.getinfo(name).file_size > MAX_MEMBER_BYTES:
            raise OSError("unpacks to more than 512 MiB")
        return self._zip.open(name)

    def stamp(self, name: str) -> tuple[int, int]:
        member = self._zip.getinfo(name)
        return member.file_size, member.CRC


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder, sorted by name, with their classes; nothing was opened yet."""

    store: Store
    names: tuple[str, ...]
    labels: tuple[int, ...]
    """One per picture: index into `classes`, or -1."""
    held_out: tuple[bool, ...] | None
    """One per picture, when the folder has an official split; None otherwise."""
    classes: tuple[str, ...] = ()
    empty_classes: tuple[str, ...] = ()
    other_files: int = 0
    notes: tuple[str, ...] = field(default=())


def scan(path: Path) -> Listing:
    """List the pictures of a folder or zip file; MarginalsError when there are none."""
    if path.is_dir():
        store: Store = FolderStore(path)
    elif path.is_file():
        store = ZipStore(path)
    else:
        raise MarginalsError(f"there is no folder {path}; check the spelling of the path.")
    visible = sorted(name for name in store.files() if not is_hidden(name))
    pictures = [n for n in visible if PurePosixPath(n).suffix.lower() in ENDINGS]
    others = len(visible) - len(pictures)
    if not pictures:
        beside = f", only {others} other file{'s'[: others != 1]}" if others else ""
        raise MarginalsError(
            f"{path} holds no pictures{beside}; pictures are files that end in "
            f"{', '.join(sorted(e[1:] for e in ENDINGS))}."
        )
    folders = [name for name in store.folders() if not is_hidden(name)]
    return _classify(store, pictures, folders, others)


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def printable(name: str) -> str:
    """A file name that can be shown and stored: bytes that are no UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def _classify(store: Store, names: list[str], folders: list[str], others: int) -> Listing:
    depth = _wrapping_depth(names)
    paths = {name: name.split("/")[depth:] for name in names}
    notes: list[str] = []
    tops = {path[0] for path in paths.values() if len(path) > 1}
    split = _split_names(tops)
    held_out = None
    if split is not None:
        train, test = split
        dropped = sorted(n for n in names if paths[n][0] not in split)
        if dropped:
            notes.append(f"{len(dropped)} pictures beside {train}/ and {test}/ are left out")
        names = [n for n in names if paths[n][0] in split]
        held_out = tuple(paths[n][0] == test for n in names)
        notes.append(f"{test}/ is the held-out part")
        depth += 1
        paths = {name: name.split("/")[depth:] for name in names}
    found = sorted({path[0] for path in paths.values() if len(path) > 1})
    prefixes = {"/".join(name.split("/")[:depth]) for name in names}
    empty = sorted(set(_children(folders, prefixes, depth)) - set(found))
    if len(found) == 1:
        notes.append(
            f"one class only ({printable(found[0])}): the pictures are learned without labels"
        )
    classes = tuple(found) if len(found) > 1 else ()
    index = {name: label for label, name in enumerate(classes)}
    labels = tuple(index.get(paths[n][0], -1) if len(paths[n]) > 1 else -1 for n in names)
    return Listing(
        store,
        tuple(names),
        labels,
        held_out,
        tuple(map(printable, classes)),
        tuple(map(printable, empty)),
        others,
        tuple(notes),
    )


def _wrapping_depth(names: list[str]) -> int:
    """How many lone folders wrap everything; a lone folder of pictures is a class, not a wrap."""
    depth = 0
    while True:
        rest = [name.split("/")[depth:] for name in names]
        if len({path[0] for path in rest}) > 1 or any(len(path) <= 2 for path in rest):
            return depth
        depth += 1


def _split_names(tops: set[str]) -> tuple[str, str] | None:
    """(training, held-out) folder names, when both are there; `test` before `val`."""
    lower = {name.lower(): name for name in sorted(tops, reverse=True)}
    train = next((lower[n] for n in TRAIN_NAMES if n in lower), None)
    test = next((lower[n] for n in HELD_OUT_NAMES if n in lower), None)
    return (train, test) if train and test else None


def _children(folders: list[str], prefixes: set[str], depth: int) -> Iterator[str]:
    """Names of the folders that lie directly inside one of the prefixes."""
    for folder in folders:
        parts = folder.split("/")
        if len(parts) == depth + 1 and "/".join(parts[:depth]) in prefixes:
            yield parts[depth]
