"""Guidance (Luo Eqs. 162-170 and what came after), as functions of exact or learned scores."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..oracle import Mixture
from ..scaling import Real


def chain_log_prob(
    states: Sequence[Tensor],
    top: Callable[[Tensor], Tensor],
    step: Callable[[int, Tensor, Tensor], Tensor],
) -> Tensor:
    """log p(x_0, …, x_T | y) = log p(x_T) + Σ_t log p(x_{t−1} | x_t, y) (Luo Eq. 162).

    ``states``: x_0 … x_T. ``step(t, x_before, x_t)`` is the conditional step's log density; the
    class is in it and nowhere else, the top does not know it.
    """
    total = top(states[-1])
    for t in range(1, len(states)):
        total = total + step(t, states[t - 1], states[t])
    return total


def classifier_gradient(mixture: Mixture, x: Tensor, lam: Real, label: int) -> Tensor:
    """∇_x log p(y | x) of the exact classifier *at noise level λ* (Luo Eq. 165), x's shape."""
    leaf = x.detach().requires_grad_(True)
    log_prob = mixture.class_posterior(leaf, lam)[:, label].log()
    return torch.autograd.grad(log_prob.sum(), leaf)[0]


def classifier_guidance(score: Tensor, gradient: Tensor, weight: float) -> Tensor:
    """∇log p(x) + γ·∇log p(y | x) (Luo Eq. 166; Dhariwal & Nichol 2021), γ = ``weight``."""
    return score + weight * gradient


def implicit_classifier(conditional: Tensor, plain: Tensor) -> Tensor:
    """∇log p(y | x) = ∇log p(x | y) − ∇log p(x): a classifier out of two scores (Luo Eq. 167)."""
    return conditional - plain


def expanded_guidance(conditional: Tensor, plain: Tensor, weight: float) -> Tensor:
    """∇log p(x) + γ·∇log p(x | y) − γ·∇log p(x): Luo Eq. 169, before terms are collected."""
    return plain + weight * conditional - weight * plain


def guidance_of_w(conditional: Tensor, plain: Tensor, w: float) -> Tensor:
    """(1 + w)·ε(x, y) − w·ε(x): Ho & Salimans' own letters, in which w = 0 means none."""
    return (1.0 + w) * conditional - w * plain


def guided_noise(eps: Tensor, sigma: Real, gradient: Tensor, weight: float) -> Tensor:
    """ε̂ − σ·s·∇log p(y | x): classifier guidance of a noise prediction (Dhariwal & Nichol 2021,
    Algorithm 2), σ = √(1 − ᾱ), s = ``weight``."""
    return eps - sigma * weight * gradient


def guided_mean(mean: Tensor, var: Real, gradient: Tensor, weight: float) -> Tensor:
    """μ + s·Σ·∇log p(y | x): classifier guidance of an ancestral step (their Algorithm 1)."""
    return mean + weight * var * gradient


def interval_weight(lam: Tensor, low: float, high: float, weight: float) -> Tensor:
    """γ inside low ≤ λ ≤ high and 1 (no guidance) outside (Kynkäänniemi et al. 2024)."""
    inside = (lam >= low) & (lam <= high)
    return torch.where(inside, weight, 1.0)


def autoguidance(strong: Tensor, weak: Tensor, weight: float) -> Tensor:
    """D_weak + w·(D_strong − D_weak): a model guided by a bad version of itself, same class
    (Karras et al. 2024)."""
    return weak + weight * (strong - weak)


def rescaled_guidance(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Guided prediction with its spread pulled back to the conditional one's (Lin et al. 2023).

    φ·(x_cfg·std(x_pos)/std(x_cfg)) + (1 − φ)·x_cfg, std over everything but the batch.
    """
    wanted, found = conditional.flatten(1).std(1), guided.flatten(1).std(1)
    factor = share * wanted / found + (1.0 - share)
    return torch.einsum("b,b...->b...", factor, guided)
