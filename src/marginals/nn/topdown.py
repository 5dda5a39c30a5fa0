"""A hierarchical VAE on grids: one stream of features from the top down, latents along the way.

After Kingma et al. 2016 (top-down inference) and Child 2021 (VDVAE): the rungs read the stream, add
what they drew to it, and hand it on, first as one vector for the whole picture, then on grids that
become finer. The finest grid is `patch` times coarser than the picture; its latents decide about
patch x patch pixels at once. That is where most bits are, and what a processor can afford.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError
from .latent import TOLD, Classes, Law, posterior_law, prior_law
from .pictures import Block, Grow, Pyramid, channels_last, check_counts, shrink, unfold


class Stream(NamedTuple):
    """What a rung hands down: features (B, c, H, W), and what it says about the next: the numbers
    of the next rung's prior, or of the picture's pixels at the bottom."""

    h: Tensor
    said: Tensor


class Evidence(nn.Module):
    """The encoder: (picture, labels) to feature maps, the finest first. Labels enter at the top of
    the generating side, and posteriors hear of them through the stream."""

    def __init__(self, pyramid: Pyramid) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, x: Tensor, cond: Tensor | None = None) -> list[Tensor]:
        return self.pyramid(x)


class VectorTop(nn.Module):
    """The top rung: z (B, latents) ~ N(0, I) for the whole picture, spread over the coarsest grid.

    `told` numbers name the class; `below` turns the grid into the stream of the next rung.
    """

    def __init__(self, latents: int, width: int, side: int, told: int, below: nn.Module) -> None:
        super().__init__()
        self.latents, self.grid = latents, (width, side, side)
        self.look = nn.Linear(width * side**2, 2 * latents)
        self.spread = nn.Linear(latents + told, width * side**2)
        self.below = below

    def prior(self, above: Tensor | None) -> Law:
        zero = self.look.weight.new_zeros(1, self.latents)
        return zero, zero

    def posterior(self, evidence: list[Tensor], above: Tensor | None) -> Law:
        return posterior_law(self.look(F.silu(evidence[-1]).flatten(1)))

    def carry(self, z: Tensor, above: Tensor | None) -> Stream:
        h = self.spread(z if above is None else torch.cat([z, above], dim=1))
        return self.below(h.view(-1, *self.grid).contiguous(memory_format=torch.channels_last))


class GridRung(nn.Module):
    """Latents on a grid: z (B, latents, H, W), seen with the feature map `level` of the picture."""

    def __init__(self, latents: int, width: int, level: int, below: nn.Module) -> None:
        super().__init__()
        self.level = level
        self.hear = nn.Conv2d(width, width, 3, padding=1)
        self.see = nn.Conv2d(width, width, 1)
        self.decide = shrink(nn.Conv2d(width, 2 * latents, 1), 1.0)
        self.tell = nn.Conv2d(latents, width, 1)
        self.below = below

    def prior(self, above: Stream) -> Law:
        return prior_law(above.said)

    def posterior(self, evidence: list[Tensor], above: Stream) -> Law:
        both = self.hear(F.silu(above.h)) + self.see(F.silu(evidence[self.level]))
        return posterior_law(self.decide(F.silu(both)), self.prior(above))

    def carry(self, z: Tensor, above: Stream) -> Stream:
        return self.below(above.h + self.tell(z))


class Below(nn.Module):
    """From one rung to the next: blocks, a finer grid where one begins, and what is said there."""

    def __init__(self, layers: Sequence[nn.Module], width: int, said: int, scale: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.say = shrink(nn.Conv2d(width, said, 3, padding=1), scale)

    def forward(self, h: Tensor) -> Stream:
        h = self.layers(h)
        return Stream(h, self.say(F.silu(h)))


class Pixels(nn.Module):
    """What was said at the bottom, unfolded: the decoder's numbers (B, outputs, S, S)."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, above: Stream) -> Tensor:
        return unfold(above.said, self.patch)


class GridLatents(nn.Module):
    """The networks of a top-down hierarchical VAE.

    channels, size  of the pictures (B, channels, size, size)
    params          numbers per pixel value that the decoder's law reads
    top             length of the vector at the top, N(0, I)
    latents         channels of each latent, per grid, the finest grid first
    rungs           how many latents follow one another, per grid
    widths          channels of the stream, per grid
    blocks          residual blocks after every rung
    patch           the finest grid has (size / patch)^2 places, each next one half the side
    num_classes     0 without classes

    `evidence`, `root`, `rungs` (from the top down) and `decode` are what a ladder is made of.
    """

    kind: ClassVar[str] = "grids"
    posterior: ClassVar[str] = "top_down"

    def __init__(
        self,
        channels: int,
        size: int,
        params: int,
        top: int = 16,
        latents: Sequence[int] = (4, 8),
        rungs: Sequence[int] = (2, 2),
        widths: Sequence[int] = (32, 64),
        blocks: int = 1,
        patch: int = 2,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        _check(latents, rungs, widths, top, params, blocks)
        self.config: dict[str, Any] = {
            "channels": channels, "size": size, "params": params, "top": top,
            "latents": list(latents), "rungs": list(rungs), "widths": list(widths),
            "blocks": blocks, "patch": patch, "num_classes": num_classes,
        }  # fmt: skip
        told = TOLD if num_classes else 0
        self.root = Classes(num_classes, told) if num_classes else None
        pyramid = Pyramid(channels, size, widths, 1, patch)
        self.evidence, self.decode = Evidence(pyramid), Pixels(patch)
        # the grid of every rung from the top down, and at the end that of the pixels
        levels = [level for level in reversed(range(len(rungs))) for _ in range(rungs[level])]
        path = [len(widths) - 1, *levels, 0]
        said = [*(2 * latents[level] for level in levels), channels * params * patch**2]
        scale = max(blocks * (len(levels) + 1), 1) ** -0.5
        built: list[nn.Module] = []
        for i, (level, following) in enumerate(pairwise(path)):
            layers: list[nn.Module] = [Block(widths[level], scale) for _ in range(blocks)]
            for finer in range(level - 1, following - 1, -1):
                layers.append(Grow(widths[finer + 1], widths[finer]))
            small = 0.1 if i < len(levels) else 1.0
            below = Below(layers, widths[following], said[i], small)
            if i:
                built.append(GridRung(latents[level], widths[level], level, below))
            else:
                built.append(VectorTop(top, widths[level], pyramid.sides[level], told, below))
        self.rungs = nn.ModuleList(built)
        channels_last(self)


def _check(
    latents: Sequence[int],
    rungs: Sequence[int],
    widths: Sequence[int],
    top: int,
    params: int,
    blocks: int,
) -> None:
    """Say in one sentence what does not fit together."""
    if not len(latents) == len(rungs) == len(widths):
        raise MarginalsError(
            "latents, rungs and widths each have one number per grid, the finest first, but they "
            f"have {len(latents)}, {len(rungs)} and {len(widths)}."
        )
    check_counts(latents=latents, widths=widths, top=[top], params=[params])
    check_counts(0, rungs=rungs, blocks=[blocks])
