"""What does a picture of a shape show? Read back without a network, by least squares.

For a shape of coverage m (share of each pixel inside, with its middle, kind and radius) in a colour
c on white, a picture is x = 1 + m (c - 1) in each channel. For a given m the best c - 1 is
<m, x - 1> / <m, m>, and it explains <m, x - 1>^2 / <m, m> of |x - 1|^2. So the best m is the one
with the largest sum of that over channels, found among all kinds, a range of radii and all middles
half a pixel apart, with sharp edges and soft ones (correlations of the picture with each m). Size
and place are then the nearest ones, and the colour is the nearest to c.

A picture of which no shape explains the share `ENOUGH` shows none of what was asked: noise, two
shapes, a blot.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from ..data.shapes import (
    COLOURS,
    PLACES,
    RADII,
    SHAPES,
    SIDE,
    SUB,
    VALUES,
    WINDOW,
    coverage,
    parsed,
)
from ..errors import MarginalsError

ENOUGH = 0.75
"""Least share of |x - 1|^2 that one shape must explain."""
_TRIED = tuple(range(24, 65, 4))
"""Radii, in eighths of a pixel: 3 to 8."""
_FIRST = 6
"""The first middle that is tried, in pixels from the edge; the last is as far from the other."""
_CHUNK = 64


def read_shapes(images: Tensor) -> tuple[Tensor, Tensor]:
    """(attributes LongTensor (N, 4): size, colour, shape, place; share explained (N,)).

    `images`: uint8 (N, 3, 32, 32). Attributes index `data.shapes.VALUES`.
    """
    if images.dtype != torch.uint8 or images.shape[1:] != (3, SIDE, SIDE):
        raise MarginalsError(
            f"shapes are read from uint8 pictures (N, 3, {SIDE}, {SIDE}), not {images.dtype} "
            f"{tuple(images.shape)}."
        )
    if not len(images):
        return torch.empty(0, 4, dtype=torch.long), torch.empty(0)
    found = [_read(chunk.cpu()) for chunk in images.split(_CHUNK)]
    return torch.cat([x for x, _ in found]), torch.cat([share for _, share in found])


def right_shapes(images: Tensor, captions: Sequence[str]) -> Tensor:
    """Which attributes are as the caption says: bool (N, 4), in the order of `data.shapes.VALUES`.

    A prompt is kept when all four are right: `right_shapes(...).all(1)`.
    """
    wanted = [parsed(caption) for caption in captions]
    if len(wanted) != len(images) or None in wanted:
        raise MarginalsError("every picture needs one caption of the data set called shapes.")
    values = list(VALUES.values())
    indices = [[v.index(word) for v, word in zip(values, a, strict=True)] for a in wanted if a]
    found, share = read_shapes(images)
    return (found == torch.tensor(indices, dtype=torch.long).reshape(-1, 4)) & (share >= ENOUGH)[
        :, None
    ]


def _read(images: Tensor) -> tuple[Tensor, Tensor]:
    x = images.float() / 255 - 1
    masks, norms, kinds, off = _masks()
    edge = WINDOW // 2 - _FIRST
    inner = functional.conv2d(x.flatten(0, 1)[:, None], masks[:, None], padding=edge)
    inner = inner.unflatten(0, (-1, 3))  # <m, x - 1> / |m|: (n, 3, masks, rows, columns)
    n, side = torch.arange(len(x)), inner.shape[-1]
    best = inner.square().sum(1).flatten(1).argmax(1)
    mask, row, column = best // side**2, best // side % side, best % side
    strength = inner[n, :, mask, row, column]
    share = strength.square().sum(1) / x.square().flatten(1).sum(1).clamp(min=1e-12)
    middles = torch.stack([column, row], 1) + _FIRST + off[mask]
    return _named(kinds[mask], middles, 1 + strength / norms[mask][:, None]), share


def _named(kinds: Tensor, middles: Tensor, colours: Tensor) -> Tensor:
    """Indices of the nearest values, (n, 4)."""
    sizes = torch.tensor([radii[1] for radii in RADII.values()]).float()
    places = torch.tensor(list(PLACES.values())).float()
    palette = torch.tensor(list(COLOURS.values())) / 255
    size = (kinds[:, 1:] - sizes).abs().argmin(1)
    place = torch.cdist(middles, places).argmin(1)
    colour = torch.cdist(colours, palette).argmin(1)
    return torch.stack([size, colour, kinds[:, 0].long(), place], 1)


@cache
def _masks() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(m / |m| (M, 20, 20), |m| (M,), shape and radius (M, 2), x and y off the grid (M, 2))."""
    half = (0, SUB // 2)
    rows = list(product(range(len(SHAPES)), _TRIED, half, half))
    drawn = [torch.from_numpy(coverage(SHAPES[k], r, dx, dy)) / 16 for k, r, dx, dy in rows]
    sharp = torch.stack(drawn).float()[:, None]
    tap = torch.tensor([0.25, 0.5, 0.25])
    soft = functional.conv2d(sharp, (tap[:, None] * tap)[None, None], padding=1)
    masks, kinds = torch.cat([sharp, soft])[:, 0], torch.tensor(rows * 2).float()
    norms = masks.flatten(1).norm(dim=1)
    return masks / norms[:, None, None], norms, kinds[:, :2], kinds[:, 2:] / SUB
