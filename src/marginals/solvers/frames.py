"""Frames: the units in which the probability-flow ODE is nothing but one prediction.

Write a noisy picture in units (A, S) that depend on a parameter w, X = A·x0 + S·ε. Then the ODE
that keeps all marginals (Song et al. 2021) has no linear term left:

    dX/dw = (dA/dw)·x̂0 + (dS/dw)·ε̂

The velocity *is* a prediction, the row (dA/dw, dS/dw). Four choices have names:

    frame    units X              over w            velocity     known from
    x0       x/σ    (κ, 1)        κ = α/σ           x̂0           DPM-Solver++, UniPC
    eps      x/α    (1, r)        r = σ/α           ε̂            EDM, LMS, DEIS, DPM-Solver
    v        VP     (cos, sin)    φ = atan(σ/α)     v̂            v-prediction's own
    flow     FLOW   (1 − t, t)    t = σ/(α + σ)     ε̂ − x̂0       rectified flow's own

A step from level t to level s is then the integral of a prediction,

    X_s = X_t + ∫ P(w) dw ≈ X_t + Σ_j W_j·P_j,        W_j = ∫ ℓ_j(c(w)) dw,

with P interpolated by the polynomial in some coordinate c through the predictions already known
(ℓ_j: Lagrange's basis). The weights are integrals of known functions, computed to 1e-14 whatever
the coordinate is. The frames differ in *which* prediction they take to be simple, and in nothing
else. If the denoiser always says the same picture, X moves on a straight line in the frames x0,
eps and flow, where every rule is then exact, and where the rule of first order is DDIM; in the
frame v it turns on a circle, and is followed to the rule's order only. All of it ends as
coefficients of x_j and x̂0_j, so a solver made here works in every scaling.

The x0 frame knows the SDE too: with noise of strength η (0: ODE, 1: the reverse SDE of the forward
process), the linear part of

    dX = ½(1 + η²)·κ·x̂0 dλ − ½η²·X dλ + η dW_λ

is solved exactly (Lu et al. 2022b, whose η is our η²). The noise added between two levels is
σ_s·√(1 − e^(−η²(λ_s − λ_t))): a Brownian motion in its natural clock e^(η²λ).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import MarginalsError
from ..scaling import FLOW, VP, Level
from ..schedule import NoiseSchedule
from .table import Row

Array = NDArray[np.float64]
FrameName = Literal["x0", "eps", "v", "flow"]
Coordinate = Literal["lam", "kappa", "r", "angle", "t"] | NoiseSchedule
"""What the past is a polynomial in: λ, κ = e^(λ/2), r = e^(−λ/2), φ = atan r, t = r/(1 + r), or
the time of a schedule (DEIS)."""


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * z))


_COORDINATES: dict[str, Callable[[Array], Array]] = {
    "lam": lambda lam: lam,
    "kappa": lambda lam: np.exp(0.5 * lam),
    "r": lambda lam: np.exp(-0.5 * lam),
    "angle": lambda lam: np.arctan(np.exp(-0.5 * lam)),
    "t": lambda lam: _sigmoid(-0.5 * lam),
}


def reaches_data(frame: "Frame", coordinate: Coordinate) -> bool:
    """Whether w and the coordinate are finite at λ = ∞, so that the last step, to the data, is a
    step like the others (as LMS does it in σ)."""
    return frame.name != "x0" and coordinate not in ("lam", "kappa")


def check_coordinate(coordinate: Coordinate) -> None:
    """Refuse a coordinate that is none."""
    if isinstance(coordinate, str) and coordinate not in _COORDINATES:
        names = ", ".join(_COORDINATES)
        raise MarginalsError(f"a coordinate is one of {names}, not {coordinate!r}")


def _read(coordinate: Coordinate, lam: Array) -> Array:
    if isinstance(coordinate, str):
        return _COORDINATES[coordinate](lam)
    return coordinate.t(torch.from_numpy(lam)).detach().numpy()


@dataclass(frozen=True)
class Frame:
    """One of the four frames; ``eta`` > 0 makes the x0 frame that of the SDE.

    In the x0 frame dw is divided by w at the end of the step, so that nothing overflows; ``lift``
    multiplies it back.
    """

    name: FrameName = "x0"
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("x0", "eps", "v", "flow"):
            raise MarginalsError(f"a frame is x0, eps, v or flow, not {self.name!r}")
        if not 0.0 <= self.eta <= 3.0:
            raise MarginalsError(
                f"the strength of the noise, eta, goes from 0 (ODE) over 1 (SDE) to 3, not "
                f"{self.eta}"
            )
        if self.eta and self.name != "x0":
            raise MarginalsError("noise (eta > 0) is for the frame x0; leave eta at 0 or the frame")

    def density(self, lam: Array, s: float) -> Array:
        """dw/dλ at levels ``lam`` of a step that ends at λ = s."""
        if self.name == "x0":
            rate = 0.5 * (1.0 + self.eta**2)
            return rate * np.exp(rate * (lam - s))
        if self.name == "eps":
            return -0.5 * np.exp(-0.5 * lam)
        if self.name == "v":
            return -0.25 / np.cosh(0.5 * lam)
        return -0.5 * _sigmoid(0.5 * lam) * _sigmoid(-0.5 * lam)

    def total(self, t: float, s: float) -> float:
        """w(s) − w(t), without cancellation."""
        h = s - t
        if self.name == "x0":
            return -math.expm1(-0.5 * (1.0 + self.eta**2) * h)
        if self.name == "eps":
            return math.exp(-0.5 * t) * math.expm1(-0.5 * h)
        if s == math.inf:
            return -math.atan2(*VP(t)[:0:-1]) if self.name == "v" else -FLOW(t).sigma
        if self.name == "v":  # tan(φ_t − φ_s) = (r_t − r_s)/(1 + r_t·r_s)
            return -math.atan(math.sinh(0.25 * h) / math.cosh(0.25 * (t + s)))
        # sigmoid(−s/2) − sigmoid(−t/2)
        return -math.sinh(0.25 * h) / (2.0 * math.cosh(0.25 * s) * math.cosh(0.25 * t))

    def inverse(self, t: float, s: float, share: float) -> float:
        """The level λ at which ``share`` of w's way from t to s is done."""
        if share in (0.0, 1.0):
            return t if share == 0.0 else s
        if self.name in ("x0", "eps"):  # along e^(±λ/2): log of a mixture, from the larger end
            sign = 0.5 if self.name == "x0" else -0.5
            low, high = math.exp(sign * (t - s)), 1.0
            return s + math.log((1.0 - share) * low + share * high) / sign
        scaling = VP if self.name == "v" else FLOW
        start = math.atan2(*scaling(t)[:0:-1]) if self.name == "v" else scaling(t).sigma
        w = start + share * self.total(t, s)
        return -2.0 * math.log(math.tan(w) if self.name == "v" else w / (1.0 - w))

    def keep(self, t: Level[float], s: Level[float]) -> float:
        """What is left of x_t in x_s: the change of units, and in the SDE the decay."""
        if self.name == "x0":
            decay = math.exp(-0.5 * self.eta**2 * (s.lam - t.lam)) if self.eta else 1.0
            return s.sigma / t.sigma * decay
        if self.name == "eps":
            return s.alpha / t.alpha
        return self.lift(s) / self.lift(t)

    def lift(self, s: Level[float]) -> float:
        """What makes x_s of a piece of X at level s (times w's size there)."""
        if self.name in ("x0", "eps"):
            return s.alpha
        own = (VP if self.name == "v" else FLOW)(s.lam)
        return s.sigma / own.sigma if s.lam < 0 else s.alpha / own.alpha

    def row(self, lam: float) -> tuple[float, float]:
        """The velocity as a prediction (a, b): a·x̂0 + b·ε̂."""
        if self.name == "x0":
            return 1.0, 0.0
        if self.name == "eps":
            return 0.0, 1.0
        if self.name == "flow":
            return -1.0, 1.0
        level = VP(lam)
        return -level.sigma, level.alpha

    def noise(self, t: Level[float], s: Level[float]) -> float:
        """The standard deviation of the noise that the SDE adds on the way."""
        return s.sigma * math.sqrt(-math.expm1(-(self.eta**2) * (s.lam - t.lam)))


_NODES, _MASS = np.polynomial.legendre.leggauss(16)
_PANEL = 3.0
"""Length in λ that 16 Gauss–Legendre nodes integrate to rounding, every coordinate included."""
_FAR = 75.0
"""What is left of σ/α after so much of λ is lost in rounding: as far as to the data (λ = ∞)."""


def weights(
    frame: Frame, coordinate: Coordinate, nodes: tuple[float, ...], t: float, s: float
) -> tuple[float, ...]:
    """W_j = ∫ ℓ_j(c(λ)) (dw/dλ) dλ from t to s; ``nodes`` are the levels of known predictions.

    The weights sum to w(s) − w(t) exactly, so a constant prediction is integrated exactly. They
    are remembered, unless the coordinate is the time of a schedule that learns.
    """
    base = coordinate
    while hasattr(base, "base"):
        base = base.base  # type: ignore[union-attr]
    learns = isinstance(base, torch.nn.Module)
    return (_weights.__wrapped__ if learns else _weights)(frame, coordinate, nodes, t, s)


@lru_cache(maxsize=8192)
def _weights(
    frame: Frame, coordinate: Coordinate, nodes: tuple[float, ...], t: float, s: float
) -> tuple[float, ...]:
    total = frame.total(t, s)
    if len(nodes) == 1:
        return (total,)
    way = min(s - t, _FAR)
    panels = max(1, math.ceil(way / _PANEL))
    half = 0.5 * way / panels
    centres = t + half * (2.0 * np.arange(panels) + 1.0)
    lam = (centres[:, None] + half * _NODES).ravel()
    mass = half * np.tile(_MASS, panels) * frame.density(lam, s)
    c, known = _read(coordinate, lam), _read(coordinate, np.array(nodes))
    rest = [
        float(mass @ np.prod([(c - known[m]) / (known[j] - known[m]) for m in others], axis=0))
        for j in range(1, len(nodes))
        if (others := [m for m in range(len(nodes)) if m != j])
    ]
    return total - math.fsum(rest), *rest


def advance(
    frame: Frame,
    at: dict[int, Level[float]],
    start: Row,
    s: Level[float],
    shares: dict[int, float],
) -> Row:
    """The row X_s = X_t + Σ_j W_j·P_j as coefficients of x_j and x̂0_j.

    ``at``: the level of every state; ``start``: x_t as such a sum, often of one state alone;
    ``shares``: W_j by the state j whose prediction it weighs. ε̂_j is (x_j − α_j·x̂0_j)/σ_j.
    """
    keep = frame.keep(start.at, s)
    x, d = ({j: keep * c for j, c in part.items()} for part in (start.x, start.d))
    return add(frame, at, Row(s, x, d), shares)


def add(frame: Frame, at: dict[int, Level[float]], row: Row, shares: dict[int, float]) -> Row:
    """A row with Σ_j W_j·P_j more."""
    x, d, lift = dict(row.x), dict(row.d), frame.lift(row.at)
    for j, share in shares.items():
        (a, b), level = frame.row(at[j].lam), at[j]
        clean = a
        if b:
            x[j] = x.get(j, 0.0) + lift * share * b / level.sigma
            clean = a - b * level.alpha / level.sigma
        d[j] = d.get(j, 0.0) + lift * share * clean
    kept = {j: c for j, c in x.items() if c != 0.0} or {max(x): 0.0}
    return row._replace(x=kept, d={j: c for j, c in d.items() if c != 0.0})


def midpoint(t: Level[float], s: Level[float], share: float) -> Level[float]:
    """The level at ``share`` of the way in λ. A rule does not know the scaling, so an
    intermediate state is written in VP units; :func:`.table.in_scaling` rewrites the table."""
    return s if share == 1.0 else VP(t.lam + share * (s.lam - t.lam))


def infinite(*levels: Level[float]) -> bool:
    """Whether one of the levels is λ = ±∞."""
    return any(math.isinf(float(level.lam)) for level in levels)


def levels_of(at: dict[int, Level[float]], nodes: Sequence[int]) -> tuple[float, ...]:
    """The λ of some states."""
    return tuple(float(at[j].lam) for j in nodes)
