"""The loss by noise level, and the guard against losses that are not numbers.

One number for the loss hides the most useful thing about it: at which noise levels the model is
still learning. The meter sorts the per-example losses into bins of λ = log(α²/σ²). Models without
noise levels (VAEs) have the loss alone here; see `rungs` for theirs.
"""

import math
from typing import Any

import torch
from torch import Tensor

from marginals.train.stop import Diverged

__all__ = ["EDGES", "LevelMeter", "bin_name"]

EDGES = (-9.0, -6.0, -3.0, 0.0, 3.0, 6.0, 9.0)
"""Limits of the bins of λ; the first and the last bin are open."""


def bin_name(index: int) -> str:
    """The name of a bin in log.jsonl, for example "-3..0"; "..-9" and "9.." are open."""
    low = f"{EDGES[index - 1]:g}" if index > 0 else ""
    high = f"{EDGES[index]:g}" if index < len(EDGES) else ""
    return f"{low}..{high}"


class LevelMeter:
    """Collects (loss, λ) per example and gradient lengths; gives their means.

    `add` only keeps tensors, so it never waits for the device; `check` and `take` do.
    """

    def __init__(self) -> None:
        self._new: list[tuple[int, Tensor, Tensor | None, Tensor]] = []
        self._sums = torch.zeros(2, len(EDGES) + 1, dtype=torch.float64)
        self._has_levels = False
        self._norms: list[float] = []

    def add(self, images_seen: int, losses: Tensor, lam: Tensor | None, norm: Tensor) -> None:
        """Note a step: `losses` (B,), `lam` (B,) if it has levels, gradient length (scalar)."""
        level = None if lam is None else lam.detach()
        self._new.append((images_seen, losses.detach(), level, norm.detach()))

    def check(self) -> None:
        """Raise Diverged when a step since the last check had a loss or gradient not finite."""
        for images_seen, losses, lam, norm in self._new:
            refuse_bad(images_seen, losses, lam, norm)
            self._sort(losses.double().cpu(), None if lam is None else lam.double().cpu())
            self._norms.append(float(norm))
        self._new.clear()

    def take(self) -> dict[str, Any]:
        """Means since the last `take`: loss, loss by level (where there are levels), gradient
        length. Starts afresh."""
        self.check()
        count, loss = self._sums
        levels = {bin_name(i): float(loss[i] / count[i]) for i in range(len(count)) if count[i]}
        means = {
            "loss": float(loss.sum() / count.sum().clamp(min=1)),
            **({"levels": levels} if self._has_levels else {}),
            "gradient": sum(self._norms) / max(len(self._norms), 1),
        }
        self._sums.zero_()
        self._norms.clear()
        return means

    def _sort(self, losses: Tensor, lam: Tensor | None) -> None:
        self._has_levels = lam is not None
        if lam is None:
            place = torch.zeros(len(losses), dtype=torch.long)
        else:
            place = torch.bucketize(lam, torch.tensor(EDGES, dtype=lam.dtype))
        rows = torch.stack([torch.ones_like(losses), losses])
        self._sums.index_add_(1, place, rows)


def refuse_bad(images_seen: int, losses: Tensor, lam: Tensor | None, norm: Tensor) -> None:
    """Raise Diverged, naming the noise level, when a loss or the gradient is not finite."""
    if math.isfinite(float(norm)) and bool(torch.isfinite(losses).all()):
        return
    bad = ~torch.isfinite(losses)
    what = f"the {'loss' if bad.any() else 'gradient'} is not a number"
    if lam is None:
        where = ""
    elif bad.any():
        where = f" at noise level λ = {lam[bad][0].item():.2f}"
    else:
        where = f" and the largest loss was at noise level λ = {lam[losses.argmax()].item():.2f}"
    raise Diverged(f"{what}{where}, after {images_seen} images")
