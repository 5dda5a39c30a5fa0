"""The parts transformers are made of: attention, the two kinds of MLP, positions, modulation."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x·(1 + scale) + shift, with x (B, L, w) and one pair (B, 1, w) per picture."""
    return torch.addcmul(shift, x, 1.0 + scale)


@cache
def grid_positions(rows: int, columns: int, dim: int) -> Tensor:
    """Fixed sines and cosines of where each patch lies, (rows·columns, dim), row by row.

    Half of the dimensions tell the column and half the row, each by dim/4 frequencies from 1 down
    to 10⁻⁴ (Vaswani et al. 2017 in two dimensions, as in Peebles & Xie 2023).
    """
    if dim % 4:
        raise MarginalsError(f"Positions in two dimensions need a width divisible by 4, not {dim}.")
    omega = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )  # fmt: skip
    angles = [axis.reshape(-1, 1) * omega for axis in (column, row)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1).float()


def rotations(rows: int, columns: int, head: int) -> Tensor:
    """Rotary positions (Su et al. 2021) in two dimensions: (rows·columns, 2, head/2).

    The first half of the pairs turns with the row, the second with the column, so that the product
    of a query and a key depends on where they lie relative to each other. [0] cosines, [1] sines.
    """
    if head % 4:
        raise MarginalsError(f"Rotary positions need heads of 4k channels, not {head}.")
    omega = 100.0 ** -(torch.arange(head // 4, dtype=torch.float64) / (head // 4))
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )  # fmt: skip
    angles = torch.cat([row.reshape(-1, 1) * omega, column.reshape(-1, 1) * omega], 1)
    return torch.stack([angles.cos(), angles.sin()], 1).float()


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the pairs (x_k, x_{k + head/2}) of x (B, heads, L, head) by the angles of each token."""
    first, second = x.chunk(2, -1)
    cos, sin = turn[:, 0].to(x.dtype), turn[:, 1].to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


_SHORT = 128


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q·kᵀ/√head)·v, with mask True where a key may be looked at (Vaswani et al. 2017).

    torch's fused kernel, except for short sequences of bfloat16 on a processor: there plain
    products are about three times as fast, forward and backward (`bench/attention.py`).
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or k.shape[-2] > _SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    logits = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.softmax(-1).to(v.dtype) @ v


class Attention(nn.Module):
    """Tokens look at tokens: softmax(q·kᵀ/√head)·v in ``heads`` heads, (B, L, w) in and out.

    ``qk_norm``: queries and keys are brought to unit root mean square, with a learned gain, before
    they meet (Henry et al. 2020; Dehghani et al. 2023): the logits cannot run away.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise MarginalsError(f"A width of {width} cannot be shared by {heads} heads.")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.ones(2, width // heads)) if qk_norm else None

    def forward(self, x: Tensor, mask: Tensor | None = None, turn: Tensor | None = None) -> Tensor:
        """mask: (B, 1, 1, L), True for tokens that may be looked at; turn: :func:`rotations`."""
        b, length, width = x.shape
        q, k, v = self.qkv(x).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.gain is not None:
            gains = self.gain.to(q.dtype).unbind(0)
            q, k = (F.rms_norm(z, g.shape, g, 1e-6) for z, g in zip((q, k), gains, strict=True))
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        out = attend(q, k, v, mask)
        return self.proj(out.transpose(1, 2).reshape(b, length, width))


class Mlp(nn.Module):
    """Linear, GELU (tanh form), Linear: w → ratio·w → w."""

    def __init__(self, width: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = round(ratio * width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGlu(nn.Module):
    """W₂(silu(W₁x) ⊙ W₃x) (Shazeer 2020), with 2/3 of the hidden units: as many weights as Mlp."""

    def __init__(self, width: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = 8 * math.ceil(ratio * width * 2 / 3 / 8)
        self.fc1, self.fc2 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, -1)
        return self.fc2(F.silu(gate) * value)
