"""How a network is told the time and the class.

A backbone sees two numbers besides the picture: a label t in [0, 1] (0 = data, 1 = noise) and a
class index. Both become one vector that every block reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError

LOWEST, HIGHEST = 1.0, 200.0
"""Slowest and fastest angle, in radians over the whole unit interval of t."""


def fourier_features(t: Tensor, dim: int) -> Tensor:
    """Sines and cosines of t at `dim // 2` geometrically spaced frequencies.

        f_k = LOWEST * (HIGHEST / LOWEST) ** (k / (n - 1)),   out = [cos(f t), sin(f t)]

    t has shape (B,), the result (B, dim). Angles are computed in float32 at least, whatever the
    network's own type, because a half-precision angle of 200 radians has no digits left
    (Vaswani et al. 2017, section 3.5, for a continuous position).
    """
    if t.dtype not in (torch.float32, torch.float64):
        t = t.float()
    ramp = torch.linspace(0.0, 1.0, dim // 2, device=t.device, dtype=t.dtype)
    angles = t[:, None] * torch.exp(ramp * math.log(HIGHEST / LOWEST)) * LOWEST
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def picture_features(x: Tensor, exponents: Sequence[int]) -> Tensor:
    """sin and cos(2^n·π·x) for every exponent n: (B, C, H, W) -> (B, 2·len(exponents)·C, H, W).

    Stored pixels lie 2/256 apart on [-1, 1], so n = 8 turns by a whole circle from one to the next
    and says how far x is from the nearest one; smaller n say which one it is. Without them a
    network hardly hears such differences (Kingma et al. 2021, VDM, Appendix C). Angles
    are computed in float32 at least: a half-precision x has no such digits left.
    """
    angle = math.pi * (x if x.dtype == torch.float64 else x.float())
    waves = [wave for n in exponents for wave in ((angle * 2.0**n).sin(), (angle * 2.0**n).cos())]
    return torch.cat(waves, 1).to(x.dtype)


class Conditioning(nn.Module):
    """Time and class to one vector: (t (B,), cond (B,) or None) -> (B, width).

    The class table has one row more than there are classes. The last row means "no class": it
    answers cond = None and every label -1, which is what classifier-free guidance contrasts with
    (Ho & Salimans 2022). With `num_classes=0` there is no table.
    """

    def __init__(self, width: int, num_classes: int = 0) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise MarginalsError(f"The embedding width must be even and at least 4, not {width}.")
        if num_classes < 0:
            raise MarginalsError(f"num_classes must be 0 or more, not {num_classes}.")
        self.width, self.num_classes = width, num_classes
        self.time1, self.time2 = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.time1, self.time2):  # keep the size of the waves: time must be audible
            nn.init.normal_(layer.weight, std=width**-0.5)
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None

    def forward(self, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """(B,) times and (B,) labels to (B, width), after the last SiLU."""
        features = fourier_features(t, self.width)
        out = self.time2(F.silu(self.time1(features.to(self.time1.weight.dtype))))
        if cond is not None:
            check_labels(cond, self.num_classes)
        if self.label is not None:
            null = self.num_classes
            if cond is None:
                cond = torch.full(t.shape, null, dtype=torch.long, device=t.device)
            out = out + self.label(torch.where(cond < 0, null, cond))
        return F.silu(out)


def check_labels(cond: Tensor, num_classes: int) -> None:
    """Refuse labels outside -1 ... num_classes - 1.

    Only looked at where looking is free: on an accelerator (it would wait for the device) and
    inside torch.compile (it would break the graph) the embedding's own check stands in.
    """
    if cond.is_floating_point() or cond.dtype == torch.bool:
        raise MarginalsError(f"Labels must be integers, not {cond.dtype}.")
    if cond.device.type != "cpu" or torch.compiler.is_compiling() or cond.numel() == 0:
        return
    low, high = int(cond.min()), int(cond.max())
    if low < -1 or high >= num_classes:
        wrong = low if low < -1 else high
        raise MarginalsError(
            f"Label {wrong} is out of range: this network knows the classes "
            f"0 to {num_classes - 1} and -1 for no class."
            if num_classes
            else f"Label {wrong} given to a network without classes: leave cond out or pass -1."
        )


def check_times(t: Tensor, batch: int) -> None:
    """One time per example: t must have shape (batch,)."""
    if t.shape != (batch,):
        raise MarginalsError(f"Times must have shape ({batch},), not {(*t.shape,)}.")
