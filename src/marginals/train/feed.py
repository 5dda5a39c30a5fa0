"""What a step is fed: pictures, labels and noise, all functions of (seed, images seen, rank).

Nothing random is carried from step to step. The data order is `marginals.data.order`; everything
else (mirroring, hidden labels, noise levels, noise, dropout) is drawn from a generator that is made
anew for each step, seeded with a hash of (seed, images seen, rank). So a run that is stopped, or
killed, and resumed at n images does what it would have done: on a processor to the bit, on a GPU up
to the order in which its kernels add.
"""

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from marginals.condition import hide
from marginals.data.augment import Augment
from marginals.data.order import indices
from marginals.data.pictures import PictureSource
from marginals.device import send

if TYPE_CHECKING:
    from marginals.train.captions import Captions

__all__ = ["Batch", "Feed", "step_seed"]

FITS_ON_GPU = 4 << 30
"""Bytes of pictures or latents that may live beside the network, so that a batch is one gather with
no copy to wait for; and as many of encoded texts."""


class Batch(NamedTuple):
    """One process's share of a step."""

    x: Tensor
    """Stored pictures, uint8 (B, C, H, W); `Model.losses` spreads them over [-1, 1]."""
    cond: Tensor | None
    """Labels (B,), or states of a caption (B, T, D), saying nothing where hidden; or None."""
    generator: torch.Generator
    """For everything random that is left: the noise levels and the noise."""


def step_seed(seed: int, images_seen: int, rank: int = 0) -> int:
    """64 bits that differ whenever one of the three does; the same on every machine."""
    key = f"marginals step {seed} {images_seen} {rank}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


class Feed:
    """`feed(images_seen)` is this process's batch of the step that starts at `images_seen`."""

    def __init__(
        self,
        source: PictureSource,
        *,
        batch: int,
        seed: int,
        augment: Augment,
        conditional: bool,
        captions: "Captions | None" = None,
        label_dropout: float,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        near = getattr(source, "near", None)
        self.source = near(device, FITS_ON_GPU) if near else source
        self.batch, self.seed, self.augment = batch, seed, augment
        self.conditional, self.label_dropout = conditional, label_dropout
        self.captions = captions and captions.near(device, FITS_ON_GPU)
        self.device, self.rank, self.world = device, rank, world

    def __call__(self, images_seen: int) -> Batch:
        chosen = self._indices(images_seen)
        pixels, labels = self.source.batch(chosen)
        self.source.ahead(self._indices(images_seen + self.batch))
        mixed = step_seed(self.seed, images_seen, self.rank)
        torch.manual_seed(mixed)  # dropout layers can only use the global generator
        generator = torch.Generator().manual_seed(mixed)  # on the CPU: the same on every device
        pixels = pixels.to(self.device, non_blocking=True)
        pixels = self.augment(pixels, generator)
        cond = None
        if self.conditional:
            hidden = torch.rand(len(labels), generator=generator) < self.label_dropout
            told = labels if self.captions is None else self.captions.draw(chosen, generator)
            cond = hide(send(told, self.device), hidden)
        return Batch(pixels, cond, generator)

    def examples(self, count: int) -> Tensor | None:
        """What the pictures of a sample strip are to show: every class in turn, or some texts."""
        if not self.conditional:
            return None
        if self.captions is not None:
            return self.captions.examples(count)
        return torch.arange(count) % len(self.source.classes)

    def _indices(self, images_seen: int) -> Tensor:
        count = self.batch // self.world
        return indices(
            len(self.source), self.seed, images_seen, count, rank=self.rank, world=self.world
        )
