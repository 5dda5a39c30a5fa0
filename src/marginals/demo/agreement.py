"""Do the views agree? Differences that theory says are zero, measured on the trained network.

Every check is made twice: in float64, where a mistake in the mathematics would show and rounding
would not, and in float32, as the demo runs.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from marginals.denoiser import Denoiser, Estimate, expand
from marginals.models import Model
from marginals.pixels import BIN_WIDTH
from marginals.predict import EPS, SCORE, VELOCITY, X0, Prediction, V
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP, Scaling, units
from marginals.schedule import Logit
from marginals.solvers import Solver, ddim, dpmpp_2m, euler, grid, karras, uniform_time

__all__ = ["LEVELS", "NAMES", "Check", "agree", "cost", "flow_by_hand", "prediction_table"]

Tick = Callable[[int], None]

NAMES: dict[str, Prediction] = {
    "x0": X0,
    "ε": EPS,
    "score": SCORE,
    "v": V,
    "velocity": VELOCITY,
}
"""The five readings of one network output."""

LEVELS = (-6.0, -3.0, 0.0, 3.0, 6.0, 9.0)
"""Noise levels λ at which the readings are compared."""

SCALINGS: dict[str, Scaling] = {"VP": VP, "VE": VE, "FLOW": FLOW, "SUB_VP": SUB_VP}

STEPS = 20
"""Steps of the walks that are compared."""


@dataclass(frozen=True)
class Check:
    """One thing that should be zero: the largest difference found in each precision."""

    title: str
    unit: str
    float64: float
    float32: float
    equations: str

    @property
    def agrees(self) -> bool:
        """Whether what was found is rounding: nothing in 64 bits, in 32 bits less than a quarter
        of a grey level (or of a percent)."""
        return self.float64 < 1e-9 and self.float32 < 0.25 * BIN_WIDTH

    @property
    def grey_levels(self) -> float | None:
        """The float32 difference in steps of a stored pixel, where it is one of pictures."""
        return self.float32 / BIN_WIDTH if self.unit == "pixel value" else None


def cost(pictures: int) -> int:
    """Network evaluations that `agree` will tick off."""
    return 2 * pictures * (len(LEVELS) + (len(SCALINGS) + 4) * STEPS)


def agree(
    model: Model, x0: Tensor, cond: Tensor | None, seed: int, tick: Tick
) -> tuple[list[Check], Tensor]:
    """All checks, and the 5×5 table of the worst conversion errors in float64.

    ``x0``: (B, C, H, W) real pictures in [-1, 1], ``cond`` their labels.
    """
    twin = copy.deepcopy(model).double()
    found: dict[str, list[float]] = {}
    tables = []
    for each, dtype in ((twin, torch.float64), (model, torch.float32)):
        table = prediction_table(each.net, x0.to(dtype), cond, seed, tick)
        tables.append(table)
        found.setdefault("readings", []).append(float(table.max()))
        for name, value in _walks(each, len(x0), cond, seed, dtype, tick).items():
            found.setdefault(name, []).append(value)
    checks = []
    for key, (title, unit, equations) in _ROWS.items():
        double, single = found[key]
        checks.append(Check(title, unit, double, single, equations))
    return checks, tables[0]


_ROWS = {
    "readings": (
        "x0, ε, score, v, velocity: read from one output, converted into each other and back",
        "relative to the reading",
        "Luo Eqs. 115, 133, 151",
    ),
    "scalings": (
        "the same walk (DPM-Solver++ 2M) in VP, VE, FLOW and SUB_VP units",
        "pixel value",
        "Luo Eqs. 69, 160",
    ),
    "euler": (
        "DDIM in VP, Euler on the ODE in VE, rectified-flow Euler in FLOW: one method, three names",
        "pixel value",
        "Luo Eqs. 69, 115",
    ),
    "by hand": (
        "rectified flow: solver table against x + (s − t)·velocity written out",
        "pixel value",
        "Luo Eq. 69 with α = 1 − t",
    ),
}


@torch.no_grad()
def prediction_table(
    net: Denoiser, x0: Tensor, cond: Tensor | None, seed: int, tick: Tick
) -> Tensor:
    """(5, 5): worst error, over levels and pictures, of reading the row's prediction from the
    output, taking it for the network's own output, reading the column's from it, and going back.

    Relative to the root mean square of what is compared: a score is hundreds of times larger than
    a picture.
    """
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64).to(x0)
    worst = torch.zeros(len(NAMES), len(NAMES), dtype=torch.float64)
    for lam in LEVELS:
        _, alpha, sigma = net.scaling(lam)
        est = net(alpha * x0 + sigma * eps, lam, cond)
        tick(len(x0))
        for (i, a), (j, b) in itertools.product(enumerate(NAMES.values()), repeat=2):
            worst[i, j] = max(float(worst[i, j]), _round_trip(est, a, b))
    return worst


def _round_trip(est: Estimate, a: Prediction, b: Prediction) -> float:
    """Error of output → a → b, and of b → a, each relative to its own root mean square."""
    first, second = est.read(a), est.read(b)
    there = Estimate(est.x, est.lam, est.scaling, first, a).read(b)
    back = Estimate(est.x, est.lam, est.scaling, there, b).read(a)
    return max(_relative(there, second), _relative(back, first))


def _relative(found: Tensor, wanted: Tensor) -> float:
    rms = float(wanted.double().square().mean().sqrt())
    return float((found - wanted).abs().max()) / max(rms, 1e-12)


def _walks(
    model: Model, count: int, cond: Tensor | None, seed: int, dtype: torch.dtype, tick: Tick
) -> dict[str, float]:
    """Largest differences between walks that should end in the same pictures."""
    noise = model.start(range(seed, seed + count)).to(dtype)

    def go(scaling: Scaling, solver: Solver, lams: Sequence[float]) -> Tensor:
        twin = model.convert(scaling)
        factor = units(lams[0], model.scaling, scaling)
        done = sample(twin.net, noise * factor, lams, solver, cond=cond, callback=ticking)
        return done.x

    def ticking(progress: object) -> None:
        tick(count)

    lams = grid(karras(model.lam_min, model.lam_max), STEPS)
    in_units = [go(scaling, dpmpp_2m(), lams) for scaling in SCALINGS.values()]
    lams = grid(uniform_time(Logit())(model.lam_min, model.lam_max), STEPS)
    table = go(FLOW, euler(), lams)
    three = [go(VP, ddim(), lams), go(VE, euler(), lams), table]
    start = noise * units(lams[0], model.scaling, FLOW)
    by_hand = flow_by_hand(model.convert(FLOW).net, start, lams, cond)
    tick(count * STEPS)
    return {
        "scalings": _spread(in_units),
        "euler": _spread(three),
        "by hand": _spread([table, by_hand]),
    }


@torch.no_grad()
def flow_by_hand(net: Denoiser, x: Tensor, lams: Sequence[float], cond: Tensor | None) -> Tensor:
    """Rectified flow as its papers write it: x_s = x_t + (s − t)·v̂(x_t, t), nothing else.

    ``net`` is in FLOW units and ``x`` its state at ``lams[0]``.
    """
    time = Logit()
    for lam, cleaner in itertools.pairwise(lams):
        velocity = net(x, lam, cond).velocity(time)
        x = x + expand(time.t(cleaner) - time.t(lam), x) * velocity
    return x


def _spread(pictures: Sequence[Tensor]) -> float:
    """Largest difference of any pixel between any two."""
    return max(float((a - b).abs().max()) for a, b in itertools.combinations(pictures, 2))
