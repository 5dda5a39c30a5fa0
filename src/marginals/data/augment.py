"""Augmentation of whole batches at once; every picture draws its own flip and shift.

What is on by default: the horizontal flip, exactly where the source says a mirrored picture is as
plausible as the original (`PictureSource.flip`: CIFAR-10 yes; digits, text, Fashion-MNIST, whose
shoes all point left, and unknown folders no). Shifts are off unless asked for. Augmented pictures
follow another distribution than the data, so a likelihood is always measured without.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..device import send
from ..errors import MarginalsError


@dataclass(frozen=True)
class Augment:
    """`flip`: mirror each picture with probability 1/2. `shift`: move it by up to that many pixels.

    A shift is uniform on {-shift, ... shift} in both directions; what enters at a border is the
    reflection of the picture at that border (the border pixel itself is not repeated).
    """

    flip: bool = False
    shift: int = 0

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pictures (B, C, H, W) of any dtype to the same shape; draws come from `generator`."""
        batch, _, height, width = x.shape
        if not 0 <= self.shift < min(height, width):
            raise MarginalsError(
                f"a shift of {self.shift} pixels does not suit pictures of {height}x{width}; "
                "it must be at least 0 and smaller than the picture."
            )
        if self.flip:
            mirror = torch.rand(batch, generator=generator) < 0.5
            x = torch.where(send(mirror, x.device)[:, None, None, None], x.flip(-1), x)
        if self.shift:
            span = (-self.shift, self.shift + 1)
            offsets = torch.randint(*span, (batch, 2), generator=generator)
            x = _shifted(x, send(offsets, x.device))
        return x


def _shifted(x: Tensor, offsets: Tensor) -> Tensor:
    """Picture b moved down by offsets[b, 0] and right by offsets[b, 1] pixels."""
    _, _, height, width = x.shape
    rows = _reflect(torch.arange(height, device=x.device) - offsets[:, :1], height)
    columns = _reflect(torch.arange(width, device=x.device) - offsets[:, 1:], width)
    x = x.gather(2, rows[:, None, :, None].expand_as(x))
    return x.gather(3, columns[:, None, None, :].expand_as(x))


def _reflect(index: Tensor, n: int) -> Tensor:
    """Indices folded back into 0..n-1 at the end pixels, for indices within n - 1 of them."""
    return (n - 1) - ((n - 1) - index.abs()).abs()
