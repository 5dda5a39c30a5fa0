"""Which levels a walk visits: finite grids of λ, from noise to data, always ``steps`` steps long.

A grid is a list of ``steps`` levels from ``lam_min`` up to ``lam_max``, followed by λ = ∞: the last
step removes what noise is left. ``final=False`` stops at ``lam_max`` instead (steps + 1 levels).

Where the levels lie between the two ends is a schedule of its own: equal steps in its time. The
names people know (:data:`GRIDS`):

    karras         equal steps in σ^(1/7): many near the data (EDM)
    exponential    equal ratios of σ, the same as uniform_lam: equal steps in λ
    uniform_t      equal steps in the time of a schedule (linear β of DDPM and Song et al.)
    trailing       the same, but straight to the data from 1/steps (as diffusers' "trailing")
    cosine         equal steps in the angle atan(σ/α)
    flow           equal steps in rectified flow's time; shift > 1 for large pictures
    beta           the quantiles of a beta distribution in a schedule's time: many at both ends
    auto           equal steps in t^(1/1.35) of rectified flow's time t, the last straight to the
                   data: what `sample` uses, nearly even in t, with a few more at the end
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MarginalsError
from ..schedule import Cosine, Karras, LinearBeta, Logit, LogLinear, NoiseSchedule, Truncated
from ..shift import Shifted, check_shift

_LINEAR = LinearBeta()

Grid = Callable[[float, float], NoiseSchedule]
"""(lam_min, lam_max) → a schedule whose equal steps in time are the levels of a walk."""


def grid(schedule: NoiseSchedule, steps: int, *, final: bool = True) -> list[float]:
    """Levels at equal distances in the time of ``schedule``, noise first; len = steps + 1."""
    if steps < 1:
        raise MarginalsError(f"Sampling needs at least 1 step, not {steps}.")
    straight = final and not isinstance(schedule, Trailing)
    count = steps if straight else steps + 1
    times = torch.linspace(1.0, 0.0, count, dtype=torch.float64)
    lams = schedule.lam(times if count > 1 else torch.ones(1, dtype=torch.float64)).tolist()
    if straight:
        return [*lams, math.inf]
    return [*lams[:-1], math.inf] if final else lams


def uniform_lam(lam_min: float, lam_max: float) -> NoiseSchedule:
    """Equal steps in λ (DPM-Solver's choice)."""
    return LogLinear(lam_max, lam_min)


def karras(lam_min: float, lam_max: float, rho: float = 7.0) -> NoiseSchedule:
    """Equal steps in σ^(1/ρ) (Karras et al. 2022): more steps near the data than at the noise."""
    if not 0.1 <= rho <= 1000.0:
        raise MarginalsError(f"the rho of a Karras grid goes from 0.1 to 1000, not {rho}")
    return Karras(math.exp(-0.5 * lam_max), math.exp(-0.5 * lam_min), rho)


def uniform_time(schedule: NoiseSchedule) -> Grid:
    """Equal steps in a schedule's own time, between two levels."""
    return lambda lam_min, lam_max: Truncated(schedule, lam_max, lam_min)


def trailing(schedule: NoiseSchedule) -> Grid:
    """Equal steps in a schedule's own time, the last of them straight to λ = ∞."""
    return lambda lam_min, lam_max: Trailing(Truncated(schedule, lam_max, lam_min))


def shifted_grid(levels: Grid, shift: float) -> Grid:
    """The same grid for pictures of another size: λ − 2·log(shift), the ends kept where they are.

    A picture of twice the width shows the same noise more faintly to the eye, so its interesting
    levels lie at 2·log 2 less (Hoogeboom et al. 2023; Esser et al. 2024, Eq. 23). A shift moves λ
    and nothing else. Grids without a level of their own (karras, uniform_lam) do not change.
    """
    check_shift(shift)
    moved = 2.0 * math.log(shift)
    return lambda lam_min, lam_max: Shifted(levels(lam_min + moved, lam_max + moved), shift)


def beta_time(schedule: NoiseSchedule, a: float = 0.6, b: float = 0.6) -> Grid:
    """Quantiles of Beta(a, b) in a schedule's time: for a, b < 1 most steps at both ends (Lee et
    al. 2024, "Beta sampling")."""
    return lambda lam_min, lam_max: BetaTime(Truncated(schedule, lam_max, lam_min), a, b)


@dataclass(frozen=True)
class Trailing(NoiseSchedule):
    """A schedule whose walks go from time 1/steps straight to the data (:func:`grid`)."""

    base: NoiseSchedule

    def _lam(self, t: Tensor) -> Tensor:
        return self.base._lam(t)

    def _t(self, lam: Tensor) -> Tensor:
        return self.base._t(lam)

    def _dlam(self, t: Tensor) -> Tensor:
        return self.base._dlam(t)


@dataclass(frozen=True)
class BetaTime(NoiseSchedule):
    """Another schedule at the quantiles of Beta(a, b): λ(t) = λ_base(Q(t))."""

    base: NoiseSchedule
    a: float = 0.6
    b: float = 0.6

    def __post_init__(self) -> None:
        if not (0.1 <= self.a <= 100 and 0.1 <= self.b <= 100):
            raise MarginalsError(
                f"the a and b of a beta grid go from 0.1 to 100, not {self.a} and {self.b}"
            )

    def _lam(self, t: Tensor) -> Tensor:
        return self.base._lam(_beta_quantile(t, self.a, self.b))

    def _t(self, lam: Tensor) -> Tensor:
        return _beta_share(self.base._t(lam), self.a, self.b)

    def _dlam(self, t: Tensor) -> Tensor:
        x = _beta_quantile(t, self.a, self.b)
        return self.base._dlam(x) / _beta_density(x, self.a, self.b)


@dataclass(frozen=True)
class Powered(NoiseSchedule):
    """Another schedule at the power ``power`` of its time: above 1, more levels near the data."""

    base: NoiseSchedule
    power: float = 1.35

    def __post_init__(self) -> None:
        if not 0.1 <= self.power <= 10.0:
            raise MarginalsError(f"the power of a grid goes from 0.1 to 10, not {self.power}")

    def _lam(self, t: Tensor) -> Tensor:
        return self.base._lam(t**self.power)

    def _t(self, lam: Tensor) -> Tensor:
        return self.base._t(lam) ** (1.0 / self.power)

    def _dlam(self, t: Tensor) -> Tensor:
        return self.base._dlam(t**self.power) * self.power * t ** (self.power - 1.0)


def straight(lam_min: float, lam_max: float, power: float = 1.35) -> NoiseSchedule:
    """The default: equal steps in t^(1/power) of rectified flow's time, from 1/steps to the
    data in one step, so that no evaluation is spent where only the last traces of noise are
    left."""
    return Trailing(Truncated(Powered(Logit(), power), lam_max, lam_min))


def _beta_share(x: Tensor, a: float, b: float) -> Tensor:
    """P(X < x) for X ~ Beta(a, b): the regularised incomplete beta function, by Lentz's continued
    fraction on the side where it converges fast."""
    near = x <= (a + 1.0) / (a + b + 2.0)
    low = _beta_fraction(torch.where(near, x, 0.0), a, b)
    high = 1.0 - _beta_fraction(torch.where(near, 0.0, 1.0 - x), b, a)
    return torch.where(near, low, high)


def _beta_fraction(x: Tensor, a: float, b: float) -> Tensor:
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) - math.log(a)
    front = (log_front + a * x.log() + b * torch.log1p(-x)).exp()
    c, d = torch.ones_like(x), 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, 60):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1.0 / (1.0 + term * d), 1.0 + term / c
            value = value * c * d
        if bool(((c * d - 1.0).abs() < 4e-16).all()):
            break
    return torch.where(x > 0, front * value, 0.0)


def _beta_quantile(t: Tensor, a: float, b: float) -> Tensor:
    """The inverse of :func:`_beta_share` by Newton's method, with a bisection where it leaves the
    interval that holds the root."""
    low, high, x = torch.zeros_like(t), torch.ones_like(t), torch.full_like(t, 0.5)
    inner = torch.where((t > 0) & (t < 1), t, 0.5)
    for _ in range(100):
        gap = _beta_share(x, a, b) - inner
        low, high = torch.where(gap < 0, x, low), torch.where(gap < 0, high, x)
        step = x - gap / _beta_density(x, a, b)
        before, x = x, torch.where((step > low) & (step < high), step, 0.5 * (low + high))
        if bool(((x - before).abs() <= 1e-14 * x).all()):
            break
    return torch.where(t <= 0, 0.0, torch.where(t >= 1, 1.0, x))


def _beta_density(x: Tensor, a: float, b: float) -> Tensor:
    log_norm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return (log_norm + (a - 1.0) * x.log() + (b - 1.0) * torch.log1p(-x)).exp()


def _karras(rho: float = 7.0) -> Grid:
    return lambda lam_min, lam_max: karras(lam_min, lam_max, rho)


def _uniform_lam() -> Grid:
    return uniform_lam


def _uniform_t(schedule: NoiseSchedule = _LINEAR, shift: float = 1.0) -> Grid:
    return shifted_grid(uniform_time(schedule), shift)


def _trailing(schedule: NoiseSchedule = _LINEAR, shift: float = 1.0) -> Grid:
    levels = shifted_grid(uniform_time(schedule), shift)
    return lambda lam_min, lam_max: Trailing(levels(lam_min, lam_max))


def _cosine(shift: float = 1.0) -> Grid:
    return shifted_grid(uniform_time(Cosine()), shift)


def _flow(shift: float = 1.0) -> Grid:
    return uniform_time(Logit(shift))


def _auto(power: float = 1.35) -> Grid:
    return lambda lam_min, lam_max: straight(lam_min, lam_max, power)


def _beta(
    a: float = 0.6, b: float = 0.6, schedule: NoiseSchedule = _LINEAR, shift: float = 1.0
) -> Grid:
    return shifted_grid(beta_time(schedule, a, b), shift)


GRIDS: dict[str, Callable[..., Grid]] = {
    "auto": _auto,
    "karras": _karras,
    "exponential": _uniform_lam,
    "uniform_lam": _uniform_lam,
    "uniform_t": _uniform_t,
    "trailing": _trailing,
    "cosine": _cosine,
    "flow": _flow,
    "beta": _beta,
}
"""The functions that make the grids; their parameters are the options of the names."""
