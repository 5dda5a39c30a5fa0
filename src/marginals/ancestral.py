"""DDPM as the latent-variable model that it is: a chain of T steps, each a Gaussian with a mean and
a variance, with DDPM's own decoder at its end (Ho et al. 2020; Luo Eqs. 58, 84–94).

The model's step back, p(x_s | x_t), has the mean of the posterior q(x_s | x_t, x0) with x̂0 in the
place of x0. Its variance is a choice (:data:`Variance`): "small" is the posterior's own, "large" is
that of the forward step, "learned" is what the network says lies between (Nichol & Dhariwal 2021).
The choice changes the bound and the samples, and nothing else.

Levels are given as λ from the noisiest to the cleanest, λ_T < ... < λ_1, all finite.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .bound import Terms
from .chain import marginal, mean_from_x0, posterior, step_variance, variance
from .decoders import discretised_gaussian
from .denoiser import Denoiser, Estimate, expand
from .device import send
from .errors import MarginalsError
from .gaussian import Normal, Prior
from .noise import item_noise
from .objective import Objective, UniformTime
from .ode import Tick
from .pixels import to_float
from .sampling import SampleResult
from .scaling import Level, Real
from .schedule import Tabulated

Variance = Literal["small", "large", "learned"]

_MIX = {"small": 0.0, "large": 1.0}


def _mix(estimate: Estimate, kind: Variance) -> Real:
    """Where between small (0) and large (1) the log-variance of a step lies."""
    if kind != "learned":
        return _MIX[kind]
    if estimate.mix is None:
        raise MarginalsError(
            "This network says nothing of the variance of its steps: use variance='small' or "
            "'large', or train one with marginals.iddpm and a backbone of 2 outputs."
        )
    return estimate.mix.double()


def step_back(estimate: Estimate, s: Level, kind: Variance = "small") -> Normal:
    """p(x_s | x_t), the model's step to the cleaner level s (Luo Eqs. 92, 94), from what a denoiser
    said about x_t. Levels of one number for the whole batch, or of one per picture, (B,)."""
    mean = mean_from_x0(estimate.x, estimate.x0, estimate.level, s)
    t, below = (Level(*(expand(v, mean.double()) for v in level)) for level in (estimate.level, s))
    return Normal.of(mean, variance(t, below, _mix(estimate, kind)))


def last_step(
    estimate: Estimate, first: Level[float], before: Level[float], kind: Variance = "small"
) -> Normal:
    """p(x0 | x_1), the step into the clean picture: mean x̂0, and a variance that is not zero.

    ``first`` is the level of x_1 and ``before`` that of x_2. The posterior's own variance is zero
    here, so "small" takes that of the step from 2 to 1, in the units of x0 (DDPM's "clipped"
    log-variance); "large" is σ_1²/α_1².
    """
    small = variance(before, first, 0.0) / first.alpha**2
    large = step_variance(first, Level(math.inf, 1.0, 0.0)) / first.alpha**2
    mix = _mix(estimate, kind)
    return Normal.of(estimate.x0, large**mix * small ** (1.0 - mix))


def _levels(denoiser: Denoiser, lams: Sequence[float]) -> list[Level]:
    rising = all(a < b for a, b in itertools.pairwise(lams))
    if len(lams) < 2 or not rising or not all(map(math.isfinite, lams)):
        raise MarginalsError(
            "A chain needs at least two finite noise levels in rising order of λ, from the "
            "noisiest to the cleanest."
        )
    return [denoiser.scaling(float(lam)) for lam in lams]


@torch.no_grad()
def chain_elbo(
    denoiser: Denoiser,
    x: Tensor,
    lams: Sequence[float],
    *,
    prior: Prior | None = None,
    variance: Variance = "small",
    cond: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
    tick: Tick | None = None,
) -> Terms:
    """DDPM's variational bound, all T terms of it (Luo Eq. 58; Ho et al. 2020, Eqs. 5, 13).

        log p(x0) ≥ E[log p(x0 | x_1)] − KL(q(x_T | x0) ‖ p(x_T)) − Σ E[KL(q(x_s | x_t, x0) ‖
        p(x_s | x_t))]

    ``lams``: λ_T ... λ_1. ``x``: uint8 pictures are rated by DDPM's decoder, the mass of
    :func:`last_step` in the pixel's bin; float pictures by its density. ``matching`` has a column
    for every step t = T ... 2, one draw of x_t each, and the KL in closed form. T evaluations.
    """
    levels, prior = _levels(denoiser, lams), prior or Prior()
    whole = x.dtype == torch.uint8
    x0 = to_float(x, dtype) if whole else x
    paid = []

    def look(level: Level) -> Estimate:
        noise = send(torch.randn(x0.shape, generator=generator, dtype=x0.dtype), x0.device)
        estimate = denoiser(level.alpha * x0 + level.sigma * noise, level.lam, cond)
        if tick is not None:
            tick(len(paid) + 1, len(levels))
        return estimate

    for t, s in itertools.pairwise(levels):
        estimate = look(t)
        paid.append(posterior(estimate.x, x0, t, s).kl(step_back(estimate, s, variance)))
    end = last_step(look(levels[-1]), levels[-1], levels[-2], variance)
    std = end.log_std.exp()
    reconstruction = discretised_gaussian(x, end.mean, std) if whole else end.log_prob(x0)
    about = {"dims": x0[0].numel(), "density": not whole, "nfe": len(levels)}
    parts = reconstruction, prior.kl_from(x0, levels[0]), torch.stack(paid, 1)
    return Terms.of_parts(*parts, torch.tensor([at.lam for at in levels[:-1]]), **about)


@torch.no_grad()
def ancestral(
    denoiser: Denoiser,
    x: Tensor,
    lams: Sequence[float],
    *,
    variance: Variance = "small",
    cond: Tensor | None = None,
    seeds: Sequence[int] | None = None,
) -> SampleResult:
    """Walk down the chain from x at λ_T, one sample of p(x_s | x_t) after the other, to x̂0(x_1).

    With "small" this is the solver ``ddpm``, draw for draw; the other variances cannot be written
    as its table if they are learned. ``seeds`` key the noise of every picture, as in
    :func:`.sampling.sample`.
    """
    levels = _levels(denoiser, lams)
    seeds = range(len(x)) if seeds is None else seeds
    for draw, (t, s) in enumerate(itertools.pairwise(levels), start=1):
        law = step_back(denoiser(x, t.lam, cond), s, variance)
        noise = item_noise(seeds, x.shape[1:], draw, device=x.device, dtype=x.dtype)
        x = law.sample(noise).to(x.dtype)
    clean = denoiser(x, levels[-1].lam, cond).x0
    return SampleResult(clean, len(levels), (*lams, math.inf), f"ancestral, {variance} variance")


class State(NamedTuple):
    """What a diffusion ladder hands down: the latent, and the labels that every rung may read."""

    x: Tensor
    cond: Tensor | None = None


class NoiseRung:
    """The top of a diffusion ladder, x_T: q(x_T | x0) against the prior (Luo Eqs. 33, 70)."""

    def __init__(self, level: Level, law: Prior, cond: Tensor | None = None) -> None:
        self.level, self.law, self.cond = level, law, cond

    def prior(self, above: State | None) -> Normal:
        """p(x_T), which needs a shape from above: the root gives an example of x."""
        if above is None:
            raise MarginalsError("A diffusion ladder needs a root that says the shape of x.")
        mean, var = self.law.moments(self.level)
        return Normal.of(torch.full_like(above.x, float(mean)), var)

    def posterior(self, evidence: Tensor, above: State | None) -> Normal:
        """q(x_T | x0)."""
        return marginal(evidence, self.level)

    def carry(self, z: Tensor, above: State | None) -> State:
        """x_T and the labels of the root."""
        return State(z, None if above is None else above.cond)


class StepRung:
    """One step of the chain as a rung: q(x_s | x_t, x0) fixed, p(x_s | x_t) with the denoiser's x̂0
    (Luo Eqs. 84, 94). Nothing here is learned but the denoiser."""

    def __init__(self, denoiser: Denoiser, t: Level, s: Level, variance: Variance) -> None:
        self.denoiser, self.t, self.s = denoiser, t, s
        self.variance: Variance = variance

    def prior(self, above: State) -> Normal:
        """p(x_s | x_t)."""
        estimate = self.denoiser(above.x, self.t.lam, above.cond)
        return step_back(estimate, self.s, self.variance)

    def posterior(self, evidence: Tensor, above: State) -> Normal:
        """q(x_s | x_t, x0)."""
        return posterior(above.x, evidence, self.t, self.s)

    def carry(self, z: Tensor, above: State) -> State:
        """x_s, and the labels."""
        return State(z, above.cond)


def diffusion_rungs(
    denoiser: Denoiser,
    lams: Sequence[float],
    prior: Prior | None = None,
    variance: Variance = "small",
) -> list[NoiseRung | StepRung]:
    """The rungs of the ladder that a denoiser's chain is, from the top down: x_T, then every step.

    For :class:`.ladder.Ladder` with ``root=lambda n, cond: State(torch.empty(n, *shape), cond)``;
    its ``decode`` gets the :class:`State` at λ_1. *A diffusion model is a hierarchical VAE.*
    """
    levels = _levels(denoiser, lams)
    steps = [StepRung(denoiser, t, s, variance) for t, s in itertools.pairwise(levels)]
    return [NoiseRung(levels[0], prior or Prior()), *steps]


@dataclass(frozen=True)
class StepLevels(UniformTime):
    """The T levels of a tabulated chain, all equally likely."""

    schedule: Tabulated

    def sample(self, u: Tensor) -> Tensor:
        """The level at the end of the step that u ∈ (0, 1) falls into."""
        steps = len(self.schedule.lams)
        table = send(torch.tensor(self.schedule.lams, dtype=u.dtype), u.device)
        return table[(u * steps).long().clamp(0, steps - 1)]


@dataclass(frozen=True)
class Hybrid(Objective):
    """Improved DDPM: L_simple + share·L_vlb, the bound training the variance only (Nichol &
    Dhariwal 2021, Sec. 3.1).

    ``levels`` must be :class:`StepLevels`. L_vlb is estimated by T times the KL of the step at hand
    in nats per dimension (the log density of :func:`last_step` at level 1); its gradient stops at
    the mean, so it cannot disturb what L_simple teaches.
    """

    levels: StepLevels
    share: float = 0.001

    def rate(self, est: Estimate, x0: Tensor, lam: Tensor, eps: Tensor) -> Tensor:
        simple = super().rate(est, x0, lam, eps)
        steps = len(self.levels.schedule.lams)
        bound = self._step(replace(est, out=est.out.detach()), x0, lam) / x0[0].numel()
        return simple + (self.share * steps * bound).to(simple)

    def _step(self, est: Estimate, x0: Tensor, lam: Tensor) -> Tensor:
        """The term of Luo Eq. 58 that belongs to each picture's level, (B,) nats."""
        lams = self.levels.schedule.lams
        table = send(torch.tensor(lams, dtype=torch.float64), lam.device)
        i = torch.searchsorted(-table, -lam.double().contiguous() - 1e-9).clamp(0, len(table) - 1)
        first, second = est.scaling(lams[0]), est.scaling(lams[1])
        s = est.scaling(torch.where(i > 0, table[i - 1], lam.double() + 1.0))
        kl = posterior(est.x, x0, est.level, s).kl(step_back(est, s, "learned"))
        end = last_step(est, first, second, "learned").log_prob(x0)
        return torch.where(i > 0, kl, -end)
