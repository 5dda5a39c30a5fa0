"""Diffusion losses as likelihoods: sums over steps, integrals over levels, and bounds."""

import torch
from torch import Tensor


def discrete_loss(noise_errors: Tensor, lams: Tensor) -> Tensor:
    """L_T = ½ Σ (e^(λ_s − λ_t) − 1)·E‖ε − ε̂(x_t)‖² in nats (Kingma et al. 2021, VDM Eq. 14).

    ``lams``: (T + 1,), noise first; ``noise_errors``: (T,), at the noisier end of every step.
    """
    return 0.5 * (torch.expm1(lams.diff()) * noise_errors).sum()


def continuous_loss(noise_errors: Tensor, lams: Tensor) -> Tensor:
    """L_∞ = ½ ∫ E‖ε − ε̂(x_λ)‖² dλ in nats, by trapezoids (VDM Eqs. 17, 18)."""
    return 0.5 * torch.trapezoid(noise_errors, lams)


def clean_errors(noise_errors: Tensor, lams: Tensor) -> Tensor:
    """E‖x0 − x̂0‖² = E‖ε − ε̂‖²·σ²/α²: the same mistakes, measured in the picture."""
    return noise_errors * (-lams).exp()


def augmented_elbos(weights: Tensor, losses: Tensor) -> Tensor:
    """w(λ_max)·L(λ_max) + ∫ L·(−dw): a falling weight is a mixture of ELBOs of noisy pictures.

    ``losses``: L(λ), the loss of everything noisier than λ, (N,), from L = 0 at λ_min;
    ``weights``: w(λ) at the same levels (Kingma & Gao 2023, Theorem 1).
    """
    between = 0.5 * (losses[1:] + losses[:-1])
    return weights[-1] * losses[-1] - (between * weights.diff()).sum()


def second_moment(square_errors: Tensor, density: Tensor, nodes: Tensor) -> Tensor:
    """E_p[(e/p)²]/4 = ¼ ∫ E[e²|λ]/p(λ) dλ: how noisy the loss is if levels are drawn from p.

    ``square_errors``: E[e²|λ] of the noise error e. ``nodes``: quadrature weights.
    """
    return 0.25 * (nodes * square_errors / density).sum()


def best_density(square_errors: Tensor, nodes: Tensor) -> Tensor:
    """p ∝ √E[e²|λ], for which the loss is least noisy (Nichol & Dhariwal 2021, section 3.3)."""
    root = square_errors.sqrt()
    return root / (nodes * root).sum()


def likelihood_bound(score_errors: Tensor, diffusion: Tensor, nodes: Tensor, end: Tensor) -> Tensor:
    """½ ∫ g²·E‖s − ∇log p_t‖² dt + KL(p_T ‖ π) ≥ KL(p_0 ‖ p_θ) (Song et al. 2021b, Theorem 1).

    ``diffusion``: g² at the times; ``nodes``: quadrature weights; ``end``: the KL at t = T.
    """
    return 0.5 * (nodes * diffusion * score_errors).sum() + end
