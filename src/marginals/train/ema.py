"""The running average of the weights, a model of its own that training never reads.

After a step that showed B images, with H the half-life in images and n the images seen so far,

    ema <- ema + (1 - 2^(-B/h)) * (weights - ema),      h = min(H, ramp * n).

The ramp (Karras et al. 2022, appendix F.2; their code's `ema_rampup_ratio` 0.05) keeps the early
average short: without it the first samples show the random initial weights for a long time.
"""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

__all__ = ["Ema"]


M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """An averaged copy of a model, in float32. `model` is for evaluation and sampling.

    The copy is a separate module: evaluating it cannot write into the weights that are trained.
    """

    def __init__(self, model: M, half_life: float, ramp: float = 0.05) -> None:
        self.model: M = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp
        for parameter in self.model.parameters():
            parameter.data = parameter.data.float()

    def keep(self, batch: int, images_seen: int) -> float:
        """The share 2^(-B/h) of the old average that survives a step of `batch` images."""
        half_life = min(self.half_life, self.ramp * images_seen)
        return 0.5 ** (batch / half_life) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, model: nn.Module, batch: int, images_seen: int) -> None:
        """Move the average towards `model`, of which `images_seen` images (this batch too)."""
        share = 1.0 - self.keep(batch, images_seen)
        averages = [p.detach() for p in self.model.parameters()]
        weights = [p.detach().float() for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, share)  # pyright: ignore[reportPrivateImportUsage]
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
