"""A residual multilayer perceptron: points in the plane, tiny pictures, anything without a grid."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError
from .embed import Conditioning, check_times


class _Layer(nn.Module):
    """x + W2 silu(W1 norm(x) + e): e carries time and class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.told = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return x + self.down(F.silu(self.up(self.norm(x)) + self.told(emb)))


class MLP(nn.Module):
    """Backbone for (B, dim) points, or (B, C, H, W) pictures with C*H*W = dim.

    `dim` numbers in and out, `depth` residual layers of `width`. The output layer starts at zero,
    so a fresh network answers 0 everywhere, and its layers start as the identity.
    """

    def __init__(
        self, dim: int = 2, width: int = 128, depth: int = 3, num_classes: int = 0
    ) -> None:
        super().__init__()
        if dim < 1 or depth < 1:
            raise MarginalsError(f"MLP needs dim and depth of 1 or more, not {dim} and {depth}.")
        self.dim, self.depth = dim, depth
        self.emb = Conditioning(width, num_classes)
        self.enter = nn.Linear(dim, width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments: `MLP(**net.config)` is the same network, freshly initialised."""
        classes = self.emb.num_classes
        return {
            "dim": self.dim,
            "width": self.emb.width,
            "depth": self.depth,
            "num_classes": classes,
        }

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, dim) or (B, C, H, W), t (B,) in [0, 1], cond (B,) labels or None; out like x."""
        if math.prod(x.shape[1:]) != self.dim:
            raise MarginalsError(
                f"This MLP takes {self.dim} numbers per example, but got shape {(*x.shape[1:],)}."
            )
        check_times(t, x.shape[0])
        emb = self.emb(t, cond)
        h = self.enter(x.flatten(1))
        for layer in self.layers:
            h = layer(h, emb)
        return self.leave(F.silu(self.norm(h))).reshape(x.shape)
