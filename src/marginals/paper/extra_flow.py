"""Flows between noise and data: straight lines, couplings, and what makes a path straight.

Time runs as everywhere here, t = 0 data and t = 1 noise; x_t = (1 − t)·x0 + t·ε.
"""

import itertools

import torch
from torch import Tensor

from ..scaling import Level


def line_point(x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
    """(1 − t)·x0 + t·ε: the straight path of rectified flow."""
    return (1.0 - t) * x0 + t * eps


def matching_loss(model: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """E‖v_θ − u‖² over points of these ``weights``; u is each pair's own velocity or the mean one.

    ``model``, ``target``: (..., D); ``weights``: (...), summing to one.
    """
    return (weights * (model - target).square().sum(-1)).sum()


def conditional_velocity(x: Tensor, x0: Tensor, level: Level, slopes: Level) -> Tensor:
    """u(x | x0) = (σ̇/σ)(x − α·x0) + α̇·x0 (Lipman et al. 2023, Eq. 15).

    ``slopes``: (λ, α̇, σ̇), the time derivatives in the place of α and σ.
    """
    return slopes.sigma / level.sigma * (x - level.alpha * x0) + slopes.alpha * x0


def narrow_path(x0: Tensor, eps: Tensor, t: float, narrow: float) -> tuple[Tensor, Tensor]:
    """x = (1 − t)·x0 + (σ_min + (1 − σ_min)·t)·ε and its velocity (1 − σ_min)·ε − x0: Lipman et
    al.'s optimal-transport path, which ends in N(x0, σ_min²) instead of a point."""
    x = (1.0 - t) * x0 + (narrow + (1.0 - narrow) * t) * eps
    return x, (1.0 - narrow) * eps - x0


def score_of_velocity(x: Tensor, velocity: Tensor, t: float) -> Tensor:
    """−(x + (1 − t)·v)/t: the score on the straight path from its velocity (SiT, Ma et al. 2024).

    In general s = (α̇·x − α·v)/(σ(ασ̇ − α̇σ)), here with α = 1 − t, σ = t.
    """
    return -(x + (1.0 - t) * velocity) / t


def straightness(starts: Tensor, ends: Tensor, velocities: Tensor) -> Tensor:
    """S = ∫ E‖(Z_1 − Z_0) − v(Z_t, t)‖² dt over T equal times (Liu et al. 2022): zero if and only
    if every path is a straight line at constant speed. ``velocities``: (T, N, D)."""
    return (ends - starts - velocities).square().sum(-1).mean()


def transport_cost(starts: Tensor, ends: Tensor) -> Tensor:
    """E‖Z_1 − Z_0‖², what moving every start to its end costs."""
    return (ends - starts).square().sum(-1).mean()


def best_pairing(x0: Tensor, eps: Tensor) -> list[int]:
    """Which noise goes with which picture so that Σ‖ε_π(i) − x0_i‖² is least, by trying all
    (minibatch OT, Tong et al. 2023; Pooladian et al. 2023). For a handful of points only."""
    costs = torch.cdist(x0.flatten(1), eps.flatten(1)).square().tolist()
    orders = itertools.permutations(range(len(costs)))
    return list(min(orders, key=lambda order: sum(costs[i][j] for i, j in enumerate(order))))


def monotone_map(x: Tensor, points: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """T = F_target⁻¹∘F_source on the line, from two densities on a grid of ``points``: the cheapest
    way to turn one into the other."""
    rise, goal = _distribution(source, points), _distribution(target, points)
    return _interpolate(_interpolate(x, points, rise), goal, points)


def _distribution(density: Tensor, points: Tensor) -> Tensor:
    total = torch.cumulative_trapezoid(density, points)
    total = torch.cat([total.new_zeros(1), total])
    return total / total[-1]


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    i = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    share = (x - knots[i - 1]) / (knots[i] - knots[i - 1])
    return values[i - 1] + share * (values[i] - values[i - 1])


def bridge_std(t: Tensor, sigma: float) -> Tensor:
    """σ·√(t(1 − t)): a Brownian bridge between two known ends (Schrödinger-bridge CFM)."""
    return sigma * (t * (1.0 - t)).sqrt()


def shifted_time(t: Tensor, shift: float) -> Tensor:
    """s·t/(1 + (s − 1)·t): more time at high noise for s > 1 (Esser et al. 2024, Eq. 23)."""
    return shift * t / (1.0 + (shift - 1.0) * t)
