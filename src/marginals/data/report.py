"""What was found in a folder of pictures, for people and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

SHOWN = 10


class BadFile(NamedTuple):
    name: str
    reason: str


@dataclass(frozen=True)
class FolderReport:
    """The outcome of looking through a folder; `bad` files are skipped, never fatal."""

    path: str
    found: int
    usable: int
    bad: tuple[BadFile, ...]
    other_files: int
    captions: int
    """Texts of the usable pictures."""
    classes: dict[str, int]
    """Usable pictures per class."""
    empty_classes: tuple[str, ...]
    """Class folders without a usable picture; they are left out."""
    unlabelled: int
    smallest: tuple[int, int]
    """(width, height) of the picture with the shortest short side."""
    largest: tuple[int, int]
    size: int
    """Side of the pictures as they are learned."""
    channels: int
    cropped: int
    """How many pictures were not square."""
    enlarged: int
    """How many pictures are smaller than `size`."""
    transparent: int
    streamed: bool
    """True when the pictures are decoded on demand, because they exceed the memory budget."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"bad": [bad._asdict() for bad in self.bad]}

    def text(self, shown: int = SHOWN) -> str:
        """A few lines for the terminal; at most `shown` bad files are named."""
        colours = {1: "gray", 3: "colour", 4: "colour with transparency"}[self.channels]
        lines = [
            f"{self.path}: {self.usable} of {self.found} pictures are usable",
            f"  learned as  {self.size}x{self.size}, {colours}"
            + (", decoded on demand" if self.streamed else ", held in memory"),
            f"  sizes       {_size(self.smallest)} to {_size(self.largest)}; "
            f"{self.cropped} cropped to a square, {self.enlarged} enlarged",
        ]
        if self.transparent:
            onto = "kept" if self.channels == 4 else "laid on white"
            lines.append(f"  transparent {self.transparent}, {onto}")
        lines.append(f"  classes     {self._classes()}")
        if self.empty_classes:
            lines.append(f"  left out    empty class folders: {', '.join(self.empty_classes)}")
        if self.captions:
            lines.append(f"  captions    {self.captions}")
        if self.other_files:
            lines.append(f"  ignored     {self.other_files} files that are no pictures")
        lines += [f"  note        {note}" for note in self.notes]
        if self.bad:
            lines.append(f"  skipped     {len(self.bad)} unreadable:")
            lines += [f"    {bad.name}: {bad.reason}" for bad in self.bad[:shown]]
            if len(self.bad) > shown:
                lines.append(f"    and {len(self.bad) - shown} more")
        return "\n".join(lines)

    def _classes(self) -> str:
        if not self.classes:
            return "none"
        named = [f"{name} {count}" for name, count in self.classes.items()]
        more = f", and {len(named) - 2 * SHOWN} more" if len(named) > 2 * SHOWN else ""
        unlabelled = f"; {self.unlabelled} without a label" if self.unlabelled else ""
        return f"{len(named)}: " + ", ".join(named[: 2 * SHOWN]) + more + unlabelled


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
