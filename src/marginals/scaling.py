"""Noise levels: one number λ, and the units in which x is written.

Everything Gaussian in this field is a picture plus noise, x = α·x0 + σ·ε with ε ~ N(0, I). What
matters about the pair (α, σ) is the ratio, the *log signal-to-noise ratio* λ = log(α²/σ²): large λ
is a clean picture, very negative λ is pure noise. A **Scaling** says in which units x is written,
λ → (α, σ): ``VP`` keeps the variance at one, ``VE`` keeps the picture as it is and adds noise,
``FLOW`` mixes linearly (rectified flow), ``SUB_VP`` is Song's third SDE. Changing the scaling
multiplies x by a number: nothing is lost, and every model can be read in each of them.

Spellings of λ elsewhere: Luo's SNR(t) = e^λ and ω = −λ (Eqs. 109, 111), ᾱ = sigmoid(λ) (Eqs.
112-114); VDM's γ = −λ; EDM's σ = e^(−λ/2); DPM-Solver's λ is half of ours; rectified flow's t is
sigmoid(−λ/2).

λ = ±∞ are legal levels. Every formula is written so that they give exact end points, without
clamps.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MarginalsError

Real = float | Tensor
"""A number or a tensor of numbers; what goes in as a float comes out as a float."""


RealT = TypeVar("RealT", bound=float | Tensor)


class Level(NamedTuple, Generic[RealT]):
    """One noise level in one scaling: λ, signal coefficient α, noise standard deviation σ."""

    lam: RealT
    alpha: RealT
    sigma: RealT


class Scaling(ABC):
    """Units of x: how the level λ splits into a signal coefficient α and a noise level σ.

    ``scaling(lam)`` gives a :class:`Level`; ``scaling.slopes(lam)`` gives (dα/dλ, dσ/dλ). A float
    λ gives floats (computed in float64), a tensor gives tensors of its dtype. All scalings agree
    on α/σ = e^(λ/2), so x in one scaling is a multiple of x in another (:func:`units`).
    """

    @abstractmethod
    def _alpha_sigma(self, lam: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def _slopes(self, lam: Tensor) -> tuple[Tensor, Tensor]: ...

    def __call__(self, lam: RealT) -> Level[RealT]:
        """The level λ in these units."""
        if isinstance(lam, Tensor):
            return Level(lam, *self._alpha_sigma(lam))
        return cast(Level[RealT], _float_level(self, float(lam)))

    def slopes(self, lam: RealT) -> tuple[RealT, RealT]:
        """(dα/dλ, dσ/dλ)."""
        if isinstance(lam, Tensor):
            return cast(tuple[RealT, RealT], self._slopes(lam))
        d_alpha, d_sigma = self._slopes(torch.tensor(float(lam), dtype=torch.float64))
        return cast(tuple[RealT, RealT], (d_alpha.item(), d_sigma.item()))


@lru_cache(maxsize=4096)
def _float_level(scaling: Scaling, lam: float) -> Level[float]:
    alpha, sigma = scaling._alpha_sigma(torch.tensor(lam, dtype=torch.float64))
    return Level(lam, alpha.item(), sigma.item())


@dataclass(frozen=True)
class UnitVariance(Scaling):
    """Var[x] = 1 for data of standard deviation s: α² = sigmoid(λ + 2·log s)/s², σ² = 1 − s²α².

    With s = 1 this is *variance preserving* (VP: DDPM, Luo Eq. 31, Song et al. 2021), α = √ᾱ_t.
    With s = 0.5 it is EDM's input preconditioning c_in (Karras et al. 2022, Table 1):
    preconditioning the input is nothing but a choice of units.
    """

    data_std: float = 1.0

    def __post_init__(self) -> None:
        if not self.data_std > 0:
            raise MarginalsError(f"data_std must be positive, not {self.data_std}.")

    def _alpha_sigma(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        shifted = lam + 2.0 * math.log(self.data_std)
        alpha = (0.5 * F.logsigmoid(shifted)).exp() / self.data_std
        return alpha, (0.5 * F.logsigmoid(-shifted)).exp()

    def _slopes(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self._alpha_sigma(lam)
        return 0.5 * alpha * sigma**2, -0.5 * sigma * (alpha * self.data_std) ** 2


@dataclass(frozen=True)
class LinearMix(Scaling):
    """α = sigmoid(λ/2), σ = sigmoid(−λ/2) = 1 − α: the straight line of flow matching
    (Lipman et al. 2023) and rectified flow (Liu et al. 2022), x = (1 − t)·x0 + t·ε."""

    def _alpha_sigma(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(0.5 * lam), torch.sigmoid(-0.5 * lam)

    def _slopes(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self._alpha_sigma(lam)
        slope = 0.5 * alpha * sigma
        return slope, -slope


@dataclass(frozen=True)
class VarianceExploding(Scaling):
    """α = 1, σ = e^(−λ/2): the picture stays, noise is added (Luo Eq. 160, NCSN, EDM)."""

    def _alpha_sigma(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(lam), (-0.5 * lam).exp()

    def _slopes(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(lam), -0.5 * (-0.5 * lam).exp()


@dataclass(frozen=True)
class SubVariancePreserving(Scaling):
    """σ = 1 − α²: the sub-VP SDE (Song et al. 2021, Eq. 29), of *standard deviation* 1 − e^(−B).

    Solving α/σ = e^(λ/2) gives α = 2/(u + √(u² + 4)) and σ = u·α with u = e^(−λ/2).
    """

    def _alpha_sigma(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        u = (-0.5 * lam).exp()
        alpha = 2.0 / (u + (u * u + 4.0).sqrt())
        return alpha, 2.0 / (1.0 + (1.0 + 4.0 * lam.exp()).sqrt())

    def _slopes(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self._alpha_sigma(lam)
        slope = 0.5 * alpha * sigma / (sigma + 2.0 * alpha**2)
        return slope, -2.0 * alpha * slope


VP = UnitVariance()
FLOW = LinearMix()
VE = VarianceExploding()
SUB_VP = SubVariancePreserving()


def units(lam: RealT, old: Scaling, new: Scaling) -> RealT:
    """The factor that rewrites x from ``old`` units into ``new`` ones: α_new/α_old = σ_new/σ_old.

    The noise coefficients are compared where noise dominates and the signal coefficients
    elsewhere, so that λ = ±∞ stay exact. (VE has no finite units at λ = −∞.)
    """
    if isinstance(lam, Tensor):
        return cast(RealT, torch.ones_like(lam) if old == new else _ratio(lam, old, new))
    return cast(RealT, 1.0 if old == new else _float_ratio(float(lam), old, new))


def _ratio(lam: Tensor, old: Scaling, new: Scaling) -> Tensor:
    a, b = old(lam), new(lam)
    noisy = lam < 0
    return torch.where(noisy, b.sigma, b.alpha) / torch.where(noisy, a.sigma, a.alpha)


def _float_ratio(lam: float, old: Scaling, new: Scaling) -> float:
    a, b = old(lam), new(lam)
    return b.sigma / a.sigma if lam < 0 else b.alpha / a.alpha
