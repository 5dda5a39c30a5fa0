"""One run at a time in a run folder.

The claim is a lock on RUN/.lock that the operating system gives back when the process ends, however
it ends. The file itself means nothing; what `kill -9` leaves behind of it is in nobody's way.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from marginals.errors import MarginalsError

try:
    import fcntl
except ImportError:  # Windows: no lock of this kind, so runs there are trusted
    fcntl = None

__all__ = ["Taken", "claim"]

_NAME = ".lock"


class Taken(MarginalsError):
    """Another run is training in the folder."""


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Make the folder where it is missing and hold it for the block.

    A folder made here that is still empty afterwards is taken away again. Raises Taken when
    another run holds the folder, MarginalsError when it cannot be made.
    """
    made = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(folder)
    except OSError as error:
        raise MarginalsError(
            f"cannot make a run in {folder}: {error.strerror}; choose another folder"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / _NAME).unlink()
        os.close(descriptor)
        with contextlib.suppress(OSError):  # they are not empty: something was kept
            for each in made:
                each.rmdir()


def _locked(folder: Path) -> int:
    """The descriptor of the locked file; closing it, or the end of the process, unlocks it."""
    while True:
        descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if _lock(descriptor) and not _is_same_file(descriptor, folder / _NAME):
                os.close(descriptor)  # its last holder removed it just now
                continue
        except BlockingIOError:
            os.close(descriptor)
            raise Taken(
                f"another run is training in {folder}; wait for it or choose another folder"
            ) from None
        return descriptor


def _lock(descriptor: int) -> bool:
    """False where the system, or this disk, knows no locks; BlockingIOError if it is taken."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
