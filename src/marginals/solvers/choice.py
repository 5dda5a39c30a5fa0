"""The solver that is used when nobody asks for another; its grid is :func:`.grids.straight`.

It follows the velocity of rectified flow, which is finite from noise to data, and interpolates it
in the angle φ = atan(σ/α), in which a denoiser changes evenly. Order and grid were chosen to be
good on three problems at once: the mixture of digits, whose truth is known, and a small network
with and without guidance. `bench/solvers.py` shows it beside all others.
"""

from collections.abc import Sequence

from ..scaling import Level
from .multistep import abm
from .table import Solver, Table

FEWEST_GUIDED, FEW_GUIDED = 6, 16
"""Up to so many steps, a guided walk takes order 1, and order 2."""


def auto(guided: bool = False) -> Solver:
    """Adams–Bashforth–Moulton in the flow frame, of the order that suits the number of steps N.

    N < 8: order 2. Up to 40: order 3, and order 2 in the last step, straight to the data, where a
    parabola through the past would overshoot. More: order 4, and 3 in the last step. One evaluation
    a step; deterministic.

    ``guided``: for a guided denoiser, whose field bends more sharply than a model's own. Up to 6
    steps it is order 1 and up to 16 order 2, with order 1 in the last step: higher orders
    overshoot (the guided network in docs/results/solvers.md).
    """

    def rule(levels: Sequence[Level[float]]) -> Table:
        steps = len(levels) - 1
        order, last = (2, 2) if steps < 8 else (3, 2) if steps <= 40 else (4, 3)
        if guided and steps <= FEW_GUIDED:
            order, last = (1 if steps <= FEWEST_GUIDED else 2), 1
        return abm(order, "flow", "angle", last=last).rule(levels)

    return Solver("auto", rule, 5, False, "the order that suits the number of steps")
