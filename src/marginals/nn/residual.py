"""The parts of the published convolutional networks of ADM, DDPM++ and NCSN++ (:mod:`.adm`).

Three architectures of one family: residual blocks that may also halve or double the resolution,
attention over all places, one vector that says time and class. What tells them apart is a `Kind`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError
from .embed import check_labels
from .unet import Attention


@dataclass(frozen=True)
class Kind:
    """What one architecture of the family does in its own way.

    eps      added to the variance in every norm of a block
    film     the vector sets scale and shift after a norm (else it is added before the norm)
    gain     every sum of a route and its by-pass is multiplied by this
    taps     the filter by which pictures are halved and doubled, one axis of it
    project  blocks that resample have a 1x1 convolution on their by-pass
    waves    sines and cosines of the time, per unit of width
    late     the class joins after the layers of the time (else before them)
    sparse   on the way up only the last block of a level attends
    side     a shrunken picture joins at every level on the way down (NCSN++)
    """

    eps: float = 1e-5
    film: bool = True
    gain: float = 1.0
    taps: tuple[int, ...] = (1, 1)
    project: bool = False
    waves: int = 1
    late: bool = True
    sparse: bool = False
    side: bool = False


_HALF = math.sqrt(0.5)
KINDS = {
    "adm": Kind(),
    "ddpmpp": Kind(1e-6, False, _HALF, project=True, late=False, sparse=True),
    "ncsnpp": Kind(1e-6, False, _HALF, (1, 3, 3, 1), True, 2, late=False, sparse=True, side=True),
}
"""ADM (Dhariwal & Nichol 2021); DDPM++ and NCSN++ (Song et al. 2021) as EDM trains them."""


def norm(channels: int, least: int, eps: float) -> nn.GroupNorm:
    """At most 32 groups, of at least `least` channels."""
    groups = min(32, channels // least)
    if groups < 1 or channels % groups:
        raise MarginalsError(
            f"{channels} channels cannot be normalised in {max(groups, 1)} equal groups: choose "
            "widths that are multiples of 32."
        )
    return nn.GroupNorm(groups, channels, eps=eps)


def resample(x: Tensor, taps: Sequence[int], up: bool, pad: int | None = None) -> Tensor:
    """(B, C, H, W) at twice or half the resolution, each channel filtered by taps ⊗ taps.

    With taps (1, 1) every pixel is repeated, or four are averaged; (1, 3, 3, 1) is smoother.
    `pad` zeros stand around the picture, (len(taps) − 1)//2 if nothing is said.
    """
    if tuple(taps) == (1, 1) and not pad:
        return F.interpolate(x, scale_factor=2.0) if up else F.avg_pool2d(x, 2)
    line = torch.tensor(taps, dtype=x.dtype, device=x.device)
    line = line / line.sum() * (2.0 if up else 1.0)
    kernel = torch.outer(line, line).expand(x.shape[1], 1, -1, -1)
    pad = (len(taps) - 1) // 2 if pad is None else pad
    walk = F.conv_transpose2d if up else F.conv2d
    return walk(x, kernel, stride=2, padding=pad, groups=x.shape[1])


class Residual(nn.Module):
    """by-pass(x) + conv(silu(m(norm(conv(silu(norm x)))))), attention after it where asked for.

    m is the modulation by the vector: h·(1 + scale) + shift, or (not ``film``) h + shift before
    the norm. `change` = ±1 doubles or halves the resolution, on both routes, before the first
    convolution. x (B, inputs, H, W), told (B, emb) → (B, outputs, H', W').
    """

    def __init__(
        self, inputs: int, outputs: int, emb: int, kind: Kind, least: int, *,
        change: int = 0, heads: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kind, self.change = kind, change
        self.norm1 = norm(inputs, least, kind.eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.told = nn.Linear(emb, outputs * (2 if kind.film else 1))
        self.norm2 = norm(outputs, least, kind.eps)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        own = inputs != outputs or (change and kind.project)
        self.skip = nn.Conv2d(inputs, outputs, 1) if own else None
        self.attention = _attention(outputs, heads, kind, least) if heads else None

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.change:
            up = self.change > 0
            h, x = resample(h, self.kind.taps, up), resample(x, self.kind.taps, up)
        h, told = self.conv1(h), self.told(told)[:, :, None, None]
        if self.kind.film:
            scale, shift = told.chunk(2, 1)
            h = torch.addcmul(shift, self.norm2(h), 1.0 + scale)
        else:
            h = self.norm2(h + told)
        h = self.conv2(F.silu(h))
        h = ((x if self.skip is None else self.skip(x)) + h) * self.kind.gain
        return h if self.attention is None else self.attention(h) * self.kind.gain


def _attention(channels: int, heads: int, kind: Kind, least: int) -> Attention:
    """Attention as in our own U-Net, with this family's norm."""
    if channels % heads:
        raise MarginalsError(f"{channels} channels cannot be shared by {heads} heads of attention.")
    attention = Attention(channels, channels // heads)
    attention.norm = norm(channels, least, kind.eps)
    return attention


class Side(nn.Module):
    """NCSN++'s second way down: (h + shrink(conv(picture)))/√2 (Song et al. 2021, Appendix H).

    The convolution is taken two pixels beyond the border too, where the filter looks.
    """

    def __init__(self, inputs: int, outputs: int, kind: Kind) -> None:
        super().__init__()
        self.taps, self.gain = kind.taps, kind.gain
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1 + (len(kind.taps) - 1) // 2)

    def forward(self, h: Tensor, picture: Tensor) -> Tensor:
        conv = self.conv
        wide = F.conv2d(picture, conv.weight, padding=conv.padding)
        small = resample(wide, self.taps, up=False, pad=0)
        bias = conv.bias
        return (h + small + (0.0 if bias is None else bias[:, None, None])) * self.gain


class Told(nn.Module):
    """Time (B,) and class (B,) to the vector (B, 4·width) that every block reads.

    The network is told the number a + b·t with ``time`` = (a, b), as cosines and sines: of angles
    10⁻⁴^(k/n)·(a + b·t), k = 0..n−1 (ADM; DDPM++ divides by n − 1 and puts the sines first), or
    with 2π times random frequencies that are kept with the weights (NCSN++). ``null``: the table of
    classes has one row more, for "no class"; without it a picture without a class is refused.
    """

    def __init__(
        self, width: int, kind: Kind, num_classes: int, null: bool, time: Sequence[float]
    ) -> None:
        super().__init__()
        waves, emb = kind.waves * width, 4 * width
        self.kind, self.num_classes, self.null = kind, num_classes, null
        self.start, self.slope = time
        self.n = waves // 2
        self.frequencies: Tensor | None
        drawn = torch.randn(self.n) * 16.0 if kind.side else None
        self.register_buffer("frequencies", drawn)
        self.fc1, self.fc2 = nn.Linear(waves, emb), nn.Linear(emb, emb)
        rows = num_classes + null if num_classes else 0
        self.label = nn.Embedding(rows, emb if kind.late else waves) if rows else None

    def forward(self, t: Tensor, cond: Tensor | None) -> Tensor:
        t = t if t.dtype == torch.float64 else t.float()
        angles = (self.start + self.slope * t)[:, None] * self._frequencies(t)
        waves = [angles.cos(), angles.sin()] if self.kind.late else [angles.sin(), angles.cos()]
        h, label = torch.cat(waves, 1).to(self.fc1.weight.dtype), self._label(t, cond)
        if self.kind.late:
            return F.silu(self.fc2(F.silu(self.fc1(h))) + label)
        return F.silu(self.fc2(F.silu(self.fc1(h + label))))

    def _frequencies(self, like: Tensor) -> Tensor:
        if self.frequencies is not None:
            return self.frequencies.to(like) * (2.0 * math.pi)
        steps = torch.arange(self.n, dtype=like.dtype, device=like.device)
        last = self.n if self.kind.late else self.n - 1
        return torch.exp(-math.log(10_000.0) * steps / last)

    def _label(self, t: Tensor, cond: Tensor | None) -> Tensor | float:
        if cond is not None:
            check_labels(cond, self.num_classes)
        if self.label is None:
            return 0.0
        silent = cond is None or (not self.null and cond.device.type == "cpu" and (cond < 0).any())
        if silent and not self.null:
            raise MarginalsError(
                "This network was only ever trained with a class for every picture: say which "
                f"(0 to {self.num_classes - 1}); it cannot be guided without a classifier."
            )
        if cond is None:
            cond = torch.full(t.shape, -1, dtype=torch.long, device=t.device)
        return self.label(torch.where(cond < 0, self.num_classes, cond) if self.null else cond)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A convolution that answers 0."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
