"""The most general walk with one evaluation a step, as numbers that can be fitted to a denoiser.

In picture units y = x/α (VE), with y_0 the start and D_i = x̂0(y_i) the estimate at level λ_i,

    y_(i+1) = k_i·y_i + Σ_(j≤i) w_ij·D_j,        k_i + Σ_j w_ij = 1,        k_(N−1) = 0,

ends at the picture y_N, N evaluations later. The constraint carries a denoiser that always says the
same picture exactly, whatever the other numbers are. Every multistep solver is a choice of these
numbers and of the levels, predictor-corrector pairs that reuse their evaluation included
(:meth:`FittedTable.of`); a better choice for one denoiser and one N is found by
:mod:`marginals.fitting`. The table holds in every scaling: x = α·y.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, Self

from ..errors import MarginalsError
from ..scaling import VE, Level
from .table import Row, Solver, Table, in_scaling, signal_error


@dataclass(frozen=True)
class FittedTable:
    """A walk of N evaluations, for the levels it was made for and no others.

    ``lams``: the N levels the denoiser is asked at, noise first; the walk ends at λ = ∞. ``keep``:
    the N numbers k_i. ``shares``: w_ij, row i with i + 1 numbers. Raises MarginalsError for numbers
    that are no such walk.
    """

    lams: tuple[float, ...]
    keep: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        count = len(self.lams)
        numbers = (*self.lams, *self.keep, *itertools.chain(*self.shares))
        if not count or len(self.keep) != count or len(self.shares) != count:
            raise MarginalsError("A fitted table needs as many rows as levels, and at least one.")
        if [len(row) for row in self.shares] != list(range(1, count + 1)):
            raise MarginalsError("Row i of a fitted table weighs the i + 1 estimates made so far.")
        if not all(map(math.isfinite, numbers)):
            raise MarginalsError("A fitted table holds a number that is not finite: fit it again.")
        if any(a >= b for a, b in itertools.pairwise(self.lams)):
            raise MarginalsError("The levels of a fitted table must rise, from noise to data.")
        if self.keep[-1] != 0.0 or max(map(abs, self._defects())) > 1e-9:
            raise MarginalsError(
                "A fitted table must carry a constant picture: in every row the shares and what is "
                "kept add up to 1, and at the end nothing of the noisy state is kept."
            )

    def _defects(self) -> list[float]:
        return [k + math.fsum(row) - 1.0 for k, row in zip(self.keep, self.shares, strict=True)]

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of the walk, λ = ∞ included: what :func:`marginals.sampling.sample` takes."""
        return (*self.lams, math.inf)

    @property
    def solver(self) -> Solver:
        """The table as a solver. Its rule refuses any levels but its own."""
        about = "a table fitted to one model and one number of steps"
        return Solver("fitted", self._rule, None, False, about)

    def _rule(self, levels: Sequence[Level[float]]) -> Table:
        asked = [float(level.lam) for level in levels]
        if asked != list(self.levels):
            raise MarginalsError(
                f"a fitted solver walks the {len(self.lams)} levels it was fitted for and no "
                "others: give it its own levels (FittedTable.levels), without another grid"
            )
        rows: Table = []
        for i, (t, s) in enumerate(itertools.pairwise(levels)):
            x = {i: self.keep[i] * s.alpha / t.alpha} if self.keep[i] else {}
            d = {j: w * s.alpha for j, w in enumerate(self.shares[i]) if w}
            rows.append(Row(s, x, d))
        return rows

    @classmethod
    def of(cls, solver: Solver, lams: Sequence[float]) -> Self:
        """The same walk as another solver's on these levels (the last of them ∞), as a table.

        Every state of a table is linear in y_0 and the estimates; only the states at which the
        denoiser is asked matter. Raises MarginalsError for stochastic solvers, for walks that do
        not end at λ = ∞, for those that ask the denoiser at the same level again (heun, rk4), and
        for those that move a constant picture (the frame v).
        """
        levels = [VE(float(lam)) for lam in lams]
        rows = in_scaling(levels[0], solver.table(levels), VE)
        at = [levels[0], *(row.at for row in rows)]
        asked = sorted({j for row in rows for j in row.d})
        if any(row.noise or row.snr for row in rows) or levels[-1].lam != math.inf:
            cls._refuse(solver, "it has to be deterministic and to end at λ = ∞")
        if any(at[i].lam >= at[j].lam for i, j in itertools.pairwise(asked)):
            cls._refuse(solver, "it asks the denoiser more than once at a level")
        if max(map(abs, signal_error(levels, rows))) > 1e-9:
            cls._refuse(solver, "it does not carry a constant picture exactly")
        place = {j: n for n, j in enumerate(asked)}
        states = [_Linear(1.0, (0.0,) * len(asked))]
        for row in rows:
            states.append(_Linear.of(row, states, place))
        walk = [*(states[j] for j in asked), states[-1]]
        pairs = list(itertools.pairwise(walk))
        keep = [s.start / t.start for t, s in pairs[:-1]] + [0.0]
        shares = []
        for i, (t, s) in enumerate(pairs):
            row = [s.clean[j] - keep[i] * t.clean[j] for j in range(i + 1)]
            shares.append((*row[:-1], 1.0 - keep[i] - math.fsum(row[:-1])))
        return cls(tuple(float(at[j].lam) for j in asked), tuple(keep), tuple(shares))

    @staticmethod
    def _refuse(solver: Solver, why: str) -> NoReturn:
        raise MarginalsError(
            f"{solver.name} on these levels cannot be written as a fitted table: {why}"
        )


@dataclass(frozen=True)
class _Linear:
    """y = start·y_0 + Σ_j clean[j]·D_j."""

    start: float
    clean: tuple[float, ...]

    @classmethod
    def of(cls, row: Row, states: Sequence[Self], place: dict[int, int]) -> Self:
        start = math.fsum(c * states[j].start for j, c in row.x.items())
        clean = [0.0] * len(place)
        for j, c in row.x.items():
            clean = [a + c * b for a, b in zip(clean, states[j].clean, strict=True)]
        for j, c in row.d.items():
            clean[place[j]] += c
        return cls(start, tuple(clean))
