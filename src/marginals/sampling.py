"""Walking from noise to data: the one loop that runs every solver table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser, Estimate
from .errors import MarginalsError
from .noise import item_noise
from .scaling import Level
from .solvers.table import Row, Solver, Table


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each network evaluation."""

    evaluation: int
    total: int
    estimate: Estimate


@dataclass(frozen=True)
class SampleResult:
    """``x``: the last state (a picture if the walk ended at λ = ∞); ``nfe``: network
    evaluations."""

    x: Tensor
    nfe: int
    lams: tuple[float, ...]
    solver: str


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    x: Tensor,
    lams: Sequence[float],
    solver: Solver,
    *,
    cond: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> SampleResult:
    """Walk x (B, ...) from level ``lams[0]`` to ``lams[-1]`` with a solver.

    x is the state at the first level, in ``denoiser.scaling`` units: ``Prior.start(noise, level)``
    makes one from standard normal noise. ``cond`` goes to the denoiser. ``seeds`` (one per picture,
    default 0..B−1) key the fresh noise of stochastic solvers: picture i is the same whatever the
    rest of the batch is. Raises MarginalsError for levels that do not rise, or if the result is not
    finite.
    """
    levels = [denoiser.scaling(float(lam)) for lam in lams]
    rows = solver.table(levels)
    seeds = range(len(x)) if seeds is None else seeds
    if len(seeds) != len(x):
        raise MarginalsError(f"{len(x)} pictures need {len(x)} seeds, not {len(seeds)}.")
    out = _walk(denoiser, x, levels[0], rows, cond, seeds, callback)
    if not bool(torch.isfinite(out).all()):
        raise MarginalsError(
            f"The walk with {solver.name} ended in NaN or infinity: the network's output is not "
            "finite; use an earlier checkpoint, or float32 instead of half precision."
        )
    nfe = len({j for row in rows for j in row.d})
    return SampleResult(out, nfe, tuple(float(lam) for lam in lams), solver.name)


def _walk(
    denoiser: Denoiser,
    x: Tensor,
    start: Level,
    rows: Table,
    cond: Tensor | None,
    seeds: Sequence[int],
    callback: Callable[[Progress], None] | None,
) -> Tensor:
    """Run a table. States and estimates are dropped after the last row that uses them."""
    at = [start, *(row.at for row in rows)]
    last_use = {j: i for i, row in enumerate(rows) for j in (*row.x, *row.d)}
    total = len({j for row in rows for j in row.d})
    states: dict[int, Tensor] = {0: x}
    clean: dict[int, Tensor] = {}
    calls = draws = 0
    for i, row in enumerate(rows):
        for j in row.d:
            if j not in clean:
                estimate = denoiser(states[j], at[j].lam, cond)
                clean[j] = estimate.x0
                calls += 1
                if callback is not None:
                    callback(Progress(calls, total, estimate))
        new = _combine(row, states, clean)
        if row.noise:
            draws += 1  # draw 0 is the starting noise
            new.add_(
                item_noise(seeds, x.shape[1:], draws, device=x.device, dtype=x.dtype),
                alpha=row.noise,
            )
        states[i + 1] = new
        for j in [j for j in states if last_use.get(j, len(rows)) <= i]:
            states.pop(j)
            clean.pop(j, None)
    return states[len(rows)]


def _combine(row: Row, states: dict[int, Tensor], clean: dict[int, Tensor]) -> Tensor:
    """Σ x[j]·x_j + Σ d[j]·x̂0_j with one new tensor, the rest in place."""
    terms = [(c, states[j]) for j, c in row.x.items()] + [(c, clean[j]) for j, c in row.d.items()]
    (first, tensor), *rest = terms
    new = tensor * first
    for coefficient, tensor in rest:
        new.add_(tensor, alpha=coefficient)
    return new
