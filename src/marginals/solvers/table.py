"""A fixed-step solver is a table of numbers; one loop walks every table.

Walking from noise to data visits levels λ_0 < λ_1 < … < λ_N. A solver turns these levels, once and
in float64, into rows; each row makes the next state from earlier states x_j, earlier clean
estimates x̂0(x_j), and fresh noise z:

    x_i = Σ_j row.x[j]·x_j + Σ_j row.d[j]·x̂0(x_j) + row.noise·z

State 0 is the start. The coefficients are plain Python floats before the first step is taken, so a
step does no look-ups, keeps no hidden state, and never waits for a device. The network is called
only for the x̂0 that some row asks for; the number of calls is the cost (NFE).

A table is exact for a denoiser that always says the same picture c if Σ x[j]·α_j + Σ d[j] = α_i:
then x_i = α_i·c + noise. :func:`signal_error` measures that.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import MarginalsError
from ..scaling import Level, Scaling


class Row(NamedTuple):
    """How one state is made; ``at`` is the level where the new state lives.

    ``path``: (λ where the noise of this row begins, rate): then the noise is the increment up to
    ``at`` of a Brownian motion with the clock e^(rate·λ), if the walk is asked to follow one.
    ``snr`` > 0: a Langevin move whose length is set by norms. The row says the clean end y of the
    move, and the new state is x + θ·(y − x) + √(2θ)·noise·z with, per picture,
    θ = 2·(snr·noise·‖z‖/‖y − x‖)², at most 1 (Song et al. 2021, Algorithms 4 and 5).
    """

    at: Level[float]
    x: dict[int, float]
    d: dict[int, float]
    noise: float = 0.0
    path: tuple[float, float] | None = None
    snr: float = 0.0


Table = list[Row]


@dataclass(frozen=True)
class Solver:
    """A named rule from levels to a table.

    ``order``: error ∝ (step in λ)^order on smooth problems, where the walk begins with short steps
    (multistep rules have no past there): of the samples themselves for deterministic solvers, of
    their moments (weak order) for stochastic ones; None if the rule has no step that could shrink
    (Langevin). :mod:`marginals.convergence` measures it. ``about`` is one line for people.
    """

    name: str
    rule: Callable[[Sequence[Level[float]]], Table]
    order: int | None
    stochastic: bool
    about: str

    def table(self, levels: Sequence[Level[float]]) -> Table:
        """Rows for these levels, noise first. Raises MarginalsError if they do not rise."""
        lams = [float(level.lam) for level in levels]
        rising = all(a < b for a, b in itertools.pairwise(lams))
        if len(lams) > 2 and not rising and lams == sorted(lams):
            raise MarginalsError(
                "Neighbouring noise levels of this grid are equal: ask for fewer steps, or for "
                "another grid."
            )
        if len(lams) < 2 or not rising:
            raise MarginalsError(
                "A solver needs at least two noise levels in strictly rising order of λ "
                "(from noise to data): ask for at least 1 step."
            )
        if not all(math.isfinite(level.sigma) for level in levels):
            raise MarginalsError(
                "Pure noise at λ = −∞ has no finite size in VE units: start from a finite λ, or "
                "use another scaling."
            )
        return self.rule(levels)

    def evaluations(self, levels: Sequence[Level[float]]) -> int:
        """How many network evaluations a walk over these levels costs."""
        return len({j for row in self.table(levels) for j in row.d})


def shifted(rows: Table, by: int) -> Table:
    """The same rows for a walk that starts at state ``by`` of a longer one."""
    return [
        row._replace(
            x={j + by: c for j, c in row.x.items()}, d={j + by: c for j, c in row.d.items()}
        )
        for row in rows
    ]


def in_scaling(start: Level[float], rows: Table, scaling: Scaling) -> Table:
    """The same walk with every state written in the units of ``scaling``.

    A state in other units is a multiple of itself, so its row is multiplied, and the coefficients
    that later rows have for it are divided. Solvers write states between the given levels in VP
    units, because a rule is not told the scaling.
    """
    wanted = [scaling(level.lam) for level in (start, *(row.at for row in rows))]
    if all(row.at == level for row, level in zip(rows, wanted[1:], strict=True)):
        return rows
    factor = [_units(level, new) for level, new in zip((start, *(r.at for r in rows)), wanted)]
    return [
        row._replace(
            at=new,
            x={j: c * f / factor[j] for j, c in row.x.items()},
            d={j: c * f for j, c in row.d.items()},
            noise=row.noise * f,
        )
        for row, new, f in zip(rows, wanted[1:], factor[1:], strict=True)
    ]


def _units(old: Level[float], new: Level[float]) -> float:
    if old == new:
        return 1.0
    return new.sigma / old.sigma if old.lam < 0 else new.alpha / old.alpha


def signal_error(levels: Sequence[Level[float]], rows: Table) -> list[float]:
    """Σ x[j]·α_j + Σ d[j] − α_i for every row: zero where a constant denoiser is transported
    exactly."""
    at = [levels[0], *(row.at for row in rows)]
    return [
        sum(c * at[j].alpha for j, c in row.x.items()) + sum(row.d.values()) - row.at.alpha
        for row in rows
    ]


def noise_error(levels: Sequence[Level[float]], rows: Table) -> list[float]:
    """(Σ x[j]·σ_j)² + noise² − σ_i² for every row: zero where the noise of a constant denoiser's
    states keeps exactly the marginal variance (states of a row being in step with each other)."""
    at = [levels[0], *(row.at for row in rows)]
    return [
        sum(c * at[j].sigma for j, c in row.x.items()) ** 2 + row.noise**2 - row.at.sigma**2
        for row in rows
    ]
