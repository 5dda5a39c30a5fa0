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
from ..scaling import Level


class Row(NamedTuple):
    """How one state is made; ``at`` is the level where the new state lives."""

    at: Level[float]
    x: dict[int, float]
    d: dict[int, float]
    noise: float = 0.0


Table = list[Row]


@dataclass(frozen=True)
class Solver:
    """A named rule from levels to a table.

    ``order``: error ∝ (step in λ)^order on smooth problems: of the samples themselves for
    deterministic solvers, of their moments (weak order) for stochastic ones; None if the rule has
    no step that could shrink (Langevin). ``about`` is one line for people.
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
