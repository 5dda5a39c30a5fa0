"""`marginals solvers`: every sampling method, its coefficients, and its measured order."""

import inspect
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from tyro.conf import arg

from marginals.commands.common import Command
from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from marginals.scaling import Level
    from marginals.solvers import Row, Solver

WIDTH = 80
SIGMA_MAX, SIGMA_MIN = 80.0, 0.002


class Solvers(Command):
    """The sampling methods: a list, the coefficients of one, or its order measured.

    A solver is a table of numbers: each state is a sum of earlier states, of clean estimates the
    network made there, and of noise. Its order k says that N steps leave an error like 1/N^k.

    Examples:
      marginals solvers
      marginals solvers --table dpmpp_2m --steps 8
      marginals solvers --table unipc:order=2 --levels trailing --scaling flow
      marginals solvers --order heun
      marginals solvers --order adams:order=4,frame=flow --plot order.png
    """

    table: Annotated[str | None, arg(metavar="NAME")] = None
    """Print the coefficients of this solver, from σ/α = 80 to 0.002 and then to the data."""
    order: Annotated[str | None, arg(metavar="NAME")] = None
    """Measure how fast this solver converges on a distribution that is known exactly."""
    steps: Annotated[int | None, arg(metavar="INT"), Field(ge=1, le=1000)] = None
    """Steps of --table; by default 8."""
    levels: Annotated[str | None, arg(metavar="NAME")] = None
    """Where the steps of --table go; by default auto."""
    scaling: Annotated[Literal["vp", "ve", "flow", "sub_vp"] | None, arg(metavar="NAME")] = None
    """Units of the states of --table: vp, ve, flow or sub_vp; by default vp."""
    plot: Annotated[Path | None, arg(metavar="PNG")] = None
    """Also draw what --order measures."""

    def run(self) -> int:
        if self.table is not None and self.order is not None:
            raise MarginalsError("--table and --order are two questions; ask one at a time")
        given = {"--steps": self.steps, "--levels": self.levels, "--scaling": self.scaling}
        if self.table is None and (extra := [k for k, v in given.items() if v is not None]):
            raise MarginalsError(f"{extra[0]} belongs to --table NAME; give that or leave it out")
        if self.order is None and self.plot is not None:
            raise MarginalsError("--plot belongs to --order NAME; give that or leave it out")
        if self.table is not None:
            print(self._coefficients(self.table))
        elif self.order is not None:
            print(self._convergence(self.order))
        else:
            print(listing())
        return 0

    def _coefficients(self, name: str) -> str:
        from marginals.io import registry
        from marginals.solvers import grid
        from marginals.solvers.table import in_scaling

        solver = registry.solver(name)
        steps, levels, units = self.steps or 8, self.levels or "auto", self.scaling or "vp"
        lams = grid(registry.levels(levels)(_lam(SIGMA_MAX), _lam(SIGMA_MIN)), steps)
        scaling = registry.scaling(units)
        start = [scaling(lam) for lam in lams]
        rows = in_scaling(start[0], solver.table(start), scaling)
        cost = len({j for row in rows for j in row.d})
        head = f"{solver.name}: {steps} steps of {levels}, {cost} evaluations, {units} units"
        notes = "x0 is the start; Dj is the network's clean estimate at xj"
        notes += "; z is fresh noise" if any(row.noise for row in rows) else ""
        body = [_sum(number, row, start[0]) for number, row in enumerate(rows, 1)]
        where = f"{'x0':>5} {_at(start[0])}"
        return "\n".join([head, notes, "", f"{'state':>5} {'λ':>7} {'σ/α':>8}", where, *body])

    def _convergence(self, name: str) -> str:
        from marginals.convergence import converge
        from marginals.io import registry

        solver = registry.solver(name)
        found = converge(solver)
        what = "error of mean or variance" if solver.stochastic else "error of the samples"
        lines = [f"{solver.name} on a Gaussian: {what} (exact solution known)", ""]
        lines += [f"{'steps':>7} {'error':>10} {'twice the steps leave':>24}"]
        before = None
        for steps, error in zip(found.steps, found.errors, strict=True):
            share = "" if before is None else f"1/{before / error:.1f}"
            lines.append(f"{steps:7d} {error:10.2e} {share:>24}")
            before = error
        lines += ["", f"declared order {solver.order}, measured {found.slope:.2f}"]
        if self.plot is not None:
            from marginals.io.atomic import write_bytes
            from marginals.io.plots import convergence

            png = convergence(solver.name, found.steps, found.errors, solver.order or 1)
            write_bytes(self.plot, png)
            lines.append(f"drawn in {self.plot}")
        return "\n".join(lines)


def listing() -> str:
    """All solvers, their options, and the grids of levels."""
    from marginals.solvers import MAKERS, SOLVERS
    from marginals.solvers.grids import GRIDS

    lines = [f"{'solver':19} {'order':>5} {'evals':>5}  what it does"]
    for noisy in (False, True):
        lines += ["", "stochastic" if noisy else "deterministic"]
        for name, solver in SOLVERS.items():
            if solver.stochastic == noisy:
                order = "-" if solver.order is None else str(solver.order)
                lines.append(f"{name:19} {order:>5} {_per_step(solver):>5}  {solver.about}")
    lines += [
        "",
        "order: N steps leave an error like 1/N^order (of the samples; for stochastic",
        "solvers of their mean and variance); `marginals solvers --order NAME` measures",
        "it. evals: network evaluations a step.",
        "",
        "Options follow the name, as in ddim:eta=0.5 or unipc:order=2,variant=bh1",
    ]
    lines += _options(MAKERS)
    lines += ["", "Levels of the steps (--levels), also with options, as in flow:shift=3"]
    lines += _options(GRIDS, bare=True)
    return "\n".join(lines)


def _options(makers: dict, bare: bool = False) -> list[str]:
    """One line for every name with options: the options with their defaults."""
    lines = []
    for name, make in makers.items():
        options = ", ".join(
            f"{p.name}={_word(p.default)}" for p in inspect.signature(make).parameters.values()
        )
        if options or bare:
            left = f"  {name:19} "
            lines.append(textwrap.fill(left + options, WIDTH, subsequent_indent=" " * len(left)))
    return lines


def _word(default: object) -> str:
    """A default as it would be typed."""
    from marginals.schedule import LinearBeta

    if default is None or isinstance(default, LinearBeta):
        return "linear"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _per_step(solver: "Solver") -> int:
    """Network evaluations of one more step in the middle of a walk."""
    from marginals.scaling import VP

    few, many = ([VP(float(lam)) for lam in range(n)] for n in (8, 9))
    return solver.evaluations(many) - solver.evaluations(few)


def _lam(sigma: float) -> float:
    """λ of a noise level σ/α."""
    return -2.0 * math.log(sigma)


def _at(level: "Level[float]") -> str:
    ratio = level.sigma / level.alpha if level.alpha else math.inf
    return f"{level.lam:7.2f} {ratio:8.4g}"


def _sum(number: int, row: "Row", start: "Level[float]") -> str:
    """A row as a sum, wrapped to the terminal."""
    terms = [f"{c:+.5g}·x{j}" for j, c in row.x.items() if c] + [
        f"{c:+.5g}·D{j}" for j, c in row.d.items()
    ]
    if row.snr:
        terms = [f"x{j} moved towards {terms[0]} by norms (snr {row.snr:g})" for j in row.x]
    elif row.noise:
        terms.append(f"{row.noise:+.5g}·z")
    left = f"{f'x{number}':>5} {_at(row.at)}  = "
    text = "  ".join(terms).replace("-", "−")
    return textwrap.fill(
        text, WIDTH, initial_indent=left, subsequent_indent=" " * len(left), break_on_hyphens=False
    )
