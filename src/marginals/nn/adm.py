"""The published U-Nets: ADM (Dhariwal & Nichol 2021), and DDPM++ and NCSN++ as EDM trains them.

Our own `UNet` is made for processors; this one computes exactly what the authors' networks do, so
that their weights can be used (`marginals import`). Skip routes are concatenated, resolutions
change inside residual blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError
from .embed import check_times
from .pictures import channels_last, check_shape
from .residual import KINDS, Residual, Side, Told, norm, zeroed


class ADM(nn.Module):
    """Backbone for pictures (B, channels, size, size).

    channels    of the picture
    size        height and width, divisible by 2**(levels - 1)
    width       unit of width; the vector of time and class has 4·width numbers
    mults       one number per level: level i has int(mults[i]·width) channels
    blocks      residual blocks per level on the way down; one more on the way up
    attention   indices of the levels with attention after every block (0 = finest); the two blocks
                between down and up always have it between them
    head        channels per head of attention
    heads       heads of attention everywhere, if their number is what is fixed; 0 = by `head`
    num_classes 0 for a network that is not told a class
    null        whether "no class" (None, −1) has a row of its own in the table of classes; the
                published networks have none, and refuse to draw without a class
    outputs     numbers said about every pixel: with 2, a second answer (a variance)
    kind        "adm", or "ddpmpp" or "ncsnpp" (`residual.KINDS` says what that changes)
    least       channels per group of a norm at least: 1 in ADM, 4 in EDM (from 128 channels on,
                that is the same)
    time        (a, b): the network is told a + b·t

    ``ADM(3, 256, 256, (1, 1, 2, 2, 4, 4), 2, (3, 4, 5), outputs=2)`` is ADM for 256 x 256 pixels,
    552.8 M parameters. A fresh network answers exactly 0.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        width: int = 192,
        mults: Sequence[float] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (1, 2, 3),
        head: int = 64,
        heads: int = 0,
        num_classes: int = 0,
        null: bool = True,
        outputs: int = 1,
        kind: str = "adm",
        least: int = 1,
        time: Sequence[float] = (0.0, 1000.0),
    ) -> None:
        super().__init__()
        _check(channels, size, width, mults, blocks, attention, head, heads, outputs, kind, least)
        self._config: dict[str, Any] = {
            "channels": channels, "size": size, "width": width, "mults": list(mults),
            "blocks": blocks, "attention": list(attention), "head": head, "heads": heads,
            "num_classes": num_classes, "null": null, "outputs": outputs, "kind": kind,
            "least": least, "time": list(time),
        }  # fmt: skip
        self.channels, self.size, self.num_classes = channels, size, num_classes
        style = KINDS[kind]
        self.told = Told(width, style, num_classes, null, time)
        widths = [int(mult * width) for mult in mults]
        attends = {level % len(widths) for level in attention}

        def block(inputs: int, outputs: int, attend: bool = False, change: int = 0) -> Residual:
            count = (heads or max(1, outputs // head)) if attend else 0
            return Residual(inputs, outputs, 4 * width, style, least, change=change, heads=count)

        first = widths[0] if style.late else width
        self.enter = nn.Conv2d(channels, first, 3, padding=1)
        pairs = list(itertools.pairwise(widths))
        self.shrink = nn.ModuleList(block(a, a, change=-1) for a, _ in pairs)
        self.side = nn.ModuleList(
            Side(b, a, style) for b, a in zip([channels, *widths], widths[:-1], strict=False)
        ) if style.side else None  # fmt: skip
        self.down, found, now = nn.ModuleList(), [first], first
        for i, w in enumerate(widths):
            found += [now] * (i > 0) + [w] * blocks
            inputs = [now, *[w] * (blocks - 1)]
            self.down.append(nn.ModuleList(block(n, w, i in attends) for n in inputs))
            now = w
        self.middle = nn.ModuleList([block(now, now, True), block(now, now)])
        self.grow = nn.ModuleList(block(b, b, change=1) for _, b in pairs)
        rising = []
        for i in reversed(range(len(widths))):
            stages, w = nn.ModuleList(), widths[i]
            for j in range(blocks + 1):
                attend = i in attends and (j == blocks or not style.sparse)
                stages.append(block(now + found.pop(), w, attend))
                now = w
            rising.append(stages)
        self.up = nn.ModuleList(reversed(rising))
        self.norm = norm(now, least, style.eps)
        self.leave = zeroed(nn.Conv2d(now, outputs * channels, 3, padding=1))
        channels_last(self)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments: `ADM(**net.config)` is the same network, freshly initialised."""
        return dict(self._config)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,) in [0, 1], cond (B,) labels (−1 = none) or None; out like x (with
        `outputs` times its channels)."""
        check_shape(x, (self.channels, self.size, self.size))
        check_times(t, len(x))
        told = self.told(t, cond)
        h = self.enter(x.contiguous(memory_format=torch.channels_last))
        found, picture = [h], x
        for i, stages in enumerate(self.down):
            if i:
                h = self.shrink[i - 1](h, told)
                if self.side is not None:
                    h = picture = self.side[i - 1](h, picture)
                found.append(h)
            for stage in stages:  # type: ignore[attr-defined]
                h = stage(h, told)
                found.append(h)
        for stage in self.middle:
            h = stage(h, told)
        for i in reversed(range(len(self.up))):
            h = self.grow[i](h, told) if i < len(self.grow) else h
            for stage in self.up[i]:  # type: ignore[attr-defined]
                h = stage(torch.cat([h, found.pop()], 1), told)
        return self.leave(F.silu(self.norm(h))).contiguous()


def _check(
    channels: int,
    size: int,
    width: int,
    mults: Sequence[float],
    blocks: int,
    attention: Sequence[int],
    head: int,
    heads: int,
    outputs: int,
    kind: str,
    least: int,
) -> None:
    """Say in one sentence what does not fit together."""
    levels = len(mults)
    if kind not in KINDS:
        raise MarginalsError(f"There is no kind {kind!r} of ADM: choose one of {', '.join(KINDS)}.")
    if min(channels, size, width, blocks, outputs, head, least, levels) < 1 or heads < 0:
        raise MarginalsError(
            "ADM needs channels, size, width, blocks, outputs, head and least of 1 or more, heads "
            "of 0 or more, and at least one mult."
        )
    if width < 4 or width % 2 or any(int(m * width) < 1 for m in mults):
        raise MarginalsError(
            f"ADM needs an even width of 4 or more, and mults above 0, not {width}."
        )
    if size % 2 ** (levels - 1):
        raise MarginalsError(
            f"An ADM of {levels} levels needs a size divisible by {2 ** (levels - 1)}, not {size}."
        )
    if any(not -levels <= level < levels for level in attention):
        raise MarginalsError(
            f"attention names levels from {-levels} to {levels - 1}, not {list(attention)}."
        )
