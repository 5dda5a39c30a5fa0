"""What a run writes for people: `log.jsonl`, one line of JSON per entry."""

import json
from pathlib import Path
from typing import Any

from marginals.errors import MarginalsError
from marginals.io.atomic import write_text

__all__ = ["append", "read", "truncate"]


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add a line. Raises MarginalsError when the disk does not take it."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise MarginalsError(f"cannot write {path}: {error.strerror}") from error


def read(path: Path) -> list[dict[str, Any]]:
    """All whole entries; lines that cannot be read (torn by a kill, damaged) are left out."""
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise MarginalsError(f"cannot read {path}: {error.strerror}") from error
    return [entry for line in lines if (entry := _entry(line)) is not None]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:  # of the encoding or of the JSON
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("images"), int)
    return entry if whole else None


def truncate(path: Path, images_seen: int) -> None:
    """Forget what was written after the checkpoint: the resumed run writes it again."""
    kept = [entry for entry in read(path) if entry["images"] <= images_seen]
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
