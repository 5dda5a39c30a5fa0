"""How fast solvers converge: declared orders, measured against closed forms.

A solver has order k if N steps leave an error ∝ N^(−k) on smooth problems. What the error is
depends on the kind:

* Deterministic solvers follow the probability-flow ODE. Their samples of a Gaussian are compared
  with its exact flow, from the same noise (:meth:`.oracle.Gaussian.flow`).
* Stochastic solvers only promise the distribution (*weak* order). For a one-dimensional Gaussian
  the denoiser is linear, so every state of a table is a linear function of the noises drawn, and
  its mean and variance follow exactly, without drawing any.

The levels are λ = λ_0 + (λ_N − λ_0)·(i/N)²: they begin with short steps, as the usual grids do, so
that the start of a multistep solver, which has no past yet and is of lower order, does not count.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import MarginalsError
from .noise import item_noise
from .oracle import Gaussian
from .sampling import sample
from .scaling import VP, Scaling
from .solvers.table import Solver, Table

LAM_MIN, LAM_MAX = -4.0, 4.0
DATA_MEAN, DATA_VAR = 0.7, 0.25


class Convergence(NamedTuple):
    """``errors`` of walks with so many ``steps``; ``slope`` of their logarithms is the order."""

    steps: tuple[int, ...]
    errors: tuple[float, ...]
    slope: float


def converge(solver: Solver, steps: Sequence[int] | None = None) -> Convergence:
    """Measure the order of a solver; its declared one should be within 0.15."""
    if solver.order is None:
        raise MarginalsError(
            f"{solver.name} has no order: its moves do not become smaller with more levels; "
            "ask for another solver"
        )
    error = weak_error if solver.stochastic else flow_error
    steps = steps or _steps(solver)
    errors = tuple(error(solver, levels(n)) for n in steps)
    slope = -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
    return Convergence(tuple(steps), errors, slope)


def _steps(solver: Solver) -> tuple[int, ...]:
    """Numbers of steps at which a solver has settled to its order; some do so late."""
    if solver.stochastic:
        return 512, 1024, 2048
    return (256, 512, 1024) if (solver.order or 0) > 4 else (96, 192, 384, 768)


def levels(steps: int) -> list[float]:
    """λ of a smooth walk that begins with short steps."""
    return [LAM_MIN + (LAM_MAX - LAM_MIN) * (i / steps) ** 2 for i in range(steps + 1)]


def flow_error(solver: Solver, lams: Sequence[float], scaling: Scaling = VP) -> float:
    """Root mean square error of 16 samples of a correlated 2-D Gaussian against its exact flow."""
    cov = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)
    oracle = Gaussian(torch.tensor([0.5, -1.0]), cov, scaling)
    x = item_noise(range(16), (2,), dtype=torch.float64) * scaling(lams[0]).sigma
    got = sample(oracle, x, lams, solver).x
    return (got - oracle.flow(x, lams[0], lams[-1])).square().mean().sqrt().item()


def weak_error(solver: Solver, lams: Sequence[float]) -> float:
    """The larger of the relative errors of mean and variance at the last level."""
    mean, var = moments(solver, lams)[-1]
    level = VP(lams[-1])
    want_mean, want_var = level.alpha * DATA_MEAN, level.alpha**2 * DATA_VAR + level.sigma**2
    return max(abs(mean / want_mean - 1.0), abs(var / want_var - 1.0))


def moments(
    solver: Solver, lams: Sequence[float], start: tuple[float, float] | None = None
) -> list[tuple[float, float]]:
    """Mean and variance of every state (after the start) of a walk in VP units, exactly.

    The data are N(m, s²) with x̂0 = m + αs²/V·(x − αm), V = α²s² + σ². A state is a vector: its
    mean, then its coefficient of each of the noises drawn so far. ``start``: mean and variance of
    the first state, by default the right ones.
    """
    at = [VP(lam) for lam in lams]
    rows = solver.table(at)
    if any(row.snr for row in rows):
        raise MarginalsError(f"the moves of {solver.name} are not linear in x")
    first = at[0]
    right = first.alpha * DATA_MEAN, first.alpha**2 * DATA_VAR + first.sigma**2
    mean, var = right if start is None else start
    state = np.zeros(2 + sum(row.noise > 0 for row in rows))
    state[0], state[1] = mean, math.sqrt(var)
    where, last = [first, *(row.at for row in rows)], _last_use(rows)
    states, history, drawn = {0: state}, [], 1

    def clean(j: int) -> NDArray[np.float64]:
        level = where[j]
        gain = level.alpha * DATA_VAR / (level.alpha**2 * DATA_VAR + level.sigma**2)
        estimate = gain * states[j]
        estimate[0] += DATA_MEAN * (1.0 - gain * level.alpha)
        return estimate

    for i, row in enumerate(rows):
        state = np.zeros_like(state)
        for j, c in row.x.items():
            state += c * states[j]
        for j, c in row.d.items():
            state += c * clean(j)
        if row.noise:
            drawn += 1
            state[drawn] += row.noise
        states[i + 1] = state
        states = {j: kept for j, kept in states.items() if last.get(j, 0) > i}
        history.append((float(state[0]), float(state[1:] @ state[1:])))
    return history


def _last_use(rows: Table) -> dict[int, int]:
    return {j: i for i, row in enumerate(rows) for j in (*row.x, *row.d)}
