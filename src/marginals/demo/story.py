"""One picture on its way into the noise, and what the network sees at every level."""

from dataclasses import dataclass

import torch
from torch import Tensor

from marginals.denoiser import expand
from marginals.models import Model
from marginals.noise import item_noise
from marginals.scaling import VP

__all__ = ["STORY_LEVELS", "Story", "tell"]

STORY_LEVELS = (12.0, 6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -8.0)
"""From an almost clean picture to almost pure noise."""


@dataclass(frozen=True)
class Story:
    """Rows of a picture book, one column per level: (n, C, H, W) each."""

    lams: tuple[float, ...]
    noisy: Tensor
    """α·x0 + σ·ε in VP units, the same ε in every column (Luo Eq. 69)."""
    cleaned: Tensor
    """The network's x̂0, the average of all pictures that could be behind the noise."""


@torch.no_grad()
def tell(model: Model, x0: Tensor, cond: Tensor | None, seed: int) -> Story:
    """The story of one picture x0 (1, C, H, W) in [-1, 1]."""
    count = len(STORY_LEVELS)
    lam = torch.tensor(STORY_LEVELS, dtype=torch.float64)
    x0 = x0.expand(count, *x0.shape[1:])
    eps = item_noise([seed] * count, x0.shape[1:])
    _, alpha, sigma = (expand(value, x0) for value in VP(lam))
    noisy = alpha * x0 + sigma * eps
    labels = None if cond is None else cond.expand(count)
    return Story(STORY_LEVELS, noisy, model.convert(VP).net(noisy, lam, labels).x0)
