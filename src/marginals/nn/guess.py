"""A first guess of the picture from its text alone, which a transformer then starts from.

At much noise all that a denoiser can say is the mean picture of the text, E[x₀ | text]. A
transformer has to learn that through every one of its tokens, a few thousand texts at a time. But
it is plain regression, and a small network that is asked once per picture learns it much sooner
(`bench/guess.py`). So it is learned first (`marginals.train.guess`); the transformer is told the
result, and both learn what is left: details, and what the text leaves open. DALL·E 2 divides
its work likewise, into a prior over embeddings and a decoder (Ramesh et al. 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .text import check_states, pool_states

NOISE = 0.3
"""Standard deviation of the noise that training adds to mean states, whose own is 1, so that texts
near a known one are understood like it."""


class Guess(nn.Module):
    """States (B, T, text_width) of a text, zeros for padding → (B, tokens, numbers).

    The mean state m is brought to (m − shift)/spread, with both measured on the texts it is fitted
    to; then h = silu(W₁·), h + silu(W₂·norm h), and W₃·norm h: the numbers of every token. Fresh,
    it guesses 0, and so it does for a picture without text. `marginals.train.guess.fit_guess` fits
    it first; then it learns on with the rest.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, text_width: int, hidden: int, tokens: int, numbers: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.fc1, self.fc2 = nn.Linear(text_width, hidden), nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, tokens * numbers)
        nn.init.zeros_(self.fc3.weight)
        nn.init.zeros_(self.fc3.bias)
        self.register_buffer("shift", torch.zeros(text_width))
        self.register_buffer("spread", torch.ones(()))

    def pooled(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(the mean state on its way in (B, text_width), which texts say something (B,))."""
        mean, spoken = pool_states(states)
        return (mean - self.shift) / self.spread, spoken

    def forward(self, pooled: Tensor) -> Tensor:
        h = F.silu(self.fc1(pooled))
        h = h + F.silu(self.fc2(F.rms_norm(h, h.shape[-1:])))
        return self.fc3(F.rms_norm(h, h.shape[-1:])).unflatten(1, (self.tokens, -1))


class GuessedText(nn.Module):
    """What a transformer is told of a text: its guess, for the tokens, and a vector.

    (B, T, text_width) → (B, tokens, width) to be added to the tokens of the picture, and (B, width)
    for the vector that also tells the time, read off the mean state. A picture without text has
    the guess 0 and a learned mean state.
    """

    def __init__(self, text_width: int, width: int, hidden: int, tokens: int, numbers: int) -> None:
        super().__init__()
        self.text_width = text_width
        self.guess = Guess(text_width, hidden, tokens, numbers)
        self.enter = nn.Linear(numbers, width)
        self.null = nn.Parameter(torch.randn(text_width) * 0.02)
        self.fc1, self.fc2 = nn.Linear(text_width, width), nn.Linear(width, width)

    def forward(self, cond: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        if cond is None:
            cond = self.null.new_zeros(batch, 1, self.text_width)
        check_states(cond, batch, self.text_width)
        pooled, spoken = self.guess.pooled(cond.to(self.null.dtype))
        if self.training:
            pooled = pooled + NOISE * torch.randn_like(pooled)
        guessed = self.guess(pooled) * spoken[:, None, None]
        told = torch.where(spoken[:, None], pooled, self.null)
        return self.enter(guessed), self.fc2(F.silu(self.fc1(told)))
