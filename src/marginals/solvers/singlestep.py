"""Singlestep solvers: Runge–Kutta methods, which look ahead within a step and forget the past.

Two kinds, in any frame (:mod:`.frames`). *Exponential* ones, DPM-Solver's, interpolate the
predictions of earlier stages in λ and integrate exactly:

    dpm_2, dpmpp_2s     go half the way in λ, do the whole step with the estimate made there
    dpm_3, dpmpp_3s     look at 1/3 and at 2/3; the step uses the first and the last of the three

*Classical* ones are Runge's and Kutta's on dX/dw = P: ``rk4``. (Heun's, in :mod:`.rules`, is both.)
A stage costs an evaluation; steps from or to an infinite level are the exact one of first order.
"""

import itertools
from collections.abc import Callable, Sequence

from ..scaling import VP, Level
from .frames import Frame, FrameName, advance, infinite, levels_of, midpoint, weights
from .rules import first_order
from .table import Row, Solver, Table

Stages = tuple[tuple[float, tuple[int, ...]], ...]
"""(how far in λ, which predictions are interpolated) for each stage, the step itself last."""

MIDPOINT: Stages = ((0.5, (0,)), (1.0, (1,)))
THIRDS: Stages = ((1 / 3, (0,)), (2 / 3, (0, 1)), (1.0, (0, 2)))

Rule = Callable[[Sequence[Level[float]]], Table]


def exponential(frame: Frame, stages: Stages) -> Rule:
    """The rule of an exponential Runge–Kutta method."""

    def rule(levels: Sequence[Level[float]]) -> Table:
        rows: Table = []
        for t, s in itertools.pairwise(levels):
            i, at = len(rows), {len(rows): t}
            if infinite(t, s):
                rows.append(first_order(i, t, s))
                continue
            start = Row(t, {i: 1.0}, {})
            for share, used in stages:
                to, nodes = midpoint(t, s, share), [i + k for k in used]
                values = weights(frame, "lam", levels_of(at, nodes), t.lam, to.lam)
                rows.append(advance(frame, at, start, to, dict(zip(nodes, values, strict=True))))
                at[len(rows)] = to
        return rows

    return rule


def dpm_2() -> Solver:
    """DPM-Solver-2 (Lu et al. 2022, Algorithm 1): ε̂ at the middle of the step in λ.

    In VE units this is the midpoint rule with the geometric mean of both σ: k-diffusion's dpm_2.
    """
    rule = exponential(Frame("eps"), MIDPOINT)
    return Solver("dpm_2", rule, 2, False, "the noise at the middle of the step")


def dpm_3() -> Solver:
    """DPM-Solver-3 (Lu et al. 2022, Algorithm 2): ε̂ at the start, at 1/3 and at 2/3."""
    rule = exponential(Frame("eps"), THIRDS)
    return Solver("dpm_3", rule, 3, False, "the noise at the start, at 1/3 and at 2/3")


def dpmpp_2s() -> Solver:
    """DPM-Solver++(2S) (Lu et al. 2022b, Algorithm 1): x̂0 at the middle of the step in λ."""
    rule = exponential(Frame("x0"), MIDPOINT)
    return Solver("dpmpp_2s", rule, 2, False, "the clean estimate at the middle of the step")


def dpmpp_3s() -> Solver:
    """DPM-Solver++(3S): DPM-Solver-3 with x̂0 in place of ε̂."""
    rule = exponential(Frame("x0"), THIRDS)
    return Solver("dpmpp_3s", rule, 3, False, "the clean estimate at the start, 1/3 and 2/3")


def rk4(frame: FrameName = "flow") -> Solver:
    """Classical Runge–Kutta of order 4 on dX/dw = P, by default dx/dt = ε̂ − x̂0 in FLOW units.

    X_s = X_t + Δw·(P_1 + 2P_2 + 2P_3 + P_4)/6, with two stages in the middle of w and one at the
    end.
    """
    chosen = Frame(frame)

    def rule(levels: Sequence[Level[float]]) -> Table:
        rows: Table = []
        for t, s in itertools.pairwise(levels):
            i = len(rows)
            if infinite(t, s):
                rows.append(first_order(i, t, s))
                continue
            middle = VP(chosen.inverse(t.lam, s.lam, 0.5))
            at = {i: t, i + 1: middle, i + 2: middle, i + 3: s}
            start = Row(t, {i: 1.0}, {})
            half, whole = chosen.total(t.lam, middle.lam), chosen.total(t.lam, s.lam)
            rows.append(advance(chosen, at, start, middle, {i: half}))
            rows.append(advance(chosen, at, start, middle, {i + 1: half}))
            rows.append(advance(chosen, at, start, s, {i + 2: whole}))
            sixth = whole / 6.0
            ends = {i: sixth, i + 1: 2 * sixth, i + 2: 2 * sixth, i + 3: sixth}
            rows.append(advance(chosen, at, start, s, ends))
        return rows

    return Solver("rk4", rule, 4, False, "classical Runge–Kutta")
