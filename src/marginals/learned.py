"""The noise schedule that learns (Kingma et al. 2021, VDM): its ends on the bound, its interior on
the noise of the estimate.

In continuous time the bound is ½ ∫ E‖ε − ε̂‖² dλ between the two ends, and a schedule only says how
often each λ is visited, p(λ). So the *mean* of the loss e(λ)/p(λ) does not depend on the interior
at all, but its *scatter* does: the second moment is

    E_{λ~p}[ (e/p)² ] = ∫ E[e² | λ]/p(λ) dλ,        smallest for p(λ) ∝ √E[e² | λ].

The interior of :class:`LearnedSchedule` is trained to make that small, with the levels that the
loss visits anyway (:meth:`LearnedSchedule.scatter`); the loss itself sends no gradient there, since
it would be nothing but noise. With T steps (:class:`StepTime`) the bound *does* depend on the
interior, and the loss trains it directly.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from .denoiser import Denoiser
from .device import send
from .errors import MarginalsError
from .gaussian import Prior, discretised_reconstruction, gaussian_reconstruction
from .objective import Objective, UniformTime
from .scaling import Real, Scaling
from .schedule import NoiseSchedule

_SPEED = 5.0  # Adam moves weights of networks by its learning rate; these may move faster
_QUIET = 0.02  # Adam does not see the size of a gradient, but a limit on its whole length does
_SPAN = 1.0  # a bad network would have the ends meet


class LearnedSchedule(nn.Module, NoiseSchedule):
    """λ(t) on straight lines between K + 1 knots, equally far apart in λ; how long it stays between
    two of them is learned.

    The time spent in bin k is w_k = (1 − f)·softmax(5·logits)_k + f/K, so p(λ) is a histogram,
    p = K·w_k/(λ_max − λ_min), never zero; inverse, slope and density are closed forms. t = 0 is
    exactly ``lam_max`` and t = 1 exactly ``lam_min``. With ``learn_ends`` the two ends are
    parameters as well, at least 1 apart. Starts as a straight line (VDM's fixed linear γ).
    """

    def __init__(
        self,
        lam_max: float = 13.3,
        lam_min: float = -5.0,
        knots: int = 32,
        learn_ends: bool = False,
        floor: float = 0.05,
    ) -> None:
        super().__init__()
        if not (math.isfinite(lam_max) and math.isfinite(lam_min) and lam_min < lam_max):
            raise MarginalsError(
                "A learned schedule needs finite ends, lam_min below lam_max, not "
                f"{lam_min} and {lam_max}."
            )
        if knots < 1 or not 0.0 < floor <= 1.0:
            raise MarginalsError(
                f"A learned schedule needs knots >= 1 and 0 < floor <= 1, not {knots} and {floor}."
            )
        self.knots, self.learn_ends, self.floor = knots, learn_ends, floor
        self._first = (float(lam_max), float(lam_min))
        self.logits = nn.Parameter(torch.zeros(knots))
        self.ends = nn.Parameter(torch.tensor(self._first)) if learn_ends else None

    @property
    def config(self) -> dict[str, float | int | bool]:
        """Constructor arguments; the logits belong to the weights."""
        return {
            "lam_max": self.lam_max, "lam_min": self.lam_min, "knots": self.knots,
            "learn_ends": self.learn_ends, "floor": self.floor,
        }  # fmt: skip

    @property
    def lam_max(self) -> float:
        """λ at t = 0, the clean end."""
        return self._first[0] if self.ends is None else self.ends[0].item()

    @property
    def lam_min(self) -> float:
        """λ at t = 1, the noisy end."""
        if self.ends is None:
            return self._first[1]
        return min(self.ends[1].item(), self.ends[0].item() - _SPAN)

    def _ends(self, like: Tensor) -> tuple[Real, Real]:
        """(lam_max, lam_min), with their gradient if they learn."""
        if self.ends is None:
            return self._first
        first, last = self.ends.to(like.dtype)
        return first, torch.minimum(last, first - _SPAN)

    def widths(self) -> Tensor:
        """The share of time in each bin, (K,) in float64, from the clean end on; sums to 1."""
        share = (_SPEED * self.logits.double()).softmax(0)
        return (1.0 - self.floor) * share + self.floor / self.knots

    @torch.no_grad()
    def assign(self, widths: Tensor) -> None:
        """Spend time in proportion to ``widths``, (K,), as far as the floor allows."""
        share = widths.double() / widths.double().sum() - self.floor / self.knots
        logits = share.clamp(min=1e-12).log() / _SPEED
        self.logits.copy_(logits - logits.mean())

    def _times(self, widths: Tensor) -> Tensor:
        """t at the knots: (K + 1,), exactly 0 at the first and 1 at the last."""
        inner = widths.cumsum(0)[:-1]
        return torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])

    def place(self, t: Tensor) -> Tensor:
        """How far down the way from lam_max (0) to lam_min (1) time t is; differentiable."""
        widths = self.widths().to(t.dtype)
        times = self._times(widths)
        t = send(t, times.device)
        k = torch.searchsorted(times.detach(), t.contiguous(), right=True).clamp(1, self.knots)
        return (k - 1 + (t - times[k - 1]) / (times[k] - times[k - 1])) / self.knots

    def at(self, place: Tensor) -> Tensor:
        """λ at a place; the inverse of :meth:`_place_of`."""
        first, last = self._ends(place)
        return first * (1.0 - place) + last * place

    def _place_of(self, lam: Tensor) -> Tensor:
        first, last = self._ends(lam)
        return (first - send(lam, self.logits.device)) / (first - last)

    def _bin(self, place: Tensor) -> Tensor:
        return (place.detach() * self.knots).floor().clamp(0, self.knots - 1).long()

    def _lam(self, t: Tensor) -> Tensor:
        return self.at(self.place(t))

    def _t(self, lam: Tensor) -> Tensor:
        place = self._place_of(lam)
        k, times = self._bin(place), self._times(self.widths().to(lam.dtype))
        share = place * self.knots - k
        return times[k] * (1.0 - share) + times[k + 1] * share

    def _dlam(self, t: Tensor) -> Tensor:
        widths = self.widths().to(t.dtype)
        t = send(t, widths.device)
        k = torch.searchsorted(self._times(widths), t.contiguous(), right=True)
        first, last = self._ends(t)
        return (last - first) / (self.knots * widths[k.clamp(1, self.knots) - 1])

    def density(self, lam: Tensor) -> Tensor:
        """p(λ) = K·w_k/(λ_max − λ_min), differentiable in the logits and the ends."""
        first, last = self._ends(lam)
        share = self.widths().to(lam.dtype)[self._bin(self._place_of(lam))]
        return self.knots * share / (first - last)

    def scatter(self, lam: Tensor, losses: Tensor) -> Tensor:
        """log of an estimate of the loss's second moment under this schedule's p; a number.

        mean( losses² · p_old(λ)/p(λ) ), where ``losses`` (B,) were measured at ``lam`` (B,) drawn
        from p_old, this very schedule, taken as fixed. Only p carries a gradient, into the
        interior. The logarithm makes the size of that gradient independent of the loss's. Losses
        that are no numbers are left out: they speak for themselves, at their own level.
        """
        density = self._interior_density(lam.detach())
        ratio = density.detach() / density
        sound = losses.detach().double().nan_to_num(0.0, 0.0, 0.0)
        return (sound.square() * ratio).mean().clamp(min=1e-300).log()

    def _interior_density(self, lam: Tensor) -> Tensor:
        return self.knots * self.widths()[self._bin(self._place_of(lam.double()))]


@dataclass(frozen=True)
class LearnedTime:
    """Uniform time of a learned schedule, as levels of a loss that sends no gradient into its
    interior (into its ends it does, if they learn)."""

    schedule: LearnedSchedule

    def sample(self, u: Tensor) -> Tensor:
        """λ at time u, carrying the gradient of the ends only."""
        lam = self.schedule.at(self.schedule.place(u).detach())
        return lam if self.schedule.learn_ends else lam.detach()

    def density(self, lam: Tensor) -> Tensor:
        """p(λ), carrying the gradient of the ends only."""
        first, last = self.schedule._ends(lam)
        share = self.schedule._interior_density(lam.detach()).detach().to(lam.dtype)
        density = share / (first - last)
        return density if self.schedule.learn_ends else density.detach()


def end_losses(
    time: LearnedSchedule,
    scaling: Scaling,
    prior: Prior,
    x0: Tensor,
    pixels: Tensor | None,
    eps: Tensor,
) -> Tensor:
    """What the bound pays at the two ends, nats per dimension, (B,), with the gradient of the ends.

    KL(q(x_min | x0) ‖ prior) − E[log p(x0 | x_max)] (Luo Eq. 58), of whole-number ``pixels`` with
    the 256-way decoder at α·x0 + σ·``eps``. Together with the loss between them it is the whole
    bound, and its gradient says where the ends should be.
    """
    first, last = time._ends(torch.zeros((), dtype=torch.float64))
    clean, noisy = (scaling(torch.as_tensor(lam, dtype=torch.float64)) for lam in (first, last))
    if pixels is None:
        reconstruction = gaussian_reconstruction(x0, clean)
    else:
        x = clean.alpha * x0.double() + clean.sigma * eps.double()
        reconstruction = discretised_reconstruction(pixels, x, clean)
    return (prior.kl_from(x0.double(), noisy) - reconstruction) / x0[0].numel()


@dataclass(frozen=True)
class StepTime:
    """The levels of a chain of T steps, λ(1/T) … λ(1), all equally likely: VDM's discrete loss.

    Step i goes from level t = i/T to s = (i − 1)/T and costs ½·expm1(λ_s − λ_t)·‖ε − ε̂(x_t)‖²
    (Luo Eqs. 110, 130; Kingma et al. 2021, Eq. 14); T times that for a step drawn at random.
    Written as a density of levels, 1/(T·expm1(λ_s − λ_t)), it is the sum read as an integral: for
    T → ∞ it becomes −dt/dλ. Under :class:`.objective.Elbo` the loss is then the T-step bound, which
    depends on the whole schedule.
    """

    schedule: NoiseSchedule
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise MarginalsError(f"A chain has at least 1 step, not {self.steps}.")

    def sample(self, u: Tensor) -> Tensor:
        """λ at the end of the step that u ∈ (0, 1) falls into."""
        return self.schedule.lam((u * self.steps).ceil().clamp(1, self.steps) / self.steps)

    def density(self, lam: Tensor) -> Tensor:
        """1/(T·expm1(λ_s − λ_t)) for a level λ_t of the chain."""
        i = (self.schedule.t(lam).detach() * self.steps).round()
        rise = self.schedule.lam((i - 1) / self.steps) - lam
        return 1.0 / (self.steps * torch.expm1(rise))


@dataclass(frozen=True)
class Variational(Objective):
    """VDM's objective: a bound on the probability of stored pixels, which stay whole numbers.

    Under :class:`LearnedTime` the losses are those of :class:`.objective.Objective`, to the last
    bit; only their gradient also holds that of :meth:`LearnedSchedule.scatter`, so that the
    schedule learns to make them less noisy.
    """

    dequantise: ClassVar[bool] = False

    def __call__(
        self, denoiser: Denoiser, x0: Tensor, lam: Tensor, eps: Tensor, cond: Tensor | None = None
    ) -> Tensor:
        losses = super().__call__(denoiser, x0, lam, eps, cond)
        if not isinstance(self.levels, LearnedTime):
            return losses
        scatter = _QUIET * self.levels.schedule.scatter(lam, losses).to(losses)
        return losses + (scatter - scatter.detach())


def sharing(objective: Objective, schedule: NoiseSchedule) -> Objective:
    """The objective with ``schedule`` itself in its levels, where it held an equal copy.

    A learned schedule is a module with weights: the model and its objective must hold the same one.
    """
    levels = objective.levels
    if not isinstance(schedule, LearnedSchedule):
        return objective
    if not isinstance(levels, LearnedTime | StepTime | UniformTime):
        return objective
    return replace(objective, levels=replace(levels, schedule=schedule))
