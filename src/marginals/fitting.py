"""Fitting a solver to a denoiser: the best levels and weights for a number of evaluations.

Solvers in books are right in the limit of small steps and for every denoiser. With eight steps
there is no limit, and there is one denoiser. So let it choose: follow a few hundred of its own
paths with many steps, then find the N levels and the table of weights
(:class:`~.solvers.fitted.FittedTable`) whose walk of N evaluations ends nearest to where those
paths end. Nothing about the network changes; a table of some tens of numbers is learned.

The loss of a path is √(e + c²) − c, with e the mean square distance of the two ends: quadratic for
small errors, linear for large ones. A few paths start near the boundary between two pictures and
end elsewhere at the slightest change; squared, they would be all that counts. c is lowered in
stages, in proportion to the error there was at first.

The optimiser is L-BFGS on the exact gradient through the whole walk. Weights of neighbouring
estimates nearly cancel, so the problem is badly conditioned; every stage therefore starts by
measuring how the ends of a few paths answer to every number (one walk each), and changes to
variables in which the Gauss–Newton matrix of the loss is the identity. It finds the valley it
starts in, so let it start from the nearest of a few tables from books (:func:`nearest_start`).
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .denoiser import Denoiser, Rescaled
from .errors import MarginalsError
from .paths import Paths, errors, square_error
from .scaling import VE, units
from .solvers import FittedTable, Solver, abm, adams, auto, grid, straight, unipc
from .solvers.grids import GRIDS

Report = Callable[[float, float], None]
"""Called with (share of the time or the rounds used, loss)."""

_STAGES = (2.0, 0.5, 0.2)
"""c of the three stages, in units of the median error before fitting."""
_DAMPING, _STEP, _PROBED = 1e-2, 1e-4, 48


class Numbers(NamedTuple):
    """A fitted table as tensors: ``lams`` (N,), ``keep`` (N,), ``shares``: N rows."""

    lams: Tensor
    keep: Tensor
    shares: list[Tensor]

    def table(self) -> FittedTable:
        """As plain numbers."""
        rows = tuple(tuple(row.tolist()) for row in self.shares)
        return FittedTable(tuple(self.lams.tolist()), tuple(self.keep.tolist()), rows)


class Family(Protocol):
    """Tables that depend on a vector: ``start`` (P,) float64, and the table of a vector."""

    start: Tensor

    def numbers(self, vector: Tensor) -> Numbers:
        """The table, differentiable in the vector."""
        ...


def _levels(first: float, gaps: Tensor) -> Tensor:
    """Rising levels from the logarithms of their gaps."""
    start = gaps.new_full((1,), first)
    return torch.cat([start, first + gaps.exp().cumsum(0)])


class AllNumbers:
    """Every level but the first, and every number of the table that the constraint leaves free."""

    def __init__(self, table: FittedTable) -> None:
        self.first, self.count = table.lams[0], len(table.lams)
        gaps = torch.tensor(table.lams, dtype=torch.float64).diff().log()
        free = [n for k, row in zip(table.keep, table.shares) for n in (k, *row[:-1])]
        del free[-self.count]  # the last row keeps nothing
        self.start = torch.cat([gaps, torch.tensor(free, dtype=torch.float64)])

    def numbers(self, vector: Tensor) -> Numbers:
        lams = _levels(self.first, vector[: self.count - 1])
        rest, keep, shares = vector[self.count - 1 :], [], []
        for i in range(self.count):
            last = i == self.count - 1
            kept = rest.new_zeros(1) if last else rest[:1]
            free, rest = rest[not last :][:i], rest[i + (not last) :]
            keep.append(kept)
            shares.append(torch.cat([free, 1.0 - kept - free.sum(0, keepdim=True)]))
        return Numbers(lams, torch.cat(keep), shares)


class LevelsOnly:
    """The levels alone, with the weights that a known solver has on them."""

    def __init__(self, solver: Solver, lams: Sequence[float]) -> None:
        self.solver, self.first = solver, float(lams[0])
        if len(FittedTable.of(solver, lams).lams) != len(lams) - 1:
            raise MarginalsError(
                f"{solver.name} asks the denoiser more than once a step: fit the levels of a "
                "solver with one evaluation a step"
            )
        self.start = torch.tensor(lams[:-1], dtype=torch.float64).diff().log()

    def _flat(self, vector: Tensor) -> Tensor:
        lams = _levels(self.first, vector.detach()).tolist()
        table = FittedTable.of(self.solver, [*lams, math.inf])
        flat = [*table.lams, *table.keep, *itertools.chain(*table.shares)]
        return torch.tensor(flat, dtype=torch.float64)

    def numbers(self, vector: Tensor) -> Numbers:
        """The solver's rule is plain Python, so its derivatives are differences of its tables; the
        denoiser is not asked for them."""
        flat = self._flat(vector)
        if vector.requires_grad:
            moves = _STEP * torch.eye(len(vector), dtype=torch.float64)
            sides = [(self._flat(vector + m), self._flat(vector - m)) for m in moves]
            slopes = torch.stack([(up - down) / (2.0 * _STEP) for up, down in sides], 1)
            flat = flat + slopes @ (vector - vector.detach())
        n = len(vector) + 1
        rows = flat[2 * n :].split([i + 1 for i in range(n)])
        return Numbers(flat[:n], flat[n : 2 * n], list(rows))


def walk(denoiser: Denoiser, numbers: Numbers, paths: Paths) -> Tensor:
    """The ends (B, ...) of a table's walks, differentiable in its numbers."""
    ve = Rescaled(denoiser, VE)
    y = paths.start * units(numbers.lams[0].item(), denoiser.scaling, VE)
    clean: list[Tensor] = []
    for lam, keep, row in zip(*numbers, strict=True):
        clean.append(ve(y, lam.to(y.device).expand(len(y)), paths.cond).x0)
        keep, row = keep.to(y), row.to(y)
        y = keep * y + sum(w * d for w, d in zip(row, clean, strict=True))
    return y


def first_table(
    lam: float, lam_max: float, steps: int, solver: Solver | None = None
) -> FittedTable:
    """A table to start from: the default solver (or another) on the default grid."""
    return FittedTable.of(solver or auto(), grid(straight(lam, lam_max), steps))


_STARTS: dict[str, tuple[Solver, str]] = {
    "auto": (auto(), "auto"),
    "auto, guided": (auto(guided=True), "auto"),
    "abm of order 4": (abm(4, "flow", "angle", last=2), "auto"),
    "abm, cosine": (abm(), "cosine"),
    "abm of order 2, cosine": (abm(2, "flow", "angle"), "cosine"),
    "corrected adams, cosine": (adams(2, "x0", "t", corrector=True), "cosine"),
    "abm, flow": (abm(), "flow"),
    "unipc, exponential": (unipc(), "exponential"),
    "unipc, karras": (unipc(), "karras"),
}
"""Solvers on grids that were nearest to the truth on one problem or another
(docs/results/solvers.md): which it is depends on the denoiser."""


def nearest_start(
    denoiser: Denoiser, paths: Paths, lam: float, lam_max: float, steps: int, batch: int = 128
) -> tuple[str, FittedTable]:
    """Where to start fitting to these paths: of the tables in ``_STARTS``, the one whose ends are
    nearest by the mean of the paths' errors, and what it is. Costs one walk of ``steps``
    evaluations of every path for each of them."""
    found: list[tuple[float, str, FittedTable]] = []
    for name, (solver, levels) in _STARTS.items():
        table = FittedTable.of(solver, grid(GRIDS[levels]()(lam, lam_max), steps))
        error = errors(denoiser, paths, table.solver, table.levels, batch).mean
        found.append((error if math.isfinite(error) else math.inf, name, table))
    _, name, table = min(found, key=lambda each: each[0])
    return name, table


def fit(
    denoiser: Denoiser,
    paths: Paths,
    family: Family,
    *,
    seconds: float = 60.0,
    rounds: int | None = None,
    batch: int = 128,
    report: Report | None = None,
) -> FittedTable:
    """The table of ``family`` whose walks end nearest to the ends of ``paths``.

    Takes about ``seconds``, or less if nothing improves any more. ``rounds`` of the optimiser (of
    five iterations each; at least one per stage) instead of that make the result independent of
    the clock: the same table on a slow computer as on a fast one. ``batch`` paths at a time go
    through the denoiser, which has to be differentiable in x and λ. Raises MarginalsError if its
    answers are not finite.
    """
    vector = family.start
    if not len(vector):  # one evaluation: the constraint leaves nothing free
        return family.numbers(vector).table()
    with torch.no_grad():
        first = _ends_error(denoiser, family.numbers(vector), paths, batch)
    if not bool(first.isfinite().all()):
        raise MarginalsError(
            "the walks to be fitted end in NaN or infinity: use an earlier checkpoint, or float32 "
            "instead of half precision"
        )
    median = max(first.sqrt().median().item(), 1e-12)
    began, done = time.monotonic(), 0
    for number, scale in enumerate(_STAGES):
        stage = _Stage(denoiser, paths, family, vector, scale * median, batch)
        share = (number + 1) / len(_STAGES)
        while True:
            improved = stage.improve()
            done += 1
            used = (time.monotonic() - began) / seconds if rounds is None else done / rounds
            if report is not None:
                report(min(used, 1.0), stage.best)
            if not improved or used >= share - 1e-9:
                break
        vector = stage.vector
    with torch.no_grad():
        return family.numbers(vector).table()


def _ends_error(denoiser: Denoiser, numbers: Numbers, paths: Paths, batch: int) -> Tensor:
    return torch.cat([square_error(walk(denoiser, numbers, p), p.end) for p in paths.split(batch)])


class _Stage:
    """L-BFGS in whitened variables q, vector = origin + basis·q, with one softness c."""

    def __init__(
        self,
        denoiser: Denoiser,
        paths: Paths,
        family: Family,
        origin: Tensor,
        softness: float,
        batch: int,
    ) -> None:
        self.denoiser, self.paths, self.family = denoiser, paths, family
        self.softness, self.batch = softness, batch
        self.vector = self.origin = origin
        self.basis = self._whitening()
        self.q = torch.zeros_like(origin, requires_grad=True)
        self.best = math.inf
        self.optimizer = torch.optim.LBFGS(
            [self.q], max_iter=5, history_size=40, line_search_fn="strong_wolfe"
        )

    def _soft(self, square: Tensor) -> Tensor:
        return (square + self.softness**2).sqrt() - self.softness

    @torch.no_grad()
    def _whitening(self) -> Tensor:
        """B with Bᵀ·H·B ≈ I for the Gauss–Newton matrix H of the loss on a few paths."""
        few = self.paths.part(slice(0, _PROBED))
        base = walk(self.denoiser, self.family.numbers(self.origin), few).double()
        moves = _STEP * torch.eye(len(self.origin), dtype=torch.float64)
        ends = [walk(self.denoiser, self.family.numbers(self.origin + m), few) for m in moves]
        jacobian = torch.stack([((e.double() - base) / _STEP).flatten(1) for e in ends])
        weight = (square_error(base, few.end) + self.softness**2).rsqrt() / base.numel()
        hessian = torch.einsum("pbd,b,qbd->pq", jacobian, weight, jacobian).cpu()
        most = hessian.diagonal().max().clamp(min=1e-30)  # 0 if the ends answer to nothing
        size = hessian.diagonal().clamp(min=1e-12 * most).sqrt()
        eye = torch.eye(len(size), dtype=torch.float64)
        factor = torch.linalg.cholesky(hessian / size / size[:, None] + _DAMPING * eye)
        return torch.linalg.solve_triangular(factor.T, eye, upper=True) / size[:, None]

    def _loss(self) -> Tensor:
        """The loss, with its gradient put where the optimiser looks for it."""
        total, gradient = 0.0, torch.zeros_like(self.q)
        try:
            for part in self.paths.split(self.batch):
                numbers = self.family.numbers(self.origin + self.basis @ self.q)
                square = square_error(walk(self.denoiser, numbers, part), part.end)
                loss = self._soft(square).sum() / len(self.paths)
                gradient += torch.autograd.grad(loss, self.q)[0]
                total += loss.item()
        except (MarginalsError, ArithmeticError):
            total = math.inf  # levels so far apart that there is no table
        fine = math.isfinite(total) and bool(gradient.isfinite().all())
        self.q.grad = gradient if fine else torch.zeros_like(gradient)
        if fine and total < self.best:
            self.best = total
            self.vector = (self.origin + self.basis @ self.q).detach()
        # a step that leads to infinity is only too long: a wall makes the line search turn back
        return torch.tensor(total if fine else 1e6, dtype=torch.float64)

    def improve(self) -> bool:
        """A few iterations; False when they gained nothing to speak of."""
        before = self.best
        with torch.enable_grad():
            self.optimizer.step(self._loss)
        return self.best < before * (1.0 - 1e-4)
