"""EDM (Karras et al. 2022) in its own letters: x = x0 + σ·n, everything a function of σ."""

import math

import torch
from torch import Tensor


def denoised(x: Tensor, out: Tensor, sigma: Tensor, data_std: float) -> Tensor:
    """D = c_skip·x + c_out·F with c_skip = σ_d²/(σ² + σ_d²), c_out = σσ_d/√(σ² + σ_d²) (Eq. 7)."""
    total = sigma**2 + data_std**2
    return data_std**2 / total * x + sigma * data_std / total.sqrt() * out


def told(sigma: Tensor) -> Tensor:
    """c_noise = ¼·ln σ: the noise level as the network is told it."""
    return 0.25 * sigma.log()


def loss_weight(sigma: Tensor, data_std: float) -> Tensor:
    """(σ² + σ_d²)/(σσ_d)², what ‖D − x0‖² is multiplied with."""
    return (sigma**2 + data_std**2) / (sigma * data_std) ** 2


def slope(x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """dx/dσ = (x − D)/σ (Eq. 3 with σ̇ = 1)."""
    return (x - clean) / sigma


def churn(x: Tensor, noise: Tensor, sigma: float, share: float) -> tuple[Tensor, float]:
    """x̂ = x + √(σ̂² − σ²)·z at σ̂ = (1 + γ)σ: back up a little before a step (Algorithm 2).

    γ = ``share``; returns x̂ and σ̂.
    """
    higher = (1.0 + share) * sigma
    return x + math.sqrt(higher**2 - sigma**2) * noise, higher


def churn_share(budget: float, steps: int) -> float:
    """γ = min(S_churn/N, √2 − 1): never more than doubles the variance."""
    return min(budget / steps, math.sqrt(2.0) - 1.0)


def uncertainty_loss(losses: Tensor, log_variance: Tensor) -> Tensor:
    """L/e^u + u: a loss that weighs itself (EDM2, Karras et al. 2024)."""
    return losses / log_variance.exp() + log_variance


def karras_sigmas(sigma_min: float, sigma_max: float, rho: float, steps: int) -> Tensor:
    """σ_i = (σ_max^(1/ρ) + i/(N−1)·(σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ for i = 0..N−1 (Eq. 5)."""
    i = torch.arange(steps, dtype=torch.float64)
    high, low = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    return (high + i / (steps - 1) * (low - high)) ** rho
