"""Fast samplers in their own letters: ℓ = log(α/σ) is half of our λ, h = ℓ_s − ℓ_t > 0 a step
from the noisier level t to the cleaner level s."""

import math

import torch
from torch import Tensor

from ..scaling import Level


def half_step(t: Level[float], s: Level[float]) -> float:
    """h = log(α_s/σ_s) − log(α_t/σ_t)."""
    return math.log(s.alpha / s.sigma) - math.log(t.alpha / t.sigma)


def dpm_solver_1(x: Tensor, eps: Tensor, t: Level[float], s: Level[float]) -> Tensor:
    """(α_s/α_t)·x − σ_s·(e^h − 1)·ε̂ (Lu et al. 2022a, Eq. 3.7)."""
    return s.alpha / t.alpha * x - s.sigma * math.expm1(half_step(t, s)) * eps


def dpm_solver_pp_1(x: Tensor, clean: Tensor, t: Level[float], s: Level[float]) -> Tensor:
    """(σ_s/σ_t)·x − α_s·(e^(−h) − 1)·x̂0 (DPM-Solver++, order one)."""
    return s.sigma / t.sigma * x - s.alpha * math.expm1(-half_step(t, s)) * clean


def extrapolated(clean: Tensor, before: Tensor, ratio: float) -> Tensor:
    """(1 + 1/(2r))·x̂_i − 1/(2r)·x̂_{i−1}, r = h_{i−1}/h_i: DPM-Solver++(2M)'s estimate."""
    return (1.0 + 0.5 / ratio) * clean - 0.5 / ratio * before


def exact_step(
    x: Tensor, clean: Tensor, weights: Tensor, t: Level[float], s: Level[float]
) -> Tensor:
    """(σ_s/σ_t)·x + σ_s·∫ e^ℓ·x̂0(x_ℓ) dℓ: the solution of the flow, if x̂0 is known on the way
    (DPM-Solver++, section 4). ``weights``: quadrature's times e^ℓ, (N,); ``clean``: (N, …)."""
    area = torch.tensordot(weights, clean, 1)
    return s.sigma / t.sigma * x + s.sigma * area


def step_moments(h: float, order: int) -> Tensor:
    """J_k = ∫_0^h e^(−(h − τ))·(τ/h)^k dτ for k = 0..order, by J_k = 1 − (k/h)·J_{k−1}."""
    moments = [-math.expm1(-h)]
    for k in range(1, order + 1):
        moments.append(1.0 - k / h * moments[-1])
    return torch.tensor(moments, dtype=torch.float64)


def unipc_weights(ratios: Tensor, h: float, scale: float) -> Tensor:
    """a with Σ_m a_m·r_m^(k−1)·B(h) = J_k for k = 1..p: UniPC's coefficients (Zhao et al. 2023,
    Theorem 3.1) for x̂0 known at the fractions ``ratios`` (p,) of the step; B(h) = ``scale``."""
    powers = torch.stack([ratios**k for k in range(len(ratios))])
    return torch.linalg.solve(powers, step_moments(h, len(ratios))[1:] / scale)


def unipc_step(
    x: Tensor, clean: Tensor, others: Tensor, ratios: Tensor, t: Level[float], s: Level[float]
) -> Tensor:
    """Order-1 step plus α_s·B(h)·Σ_m (a_m/r_m)·(x̂_m − x̂_t), with B(h) = h.

    ``others``: x̂0 at ℓ_t + r_m·h, (p, …); r = 1 is the end of the step (the corrector), r < 0 lies
    before it.
    """
    h = half_step(t, s)
    weights = unipc_weights(ratios, h, h) / ratios
    extra = torch.tensordot(weights, others - clean, 1)
    return dpm_solver_pp_1(x, clean, t, s) + s.alpha * h * extra


def distilled_target(x: Tensor, end: Tensor, t: Level[float], s: Level[float]) -> Tensor:
    """The x̂0 with which one DDIM step from x at t lands on ``end`` at s (Salimans & Ho 2022)."""
    ratio = s.sigma / t.sigma
    return (end - ratio * x) / (s.alpha - ratio * t.alpha)


def consistency_scales(sigma: Tensor, least: float, data_std: float) -> tuple[Tensor, Tensor]:
    """c_skip = σ_d²/((σ − ε)² + σ_d²), c_out = σ_d(σ − ε)/√(σ² + σ_d²) (Song et al. 2023)."""
    away = sigma - least
    skip = data_std**2 / (away**2 + data_std**2)
    return skip, data_std * away / (sigma**2 + data_std**2).sqrt()
