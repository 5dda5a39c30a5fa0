"""The steps of the chain: what lies between two noise levels, exactly (Luo Eqs. 31, 59–151).

DDPM is a ladder of T latents whose way up is fixed: every step multiplies by a number and adds
noise. Everything about one step is then a small formula in two levels, t (noisier) and s (cleaner,
Luo's t − 1). With α_(t|s) = α_t/α_s and β = σ²_(t|s) = σ_t² − α²_(t|s)·σ_s²,

    q(x_t | x_s)      = N( α_(t|s)·x_s, β )                                            (Eq. 31)
    q(x_t | x0)       = N( α_t·x0, σ_t² )                                              (Eq. 70)
    q(x_s | x_t, x0)  = N( [α_(t|s)·σ_s²·x_t + α_s·β·x0]/σ_t², β·σ_s²/σ_t² )      (Eqs. 84, 85)

Luo's letters are the VP scaling: his α_t is α²_(t|s), ᾱ_t is α_t², 1 − ᾱ_t is σ_t². Nothing here
needs VP: the formulas hold in all units. A level is what ``scaling(lam)`` gives, of floats or of
tensors (B,); s may be the clean picture itself (λ = +∞), exactly.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .denoiser import expand
from .gaussian import Normal, sum_dims
from .scaling import Level, Real


class Step(NamedTuple):
    """A step that adds noise, x ↦ signal·x + √variance·ε (Luo Eq. 59)."""

    signal: Real
    variance: Real


def _expm1(value: Real) -> Real:
    return torch.expm1(value) if isinstance(value, Tensor) else math.expm1(value)


def _normal(mean: Tensor, var: Real) -> Normal:
    return Normal.of(mean, expand(var, mean.double()))


def chain_lams(alphas: Tensor) -> Tensor:
    """The levels of Luo's chain: α_1..α_T, (T,), to λ_0..λ_T, (T + 1,), with λ_0 = ∞ the picture.

    ᾱ_t = Π α_i (Luo Eq. 69) and λ_t = log ᾱ_t/(1 − ᾱ_t), in float64.
    """
    log_bar = alphas.double().log().cumsum(0)
    lams = log_bar - torch.log(-torch.expm1(log_bar))
    return torch.cat([lams.new_tensor([math.inf]), lams])


def step_signal(t: Level, s: Level) -> Real:
    """α_(t|s) = α_t/α_s: what a step from s to t leaves of x_s. Luo's √α_t."""
    return t.alpha / s.alpha


def step_variance(t: Level, s: Level) -> Real:
    """β = σ_t²·(1 − e^(λ_t − λ_s)): the noise that a step from s to t adds. Luo's 1 − α_t.

    The same as σ_t² − α²_(t|s)·σ_s², without its cancellation.
    """
    return -(t.sigma**2) * _expm1(t.lam - s.lam)


def step(t: Level, s: Level) -> Step:
    """The forward step from level s to the noisier level t (Luo Eqs. 31, 59)."""
    return Step(step_signal(t, s), step_variance(t, s))


def two_steps(first: Step, second: Step) -> Step:
    """One step after another is one step: independent Gaussian noises add their variances.

    signal = a₂·a₁ and variance = a₂²·v₁ + v₂ (Luo Eqs. 61–66); T of them make Eq. 70.
    """
    return Step(
        second.signal * first.signal,
        second.signal**2 * first.variance + second.variance,
    )


def forward_step(x_s: Tensor, t: Level, s: Level) -> Normal:
    """q(x_t | x_s), one noising step (Luo Eq. 31)."""
    signal, variance = step(t, s)
    return _normal(expand(signal, x_s) * x_s, variance)


def marginal(x0: Tensor, t: Level) -> Normal:
    """q(x_t | x0), the jump to any level (Luo Eqs. 69, 70)."""
    return _normal(expand(t.alpha, x0) * x0, t.sigma**2)


def posterior_variance(t: Level, s: Level) -> Real:
    """σ_q² = β·σ_s²/σ_t², the variance of q(x_s | x_t, x0) (Luo Eq. 85): DDPM's "small" β̃."""
    return step_variance(t, s) * s.sigma**2 / t.sigma**2


def mean_from_x0(x_t: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
    """[α_(t|s)·σ_s²·x_t + α_s·β·x0]/σ_t²: μ_q for the true x0, μ_θ for x̂0 (Luo Eqs. 84, 93, 94)."""
    from_x = step_signal(t, s) * s.sigma**2 / t.sigma**2
    from_x0 = s.alpha * step_variance(t, s) / t.sigma**2
    return expand(from_x, x_t) * x_t + expand(from_x0, x_t) * x0


def mean_from_eps(x_t: Tensor, eps: Tensor, t: Level, s: Level) -> Tensor:
    """[x_t − (β/σ_t)·ε]/α_(t|s): the same mean, told by the noise (Luo Eqs. 124, 125)."""
    share = step_variance(t, s) / t.sigma
    return (x_t - expand(share, x_t) * eps) / expand(step_signal(t, s), x_t)


def mean_from_score(x_t: Tensor, score: Tensor, t: Level, s: Level) -> Tensor:
    """[x_t + β·∇log p(x_t)]/α_(t|s): the same mean, told by the score (Luo Eqs. 142, 143)."""
    return (x_t + expand(step_variance(t, s), x_t) * score) / expand(step_signal(t, s), x_t)


def posterior(x_t: Tensor, x0: Tensor, t: Level, s: Level) -> Normal:
    """q(x_s | x_t, x0): where x came from, if both ends are known (Luo Eqs. 84, 85).

    At s = ∞ it is the point x0 (log_std = −∞).
    """
    return _normal(mean_from_x0(x_t, x0, t, s), posterior_variance(t, s))


def variance(t: Level, s: Level, mix: Real) -> Real:
    """exp(mix·log β + (1 − mix)·log β̃), the variance a model gives to its step from t back to s.

    mix = 0 is "small" (β̃, right if the data are a point), 1 is "large" (β, right if they are
    N(0, 1)); Improved DDPM learns what lies between (Nichol & Dhariwal 2021, Eq. 15). Since β̃/β =
    σ_s²/σ_t² this is β·(σ_s²/σ_t²)^(1−mix): zero noise at s needs no logarithm of zero. A tensor
    ``mix`` must broadcast with the entries of the levels.
    """
    return step_variance(t, s) * (s.sigma**2 / t.sigma**2) ** (1.0 - mix)


def mean_gap(mean: Tensor, target: Tensor, var: Real) -> Tensor:
    """‖mean − target‖²/(2·var), (B,) nats: the KL of two Gaussians of one variance (Luo Eq. 92)."""
    return 0.5 * sum_dims((mean.double() - target.double()) ** 2) / var


def snr(t: Level) -> Real:
    """SNR = α²/σ² (Luo Eq. 109), e^λ in any units."""
    return t.alpha**2 / t.sigma**2


def weight_x0(t: Level, s: Level) -> Real:
    """α_s²·β²/(2·σ_q²·σ_t⁴), the weight of ‖x0 − x̂0‖² in nats (Luo Eq. 99). Infinite at s = ∞."""
    return 0.5 * (s.alpha * step_variance(t, s) / t.sigma**2) ** 2 / posterior_variance(t, s)


def weight_snr(t: Level, s: Level) -> Real:
    """½·(SNR(s) − SNR(t)): Eq. 99 again, simplified until only levels are left (Luo Eq. 110)."""
    return 0.5 * (snr(s) - snr(t))


def weight_eps(t: Level, s: Level) -> Real:
    """β²/(2·σ_q²·σ_t²·α²_(t|s)), the weight of ‖ε − ε̂‖² in nats (Luo Eq. 130)."""
    gain = step_variance(t, s) / (t.sigma * step_signal(t, s))
    return 0.5 * gain**2 / posterior_variance(t, s)


def weight_expm1(t: Level, s: Level) -> Real:
    """½·(e^(λ_s − λ_t) − 1): Eq. 130 simplified likewise (Kingma et al. 2021, VDM Eq. 14)."""
    return 0.5 * _expm1(s.lam - t.lam)


def weight_score(t: Level, s: Level) -> Real:
    """β²/(2·σ_q²·α²_(t|s)), the weight of the squared error of the score (Luo Eq. 148)."""
    gain = step_variance(t, s) / step_signal(t, s)
    return 0.5 * gain**2 / posterior_variance(t, s)
