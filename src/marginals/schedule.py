"""When which noise level is reached: t ∈ [0, 1] ↔ λ.

A **NoiseSchedule** is strictly decreasing and invertible; t = 0 is data and t = 1 is noise,
everywhere in this package. It says nothing about the units of x (that is :mod:`.scaling`): time is
an interface for people and for networks, and one more spelling of λ. In training a schedule says
how often each level is visited, p(λ) = −dt/dλ.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .device import send
from .errors import MarginalsError
from .scaling import SUB_VP, VP, RealT, Scaling


def _lift(function: Callable[[Tensor], Tensor], value: float | Tensor) -> float | Tensor:
    """Apply a tensor function to a float (in float64, giving a float) or to a tensor."""
    if isinstance(value, Tensor):
        return function(value)
    return function(torch.tensor(float(value), dtype=torch.float64)).item()


class NoiseSchedule(ABC):
    """Time as a spelling of λ: ``lam(t)`` strictly decreasing on [0, 1], ``t(lam)`` its inverse,
    ``dlam(t)`` = dλ/dt. Floats give floats; tensors give tensors (use float64 for t)."""

    @abstractmethod
    def _lam(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _t(self, lam: Tensor) -> Tensor: ...

    @abstractmethod
    def _dlam(self, t: Tensor) -> Tensor: ...

    def lam(self, t: RealT) -> RealT:
        """Log signal-to-noise ratio at time t."""
        return cast(RealT, _lift(self._lam, t))

    def t(self, lam: RealT) -> RealT:
        """Time at which the level λ is reached; inverse of :meth:`lam`."""
        return cast(RealT, _lift(self._t, lam))

    def dlam(self, t: RealT) -> RealT:
        """dλ/dt, negative."""
        return cast(RealT, _lift(self._dlam, t))

    def density(self, lam: Tensor) -> Tensor:
        """p(λ) = −dt/dλ, the density of levels when t ~ U[0, 1] (Kingma & Gao 2023)."""
        return -1.0 / self._dlam(self._t(lam))


@dataclass(frozen=True)
class LinearBeta(NoiseSchedule):
    """The linear β of Song et al. 2021: drift −½β(t)x with B(t) = β_min·t + ½(β_max − β_min)·t².

    The drift fixes α = e^(−B/2); the ``scaling`` then gives σ and with it λ: VP has σ² = 1 −
    e^(−B), hence λ = −log(e^B − 1) (DDPM in continuous time), SUB_VP has σ = 1 − e^(−B).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    scaling: Scaling = VP

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise MarginalsError(
                f"LinearBeta needs 0 < beta_min <= beta_max < ∞, not {self.beta_min}, "
                f"{self.beta_max}."
            )
        if self.scaling not in (VP, SUB_VP):
            raise MarginalsError("LinearBeta is the drift of the VP and SUB_VP processes only.")

    @property
    def _power(self) -> float:
        """σ = (1 − e^(−B))^power."""
        return 0.5 if self.scaling == VP else 1.0

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t * t

    def _lam(self, t: Tensor) -> Tensor:
        integral = self._integral(t)
        return -integral - 2.0 * self._power * torch.log(-torch.expm1(-integral))

    def _t(self, lam: Tensor) -> Tensor:
        # B = −2·log α, written with σ where α is so close to one that its logarithm is lost
        _, alpha, sigma = self.scaling(lam)
        clean = -torch.log1p(-(sigma ** (1.0 / self._power)))
        integral = torch.where(lam > 0, clean, -2.0 * alpha.log())
        rise = self.beta_max - self.beta_min
        return 2.0 * integral / (self.beta_min + (self.beta_min**2 + 2.0 * rise * integral).sqrt())

    def _dlam(self, t: Tensor) -> Tensor:
        beta = self.beta_min + (self.beta_max - self.beta_min) * t
        return -beta * (1.0 + 2.0 * self._power / self._integral(t).expm1())


@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """α = cos(πt/2) in VP units: λ = −2·log tan(πt/2) (Nichol & Dhariwal 2021 without the
    offset)."""

    def _lam(self, t: Tensor) -> Tensor:
        # near t = 1, tan(πt/2) = 1/tan(π(1−t)/2) keeps the full precision of 1 − t, and λ(1) = −∞
        near, far = (0.5 * math.pi * t).tan(), (0.5 * math.pi * (1.0 - t)).tan()
        return torch.where(t < 0.5, -2.0 * near.log(), 2.0 * far.log())

    def _t(self, lam: Tensor) -> Tensor:
        return (2.0 / math.pi) * torch.atan((-0.5 * lam).exp())

    def _dlam(self, t: Tensor) -> Tensor:
        return (
            -2.0 * math.pi / torch.where(t < 0.5, (math.pi * t).sin(), (math.pi * (1.0 - t)).sin())
        )


@dataclass(frozen=True)
class Logit(NoiseSchedule):
    """Rectified flow's time: σ/(α + σ) = t, λ = 2·log((1 − t)/t) − 2·log(shift).

    ``shift`` > 1 spends more time at high noise (Esser et al. 2024, Eq. 23); it moves λ and
    nothing else, so it cannot be applied twice by mistake.
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise MarginalsError(
                f"The shift of a Logit schedule must be positive and finite, not {self.shift}."
            )

    def _lam(self, t: Tensor) -> Tensor:
        return 2.0 * (torch.log1p(-t) - t.log() - math.log(self.shift))

    def _t(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * lam - math.log(self.shift))

    def _dlam(self, t: Tensor) -> Tensor:
        return -2.0 / (t * (1.0 - t))


@dataclass(frozen=True)
class LogLinear(NoiseSchedule):
    """λ falls on a straight line from ``lam_max`` to ``lam_min``: VDM's fixed linear γ (defaults)
    and the geometric noise levels of VE models (NCSN, Song et al. 2021)."""

    lam_max: float = 13.3
    lam_min: float = -5.0

    def __post_init__(self) -> None:
        _check_range(self.lam_max, self.lam_min)

    def _lam(self, t: Tensor) -> Tensor:
        return self.lam_max + (self.lam_min - self.lam_max) * t

    def _t(self, lam: Tensor) -> Tensor:
        return (self.lam_max - lam) / (self.lam_max - self.lam_min)

    def _dlam(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.lam_min - self.lam_max)


@dataclass(frozen=True)
class Karras(NoiseSchedule):
    """EDM's levels (Karras et al. 2022, Eq. 5): σ/α = (σ_min^(1/ρ) + t·(σ_max^(1/ρ) −
    σ_min^(1/ρ)))^ρ."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max < math.inf and 0 < self.rho < math.inf):
            raise MarginalsError(
                "Karras levels need 0 < sigma_min < sigma_max < ∞ and rho > 0, got "
                f"{self.sigma_min}, {self.sigma_max} and {self.rho}."
            )

    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1.0 / self.rho), self.sigma_max ** (1.0 / self.rho)

    def _lam(self, t: Tensor) -> Tensor:
        low, high = self._ends()
        return -2.0 * self.rho * (low + t * (high - low)).log()

    def _t(self, lam: Tensor) -> Tensor:
        low, high = self._ends()
        return ((-0.5 * lam / self.rho).exp() - low) / (high - low)

    def _dlam(self, t: Tensor) -> Tensor:
        low, high = self._ends()
        return -2.0 * self.rho * (high - low) / (low + t * (high - low))


@dataclass(frozen=True)
class Tabulated(NoiseSchedule):
    """A discrete chain of T steps read in continuous time: λ(i/T) = ``lams[i−1]`` for i = 1..T,
    straight lines between, and σ/α proportional to t before the first step (so λ(0) = ∞).

    ``Tabulated.ddpm()`` is DDPM's chain (Ho et al. 2020; Luo Eq. 69): Luo's step t is our t/T.
    """

    lams: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "lams", tuple(float(v) for v in self.lams))
        falls = all(a > b for a, b in zip(self.lams, self.lams[1:], strict=False))
        if len(self.lams) < 2 or not falls or not all(map(math.isfinite, self.lams)):
            raise MarginalsError(
                "A tabulated schedule needs at least two finite log-SNR values that strictly fall "
                "(every step must add noise)."
            )

    @staticmethod
    def ddpm(steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> "Tabulated":
        """β_i linear from ``beta_min`` to ``beta_max``; ᾱ_i = Π(1 − β_j); λ_i = log ᾱ_i/(1 −
        ᾱ_i)."""
        betas = torch.linspace(beta_min, beta_max, steps, dtype=torch.float64)
        log_bar = torch.log1p(-betas).cumsum(0)
        return Tabulated(tuple((log_bar - torch.log(-torch.expm1(log_bar))).tolist()))

    @staticmethod
    def cosine(steps: int = 1000, offset: float = 0.008) -> "Tabulated":
        """ᾱ(t) = cos²(π/2·(t + s)/(1 + s)), β_i = 1 − ᾱ_i/ᾱ_(i−1) cut at 0.999 (Nichol & Dhariwal
        2021, Eq. 17): signal falls more evenly than with linear β."""
        t = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
        log_bar = 2.0 * (0.5 * math.pi * (t + offset) / (1.0 + offset)).cos().clamp(0.0).log()
        log_bar = log_bar.diff().clamp(min=math.log(0.001)).cumsum(0)
        return Tabulated(tuple((log_bar - torch.log(-torch.expm1(log_bar))).tolist()))

    def _table(self, like: Tensor) -> Tensor:
        return send(torch.tensor(self.lams, dtype=like.dtype), like.device)

    def _segment(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        table, steps = self._table(t), len(self.lams)
        i = (t * steps).floor().clamp(1, steps - 1).long()
        return i, table[i - 1], table[i]

    def _lam(self, t: Tensor) -> Tensor:
        i, left, right = self._segment(t)
        line = left + (right - left) * (t * len(self.lams) - i)
        return torch.where(
            t * len(self.lams) < 1, self.lams[0] - 2.0 * (t * len(self.lams)).log(), line
        )

    def _t(self, lam: Tensor) -> Tensor:
        table, steps = self._table(lam), len(self.lams)
        i = torch.searchsorted(-table, -lam.contiguous()).clamp(1, steps - 1)
        line = (i + (table[i - 1] - lam) / (table[i - 1] - table[i])) / steps
        return torch.where(lam > self.lams[0], (0.5 * (self.lams[0] - lam)).exp() / steps, line)

    def _dlam(self, t: Tensor) -> Tensor:
        _, left, right = self._segment(t)
        return torch.where(t * len(self.lams) < 1, -2.0 / t, (right - left) * len(self.lams))


@dataclass(frozen=True)
class Truncated(NoiseSchedule):
    """The part of another schedule between two finite levels, stretched over [0, 1]."""

    base: NoiseSchedule
    lam_max: float
    lam_min: float

    def __post_init__(self) -> None:
        _check_range(self.lam_max, self.lam_min)

    def _ends(self) -> tuple[float, float]:
        return self.base.t(self.lam_max), self.base.t(self.lam_min)

    def _lam(self, t: Tensor) -> Tensor:
        first, last = self._ends()
        return self.base._lam(first + t * (last - first))

    def _t(self, lam: Tensor) -> Tensor:
        first, last = self._ends()
        return (self.base._t(lam) - first) / (last - first)

    def _dlam(self, t: Tensor) -> Tensor:
        first, last = self._ends()
        return (last - first) * self.base._dlam(first + t * (last - first))


def _check_range(lam_max: float, lam_min: float) -> None:
    if not (math.isfinite(lam_max) and math.isfinite(lam_min) and lam_min < lam_max):
        raise MarginalsError(
            "A schedule must fall from a finite lam_max to a smaller finite lam_min, not from "
            f"{lam_max} to {lam_min}."
        )
