"""The solver fitted to a problem, if there is one for this number of evaluations."""

from collections.abc import Sequence

from marginals.solvers import Solver

from .problems import Problem


def fitted(problem: Problem, nfe: int) -> tuple[Solver, Sequence[float]] | None:
    """A solver and the levels λ it was fitted for (VE units, from σ = 80), or None."""
    return None
