"""Denoisers: given a noisy picture and its level, estimate the clean one, and read it every way.

A :class:`Denoiser` is anything that maps (x, λ, cond) to an :class:`Estimate`: the exact posterior
mean of an oracle, a guided mixture of two denoisers, or a :class:`Net`, the only place where a
neural network meets a formulation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from .errors import MarginalsError
from .predict import EPS, X0, Prediction, ScorePrediction, V, VelocityPrediction
from .scaling import VP, Level, Real, Scaling, units
from .schedule import LogLinear, NoiseSchedule


def expand(value: Real, x: Tensor) -> Real:
    """Shape per-picture coefficients (B,) so that they multiply a batch x (B, ...)."""
    if isinstance(value, Tensor) and value.ndim:
        return value.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return value


@dataclass(frozen=True)
class Estimate:
    """What a denoiser knows about x at level λ; every reading is a property, computed on demand.

    ``out`` (shape of x) is the output and ``prediction`` says what it is; ``var`` is the posterior
    variance Var[x0 | x] per entry where the denoiser knows it; ``mix`` is what a network trained
    for it says of the variance of a step, from 0, small, to 1, large (:mod:`.ancestral`). For an
    exact denoiser the readings are posterior means: x0 is E[x0 | x], ``score`` is ∇ log q(x)
    (Tweedie, Luo Eqs. 131-133, 151).
    """

    x: Tensor
    lam: Real
    scaling: Scaling
    out: Tensor
    prediction: Prediction = X0
    var: Tensor | None = None
    mix: Tensor | None = None

    @property
    def level(self) -> Level:
        """(λ, α, σ) in the units of x."""
        return self.scaling(self.lam)

    def read(self, prediction: Prediction) -> Tensor:
        """The same estimate as any other prediction (the 2×2 solve of :mod:`.predict`).

        Raises MarginalsError where the output does not determine it (det = 0) or where either is
        infinite (the score at zero noise).
        """
        if prediction == self.prediction:
            return self.out
        a, b = self.prediction.row(self.lam)
        a2, b2 = prediction.row(self.lam)
        _, alpha, sigma = self.level
        det, det2 = alpha * b - sigma * a, alpha * b2 - sigma * a2
        _require(self.prediction, det, nonzero=True)
        _require(prediction, det2, nonzero=False)
        from_x = expand((a2 * b - b2 * a) / det, self.x)
        from_out = expand(det2 / det, self.x)
        return from_x * self.x + from_out * self.out

    @property
    def x0(self) -> Tensor:
        """The clean picture x̂0."""
        return self.out if self.prediction is X0 else self.read(X0)

    @property
    def eps(self) -> Tensor:
        """The noise ε̂ = (x − α·x̂0)/σ."""
        return self.read(EPS)

    @property
    def score(self) -> Tensor:
        """∇ log q(x) = −ε̂/σ in the units of x."""
        return self.read(ScorePrediction(self.scaling))

    @property
    def v(self) -> Tensor:
        """v̂ = α·ε̂ − σ·x̂0 in VP units (Salimans & Ho 2022)."""
        return self.read(V)

    def velocity(self, schedule: NoiseSchedule) -> Tensor:
        """dx/dt of the probability-flow ODE in the units of x, for time ``schedule``."""
        return self.read(VelocityPrediction(schedule, self.scaling))


def _require(prediction: Prediction, det: Real, *, nonzero: bool) -> None:
    """Refuse a prediction that is infinite (or, to be read from, says nothing new: det = 0).

    Tensors on a GPU are not looked at, because looking would wait for the device.
    """
    if isinstance(det, Tensor):
        fine = det.isfinite() & (det != 0) if nonzero else det.isfinite()
        fine = det.device.type != "cpu" or bool(fine.all())
    else:
        fine = math.isfinite(det) and not (nonzero and det == 0)
    if not fine:
        raise MarginalsError(
            f"{type(prediction).__name__} cannot be converted at this noise level: it is infinite, "
            "or only repeats what the noisy picture already says (ε at zero signal, x0 at zero "
            "noise); use v-prediction, or a schedule that stops short of that level."
        )


class Denoiser(Protocol):
    """(x, λ, cond) → Estimate, with x in ``scaling`` units and λ a float or one value per
    picture."""

    @property
    def scaling(self) -> Scaling: ...

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate: ...


@dataclass(frozen=True)
class Rescaled:
    """The same denoiser presented in other units: x is rewritten, the estimate of x0 is the
    same."""

    denoiser: Denoiser
    scaling: Scaling

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        inner = x * expand(units(lam, self.scaling, self.denoiser.scaling), x)
        est = self.denoiser(inner, lam, cond)
        return Estimate(x, lam, self.scaling, est.out, est.prediction, est.var, est.mix)


def told_time(label: NoiseSchedule, lam: Real, x: Tensor) -> Tensor:
    """What a network is told of the level of a batch x: the times (B,) of a schedule. A level
    beyond the range of ``label`` is told as its end."""
    t = label.t(lam)
    t = t.to(x.dtype).expand(len(x)) if isinstance(t, Tensor) else x.new_full((len(x),), t)
    return t.clamp(0.0, 1.0)


Backbone = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A network body: (x, t, cond) → a tensor of x's shape. It knows nothing of the formulation."""


class Net(nn.Module):
    """A backbone with a formulation: which units it is fed, what its output means, how it is told
    λ.

    * ``prediction``: the meaning of the output (a row vector).
    * ``scaling``: the units of the x given to this denoiser. Free to change after training.
    * ``input_scaling``: the units in which the backbone sees x. ``UnitVariance(σ_data)`` is EDM's
      preconditioning c_in (Karras et al. 2022), for every scaling alike. Fixed by training.
    * ``label``: the schedule whose time t(λ) the backbone is told. Fixed by training.

    The backbone is called as ``backbone(x, t, cond)`` with t of shape (B,), or ``backbone(x, t)``
    if it takes only two arguments. A backbone that answers with twice x's channels says a second
    thing, the variance of a step (``Estimate.mix``).
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        prediction: Prediction = V,
        scaling: Scaling = VP,
        input_scaling: Scaling | None = None,
        label: NoiseSchedule | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prediction = prediction
        self.scaling = scaling
        self.input_scaling = scaling if input_scaling is None else input_scaling
        self.label = LogLinear(20.0, -20.0) if label is None else label

    def forward(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        factor = units(lam, self.scaling, self.input_scaling)
        inner = x if isinstance(factor, float) and factor == 1.0 else x * expand(factor, x)
        t = told_time(self.label, lam, x)
        out = self.backbone(inner, t) if cond is None else self.backbone(inner, t, cond)
        if out.shape[1] == x.shape[1]:
            return Estimate(x, lam, self.scaling, out, self.prediction)
        out, second = out.chunk(2, 1)
        mix = 0.5 * (second + 1.0)  # a fresh network answers 0: halfway (Nichol & Dhariwal 2021)
        return Estimate(x, lam, self.scaling, out, self.prediction, mix=mix)
