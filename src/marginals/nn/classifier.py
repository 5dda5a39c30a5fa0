"""The first half of the U-Net with a class at its end: what guides a diffusion model from outside.

It is told the time like every backbone, because what speaks for a class in a picture of little
noise says nothing in one of much (Dhariwal & Nichol 2021, Sec. 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError
from .embed import Conditioning, check_times
from .pictures import channels_last, check_shape
from .unet import Level, Stage, grouped_norm


class PictureClassifier(nn.Module):
    """(x (B, channels, size, size), t (B,)) → logits (B, num_classes).

    channels, size, width, mults, blocks, patch: as of :class:`.UNet`, of which these are the way
    down and the middle; then every channel's mean over the picture, and a linear layer. A fresh
    network answers 0 everywhere: all classes are as likely.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        num_classes: int,
        width: int = 32,
        mults: Sequence[int] = (1, 2),
        blocks: int = 1,
        patch: int = 1,
    ) -> None:
        super().__init__()
        _check(channels, size, num_classes, width, mults, blocks, patch)
        self._config: dict[str, Any] = {
            "channels": channels, "size": size, "num_classes": num_classes, "width": width,
            "mults": list(mults), "blocks": blocks, "patch": patch,
        }  # fmt: skip
        self.channels, self.size, self.patch = channels, size, patch
        widths, emb = [width * m for m in mults], 4 * width
        self.emb = Conditioning(emb)
        self.enter = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Level(blocks, w, emb, False, 0) for w in widths)
        pairs = pairwise(widths)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.middle = Stage(widths[-1], emb, True, 0)
        self.norm = grouped_norm(widths[-1])
        self.leave = nn.Linear(widths[-1], num_classes)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        channels_last(self)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments: `PictureClassifier(**net.config)` is the same network, fresh."""
        return dict(self._config)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        check_shape(x, (self.channels, self.size, self.size))
        check_times(t, len(x))
        emb = self.emb(t)
        h = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        h = self.enter(h.contiguous(memory_format=torch.channels_last))
        for i, level in enumerate(self.down):
            h = level(h, emb, None)[-1]
            h = self.shrink[i](h) if i < len(self.shrink) else h
        h = F.silu(self.norm(self.middle(h, emb, None)))
        return self.leave(h.mean((2, 3)))


def _check(
    channels: int,
    size: int,
    num_classes: int,
    width: int,
    mults: Sequence[int],
    blocks: int,
    patch: int,
) -> None:
    """Say in one sentence what does not fit together."""
    if min(channels, size, width, blocks, patch, len(mults), *mults) < 1 or num_classes < 2:
        raise MarginalsError(
            "A classifier needs at least two classes, at least one mult, and channels, size, "
            "width, blocks, patch and every mult of 1 or more."
        )
    if size % (step := patch * 2 ** (len(mults) - 1)):
        raise MarginalsError(
            f"A classifier with patch {patch} and {len(mults)} levels needs a size divisible by "
            f"{step}, not {size}: choose fewer mults, a smaller patch or another size."
        )
