"""Between pictures and features: the parts that all latent-variable networks are made of.

Nothing here is normalised: blocks start close to the identity, which at these depths is enough and
is faster. Convolutions work in channels_last memory; `patch` folds p x p pixels into channels first
and unfolds them last, which saves p^2 of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError

L = TypeVar("L", nn.Conv2d, nn.Linear)


class Block(nn.Module):
    """x + conv(silu(conv(silu(x)))), (B, c, H, W) in and out; `scale` shrinks what is added."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = shrink(nn.Conv2d(width, width, 3, padding=1), scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Dense(nn.Module):
    """x + W2 silu(W1 silu(x)) for vectors (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, width), shrink(nn.Linear(width, width), 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.silu(self.up(F.silu(x))))


class Grow(nn.Module):
    """Twice the height and width: (B, a, H, W) to (B, b, 2H, 2W)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(a, b, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.mix(x), scale_factor=2.0, mode="nearest")


class Pyramid(nn.Module):
    """A picture as feature maps, the finest first: what the encoder of a grid of latents sees.

    x (B, C, S, S) to [(B, widths[i], s_i, s_i)], s_i = S / patch / 2^i.
    """

    def __init__(
        self, channels: int, size: int, widths: Sequence[int], blocks: int = 1, patch: int = 2
    ) -> None:
        super().__init__()
        self.sides = sides(size, len(widths), patch)
        self.shape, self.widths, self.patch = (channels, size, size), list(widths), patch
        self.enter = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.halve = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        scale = max(blocks * len(widths), 1) ** -0.5
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, scale) for _ in range(blocks))) for width in widths
        )
        channels_last(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        check_shape(x, self.shape)
        x = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        h = self.enter(x.contiguous(memory_format=torch.channels_last))
        maps = [self.stages[0](h)]
        for halve, stage in zip(self.halve, list(self.stages)[1:], strict=True):
            maps.append(stage(halve(F.silu(maps[-1]))))
        return maps


class ConvEncoder(nn.Module):
    """A picture as one vector, (B, C, S, S) to (B, out): the coarsest map of a `Pyramid`."""

    def __init__(
        self, channels: int, size: int, widths: Sequence[int], blocks: int = 1, patch: int = 2
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(channels, size, widths, blocks, patch)
        self.out = widths[-1] * self.pyramid.sides[-1] ** 2

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Labels belong to the generating side and are not looked at."""
        return F.silu(self.pyramid(x)[-1]).flatten(1)


class ConvDecoder(nn.Module):
    """A vector as numbers for every pixel: (B, inputs) to (B, outputs, S, S)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        widths: Sequence[int],
        blocks: int = 1,
        patch: int = 2,
    ) -> None:
        super().__init__()
        self.sides, self.patch = sides(size, len(widths), patch), patch
        self.enter = nn.Linear(inputs, widths[-1] * self.sides[-1] ** 2)
        layers: list[nn.Module] = []
        scale = max(blocks * len(widths), 1) ** -0.5
        for i in reversed(range(len(widths))):
            layers += [Block(widths[i], scale) for _ in range(blocks)]
            layers += [Grow(widths[i], widths[i - 1])] if i else []
        self.layers = nn.Sequential(*layers)
        self.leave = nn.Conv2d(widths[0], outputs * patch**2, 3, padding=1)
        channels_last(self)

    def forward(self, z: Tensor) -> Tensor:
        h = self.enter(z).unflatten(1, (-1, self.sides[-1], self.sides[-1]))
        h = self.layers(h.contiguous(memory_format=torch.channels_last))
        return unfold(self.leave(F.silu(h)), self.patch)


class MlpEncoder(nn.Module):
    """A picture as one vector without a grid: (B, C, S, S) to (B, width), `depth` layers."""

    def __init__(self, channels: int, size: int, width: int, depth: int = 2) -> None:
        super().__init__()
        self.shape, self.out = (channels, size, size), width
        self.enter = nn.Linear(channels * size**2, width)
        self.layers = nn.Sequential(*(Dense(width) for _ in range(depth)))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Labels belong to the generating side and are not looked at."""
        check_shape(x, self.shape)
        return F.silu(self.layers(self.enter(x.flatten(1))))


class MlpDecoder(nn.Module):
    """A vector as numbers for every pixel, without a grid: (B, inputs) to (B, outputs, S, S)."""

    def __init__(self, inputs: int, outputs: int, size: int, width: int, depth: int = 2) -> None:
        super().__init__()
        self.size = size
        self.enter = nn.Linear(inputs, width)
        self.layers = nn.Sequential(*(Dense(width) for _ in range(depth)))
        self.leave = nn.Linear(width, outputs * size**2)

    def forward(self, z: Tensor) -> Tensor:
        h = self.leave(F.silu(self.layers(self.enter(z))))
        return h.unflatten(1, (-1, self.size, self.size))


def shrink(layer: L, scale: float) -> L:
    """The layer with its first weights times `scale`, and no bias yet."""
    with torch.no_grad():
        layer.weight.mul_(scale)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def unfold(out: Tensor, patch: int) -> Tensor:
    """(B, c·patch², s, s) to (B, c, s·patch, s·patch), in ordinary memory."""
    return (F.pixel_shuffle(out, patch) if patch > 1 else out).contiguous()


def channels_last(module: nn.Module) -> None:
    """Convolution weights in the memory order that is fast on processors."""
    for p in module.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)


def sides(size: int, levels: int, patch: int) -> list[int]:
    """Side of the grid at every level, the finest first."""
    step = patch * 2 ** (levels - 1)
    if min(size, levels, patch) < 1 or size % step:
        raise MarginalsError(
            f"Pictures folded by patch {patch} and halved {levels - 1} times need a size divisible "
            f"by {step}, not {size}: choose fewer widths, a smaller patch or another size."
        )
    return [size // patch // 2**i for i in range(levels)]


def check_shape(x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse pictures of another shape than the network was built for."""
    if x.shape[1:] != shape:
        raise MarginalsError(
            f"This network takes pictures of shape {shape}, but got {(*x.shape[1:],)}."
        )


def check_counts(least: int = 1, **counts: Sequence[int]) -> None:
    """Refuse lists of sizes that are empty or hold less than `least`."""
    for name, values in counts.items():
        if not len(values) or min(values) < least:
            raise MarginalsError(
                f"{name} needs whole numbers of {least} or more, not {list(values)}."
            )
