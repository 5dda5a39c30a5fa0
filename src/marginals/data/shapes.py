"""Captioned shapes: pictures made by a rule, for lessons and tests of text to image.

A picture of 32x32 pixels shows one shape on white: one of 6 colours, 5 shapes, 2 sizes and 5
places, which its caption names ("a small red triangle at the top left"). Exact place, size and
shade vary a little. A tenth of the 300 combinations is held out. Every value, and every pair of
values, is in the training part, so a model that understood each word can draw the rest; whether it
did can be read off the picture without a network (`marginals.metrics.shapes`).

Everything is whole numbers, so the pictures are the same to the bit on every machine: an edge is
drawn by counting which of 4x4 points in a pixel lie inside.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .captioned import Captioned

SIDE = 32
SUB = 8
"""Lengths are in eighths of a pixel; the points that are counted lie at 1, 3, 5, 7 eighths."""
COLOURS = {
    "red": (214, 40, 40),
    "yellow": (240, 200, 40),
    "green": (45, 160, 65),
    "blue": (45, 95, 215),
    "purple": (145, 55, 180),
    "black": (35, 35, 35),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
RADII = {"small": (28, 32, 36), "large": (52, 56, 60)}
"""Radius in eighths of a pixel: 4 and 7 pixels, half a pixel more or less."""
PLACES = {
    "at the top left": (9, 9),
    "at the top right": (23, 9),
    "at the bottom left": (9, 23),
    "at the bottom right": (23, 23),
    "in the middle": (16, 16),
}
"""The middle of the shape (x to the right, y down), in pixels."""
WANDER, SHADE = 8, 20
"""How far a middle may lie off (eighths of a pixel), and a colour (of 255)."""
TRAINED, ASKED = 20, 4
"""Pictures of every combination in the training and in the held-out part."""
HELD_OUT = 0.1
WINDOW = 20
"""Side of the square of pixels in which a shape is drawn; its middle is in the middle."""


class Attributes(NamedTuple):
    """What a caption says."""

    size: str
    colour: str
    shape: str
    place: str

    @property
    def captions(self) -> tuple[str, str]:
        size, colour, shape, place = self
        short = place.replace("at the ", "").replace("in the ", "")
        return f"a {size} {colour} {shape} {place}", f"{size} {colour} {shape}, {short}"


VALUES: dict[str, tuple[str, ...]] = {
    "size": tuple(RADII),
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "place": tuple(PLACES),
}
"""Every attribute and its values, in the order of `Attributes`."""


def shapes() -> tuple[Captioned, Captioned]:
    """(train, held out): 270 combinations 20 times each, and 30 others 4 times."""
    held, everything = held_out_combinations(), combinations_of_values()
    return (
        _pictures([a for a in everything if a not in held], TRAINED, "shapes", stream=0),
        _pictures([a for a in everything if a in held], ASKED, "shapes (held out)", stream=1),
    )


def combinations_of_values() -> list[Attributes]:
    """All 300."""
    return [Attributes(*values) for values in product(*VALUES.values())]


@cache
def held_out_combinations() -> frozenset[Attributes]:
    """A tenth of all, by their SHA-256, that leaves two thirds of every pair of values."""
    everything, held = combinations_of_values(), set[Attributes]()
    left = Counter(pair for a in everything for pair in combinations(a, 2))
    least = {pair: -(-2 * count // 3) for pair, count in left.items()}
    for a in sorted(everything, key=lambda a: hashlib.sha256(a.captions[0].encode()).digest()):
        pairs = list(combinations(a, 2))
        if len(held) < HELD_OUT * len(everything) and all(left[p] > least[p] for p in pairs):
            held.add(a)
            left.subtract(pairs)
    return frozenset(held)


def parsed(caption: str) -> Attributes | None:
    """What a caption of this set says; None for any other text."""
    return _by_caption().get(caption)


def draw(a: Attributes, dx: int = 0, dy: int = 0, dr: int = 0, shade: int = 0) -> Tensor:
    """uint8 (3, 32, 32). `dx`, `dy`: eighths of a pixel; `dr` in -1, 0, 1; `shade` is added."""
    x, y = (SUB * middle + off for middle, off in zip(PLACES[a.place], (dx, dy), strict=True))
    mask = coverage(a.shape, RADII[a.size][1 + dr], x % SUB, y % SUB)
    canvas = np.zeros((SIDE + WINDOW, SIDE + WINDOW), np.int64)  # with a margin of half a window
    canvas[y // SUB : y // SUB + WINDOW, x // SUB : x // SUB + WINDOW] = mask
    inside = canvas[WINDOW // 2 : -WINDOW // 2, WINDOW // 2 : -WINDOW // 2]
    colour = (np.array(COLOURS[a.colour]) + shade).clip(0, 255)[:, None, None]
    return torch.from_numpy(((255 * (16 - inside) + colour * inside + 8) // 16).astype(np.uint8))


@cache
def coverage(shape: str, radius: int, x: int, y: int) -> NDArray[np.int64]:
    """How many of the 16 points of each pixel lie inside, (WINDOW, WINDOW).

    The middle of the shape is (x, y) eighths of a pixel off the middle of the window.
    """
    points = np.arange(1, WINDOW * SUB, 2) - WINDOW * SUB // 2
    across, down = np.meshgrid(points - x, points - y)
    inside = _inside(shape, across, down, radius)
    return inside.reshape(WINDOW, 4, WINDOW, 4).sum((1, 3))


def _inside(shape: str, x: NDArray[np.int64], y: NDArray[np.int64], r: int) -> NDArray[np.bool_]:
    wide, high, squared = abs(x), abs(y), x * x + y * y
    if shape == "square":
        return 20 * np.maximum(wide, high) <= 17 * r
    if shape == "triangle":  # standing; apex (0, -r), base at 0.7 r
        return (10 * y <= 7 * r) & (9 * wide <= 5 * (y + r))
    if shape == "cross":
        return (3 * np.minimum(wide, high) <= r) & (np.maximum(wide, high) <= r)
    disc = squared <= r * r
    return disc & (25 * squared >= 9 * r * r) if shape == "ring" else disc


@cache
def _by_caption() -> dict[str, Attributes]:
    return {text: a for a in combinations_of_values() for text in a.captions}


def _pictures(chosen: list[Attributes], times: int, name: str, stream: int) -> Captioned:
    """Every combination `times` times, each time a little different."""
    count = len(chosen) * times
    # Philox's raw bits are fixed by its publication.
    bits = np.random.Philox(key=stream).random_raw(4 * count)
    ranges = np.array([2 * WANDER + 1, 2 * WANDER + 1, 3, 2 * SHADE + 1], np.uint64)
    middle = np.array([WANDER, WANDER, 1, SHADE])
    off = (bits.reshape(count, 4) % ranges).astype(np.int64) - middle
    every = [a for a in chosen for _ in range(times)]
    return Captioned(
        torch.stack([draw(a, *map(int, row)) for a, row in zip(every, off, strict=True)]),
        tuple(a.captions for a in every),
        tuple(a.captions[0] for a in every),
        name=name,
        note="Drawn by marginals: one coloured shape on white; no rights reserved.",
    )
