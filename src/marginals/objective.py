"""Training: every loss of the field is one weighting w(λ), estimated by sampling levels from p(λ).

The error of a denoiser at level λ has one natural measure, the error in the noise, and every
published loss is (Kingma & Gao 2023)

    L_w = ½ ∫ w(λ)·E‖ε − ε̂(x_λ)‖² dλ.

w ≡ 1 is the negative ELBO of Luo Eq. 58 with infinitely many steps; "predict ε with plain MSE"
under a cosine schedule is w = sech(λ/2); v-prediction and flow matching are w = e^(−λ/2). So the
*weighting* says what is learned, and the *level distribution* p(λ) only says where the estimate is
accurate:

    L_w = E_{λ~p} [ w(λ)/p(λ)·½‖ε − ε̂‖² ],      ‖ε − ε̂‖² = (α/det)²·‖target − out‖²

with det from :mod:`.predict`. Weights act on errors per example; nothing is averaged beforehand.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .denoiser import Denoiser, Estimate, expand
from .device import send
from .errors import MarginalsError
from .predict import EPS, Prediction, noise_gain
from .schedule import Cosine, NoiseSchedule
from .shift import check_shift


class Weighting(ABC):
    """w(λ), the weight of the squared noise error per unit of λ."""

    @abstractmethod
    def __call__(self, lam: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Elbo(Weighting):
    """w = 1: maximum likelihood (VDM, Kingma et al. 2021; likelihood weighting, Song et al.
    2021)."""

    def __call__(self, lam: Tensor) -> Tensor:
        return torch.ones_like(lam)


@dataclass(frozen=True)
class Mse(Weighting):
    """Plain mean squared error of a prediction under uniform time of a schedule: w = p(λ)·(det/α)².

    ``Mse(EPS, Tabulated.ddpm())`` is DDPM's simple loss, ``Mse(V, Cosine())`` is v-prediction,
    ``Mse(VELOCITY, Logit())`` is flow matching; the last two are w ∝ e^(−λ/2), the same loss.
    In the place of the schedule may stand any distribution of levels: Stable Diffusion 3 trains
    with plain MSE of the velocity at logit-normal times, ``Mse(VELOCITY, logit_normal())``.
    """

    prediction: Prediction = EPS
    schedule: "NoiseSchedule | Levels" = field(default_factory=Cosine)

    def __call__(self, lam: Tensor) -> Tensor:
        return self.schedule.density(lam) / noise_gain(self.prediction, lam) ** 2


@dataclass(frozen=True)
class MinSnr(Weighting):
    """min(1, γ·e^(−λ)) times another weighting (Hang et al. 2023): clean levels are capped,
    whatever the network predicts, because w weights the error in ε and not the error in its
    output."""

    base: Weighting = field(default_factory=Mse)
    gamma: float = 5.0

    def __call__(self, lam: Tensor) -> Tensor:
        return self.base(lam) * (self.gamma * (-lam).exp()).clamp(max=1.0)


@dataclass(frozen=True)
class P2(Weighting):
    """(k + e^λ)^(−γ) times another weighting (Choi et al. 2022): less weight on imperceptible
    detail."""

    base: Weighting = field(default_factory=Mse)
    gamma: float = 1.0
    k: float = 1.0

    def __call__(self, lam: Tensor) -> Tensor:
        return self.base(lam) * (self.k + lam.exp()) ** -self.gamma


@dataclass(frozen=True)
class Sigmoid(Weighting):
    """sigmoid(bias − λ) (Kingma & Gao 2023; Hoogeboom et al. 2024): falls with λ, hence an ELBO of
    noise-augmented data."""

    bias: float = 2.0

    def __call__(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(self.bias - lam)


@dataclass(frozen=True)
class Edm(Weighting):
    """EDM's loss (Karras et al. 2022): N(λ; −2·P_mean, (2·P_std)²)·(e^(−λ) + σ_data²)/σ_data²."""

    p_mean: float = -1.2
    p_std: float = 1.2
    data_std: float = 0.5

    def __call__(self, lam: Tensor) -> Tensor:
        levels = NormalLevels(-2.0 * self.p_mean, 2.0 * self.p_std)
        return levels.density(lam) * ((-lam).exp() / self.data_std**2 + 1.0)


class Levels(Protocol):
    """A distribution of levels p(λ): ``sample(u)`` is its inverse distribution function at u ∈ (0,
    1)."""

    def sample(self, u: Tensor) -> Tensor: ...

    def density(self, lam: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class UniformTime:
    """λ = schedule.lam(t) with t ~ U(0, 1).

    ``UniformTime(Logit())`` is flow matching's uniform time, ``UniformTime(Cosine())`` is Stable
    Diffusion 3's "CosMap" of it (Esser et al. 2024, Eq. 21).
    """

    schedule: NoiseSchedule

    def sample(self, u: Tensor) -> Tensor:
        return self.schedule.lam(u)

    def density(self, lam: Tensor) -> Tensor:
        return self.schedule.density(lam)


@dataclass(frozen=True)
class NormalLevels:
    """λ ~ N(mean, std²): EDM's log-normal σ (ln σ = −λ/2), and the logit-normal t of Stable
    Diffusion 3 (logit t = −λ/2) — one distribution with two names."""

    mean: float = 2.4
    std: float = 2.4

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise MarginalsError(
                f"The spread of the noise levels must be positive, not {self.std}."
            )

    def sample(self, u: Tensor) -> Tensor:
        return self.mean + self.std * math.sqrt(2.0) * torch.erfinv(2.0 * u - 1.0)

    def density(self, lam: Tensor) -> Tensor:
        z = (lam - self.mean) / self.std
        return torch.exp(-0.5 * z * z) / (self.std * math.sqrt(2.0 * math.pi))


def logit_normal(mean: float = 0.0, std: float = 1.0) -> NormalLevels:
    """Flow time with logit t ~ N(mean, std²) (Stable Diffusion 3, Esser et al. 2024, Eq. 19), by
    its name in λ = −2·logit t: a normal distribution. ``mean`` > 0 looks more at noise."""
    return NormalLevels(-2.0 * mean, 2.0 * std)


@dataclass(frozen=True)
class ModeTime:
    """Flow time t = 1 − u − s·(cos²(πu/2) − 1 + u), u ~ U(0, 1) (Esser et al. 2024, Eq. 20).

    s = 0 is uniform; s > 0 looks more at the middle and s < 0 more at both ends, without ever
    leaving an end out (a *heavy tail*, which the logit-normal time has not). −1 ≤ s ≤ 2/(π − 2).
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1.0 <= self.scale <= 2.0 / (math.pi - 2.0):
            raise MarginalsError(
                f"The scale of ModeTime goes from -1 to 2/(π − 2) = 1.75, not {self.scale}."
            )

    def _time(self, u: Tensor) -> Tensor:
        return 1.0 - u - self.scale * ((0.5 * math.pi * u).cos().square() - 1.0 + u)

    def sample(self, u: Tensor) -> Tensor:
        # t(1 − u) = 1 − t(u): both t and 1 − t to full precision near their zeros
        return 2.0 * (self._time(1.0 - u).log() - self._time(u).log())

    def density(self, lam: Tensor) -> Tensor:
        """p(λ) = |dt/dλ|/|dt/du|, with u(t) by bisection: t falls from 1 to 0 with u."""
        t = torch.sigmoid(-0.5 * lam)
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = self._time(middle) > t
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        s = self.scale
        slope = 1.0 + s - 0.5 * math.pi * s * (math.pi * 0.5 * (low + high)).sin()
        return 0.5 * t * torch.sigmoid(0.5 * lam) / slope


@dataclass(frozen=True)
class ShiftedLevels:
    """Any distribution of levels for pictures of another size, moved by −2·log(shift) in λ."""

    base: Levels
    shift: float

    def __post_init__(self) -> None:
        check_shift(self.shift)

    def sample(self, u: Tensor) -> Tensor:
        return self.base.sample(u) - 2.0 * math.log(self.shift)

    def density(self, lam: Tensor) -> Tensor:
        return self.base.density(lam + 2.0 * math.log(self.shift))


@dataclass(frozen=True)
class WalkLevels:
    """The levels at which the steps of one walk begin, each as often as the others."""

    lams: tuple[float, ...]

    def sample(self, u: Tensor) -> Tensor:
        at = (u * len(self.lams)).long().clamp(max=len(self.lams) - 1)
        return send(torch.tensor(self.lams, dtype=u.dtype), u.device)[at]

    def density(self, lam: Tensor) -> Tensor:
        """The probability of a level, 1/N."""
        return torch.full_like(lam, 1.0 / len(self.lams))


def spread_uniform(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Low-discrepancy u_i = (u0 + i/B) mod 1 in float64 (Kingma et al. 2021, Appendix I.1).

    Every u_i alone is U[0, 1), and together they cover [0, 1) evenly: the loss of a batch is less
    noisy at no cost. The terms of a batch are then not independent of one another.
    """
    first = torch.rand(1, generator=generator, dtype=torch.float64)
    u = (first + torch.arange(count, dtype=torch.float64) / max(count, 1)) % 1.0
    return u.clamp(min=2.0**-53)  # exactly 0 would be an infinite level


@dataclass(frozen=True)
class Objective:
    """A weighting with the level distribution that estimates it."""

    dequantise: ClassVar[bool] = True
    """Whether stored pixels are spread over their bins before noise is added: a model of densities
    must not see them all on a grid, a model of the whole numbers themselves must."""

    weighting: Weighting
    levels: Levels

    def weight(self, prediction: Prediction, lam: Tensor) -> Tensor:
        """What ‖target − out‖² is multiplied with: ½·w(λ)/p(λ)·(α/det)²."""
        gain = noise_gain(prediction, lam)
        return 0.5 * self.weighting(lam) / self.levels.density(lam) * gain**2

    def __call__(
        self, denoiser: Denoiser, x0: Tensor, lam: Tensor, eps: Tensor, cond: Tensor | None = None
    ) -> Tensor:
        """The loss per example and per dimension, (B,): unbiased for L_w/D when λ ~ p(λ), ε ~ N(0,
        I).

        ``x0`` and ``eps``: (B, ...); ``lam``: (B,), best in float64; any denoiser and prediction.
        """
        _, alpha, sigma = (expand(value, x0) for value in denoiser.scaling(lam))
        return self.rate(denoiser(alpha * x0 + sigma * eps, lam, cond), x0, lam, eps)

    def rate(self, est: Estimate, x0: Tensor, lam: Tensor, eps: Tensor) -> Tensor:
        """The loss of what a denoiser said about α·x0 + σ·eps at λ, (B,)."""
        a, b = (expand(value, x0) for value in est.prediction.row(lam))
        error = est.out - (a * x0 + b * eps)
        error = error.to(torch.promote_types(error.dtype, torch.float32))  # half precision grows
        error = error.square().flatten(1).mean(1)
        return self.weight(est.prediction, lam).to(error) * error
