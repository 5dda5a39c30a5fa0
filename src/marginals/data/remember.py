"""Which files of a large folder turned out to be undecodable, kept from one start to the next.

Finding out means decoding every file once, minutes for a million pictures; a resumed run should
not pay that again. The note is keyed by the names, sizes and dates of all files, so any change to
the folder makes it void.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from ..errors import MarginalsError
from ..io.atomic import write_json
from .fetch import cache_folder
from .scan import Store


def note_path(store: Store, names: list[str], size: int, mode: str) -> Path:
    """Where the note about exactly these files, decoded in exactly this way, is kept."""
    key = hashlib.sha256(f"{store.path.resolve()} {size} {mode}".encode("utf-8", "replace"))
    for name in names:
        stamp = None
        with contextlib.suppress(OSError):  # it vanished a moment ago; reading it will say so
            stamp = store.stamp(name)
        key.update(f"\n{name} {stamp}".encode("utf-8", "surrogateescape"))
    return cache_folder() / "folders" / f"{key.hexdigest()[:32]}.json"


def recall(path: Path) -> dict[str, str] | None:
    """Reasons by file name, or None when nothing (readable) was noted."""
    try:
        reasons = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    fits = isinstance(reasons, dict) and all(isinstance(r, str) for r in reasons.values())
    return reasons if fits else None


def note(path: Path, reasons: dict[str, str]) -> None:
    """Keep the reasons; a cache that cannot be written only costs the time to look again."""
    with contextlib.suppress(OSError, ValueError, MarginalsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, reasons)
