"""How a network is told a text: the states of its tokens, as vectors of the network's own width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import MarginalsError


def pool_states(states: Tensor) -> tuple[Tensor, Tensor]:
    """States (B, T, D), zeros for padding → their mean (B, D), 0 where there are none, and which
    texts say something (B,)."""
    spoken = (states != 0).any(-1)
    count = spoken.sum(1, keepdim=True)
    return states.sum(1) / count.clamp(min=1), count[:, 0] > 0


def check_states(cond: Tensor, batch: int, text_width: int) -> None:
    """Raise MarginalsError for what are no states of texts."""
    if not cond.is_floating_point() or cond.shape != (batch, cond.shape[1], text_width):
        raise MarginalsError(
            f"This network is told text: states of shape ({batch}, T, {text_width}), not "
            f"{cond.dtype} of shape {tuple(cond.shape)}."
        )
    if cond.shape[1] < 1:
        raise MarginalsError("A text needs at least one token; zeros say nothing.")


class TextTokens(nn.Module):
    """(B, T, text_width) states, zeros for padding → tokens (B, T, width), mean, mask (B, T).

    Every state is normalised and mapped by a linear layer. A picture without text (None, or nothing
    but padding) has one token instead, which is learned: what guidance contrasts with (Ho &
    Salimans 2022). The mean over a picture's tokens, mapped once more, is for the vector that also
    tells the time (as the pooled text of Stable Diffusion 3).
    """

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.text_width = text_width
        self.norm = nn.LayerNorm(text_width)
        self.fc = nn.Linear(text_width, width)
        self.null = nn.Parameter(torch.randn(width) * 0.02)
        self.pool = nn.Linear(width, width)

    def forward(self, cond: Tensor | None, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        if cond is None:
            cond = self.null.new_zeros(batch, 1, self.text_width)
        check_states(cond, batch, self.text_width)
        spoken = (cond != 0).any(-1)
        silent = ~spoken.any(1)
        words = self.fc(self.norm(cond.to(self.fc.weight.dtype)))
        first = torch.arange(cond.shape[1], device=cond.device) == 0
        instead = silent[:, None] & first
        words = torch.where(instead[..., None], self.null.to(words.dtype), words)
        spoken = spoken | instead
        said = spoken[..., None].to(words.dtype)
        mean = (words * said).sum(1) / said.sum(1)
        return words, self.pool(mean), spoken
