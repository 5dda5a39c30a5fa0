"""A class-conditional U-Net that is fast where most people start: on a processor, in float32.

Two 3x3 convolutions per block carry nearly all the arithmetic, so everything around them is kept
cheap: `channels_last` memory, matrix products over pixels written as 1x1 convolutions, skip routes
that add instead of concatenating (no copies, no wider convolutions). `patch` folds p x p pixels
into channels first (space to depth) and unfolds them last, which saves p^2 of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError
from .attention import grid_positions
from .embed import Conditioning, check_times, picture_features
from .pictures import channels_last, check_shape
from .text import TextTokens


def grouped_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Groups of 16 channels, or fewer where 16 does not divide them."""
    group = next(g for g in (16, 12, 8, 6, 4, 3, 2, 1) if channels % g == 0)
    return nn.GroupNorm(channels // group, channels, affine=affine)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResBlock(nn.Module):
    """h = conv(silu(norm(x)));  x + conv(silu(scale * norm(h) + shift)), (B, c, H, W) in and out.

    Scale and shift, one pair per channel, are read off the time and class vector (FiLM, Perez et
    al. 2018; "adaptive group normalisation" in Dhariwal & Nichol 2021) and start as 1 and 0. The
    second convolution starts at zero, so a fresh block is the identity.
    """

    def __init__(self, channels: int, emb: int) -> None:
        super().__init__()
        self.norm1 = grouped_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = grouped_norm(channels, affine=False)
        self.film = nn.Linear(emb, 2 * channels)
        nn.init.zeros_(self.film.weight)
        with torch.no_grad():
            self.film.bias.copy_(torch.arange(2 * channels) < channels)
        self.conv2 = _zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        return x + self.conv2(F.silu(torch.addcmul(shift, h, scale)))


class Attention(nn.Module):
    """Every place looks at every other: x + proj(attention(norm(x))), heads of `head` channels.

    Queries, keys and values come from one 1x1 convolution; in channels_last memory the
    (B, H*W, C) view that attention wants is free. With `words`, every place also looks at the words
    of a text (B, T, words): their keys and values stand beside those of the places. It is then told
    where it is (fixed sines and cosines): convolutions cannot tell what "left" means.
    """

    def __init__(self, channels: int, head: int = 32, words: int = 0) -> None:
        super().__init__()
        self.heads = max(1, channels // head)
        if channels % self.heads:
            raise MarginalsError(f"Attention needs a width divisible by {head}, not {channels}.")
        self.norm = grouped_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.words = nn.Linear(words, 2 * channels) if words else None
        self.proj = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """text: the words (B, T, words), and which of them are spoken (B, T)."""
        b, c, h, w = x.shape
        seen = self.norm(x)
        if self.words is not None:
            place = grid_positions(h, w, c).to(seen, non_blocking=True).T.reshape(1, c, h, w)
            seen = (seen + place).contiguous(memory_format=torch.channels_last)
        qkv = self.qkv(seen).permute(0, 2, 3, 1).reshape(b, h * w, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None
        if text is not None and self.words is not None:
            words, spoken = text
            kv = self.words(words).to(k.dtype).reshape(b, -1, 2, self.heads, c // self.heads)
            more_k, more_v = kv.permute(2, 0, 3, 1, 4).unbind(0)
            k, v = torch.cat([k, more_k], 2), torch.cat([v, more_v], 2)
            mask = torch.cat([spoken.new_ones(b, h * w), spoken], 1)[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = out.transpose(1, 2).reshape(b, h, w, c)
        return x + self.proj(out.permute(0, 3, 1, 2))


_Text = tuple[Tensor, Tensor] | None
"""The words of every picture's text, and which of them are no padding."""


class Stage(nn.Module):
    """A residual block, and attention after it where asked for."""

    def __init__(self, channels: int, emb: int, attend: bool, words: int) -> None:
        super().__init__()
        self.block = ResBlock(channels, emb)
        self.attention = Attention(channels, words=words) if attend else None

    def forward(self, x: Tensor, emb: Tensor, text: _Text) -> Tensor:
        x = self.block(x, emb)
        return x if self.attention is None else self.attention(x, text)


class Level(nn.Module):
    """The stages of one resolution, in one direction."""

    def __init__(self, blocks: int, channels: int, emb: int, attend: bool, words: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage(channels, emb, attend, words) for _ in range(blocks))

    def forward(
        self, h: Tensor, emb: Tensor, text: _Text, skips: list[Tensor] | None = None
    ) -> list[Tensor]:
        """The output of every stage; on the way up each first adds what its twin had found."""
        outputs = []
        for stage in self.stages:
            h = stage(h if skips is None else h + skips.pop(), emb, text)
            outputs.append(h)
        return outputs


class UNet(nn.Module):
    """Backbone for pictures (B, channels, size, size) (Ronneberger 2015; Ho et al. 2020, app. B).

    channels    of the picture: 1, 3 or 4
    size        height and width in pixels, divisible by patch * 2**(levels - 1)
    width       channels of the first level; level i has width * mults[i] of them
    mults       one number per level; each further level halves the resolution
    blocks      residual blocks per level on the way down, and again on the way up
    attention   indices of the levels with self-attention after every block (0 = finest, -1 =
                coarsest); the one block between down and up always has it
    num_classes 0 for a network that is not told a class
    text_width  numbers per text token, (B, T, text_width), that `cond` then is; 0 = no text. Every
                attention looks at the words too, and their mean joins the time
    patch       side of the pixel squares folded into channels (1 = none)
    fourier     exponents n of extra inputs sin and cos(2^n·π·x), for models that must tell one
                pixel value from the next (`picture_features`); () = none. They also reach the
                answer directly, times gates that the network sets for every pixel
    outputs     numbers said about every pixel: with 2, the answer (B, 2·channels, H, W) holds first
                the usual one and then a second (a variance, Nichol & Dhariwal 2021)

    A fresh network answers exactly 0. Nothing waits for the device, so it runs under
    torch.compile, autocast and CUDA graphs.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        width: int = 64,
        mults: Sequence[int] = (1, 2),
        blocks: int = 2,
        attention: Sequence[int] = (),
        num_classes: int = 0,
        text_width: int = 0,
        patch: int = 1,
        fourier: Sequence[int] = (),
        outputs: int = 1,
    ) -> None:
        super().__init__()
        levels = len(mults)
        _check(channels, size, width, mults, blocks, attention, patch, outputs)
        self._config: dict[str, Any] = {
            "channels": channels, "size": size, "width": width, "mults": list(mults),
            "blocks": blocks, "attention": list(attention), "num_classes": num_classes,
            "text_width": text_width, "patch": patch, "fourier": list(fourier), "outputs": outputs,
        }  # fmt: skip
        self.channels, self.size, self.patch = channels, size, patch
        self.fourier = tuple(fourier)
        widths = [width * m for m in mults]
        attends = {level % levels for level in attention}
        emb = 4 * width
        self.emb = Conditioning(emb, num_classes)
        self.text = TextTokens(text_width, emb) if text_width else None
        words = emb if text_width else 0
        seen = channels * (1 + 2 * len(self.fourier)) * patch**2
        self.enter = nn.Conv2d(seen, widths[0], 3, padding=1)

        def level(i: int) -> Level:
            return Level(blocks, widths[i], emb, i in attends, words)

        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(level(i) for i in range(levels))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.middle = Stage(widths[-1], emb, True, words)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.up = nn.ModuleList(level(i) for i in range(levels))
        self.norm = grouped_norm(widths[0])
        gates = channels * (1 + 2 * len(self.fourier)) * patch**2
        self.gates = _zero(nn.Conv2d(widths[0], gates, 1)) if self.fourier else None
        self.leave = _zero(nn.Conv2d(widths[0], outputs * channels * patch**2, 3, padding=1))
        channels_last(self)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments: `UNet(**net.config)` is the same network, freshly initialised."""
        return dict(self._config)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,) in [0, 1], cond (B,) labels (-1 = none), states (B, T,
        text_width) of text (zeros = none) or None; out like x (with `outputs` times its
        channels)."""
        check_shape(x, (self.channels, self.size, self.size))
        check_times(t, x.shape[0])
        emb, text = self._told(t, cond)
        seen = torch.cat([x, picture_features(x, self.fourier)], 1) if self.fourier else x
        h = F.pixel_unshuffle(seen, self.patch) if self.patch > 1 else seen
        h = self.enter(h.contiguous(memory_format=torch.channels_last))
        skips: list[Tensor] = []
        for i, level in enumerate(self.down):
            skips += level(h, emb, text)
            h = self.shrink[i](skips[-1]) if i < len(self.shrink) else skips[-1]
        h = self.middle(h, emb, text)
        for i in reversed(range(len(self.up))):
            if i < len(self.grow):
                h = F.interpolate(self.grow[i](h), scale_factor=2.0, mode="nearest")
            h = self.up[i](h, emb, text, skips)[-1]
        h = F.silu(self.norm(h))
        out = self._unfold(self.leave(h)).contiguous()
        return (
            out if self.gates is None else self._let_through(out, self._unfold(self.gates(h)), seen)
        )

    def _told(self, t: Tensor, cond: Tensor | None) -> tuple[Tensor, _Text]:
        """The vector that every block reads, and the words that attention looks at."""
        if self.text is None:
            return self.emb(t, cond), None
        words, pooled, spoken = self.text(cond, len(t))
        return self.emb(t) + pooled, (words, spoken)

    def _unfold(self, h: Tensor) -> Tensor:
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h

    def _let_through(self, out: Tensor, gates: Tensor, seen: Tensor) -> Tensor:
        """Every pixel's own features, each times a gate that the network sets, added to the answer:
        fine digits of a pixel need not pass through the layers."""
        kinds = (len(out), -1, self.channels, self.size, self.size)
        own = (gates.reshape(kinds) * seen.reshape(kinds)).sum(1)
        return torch.cat([out[:, : self.channels] + own, out[:, self.channels :]], 1)


def _check(
    channels: int,
    size: int,
    width: int,
    mults: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    patch: int,
    outputs: int,
) -> None:
    """Say in one sentence what does not fit together."""
    levels = len(mults)
    counts = (channels, size, width, blocks, patch, levels, outputs)
    if min(counts) < 1 or any(m < 1 for m in mults):
        raise MarginalsError(
            "UNet needs channels, size, width, blocks, patch, outputs and every mult of 1 or "
            "more, and at least one mult."
        )
    step = patch * 2 ** (levels - 1)
    if size % step:
        raise MarginalsError(
            f"A UNet with patch {patch} and {levels} levels needs a size divisible by {step}, "
            f"not {size}: choose fewer mults, a smaller patch or another size."
        )
    if any(not -levels <= level < levels for level in attention):
        raise MarginalsError(
            f"attention names levels from {-levels} to {levels - 1}, not {list(attention)}."
        )
