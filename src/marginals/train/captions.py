"""The texts of captioned pictures, as the states that a model is told."""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from marginals.device import send
from marginals.text import TextTable, encode_table
from marginals.text.encoders import TextEncoder

__all__ = ["Captions"]


class Captions:
    """One or more captions of every picture, all encoded once.

    `draw` takes one of a picture's captions at random (all are as likely) and gives its states.
    """

    def __init__(self, captions: Sequence[Sequence[str]], encoder: TextEncoder) -> None:
        place: dict[str, int] = {}
        rows = [[place.setdefault(text, len(place)) for text in texts] for texts in captions]
        self.counts = torch.tensor([len(row) for row in rows])
        self.first = self.counts.cumsum(0) - self.counts
        self.places = torch.tensor([i for row in rows for i in row], dtype=torch.long)
        self.table: TextTable = encode_table(list(place), encoder)

    def near(self, device: torch.device, limit: int) -> "Captions":
        """These captions with their states on the device, if they take at most `limit` bytes."""
        if device.type == "cpu" or self.table.states.nbytes > limit:
            return self
        there = copy(self)
        there.table = self.table.to(device)
        return there

    def draw(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """States (B, T, D) of a caption for each of these pictures; zeros where it has none."""
        counts = self.counts[indices]
        u = torch.rand(len(indices), generator=generator)
        return self._states(indices, (u * counts).long().clamp(max=(counts - 1).clamp(min=0)))

    def examples(self, count: int) -> Tensor:
        """The first caption of pictures spread evenly over the set, (count, T, D)."""
        chosen = torch.linspace(0, len(self.counts) - 1, count).long()
        return self._states(chosen, torch.zeros_like(chosen))

    def _states(self, indices: Tensor, which: Tensor) -> Tensor:
        counts = self.counts[indices]
        last = max(len(self.places) - 1, 0)
        states = self.table(self.places[(self.first[indices] + which).clamp(max=last)])
        return torch.where(send(counts > 0, states.device)[:, None, None], states, 0.0)
