"""Stochastic differential equations whose marginals are x = α·x0 + σ·ε (Song et al. 2021).

Everything follows from (α, σ) as functions of time. t = 1 is noise; a *forward* velocity moves
from data to noise.
"""

import torch
from torch import Tensor

from ..scaling import Scaling
from ..schedule import NoiseSchedule


def drift_rate(scaling: Scaling, schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """f = d log α/dt, the drift being f·x."""
    lam = schedule.lam(t)
    d_alpha, _ = scaling.slopes(lam)
    return d_alpha * schedule.dlam(t) / scaling(lam).alpha


def diffusion_squared(scaling: Scaling, schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """g² = −σ²·dλ/dt: noise is added as fast as the signal-to-noise ratio must fall."""
    return -(scaling(schedule.lam(t)).sigma ** 2) * schedule.dlam(t)


def reverse_drift(x: Tensor, score: Tensor, rate: Tensor, diffusion: Tensor) -> Tensor:
    """f·x − g²·∇log p: the drift of the process run backwards (Anderson 1982)."""
    return rate * x - diffusion * score


def flow_drift(x: Tensor, score: Tensor, rate: Tensor, diffusion: Tensor) -> Tensor:
    """f·x − ½g²·∇log p: the probability-flow ODE, with no noise at all."""
    return rate * x - 0.5 * diffusion * score


def family_drift(velocity: Tensor, score: Tensor, noise: float) -> Tensor:
    """v + ½w·∇log p for dx = (…)dt + √w·dW run *towards the noise*; any w ≥ 0 keeps the marginals
    (Albergo et al. 2023; Ma et al. 2024)."""
    return velocity + 0.5 * noise * score


def corrector_step(noise: Tensor, score: Tensor, snr: float) -> Tensor:
    """c = 2·(r·‖z‖/‖s‖)²: a Langevin step of signal-to-noise ratio r (Song et al. 2021, Algorithm
    5, with its α = 1). Norms per example, (B,)."""
    return 2.0 * (snr * noise.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)) ** 2


def geometric_sigmas(sigma_min: float, sigma_max: float, t: Tensor) -> Tensor:
    """σ_min·(σ_max/σ_min)^t: noise levels in equal ratios (NCSN; the VE SDE)."""
    return sigma_min * (sigma_max / sigma_min) ** t


def langevin_step(x: Tensor, score: Tensor, noise: Tensor, rate: float, sigma: float) -> Tensor:
    """x + c·s + √(2c)·z with c = rate·σ²: annealed Langevin's move at noise level σ (NCSN)."""
    step = rate * sigma**2
    return x + step * score + (2.0 * step) ** 0.5 * noise


def tweedie(x: Tensor, score: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """(x + σ²·∇log p)/α = E[x0 | x], the noise-free last step of NCSNv2."""
    return (x + sigma**2 * score) / alpha


def tweedie_covariance(hessian: Tensor, alpha: float, sigma: float) -> Tensor:
    """(σ²/α²)·(I + σ²·∇²log p) = Cov[x0 | x] (second-order Tweedie), (B, D, D)."""
    identity = torch.eye(hessian.shape[2], dtype=hessian.dtype)
    return (sigma / alpha) ** 2 * (identity + sigma**2 * hessian)
