"""Is a model inventing pictures, or repeating its training pictures? Look at the nearest ones.

Pictures are compared pixel by pixel. The distance of two pictures with D values each is the root
mean square of their differences,

    d(a, b) = √(Σᵢ (aᵢ − bᵢ)² / D),   in units where black and white are 2 apart, as in [-1, 1].

It is computed on the stored values 0..255 in float64, where |a|² + |b|² − 2aᵀb is exact: a copy has
distance 0, not "about 0".
"""

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from marginals.errors import MarginalsError
from marginals.pixels import BIN_WIDTH, to_uint8

__all__ = ["Memorisation", "Neighbours", "memorisation", "nearest"]


class Neighbours(NamedTuple):
    """The k nearest training pictures of each sample, nearest first."""

    index: Tensor
    """(N, k) LongTensor: rows of the training set."""
    distance: Tensor
    """(N, k) float64: root mean square difference, 0 for a copy."""


class Memorisation(NamedTuple):
    """How close samples come to the training pictures, compared with unseen real pictures."""

    share: float
    """Share of the samples nearer to their training picture than 95 % of held-out pictures are to
    theirs. A model that learnt the distribution gives about 0.05, a copying one gives 1."""
    ratio: float
    """Median distance of samples over median distance of held-out pictures; 0 for copies. Smooth,
    typical pictures have near neighbours too, so a ratio of 0.8 is no alarm."""
    samples: Tensor
    """(N,) distance of each sample to its nearest training picture."""
    held_out: Tensor
    """(M,) the same of each held-out picture."""

    def __str__(self) -> str:
        return (
            f"{100 * self.share:.1f} % of the samples are nearer to a training picture than 95 % "
            f"of unseen real pictures are (5 % is normal); typical distance {self.ratio:.2f} "
            "times that of unseen real pictures"
        )


def nearest(samples: Tensor, training: Tensor, k: int = 1, *, progress: bool = False) -> Neighbours:
    """The exact k nearest `training` pictures of each of `samples`; both (., C, H, W).

    uint8, or float in [-1, 1] (rounded to 8 bits first). The work is one matrix product for every
    block of samples and of training pictures; no block takes more than 128 MB.
    """
    if samples.shape[1:] != training.shape[1:] or samples.ndim != 4 or not len(samples):
        raise MarginalsError(
            "samples and training pictures must have the same channels and size, "
            f"not {tuple(samples.shape)} and {tuple(training.shape)}"
        )
    if not 1 <= k <= len(training):
        raise MarginalsError(f"{k} neighbours were asked for, of {len(training)} training pictures")
    values = samples[0].numel()
    block = max(1, min(2048, 2**24 // values))
    with tqdm(total=len(samples), desc="nearest neighbours", disable=not progress) as bar:
        parts = []
        for rows in samples.split(block):
            parts.append(_nearest_of(_flat(rows), training, k, block))
            bar.update(len(rows))
    index, square = (torch.cat(part) for part in zip(*parts))
    return Neighbours(index, (square / values).sqrt() * BIN_WIDTH)


def memorisation(
    samples: Tensor, held_out: Tensor, training: Tensor, *, progress: bool = False
) -> Memorisation:
    """Distances of `samples` to `training`, judged by those of real `held_out` pictures."""
    if len(held_out) < 2:
        raise MarginalsError("the memorisation check needs at least 2 held-out pictures")
    ours, real = (
        nearest(pictures, training, progress=progress).distance[:, 0]
        for pictures in (samples, held_out)
    )
    close = ours < real.quantile(0.05)
    ratio = ours.median() / real.median().clamp_min(1e-6)  # held-out copies have distance 0
    return Memorisation(float(close.double().mean()), float(ratio), ours, real)


def _nearest_of(rows: Tensor, training: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
    """Indices and squared distances (n, k) of the training pictures nearest to flat `rows`."""
    index = torch.empty((len(rows), 0), dtype=torch.long)
    best = torch.empty((len(rows), 0), dtype=torch.float64)
    for start in range(0, len(training), block):
        other = _flat(training[start : start + block])
        square = rows.square().sum(1)[:, None] + other.square().sum(1) - 2 * (rows @ other.T)
        near, place = square.topk(min(k, len(other)), dim=1, largest=False)
        best, order = torch.cat([best, near], 1).sort(dim=1, stable=True)
        index = torch.cat([index, place + start], 1).gather(1, order)
        best, index = best[:, :k], index[:, :k]
    return index, best


def _flat(pictures: Tensor) -> Tensor:
    stored = pictures if pictures.dtype == torch.uint8 else to_uint8(pictures)
    return stored.flatten(1).cpu().double()
