"""Rectangles of characters with a baseline: how maths is laid out in a terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from unicodedata import combining


def width(text: str) -> int:
    """Columns a text takes: accents that sit on the letter before take none."""
    return sum(not combining(char) for char in text)


def pad(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def centred(text: str, columns: int) -> str:
    return pad(" " * ((columns - width(text)) // 2) + text, columns)


@dataclass(frozen=True)
class Box:
    """Lines of equal width; ``base`` is the index of the line that neighbours line up with."""

    lines: tuple[str, ...]
    base: int = 0

    @property
    def width(self) -> int:
        return width(self.lines[0])

    @property
    def height(self) -> int:
        return len(self.lines)

    @property
    def below(self) -> int:
        """Lines under the baseline."""
        return self.height - self.base - 1

    def __str__(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)


def box(text: str) -> Box:
    return Box((text,))


def beside(parts: Iterable[Box]) -> Box:
    """One after the other on a common baseline."""
    parts = [part for part in parts if part.width] or [box("")]
    above, below = max(p.base for p in parts), max(p.below for p in parts)
    rows = [""] * (above + below + 1)
    for part in parts:
        top = above - part.base
        for i in range(len(rows)):
            inside = 0 <= i - top < part.height
            rows[i] += part.lines[i - top] if inside else " " * part.width
    return Box(tuple(rows), above)


def stacked(parts: Sequence[Box], base: int) -> Box:
    """One above the other, centred; the baseline is that of part number ``base``."""
    columns = max(part.width for part in parts)
    lines = [centred(line, columns) for part in parts for line in part.lines]
    return Box(tuple(lines), sum(p.height for p in parts[:base]) + parts[base].base)


def fraction(top: Box, bottom: Box) -> Box:
    bar = box("─" * (max(top.width, bottom.width) + 2))
    return stacked([top, bar, bottom], 1)


def scripts(base: Box, sub: Box | None, sup: Box | None) -> Box:
    """``sub`` below and ``sup`` above, both to the right of the base."""
    columns = max(part.width for part in (sub, sup) if part)
    rows = [line + " " * columns for line in base.lines]
    start = base.base
    if sup:
        rows = [" " * base.width + pad(line, columns) for line in sup.lines] + rows
        start += sup.height
    if sub:
        rows += [" " * base.width + pad(line, columns) for line in sub.lines]
    return Box(tuple(rows), start)


_TALL = {
    "(": "⎛⎜⎝",
    ")": "⎞⎟⎠",
    "[": "⎡⎢⎣",
    "]": "⎤⎥⎦",
    "{": "⎧⎪⎩",
    "}": "⎫⎪⎭",
    "‖": "‖‖‖",
    "|": "│││",
}


def fence(sign: str, inside: Box) -> Box:
    """A bracket as tall as what it encloses; scripts alone do not make it tall."""
    if inside.height < 3 or sign not in _TALL:
        return box(sign)
    top, middle, bottom = _TALL[sign]
    return Box((top, *[middle] * (inside.height - 2), bottom), inside.base)


def braced(inside: Box, label: Box) -> Box:
    """An underbrace with its label."""
    columns = max(inside.width, 3)
    left = (columns - 3) // 2
    brace = box("╰" + "─" * left + "┬" + "─" * (columns - 3 - left) + "╯")
    return stacked([inside, brace, label], 0)
