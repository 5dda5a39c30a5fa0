"""The order a sampler really has: how fast its error shrinks with its steps.

The denoiser of this problem says one and the same picture above σ = 5 and below σ = 0.2, and
something smooth of x and σ in between. Every consistent method is exact where the picture stays
the same, so what the first steps of a multistep method lack in past, and what the last ones leave
out, costs nothing: the slope is that of the method at work. (On a usual problem one step of first
order at the start limits everything after it to order 2.)
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .peers import Denoise

FIRST, LAST = 20.0, 0.05
_ENTER, _LEAVE = -2.0 * math.log(5.0), -2.0 * math.log(0.2)
Walk = Callable[[Denoise, Tensor, list[float]], Tensor]


def _rise(u: float) -> float:
    """From 0 to 1 with five derivatives zero at both ends."""
    u = min(max(u, 0.0), 1.0)
    return u**6 * sum(
        math.comb(5 + k, k) * math.comb(11, 5 - k) * (-u) ** k for k in range(6)
    )  # the smoothstep polynomial of degree 11


def _bump(u: float) -> float:
    return (4.0 * u * (1.0 - u)) ** 6 if 0.0 < u < 1.0 else 0.0


def denoise(x: Tensor, sigma: float) -> Tensor:
    """x̂0: rises from 0 to a picture; in between it also depends on x."""
    return _says(x, sigma, _bump)


def to_the_last(x: Tensor, sigma: float) -> Tensor:
    """The same, but it goes on looking at x: for walks that end with one step into σ = 0."""
    return _says(x, sigma, _rise)


def _says(x: Tensor, sigma: float, looks: Callable[[float], float]) -> Tensor:
    u = (-2.0 * math.log(sigma) - _ENTER) / (_LEAVE - _ENTER)
    picture = torch.linspace(-1.0, 1.0, x.shape[1], dtype=x.dtype)
    seen = torch.sin(2.0 * x / math.sqrt(1.0 + sigma**2))
    return picture * _rise(u) + 0.5 * seen * looks(u)


def of_level(x: Tensor, sigma: float) -> Tensor:
    """The same without x: then every walk is a sum, and so is that of an SDE's mean."""
    return denoise(torch.zeros_like(x), sigma)


def start() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return FIRST * torch.randn(4, 5, generator=generator, dtype=torch.float64)


@cache
def truth(says: Denoise, strength: float = 1.0) -> Tensor:
    """x at σ = LAST by an adaptive method of order 8 on dx/dλ = −½·``strength``·(x − x̂0).

    ``strength`` is 1 for the ODE, and 2 for the mean of the reverse SDE with a denoiser that does
    not look at x (:func:`of_level`).
    """
    from scipy.integrate import solve_ivp

    x = start()

    def slope(lam: float, flat: np.ndarray) -> np.ndarray:
        now = torch.from_numpy(flat).view_as(x)
        sigma = math.exp(-0.5 * lam)
        return (-0.5 * strength * (now - says(now, sigma))).flatten().numpy()

    span = (-2.0 * math.log(FIRST), -2.0 * math.log(LAST))
    done = solve_ivp(slope, span, x.flatten().numpy(), "DOP853", rtol=1e-13, atol=1e-14)
    return torch.from_numpy(done.y[:, -1].copy()).view_as(x)


def grid(steps: int, end: str, uneven: bool) -> list[float]:
    """σ from FIRST to LAST in even steps of λ, or in steps that grow and shrink by two thirds."""
    count = steps if end == "zero" else steps + 1
    u = np.linspace(0.0, 1.0, count)
    if uneven:
        u = u + 0.1 * np.sin(2.0 * np.pi * u)
    lam = -2.0 * math.log(FIRST) + u * 2.0 * math.log(FIRST / LAST)
    sigmas = np.exp(-0.5 * lam).tolist()
    return [*sigmas, 0.0] if end == "zero" else sigmas


def error(walk: Walk, steps: int, end: str, uneven: bool = True) -> float:
    """RMSE at the end. The step into σ = 0 is one denoising, of the truth at LAST."""
    if end == "stop":
        x, true = walk(denoise, start(), grid(steps, end, uneven)), truth(denoise)
    else:
        x = walk(to_the_last, start(), grid(steps, end, uneven))
        true = to_the_last(truth(to_the_last), LAST)
    return (x - true).square().mean().sqrt().item()


def measured(
    walk: Walk, end: str, steps: tuple[int, ...] = (96, 192, 384), uneven: bool = True
) -> float:
    """The slope of log error against log steps."""
    errors = [error(walk, n, end, uneven) for n in steps]
    if not all(math.isfinite(e) and e > 0 for e in errors):
        return math.nan
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    return float(-slope)
