"""Files appear whole or not at all.

`kill -9`, Ctrl-C, a full disk or an exception half way through a write must never leave a torn
checkpoint behind. The recipe is the usual one: write a temporary file *in the same folder* (a
rename is only atomic inside one file system), flush it to the disk, then rename it over the old
file. A reader therefore sees the old file or the new one, never a mixture.
"""

import contextlib
import errno
import functools
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marginals.errors import MarginalsError

__all__ = ["atomic_write", "safe_name", "write_bytes", "write_json", "write_text"]

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
    errno.EACCES: "you may not write there; choose a folder you own",
    errno.EPERM: "you may not write there; choose a folder you own",
    errno.EROFS: "that disk is read-only; choose another folder",
    errno.ENOENT: "its folder does not exist; create the folder first",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another path",
    errno.EISDIR: "that path is a folder; give a file name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp(\..*)?", re.DOTALL)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there becomes `path` in the end.

    On success the temporary file is synced to the disk and renamed over `path`. On any exception,
    Ctrl-C included, it is removed and an older `path` stays as it was. The temporary name keeps the
    suffix of `path`, so that libraries which guess a format from the name guess right. Only
    `kill -9` and power cuts can leave one behind; a later process that writes into the folder
    clears it away.

    Raises MarginalsError, in one sentence, when the operating system refuses the write (disk full,
    no permission, missing folder); every other exception passes through unchanged.
    """
    # A link is followed: the file it points to is replaced, the link stays a link.
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        _remove_leftovers(path.parent)
        yield temporary
        _copy_mode(path, temporary)
        _sync(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except Exception as error:
        remedy = _REMEDIES.get(_system_code(error))
        if remedy is None or not _concerns(error, temporary, path):
            raise
        raise MarginalsError(f"cannot write {path}: {remedy}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically (see `atomic_write`)."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically and with the line endings it has."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically.

    Raises MarginalsError for what JSON cannot say (NaN, infinity, objects): a report that only
    Python can read back is not JSON.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MarginalsError(f"cannot write {path} as JSON: {error}") from error
    write_text(path, text + "\n")


def _system_code(error: Exception) -> int:
    """The operating system's error number; libraries in Rust (safetensors) only spell it out."""
    if isinstance(error, OSError):
        return error.errno or 0
    spelled = re.search(r"\(os error (\d+)\)", str(error))
    return int(spelled.group(1)) if spelled else 0


def _concerns(error: Exception, temporary: Path, path: Path) -> bool:
    """Whether `error` is about this write, not about some other file the caller's block opened."""
    filename = getattr(error, "filename", None)
    if filename is None or _system_code(error) in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.fspath(filename) in (os.fspath(temporary), os.fspath(path))


@functools.cache
def _remove_leftovers(folder: Path) -> None:
    """Remove, once per process, what killed ones left; only after an hour: a live one may write."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if _TEMPORARY.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > 3600:
                os.unlink(entry.path)


def _copy_mode(path: Path, temporary: Path) -> None:
    """Keep the permissions of the file that is being replaced."""
    with contextlib.suppress(OSError):
        os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def safe_name(name: str, longest: int = 40) -> str:
    """`name` as a part of a file name: letters, digits, _ and - stay, all else becomes -."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")[:longest] or "nameless"
