"""Our solvers in the same contest: every deterministic name of ``SOLVERS`` on the same grids."""

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from marginals.denoiser import Estimate
from marginals.errors import MarginalsError
from marginals.models import Model
from marginals.sampling import sample
from marginals.scaling import VE, Real
from marginals.solvers import SOLVERS, Solver, abm, adams, auto, grid, lms, unipc

from .grids import START, STOP
from .peers import Denoise

FINITE = tuple(product(("eps", "v", "flow"), ("r", "angle", "t")))
"""Frames and coordinates that are finite at the data: their last step may have any order."""


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


def default_levels(steps: int) -> list[float]:
    """σ of the grid that `Model.sample` takes if nothing else is asked, from 80."""
    first, last = (-2.0 * math.log(sigma) for sigma in (START, STOP))
    levels = inspect.signature(Model.sample).parameters["levels"].default
    return [math.exp(-0.5 * lam) for lam in grid(levels(first, last), steps)]


def default(nfe: int, guided: bool = False) -> Plan:
    """The walk of `Model.sample(steps=nfe)` from σ = 80 if nothing else is asked, or is but
    guidance."""
    solver, lams = auto(guided), to_lams(default_levels(nfe))
    return Plan(solver, tuple(lams), solver.evaluations([VE(lam) for lam in lams]))


def to_lams(sigmas: list[float]) -> list[float]:
    """λ = −2·log σ in VE units."""
    return [-2.0 * math.log(sigma) if sigma else math.inf for sigma in sigmas]


def named() -> dict[str, Solver]:
    """The deterministic solvers of the package with their default parameters."""
    return {name: solver for name, solver in SOLVERS.items() if not solver.stochastic}


def variants() -> dict[str, Solver]:
    """The same with parameters a user may give: orders, frames, coordinates, last steps."""
    found: dict[str, Solver] = {}
    for order in (1, 2, 3):
        for kind in ("bh1", "bh2"):
            found[f"unipc:order={order},variant={kind}"] = unipc(order, kind)
    for order in (2, 3, 4):
        found[f"lms:order={order}"] = lms(order)
        for frame, clock in product(("x0", "eps", "v", "flow"), ("lam", "r", "angle", "t")):
            options = f"order={order},frame={frame},coordinate={clock}"
            found[f"adams:{options}"] = adams(order, frame, clock)
            if (frame, clock) not in FINITE:
                found[f"adams:{options},corrector=true"] = adams(
                    order, frame, clock, corrector=True
                )
        for frame, clock in FINITE:
            for last in range(1, order + 1):
                name = f"abm:order={order},frame={frame},coordinate={clock},last={last}"
                found[name] = abm(order, frame, clock, last)
    return found


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
