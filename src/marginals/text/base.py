"""What a text encoder is: texts to the states of their tokens, a vector for each piece of a text.

A network that draws what a text says looks at these states by attention, token by token (Rombach et
al. 2022, §3.3; Saharia et al. 2022, §2.1). An encoder is only used here, never trained: it computes
in float32, in evaluation mode and without gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from marginals.errors import MarginalsError

__all__ = ["Encoded", "TextEncoder"]

BATCH = 64
"""Texts that are computed together; they are sorted by length, so that little of it is padding."""


class Encoded(NamedTuple):
    """Some of the texts, with their states."""

    rows: list[int]
    """Their places in the list of texts."""
    lengths: list[int]
    """Tokens of each."""
    states: Tensor
    """(len(rows), longest, width) float32, zeros after the end of each."""


class TextEncoder(ABC):
    """Texts to states: ``encoder(["a red crab", ""])`` is float32 (2, T, width).

    T is the number of tokens of the longest text, at least 1. Shorter texts end in zeros, and a
    text without words is all zeros: such a condition says nothing (`marginals.condition`). The
    states of a text do not depend on the texts beside it, up to rounding.
    """

    name: str
    """What people type: "minilm", "hf:openai/clip-vit-base-patch32"."""
    width: int
    """Numbers in the state of a token."""
    padding: int = 0
    """The token that fills up a batch; its state is thrown away."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """A digest of the weights: two encoders with the same one say the same."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it computes, and where the states are."""

    @abstractmethod
    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The token numbers of every text; none for a text without words."""

    def check(self, text: str) -> None:  # noqa: B027
        """Raise MarginalsError for a text of which it can read nothing, or not the end; here none
        is refused."""

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token numbers (B, T) -> states (B, T, width); ``mask`` (B, T) is False at padding."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if isinstance(texts, str):
            raise MarginalsError(f"an encoder takes a list of texts: write [{texts!r}]")
        tokens = self.tokens(texts)
        longest = max([1, *map(len, tokens)])
        # An ordinary tensor: one made in inference mode could not take part in training.
        states = torch.zeros(len(tokens), longest, self.width, device=self.device)
        for part in self.batches(tokens):
            states[part.rows, : part.states.shape[1]] = part.states
        return states

    def batches(self, tokens: Sequence[Sequence[int]]) -> Iterator[Encoded]:
        """The states of all texts that have tokens, the longest texts first."""
        order = sorted((i for i, t in enumerate(tokens) if t), key=lambda i: -len(tokens[i]))
        for rows in (order[i : i + BATCH] for i in range(0, len(order), BATCH)):
            lengths = [len(tokens[i]) for i in rows]
            ids = torch.full((len(rows), lengths[0]), self.padding)
            for row, i in zip(ids, rows):
                row[: len(tokens[i])] = torch.tensor(tokens[i])
            mask = torch.arange(lengths[0]) < torch.tensor(lengths)[:, None]
            ids, mask = ids.to(self.device), mask.to(self.device)
            with torch.inference_mode():
                states = self.forward(ids, mask).float().masked_fill(~mask[..., None], 0.0)
            yield Encoded(rows, lengths, states)
