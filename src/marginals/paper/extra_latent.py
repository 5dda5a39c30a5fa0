"""Latent-variable models: one-line facts about bounds, codes and counting bits."""

import itertools
import math

import torch
from torch import Tensor


def gaussian_code_cost(mean: Tensor, std: Tensor) -> Tensor:
    """½ Σ (μ² + σ² − 1 − log σ²): KL( N(μ, σ²) ‖ N(0, 1) ) in nats (Kingma & Welling 2014, app. B).

    (B, D) → (B,).
    """
    return 0.5 * (mean**2 + std**2 - 1.0 - 2.0 * std.log()).sum(-1)


def best_k_bounds(log_weights: Tensor, chances: Tensor, k: int) -> float:
    """E[log (1/k) Σ w_i] exactly, over all k-tuples of N possible draws with these ``chances``."""
    draws = list(zip(log_weights.exp().tolist(), chances.tolist(), strict=True))
    return sum(
        math.prod(chance for _, chance in drawn) * math.log(sum(w for w, _ in drawn) / k)
        for drawn in itertools.product(draws, repeat=k)
    )


def score_function_gradient(values: Tensor, noise: Tensor, std: float) -> Tensor:
    """f(z)·ε/σ: the other estimate of d E[f(μ + σε)]/dμ, right on average and far noisier."""
    return values * noise / std


def probabilistic_pca(data_cov: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """(W, σ²) of the best linear-Gaussian VAE (Tipping & Bishop 1999): W = U(Λ − σ²)^½ from the
    largest eigenvalues, σ² the mean of the others. (D, D) → (D, latents) and ()."""
    values, vectors = torch.linalg.eigh(data_cov)
    noise = values[:-latents].mean()
    return vectors[:, -latents:] * (values[-latents:] - noise).sqrt(), noise


def rate_distortion_elbo(distortion: Tensor, rate: Tensor, beta: float) -> Tensor:
    """−(distortion + β·rate): what a β-VAE maximises (Higgins et al. 2017; Alemi et al. 2018)."""
    return -(distortion + beta * rate)
