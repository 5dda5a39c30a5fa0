"""Score-based models (Luo Eqs. 152-161): energies, the Fisher divergence, denoising targets."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def energy_log_prob(energies: Tensor, log_normaliser: Tensor | float) -> Tensor:
    """log p = −f − log Z: an energy f read as a density (Luo Eq. 152)."""
    return -energies - log_normaliser


def log_normaliser(energies: Tensor, spacing: float) -> Tensor:
    """log Z = log ∫ e^(−f) from energies on a grid of this ``spacing`` (last axis)."""
    return torch.logsumexp(-energies, dim=-1) + math.log(spacing)


def energy_score(energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∇ log p = −∇f: the score of an energy-based model needs no Z (Luo Eq. 155).

    ``energy`` maps (B, ...) to (B,); the result has x's shape.
    """
    leaf = x.detach().requires_grad_(True)
    (grad,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    return -grad


def fisher_divergence(model: Tensor, data: Tensor, weights: Tensor) -> Tensor:
    """E_p ‖s − ∇log p‖², without a factor ½ (Luo Eq. 157): scores (..., N, D), weights (..., N)
    that sum to one over N points."""
    return (weights * (model - data).square().sum(-1)).sum(-1)


def implicit_score_matching(model: Tensor, trace: Tensor, weights: Tensor) -> Tensor:
    """E_p [ tr ∇s + ½‖s‖² ] (Hyvärinen 2005): the Fisher divergence without the data's score."""
    return (weights * (trace + 0.5 * model.square().sum(-1))).sum(-1)


def denoising_target(x: Tensor, mean: Tensor, sigma: Tensor | float) -> Tensor:
    """∇ log q(x | x0) = (α·x0 − x)/σ²: what denoising score matching regresses on (Vincent 2011).

    ``mean`` is α·x0.
    """
    return (mean - x) / sigma**2


def score_matching(model: Tensor, data: Tensor, weights: Tensor, levels: Tensor) -> Tensor:
    """Σ_t λ(t)·E‖s(x_t, t) − ∇log p_t(x_t)‖² over T noise levels (Luo Eq. 161).

    ``model``, ``data``: (T, N, D); ``weights``: (T, N); ``levels``: λ(t), (T,).
    """
    return (levels * fisher_divergence(model, data, weights)).sum()
