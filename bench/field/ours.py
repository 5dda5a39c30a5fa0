"""Our solvers in the same contest: every deterministic name of ``SOLVERS`` on the same grids."""

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from marginals.denoiser import Estimate
from marginals.errors import MarginalsError
from marginals.models import Model
from marginals.sampling import sample
from marginals.scaling import VE, Real
from marginals.solvers import SOLVERS, Solver, dpmpp_2m, grid

from .grids import START, STOP
from .peers import Denoise


@dataclass(frozen=True)
class Plan:
    """A solver of ours and the levels it visits; ``nfe`` evaluations in all."""

    solver: Solver
    lams: tuple[float, ...]
    nfe: int

    @property
    def digest(self) -> str:
        """The numbers of its table, so that a changed solver is measured anew."""
        rows = self.solver.table([VE(lam) for lam in self.lams])
        text = repr([(row.x, row.d, float(row.at.lam)) for row in rows])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def walk(self, denoise: Denoise, x: Tensor) -> Tensor:
        return sample(_Asked(denoise), x, self.lams, self.solver).x


class _Asked:
    """denoise(x, σ) as a denoiser of the core, so that evaluations are counted like a peer's."""

    scaling = VE

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        return Estimate(x, lam, VE, self.denoise(x, math.exp(-0.5 * float(lam))))


def default(nfe: int) -> Plan:
    """The walk of `Model.sample(steps=nfe)` from σ = 80 to 0.002 if nothing else is asked."""
    first, last = (-2.0 * math.log(sigma) for sigma in (START, STOP))
    levels = inspect.signature(Model.sample).parameters["levels"].default
    lams = grid(levels(first, last), nfe)
    solver = dpmpp_2m()
    return Plan(solver, tuple(lams), solver.evaluations([VE(lam) for lam in lams]))


def to_lams(sigmas: list[float]) -> list[float]:
    """λ = −2·log σ in VE units."""
    return [-2.0 * math.log(sigma) if sigma else math.inf for sigma in sigmas]


def names() -> list[str]:
    """The deterministic solvers of the package, whatever there are by now."""
    return [name for name, solver in SOLVERS.items() if not solver.stochastic]


def plan(solver: Solver, sigmas: Callable[[int], list[float]], nfe: int) -> Plan | None:
    """The longest walk of at most ``nfe`` evaluations; ``sigmas(steps)`` is a grid. None: there is
    none, or the solver refuses such a grid."""
    for steps in range(nfe + 1, 0, -1):
        lams = to_lams(sigmas(steps))
        try:
            cost = solver.evaluations([VE(lam) for lam in lams])
        except MarginalsError:
            continue
        if cost <= nfe:
            return Plan(solver, tuple(lams), cost)
    return None
