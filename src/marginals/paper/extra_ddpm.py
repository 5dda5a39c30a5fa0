"""DDPM and its samplers, in the letters of their papers: ᾱ = α², β = 1 − ᾱ_t/ᾱ_s."""

import math

import torch
from torch import Tensor


def ddpm_alpha_bars(betas: Tensor) -> Tensor:
    """ᾱ_t = Π_{i ≤ t} (1 − β_i), (T,) (Ho et al. 2020)."""
    return torch.cumprod(1.0 - betas, 0)


def cosine_alpha_bar(t: Tensor, offset: float = 0.008) -> Tensor:
    """ᾱ(t) = cos²(π/2·(t + s)/(1 + s)) / cos²(π/2·s/(1 + s)) (Nichol & Dhariwal 2021, Eq. 17)."""
    angle = 0.5 * math.pi * (t + offset) / (1.0 + offset)
    return (angle.cos() / math.cos(0.5 * math.pi * offset / (1.0 + offset))) ** 2


def clipped_betas(alpha_bars: Tensor, most: float = 0.999) -> Tensor:
    """β_t = 1 − ᾱ_t/ᾱ_{t−1}, at most 0.999: (T + 1,) from ᾱ_0 = 1 to (T,)."""
    return (1.0 - alpha_bars[1:] / alpha_bars[:-1]).clamp(max=most)


def respaced_betas(alpha_bars: Tensor, kept: list[int]) -> Tensor:
    """The β of a chain that visits only the steps ``kept`` of a longer one (ᾱ_0 = 1 put first)."""
    visited = torch.cat([alpha_bars.new_ones(1), alpha_bars[kept]])
    return 1.0 - visited[1:] / visited[:-1]


def ddim_sigma(bar_t: Tensor, bar_s: Tensor, eta: float) -> Tensor:
    """σ = η·√((1 − ᾱ_s)/(1 − ᾱ_t))·√(1 − ᾱ_t/ᾱ_s) (Song et al. 2021, DDIM Eq. 16)."""
    return eta * ((1.0 - bar_s) / (1.0 - bar_t)).sqrt() * (1.0 - bar_t / bar_s).sqrt()


def ddim_step(
    x: Tensor, eps: Tensor, noise: Tensor, bar_t: Tensor, bar_s: Tensor, eta: float
) -> Tensor:
    """√ᾱ_s·x̂0 + √(1 − ᾱ_s − σ²)·ε̂ + σ·z with x̂0 = (x − √(1 − ᾱ_t)·ε̂)/√ᾱ_t (DDIM Eq. 12)."""
    sigma = ddim_sigma(bar_t, bar_s, eta)
    clean = (x - (1.0 - bar_t).sqrt() * eps) / bar_t.sqrt()
    return bar_s.sqrt() * clean + (1.0 - bar_s - sigma**2).sqrt() * eps + sigma * noise


def vdm_step(x: Tensor, eps: Tensor, noise: Tensor, lam_t: Tensor, lam_s: Tensor) -> Tensor:
    """(α_s/α_t)·(x − σ_t·c·ε̂) + √(σ_s²·c)·z with c = 1 − e^(λ_t − λ_s) (VDM's sampler)."""
    c = -torch.expm1(lam_t - lam_s)
    ratio = (torch.sigmoid(lam_s) / torch.sigmoid(lam_t)).sqrt()
    mean = ratio * (x - torch.sigmoid(-lam_t).sqrt() * c * eps)
    return mean + (torch.sigmoid(-lam_s) * c).sqrt() * noise


def best_variance(posterior: Tensor, gain: Tensor, var: Tensor) -> Tensor:
    """β̃ + (dμ/dx0)²·Var[x0 | x_t] = Var[x_s | x_t]: the variance the backward step should have
    (Bao et al. 2022). ``gain``: dμ/dx0 = α_s·β/σ_t²."""
    return posterior + gain**2 * var


def hybrid_loss(simple: Tensor, terms: Tensor, share: float = 0.001) -> Tensor:
    """L_simple + 0.001·L_vlb, the L_vlb term estimated as T times that of one step (Nichol &
    Dhariwal 2021, Eq. 16). ``terms``: KL of every step, (T,); returns one estimate per step."""
    return simple + share * len(terms) * terms
