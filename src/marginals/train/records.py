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
    """All whole lines; a torn last one (the process was killed in the middle of it) is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def truncate(path: Path, images_seen: int) -> None:
    """Forget what was written after the checkpoint: the resumed run writes it again."""
    kept = [entry for entry in read(path) if entry["images"] <= images_seen]
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
