"""Diffusion Transformer: patches as tokens, told time, class and text (Peebles & Xie 2023).

With its defaults it is the paper's network, weight for weight (`DIT_SIZES` lists the published
sizes); the options are what came after. A fresh block is the identity and a fresh network answers
exactly 0: every block's contribution passes a gate that starts closed ("adaLN-Zero").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError
from .attention import Attention, Mlp, SwiGlu, grid_positions, modulate, rotations
from .embed import check_labels, check_times
from .guess import GuessedText
from .pictures import check_shape
from .text import TextTokens

DIT_SIZES: dict[str, dict[str, int]] = {
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}
"""The published sizes: `DiT(4, 32, patch=2, num_classes=1000, outputs=2, **DIT_SIZES["XL"])` is
DiT-XL/2."""

_WAVES = 256


class TimeEmbedding(nn.Module):
    """t (B,) to a vector (B, width): 256 sines and cosines, then Linear, SiLU, Linear.

    The number told is s = a + b·t with ``time`` = (a, b), and its angles are s·10⁻⁴^(k/128): with
    (0, 1000) as good as DDPM's step, of which networks trained on steps 0..999 want (−1, 1000).
    """

    def __init__(self, width: int, time: Sequence[float]) -> None:
        super().__init__()
        self.start, self.slope = time
        self.fc1, self.fc2 = nn.Linear(_WAVES, width), nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        t = t if t.dtype == torch.float64 else t.float()
        half = _WAVES // 2
        ramp = torch.arange(half, device=t.device, dtype=t.dtype) / half
        angles = (self.start + self.slope * t)[:, None] * torch.exp(-math.log(10_000.0) * ramp)
        waves = torch.cat([angles.cos(), angles.sin()], 1).to(self.fc1.weight.dtype)
        return self.fc2(F.silu(self.fc1(waves)))


class Block(nn.Module):
    """x + g₁·attention(m₁(norm x)), then x + g₂·mlp(m₂(norm x)); adaLN-Zero.

    The two gates g and modulations m(h) = h·(1 + scale) + shift are read off the conditioning
    vector: by a linear layer of this block's own (the paper's), or as a learned table added to one
    that all blocks share (``shared``; Chen et al. 2023, PixArt-α), which saves a third of the
    weights.
    """

    def __init__(
        self, width: int, heads: int, ratio: float, shared: bool, qk_norm: bool, swiglu: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = Attention(width, heads, qk_norm)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = SwiGlu(width, ratio) if swiglu else Mlp(width, ratio)
        self.adaln = nn.Identity() if shared else _zeroed(nn.Linear(width, 6 * width))
        self.table = nn.Parameter(torch.zeros(6 * width)) if shared else None

    def forward(self, x: Tensor, told: Tensor, mask: Tensor | None, turn: Tensor | None) -> Tensor:
        """told: silu of the conditioning vector (B, w), or with ``shared`` its six parts
        (B, 6w)."""
        parts = self.adaln(told) if self.table is None else told + self.table
        shift1, scale1, gate1, shift2, scale2, gate2 = parts[:, None].chunk(6, -1)
        x = torch.addcmul(x, gate1, self.attn(modulate(self.norm1(x), shift1, scale1), mask, turn))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class DiT(nn.Module):
    """Backbone for pictures (B, channels, size, size), or latents of that shape.

    channels    of the picture or latent
    size        height and width, divisible by patch
    patch       side of the squares that become tokens: (size/patch)² of them
    width       numbers per token
    depth       blocks
    heads       of attention; width/heads channels each
    num_classes 0 for a network that is not told a class
    text_width  numbers per text token (B, T, text_width) that `cond` then is; 0 = no text. The
                tokens join those of the picture in every block, and their mean joins the time
    guess       hidden units of a small network that guesses the picture from the text, which is
                fitted first and learns on; the guess is added to the tokens, and no text tokens
                join them (their mean still joins the time), which halves the cost of short texts
    outputs     numbers said about every pixel: with 2, a second answer (a variance)
    mlp         hidden units of the MLP per unit of width
    shared      one adaLN layer for all blocks plus a small table each
    qk_norm     unit queries and keys
    rope        rotary positions in attention instead of fixed ones added at the entrance
    swiglu      gated MLP of the same size
    registers   extra learned tokens to think with (Darcet et al. 2023)
    skip        add to the answer the picture itself, times numbers read off time and condition: the
                best linear denoiser need not pass through tokens that are narrower than patches
    time        (a, b): the network is told a + b·t

    `docs/text-to-image.md` says what the options gain.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        num_classes: int = 0,
        text_width: int = 0,
        guess: int = 0,
        outputs: int = 1,
        mlp: float = 4.0,
        shared: bool = False,
        qk_norm: bool = False,
        rope: bool = False,
        swiglu: bool = False,
        registers: int = 0,
        skip: bool = False,
        time: Sequence[float] = (0.0, 1000.0),
    ) -> None:
        super().__init__()
        _check(channels, size, patch, width, depth, heads, outputs, num_classes, text_width, guess)
        self._config: dict[str, Any] = {
            "channels": channels, "size": size, "patch": patch, "width": width, "depth": depth,
            "heads": heads, "num_classes": num_classes, "text_width": text_width, "guess": guess,
            "outputs": outputs, "mlp": mlp, "shared": shared, "qk_norm": qk_norm, "rope": rope,
            "swiglu": swiglu, "registers": registers, "skip": skip, "time": list(time),
        }  # fmt: skip
        self.channels, self.size, self.patch, self.num_classes = channels, size, patch, num_classes
        side = size // patch
        self.enter = nn.Linear(channels * patch**2, width)
        self.time = TimeEmbedding(width, time)
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.text: TextTokens | GuessedText | None = None
        if text_width and guess:
            self.text = GuessedText(text_width, width, guess, side**2, channels * patch**2)
        elif text_width:
            self.text = TextTokens(text_width, width)
        self.registers = nn.Parameter(torch.zeros(registers, width)) if registers else None
        self.adaln = _zeroed(nn.Linear(width, 6 * width)) if shared else None
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp, shared, qk_norm, swiglu) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.last = _zeroed(nn.Linear(width, 2 * width))
        self.leave = nn.Linear(width, outputs * channels * patch**2)
        self.skip = _zeroed(nn.Linear(width, outputs * channels)) if skip else None
        kept = {"persistent": False}  # functions of the sizes: not worth a place in a file
        position = rotations(side, side, width // heads) if rope else None
        self.register_buffer("turn", position, **kept)
        position = None if rope else grid_positions(side, side, width)
        self.register_buffer("position", position, **kept)
        self._start()

    turn: Tensor | None
    position: Tensor | None

    def _start(self) -> None:
        """The paper's first weights: Xavier for every matrix, small normal ones for what tells
        time and class, zeros for all that closes a gate or answers. A guess keeps its own."""
        for name, module in self.named_modules():
            if "guess." in name:
                continue
            if isinstance(module, nn.Linear) and not name.endswith(("adaln", "last", "skip")):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.time.fc1, self.time.fc2, self.label):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)
        if self.registers is not None:
            nn.init.normal_(self.registers, std=0.02)
        nn.init.zeros_(self.leave.weight)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments: `DiT(**net.config)` is the same network, freshly initialised."""
        return dict(self._config)

    def matrices(self) -> list[nn.Parameter]:
        """The matrices inside the blocks and the guess: what an optimiser of matrices may treat as
        such."""
        inside = [*self.blocks.parameters()]
        if isinstance(self.text, GuessedText):
            inside += self.text.guess.parameters()
        return [p for p in inside if p.ndim == 2 and len(p) > 2]

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,) in [0, 1]; cond labels (B,) with −1 = none, or states (B, T,
        text_width) of text with zeros = none; None = none. Out like x (with `outputs` times its
        channels)."""
        check_shape(x, (self.channels, self.size, self.size))
        check_times(t, len(x))
        tokens = self.enter(to_patches(x, self.patch))
        if self.position is not None:
            tokens = tokens + self.position.to(tokens.dtype)
        told, tokens, mask = self._told(tokens, t, cond)
        turn = self._turns(tokens)
        each = told if self.adaln is None else self.adaln(told)
        for block in self.blocks:
            tokens = block(tokens, each, mask, turn)
        tokens = tokens[:, : (self.size // self.patch) ** 2]
        shift, scale = self.last(told)[:, None].chunk(2, -1)
        out = self.leave(modulate(self.norm(tokens), shift, scale))
        out = from_patches(out, self.patch, self.size)
        if self.skip is None:
            return out
        gates = self.skip(told).unflatten(1, (-1, self.channels))[..., None, None]
        return out + (gates * x[:, None]).flatten(1, 2).to(out.dtype)

    def _told(
        self, tokens: Tensor, t: Tensor, cond: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The conditioning vector after SiLU; the tokens with all that joins them; their mask."""
        told, mask = self.time(t), None
        if self.text is None and cond is not None:
            check_labels(cond, self.num_classes)
        if self.label is not None:
            null = self.num_classes
            if cond is None:
                cond = torch.full(t.shape, null, dtype=torch.long, device=t.device)
            told = told + self.label(torch.where(cond < 0, null, cond))
        if self.registers is not None:
            more = self.registers.to(tokens.dtype).expand(len(tokens), -1, -1)
            tokens = torch.cat([tokens, more], 1)
        if isinstance(self.text, GuessedText):
            guessed, pooled = self.text(cond, len(tokens))
            guessed = F.pad(guessed, (0, 0, 0, tokens.shape[1] - guessed.shape[1]))
            return F.silu(told + pooled), tokens + guessed.to(tokens.dtype), mask
        if self.text is not None:
            words, pooled, spoken = self.text(cond, len(tokens))
            always = spoken.new_ones(len(tokens), tokens.shape[1])
            tokens = torch.cat([tokens, words.to(tokens.dtype)], 1)
            mask = torch.cat([always, spoken], 1)[:, None, None]
            told = told + pooled
        return F.silu(told), tokens, mask

    def _turns(self, tokens: Tensor) -> Tensor | None:
        """Rotations of all tokens: those without a place (registers, words) are not turned."""
        if self.turn is None:
            return None
        more = tokens.shape[1] - len(self.turn)
        still = torch.zeros(more, *self.turn.shape[1:], device=tokens.device)
        still[:, 0] = 1.0
        return torch.cat([self.turn, still])


def to_patches(x: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) → (B, H·W/p², C·p²), row by row; inside a patch channel, row, column."""
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def from_patches(tokens: Tensor, patch: int, size: int) -> Tensor:
    side = size // patch
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (side, side)), patch)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _check(
    channels: int, size: int, patch: int, width: int, depth: int, heads: int, outputs: int,
    num_classes: int, text_width: int, guess: int,
) -> None:  # fmt: skip
    """Say in one sentence what does not fit together."""
    if min(channels, size, patch, width, depth, heads, outputs) < 1:
        raise MarginalsError(
            "DiT needs channels, size, patch, width, depth, heads and outputs of 1 or more."
        )
    if min(num_classes, text_width) < 0:
        raise MarginalsError("DiT needs num_classes and text_width of 0 or more.")
    if num_classes and text_width:
        raise MarginalsError("A DiT is told classes (num_classes) or text (text_width), not both.")
    if guess < 0 or (guess and not text_width):
        raise MarginalsError("A guess is made from text (text_width) by 1 hidden unit or more.")
    if size % patch:
        raise MarginalsError(f"Patches of {patch} do not tile a picture of {size}: choose another.")
