"""Everyone who takes part: peers and ours on every grid, our default, and what was fitted."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from .contest import Entrant
from .fitted import fitted
from .grids import ENDS, sigmas, takes
from .ours import Plan, default, default_levels, named, plan, variants
from .peers import Denoise, Peer, all_peers, versions
from .problems import Problem

BUDGETS = (5, 6, 8, 10, 15, 20, 30, 50)
VARIANT_GRIDS = ("exponential", "cosine", "flow")
TOLERANCES = (3.0, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05)


def label(grid: str, end: str) -> str:
    return f"{grid} grid " + {"zero": "and 0", "stop": "to 0.002", "straight": "to 0"}[end]


def from_peers(budget: int, grids: Sequence[str]) -> Iterator[Entrant]:
    """Every sampler of every installed package, on every grid it can take."""
    found, version = all_peers()[0], versions()
    for peer in found:
        for end in peer.ends:
            steps = peer.steps(budget, end)
            for grid in grids if steps else ():
                if not takes(grid, end):
                    continue
                yield _peer(peer, grid, end, steps, budget, version[peer.package])
    if "k-diffusion" in version:
        yield from _own_grids(budget, version["k-diffusion"])


def _peer(peer: Peer, grid: str, end: str, steps: int, budget: int, version: str) -> Entrant:
    levels = sigmas(grid, steps, end)

    def walk(denoise: Denoise, x: Tensor) -> Tensor:
        return peer.walk(denoise, x, levels)

    name = f"{peer.package} {peer.name}"
    key = f"{name} {version} {[f'{level:.12g}' for level in levels]}"
    return Entrant("peer", name, label(grid, end), budget, key, walk)


def _own_grids(budget: int, version: str) -> Iterator[Entrant]:
    """k-diffusion's samplers that make their own grid."""
    from .of_k_diffusion import adaptive, fast

    def run(denoise: Denoise, x: Tensor) -> Tensor:
        return fast(denoise, x, budget)

    name = "k-diffusion dpm_fast"
    yield Entrant("peer", name, "its own grid", budget, f"{name} {version} {budget}", run)
    for order in (2, 3):
        for tolerance in TOLERANCES:
            name = f"k-diffusion dpm_adaptive {order}, rtol {tolerance:g}"
            go = partial(adaptive, order=order, rtol=tolerance)
            yield Entrant("peer", name, "its own grid", budget, f"{name} {version}", go, False)


def from_us(budget: int, grids: Sequence[str]) -> Iterator[Entrant]:
    """Every deterministic solver of ours on the grids the peers get; its variants on some."""
    walks = [(*entry, grid, end) for entry in named().items() for grid in grids for end in ENDS]
    some = [grid for grid in grids if grid in VARIANT_GRIDS]
    walks += [
        (*entry, grid, end) for entry in variants().items() for grid in some for end in ENDS[1:]
    ]
    for name, solver, grid, end in walks:
        if takes(grid, end):
            made = plan(solver, lambda n, g=grid, e=end: sigmas(g, n, e), budget)
            if made is not None:
                yield _ours("ours", name, label(grid, end), budget, made)
    for name, solver in (named() | variants()).items():
        made = plan(solver, default_levels, budget)
        if made is not None:
            yield _ours("ours", name, "default grid", budget, made)


def chosen(problem: Problem, budget: int, work: Path) -> Iterator[Entrant]:
    """What `sample` does if nobody says anything, and the solver fitted to this problem."""
    standard = default(budget, problem.guided)
    yield _ours("default", standard.solver.name, "default grid", budget, standard)
    table = fitted(problem, budget, work)
    if table is not None:
        made = Plan(table.solver, table.levels, budget)
        yield _ours("fitted", "fitted", "its own levels", budget, made)


def _ours(side: str, name: str, grid: str, budget: int, made: Plan) -> Entrant:
    return Entrant(side, name, grid, budget, f"marginals {made.digest}", made.walk)
