"""The solver fitted to a problem for a number of evaluations, on noise that nobody is measured on.

What `marginals fit` does for a model is done here for a problem: paths from other seeds, followed
finely, then :func:`marginals.fitting.fit`. The tables are kept in the work folder.
"""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from marginals.denoiser import Denoiser, Estimate
from marginals.fitting import AllNumbers, fit, nearest_start
from marginals.io.atomic import write_json
from marginals.io.header import decode, encode
from marginals.noise import item_noise, stream_seed
from marginals.paths import Paths, follow
from marginals.scaling import VE, Real
from marginals.solvers import FittedTable

from .grids import START, STOP
from .problems import Problem

MOST = 15
"""Fits are made for so many evaluations at most; with more the default is exact enough."""
CLASSES = 10
SECONDS = 120.0
"""Of each fit, at most; twice that where a table has more numbers, from ``LONG`` evaluations on,
which also take twice the paths of a formula, or the few that end elsewhere are learned by heart."""
LONG = 10
FIRST, LAST = -2.0 * math.log(START), -2.0 * math.log(STOP)


class _Fast:
    """The problem's own quick formula as a denoiser of the core; λ may be a tensor."""

    scaling = VE

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        lam = torch.as_tensor(lam, dtype=torch.float64)
        sigma = (-0.5 * lam).exp().reshape(-1, *[1] * (x.ndim - 1))
        denoise = self.problem.of(slice(0, len(x)))
        return Estimate(x, lam, VE, denoise(x, sigma))


def denoiser(problem: Problem) -> tuple[Denoiser, torch.dtype, bool]:
    """What is fitted to, its precision, and whether it wants classes."""
    if problem.name.startswith("network"):
        return problem.denoiser, torch.float32, True
    return _Fast(problem), torch.float64, False


def paths(problem: Problem, seeds: range) -> Paths:
    """The problem's paths from these seeds, with 200 evaluations each."""
    asked, dtype, classes = denoiser(problem)
    start = START * item_noise(seeds, problem.start.shape[1:], dtype=dtype)
    cond = torch.tensor([stream_seed(seed, 1) % CLASSES for seed in seeds]) if classes else None
    return follow(asked, start, FIRST, LAST, cond=cond, steps=200, batch=256)


def fitted(problem: Problem, nfe: int, work: Path) -> FittedTable | None:
    """The table of ``nfe`` evaluations, from σ = 80; None for more than :data:`MOST`."""
    if nfe > MOST:
        return None
    # a network is slower to ask than a formula, and its paths differ less
    slow, long = problem.name.startswith("network"), nfe >= LONG
    count = 256 if slow else 2048 if long else 1024
    seconds = SECONDS if slow or not long else 2.0 * SECONDS
    file = work / "fitted" / f"{problem.mark}-{nfe}-{count}-{seconds:g}.json"
    if file.exists():
        return decode(json.loads(file.read_text()))
    asked, _, _ = denoiser(problem)
    with torch.enable_grad():
        known = paths(problem, range(count))
        _, start = nearest_start(asked, known, FIRST, LAST, nfe, 256)
        table = fit(asked, known, AllNumbers(start), seconds=seconds, batch=256)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, encode(table))
    return table
