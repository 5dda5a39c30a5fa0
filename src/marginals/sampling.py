"""Walking from noise to data: the one loop that runs every solver table."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser, Estimate
from .errors import MarginalsError
from .noise import BrownianPath, Fresh, Span
from .scaling import Level
from .solvers.table import Row, Solver, Table, in_scaling


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
    brownian: bool = False,
) -> SampleResult:
    """Walk x (B, ...) from level ``lams[0]`` to ``lams[-1]`` with a solver.

    x is the state at the first level, in ``denoiser.scaling`` units: ``Prior.start(noise, level)``
    makes one from standard normal noise. ``cond`` goes to the denoiser. ``seeds`` (one per picture,
    default 0..B−1) key the fresh noise of stochastic solvers: picture i is the same whatever the
    rest of the batch is. ``brownian``: solvers of the SDE follow one Brownian path per seed
    (:class:`.noise.BrownianPath`), so that more steps refine the same picture instead of making
    another one. It is not the default because it costs about twenty times the random numbers.
    Raises MarginalsError for levels that do not rise, or if the result is not finite.
    """
    levels = [denoiser.scaling(float(lam)) for lam in lams]
    table = solver.table(levels)
    rows = in_scaling(levels[0], table, denoiser.scaling)
    seeds = range(len(x)) if seeds is None else seeds
    if len(seeds) != len(x):
        raise MarginalsError(f"{len(x)} pictures need {len(x)} seeds, not {len(seeds)}.")
    out = _walk(denoiser, x, levels[0], rows, cond, _source(x, rows, seeds, brownian), callback)
    check_finite(out, f"with {solver.name}")
    nfe = len({j for row in rows for j in row.d})
    return SampleResult(out, nfe, tuple(float(lam) for lam in lams), solver.name)


def check_finite(x: Tensor, how: str) -> Tensor:
    """x itself, if it holds no NaN and no infinity; ``how`` says which walk made it."""
    # one pass over the result, twenty times faster than isfinite().all(): NaN and ∞ spoil a sum
    total = x.sum(dtype=torch.promote_types(x.dtype, torch.float32)).item()
    if not math.isfinite(total):
        raise MarginalsError(
            f"The walk {how} ended in NaN or infinity: the network's output is not "
            "finite; use an earlier checkpoint, or float32 instead of half precision."
        )
    return x


def _source(x: Tensor, rows: Table, seeds: Sequence[int], brownian: bool) -> Fresh:
    """Where the noise of a walk comes from."""
    like = {"device": x.device, "dtype": x.dtype}
    if not brownian:
        return Fresh(seeds, x.shape[1:], **like)
    spans = [span for row in rows if (span := _span(row)) is not None]
    return BrownianPath(seeds, x.shape[1:], spans, **like)


def _span(row: Row) -> Span | None:
    return None if row.path is None else (row.path[0], float(row.at.lam), row.path[1])


def _walk(
    denoiser: Denoiser,
    x: Tensor,
    start: Level,
    rows: Table,
    cond: Tensor | None,
    source: Fresh,
    callback: Callable[[Progress], None] | None,
) -> Tensor:
    """Run a table. A state or an estimate is dropped as soon as no later row asks for it."""
    at = [start, *(row.at for row in rows)]
    last_x = {j: i for i, row in enumerate(rows) for j in row.x}
    last_d = {j: i for i, row in enumerate(rows) for j in row.d}
    first_d = {j: i for i, row in reversed([*enumerate(rows)]) for j in row.d}
    until = {j: max(last_x.get(j, 0), first_d.get(j, 0)) for j in range(len(rows))}
    states, clean = {0: x}, {}
    new, calls = x, 0

    def ask(j: int) -> Tensor:
        estimate = denoiser(states[j], at[j].lam, cond)
        if callback is not None:
            callback(Progress(calls, len(last_d), estimate))
        return estimate.x0

    for i, row in enumerate(rows):
        for j in row.d:
            if j not in clean:
                calls += 1
                clean[j] = ask(j)
        new = _combine(row, states, clean)
        if row.noise:
            noise = source(_span(row))
            if row.snr:
                new = _langevin_move(row, states[i], new, noise)
            else:
                new.add_(noise, alpha=row.noise)
        for j in [j for j in states if until[j] <= i]:
            del states[j]
        for j in [j for j in clean if last_d[j] <= i]:
            del clean[j]
        states[i + 1] = new
    return new


def _langevin_move(row: Row, x: Tensor, end: Tensor, z: Tensor) -> Tensor:
    """x + θ·(end − x) + √(2θ)·noise·z, θ = 2·(snr·noise·‖z‖/‖end − x‖)² ≤ 1 for every picture."""
    way = end.sub_(x)
    ratio = row.snr * row.noise * _norms(z) / _norms(way)
    theta = (2.0 * ratio**2).clamp(max=1.0)
    return x + theta * way + (2.0 * theta).sqrt() * (row.noise * z)


def _norms(x: Tensor) -> Tensor:
    """‖x‖ of every picture, shaped to multiply the batch; float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norms = torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=wide)
    return norms.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _combine(row: Row, states: dict[int, Tensor], clean: dict[int, Tensor]) -> Tensor:
    """Σ x[j]·x_j + Σ d[j]·x̂0_j with one new tensor, the rest in place."""
    terms = [(c, states[j]) for j, c in row.x.items()] + [(c, clean[j]) for j, c in row.d.items()]
    (first, tensor), *rest = terms
    new = tensor * first
    for coefficient, tensor in rest:
        new.add_(tensor, alpha=coefficient)
    return new
