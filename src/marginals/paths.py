"""Paths of a model from noise to pictures, followed with many steps, and how far the ends of a
cheaper walk are from theirs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .sampling import sample
from .solvers import Solver, auto, grid, straight


@dataclass(frozen=True)
class Paths:
    """Where walks start and where they should end.

    ``start``: (B, ...) at the first level, in the denoiser's units; ``end``: (B, ...) pictures;
    ``cond``: their classes or None.
    """

    start: Tensor
    end: Tensor
    cond: Tensor | None = None

    def __len__(self) -> int:
        return len(self.start)

    def part(self, which: slice) -> "Paths":
        """Some of them."""
        cond = None if self.cond is None else self.cond[which]
        return Paths(self.start[which], self.end[which], cond)

    def split(self, size: int) -> "Iterator[Paths]":
        """All of them, ``size`` at a time."""
        return (self.part(slice(i, i + size)) for i in range(0, len(self), size))


def follow(
    denoiser: Denoiser,
    start: Tensor,
    lam: float,
    lam_max: float,
    *,
    cond: Tensor | None = None,
    steps: int = 100,
    batch: int = 128,
    tick: Callable[[int], object] | None = None,
) -> Paths:
    """The paths from ``start`` (B, ...) at level ``lam``, each followed with ``steps``
    evaluations of the default solver."""
    lams, solver, ends = grid(straight(lam, lam_max), steps), auto(), []
    for i in range(0, len(start), batch):
        part = None if cond is None else cond[i : i + batch]
        ends.append(sample(denoiser, start[i : i + batch], lams, solver, cond=part).x)
        if tick is not None:
            tick(min(i + batch, len(start)))
    return Paths(start, torch.cat(ends), cond)


@dataclass(frozen=True)
class Errors:
    """How far a walk's ends are from the right ones: the root mean square over the entries of one
    picture, in the units of the pictures, (B,)."""

    each: Tensor

    @property
    def rmse(self) -> float:
        """Over all entries of all pictures: dominated by the few that end elsewhere."""
        return self.each.square().mean().sqrt().item()

    @property
    def mean(self) -> float:
        """Of the pictures' errors."""
        return self.each.mean().item()

    @property
    def median(self) -> float:
        """Half of the pictures are nearer."""
        return self.each.median().item()

    @property
    def p90(self) -> float:
        """Nine of ten pictures are nearer."""
        return self.each.double().quantile(0.9).item()

    def __str__(self) -> str:
        return f"{self.mean:.4f} mean, {self.median:.4f} median, {self.p90:.4f} of the worst tenth"


@torch.no_grad()
def errors(
    denoiser: Denoiser, paths: Paths, solver: Solver, lams: Sequence[float], batch: int = 128
) -> Errors:
    """A solver on these levels against the paths, one number per picture."""
    ends = [sample(denoiser, p.start, lams, solver, cond=p.cond).x for p in paths.split(batch)]
    return Errors(square_error(torch.cat(ends), paths.end).sqrt())


def square_error(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).flatten(1).double().square().mean(1)
