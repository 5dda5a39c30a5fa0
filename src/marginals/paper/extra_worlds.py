"""Small worlds with known answers, on which the extension equations are checked.

Everything is float64. Integrals over the line use the trapezoid rule on a wide, fine grid, which
for smooth functions that vanish at both ends is exact to rounding.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..oracle import Mixture
from ..scaling import VP, Scaling


def numbers(*values: float) -> Tensor:
    """A float64 tensor of these values."""
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape: int) -> Tensor:
    """Standard normal numbers in float64 (checks are seeded before they run)."""
    return torch.randn(*shape, dtype=torch.float64)


def line(low: float = -9.0, high: float = 9.0, count: int = 1801) -> Tensor:
    """Equally spaced points (count,)."""
    return torch.linspace(low, high, count, dtype=torch.float64)


def integrate(values: Tensor, points: Tensor) -> Tensor:
    """∫ values over the last axis, by trapezoids between ``points``."""
    return torch.trapezoid(values, points)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∂ function(x)/∂x by autograd, where ``function`` maps (B, ...) to (B,)."""
    leaf = x.detach().requires_grad_(True)
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def slope(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-3) -> Tensor:
    """d function/d at by a central difference of fourth order (error ∝ step⁴)."""
    near = function(at + step) - function(at - step)
    far = function(at + 2.0 * step) - function(at - 2.0 * step)
    return (8.0 * near - far) / (12.0 * step)


def three_bumps(scaling: Scaling = VP) -> Mixture:
    """Three Gaussians on the line, lopsided on purpose; the last two are one class."""
    return Mixture(
        numbers(-1.3, 0.4, 1.7).unsqueeze(1),
        numbers(0.35, 0.5, 0.25),
        weights=numbers(0.3, 0.45, 0.25),
        labels=torch.tensor([0, 1, 1]),
        scaling=scaling,
    )


def flat_bumps(scaling: Scaling = VP) -> Mixture:
    """Four Gaussians in the plane, in two classes."""
    means = torch.tensor([[-1.1, 0.3], [0.8, 1.2], [0.5, -1.4], [1.9, 0.2]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1])
    weights = numbers(0.2, 0.35, 0.3, 0.15)
    return Mixture(means, numbers(0.4, 0.6, 0.3, 0.5), weights, labels, scaling)


def gauss(low: float, high: float, count: int = 40) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss–Legendre quadrature between two numbers: ``count`` of them, in
    panels of 20 (the last panel is not shortened)."""
    x, weights = _panel()
    edges = torch.linspace(low, high, -(-count // len(x)) + 1, dtype=torch.float64)
    half, middle = 0.5 * edges.diff().unsqueeze(1), 0.5 * (edges[1:] + edges[:-1]).unsqueeze(1)
    return (middle + half * x).flatten(), (half * weights).flatten()


@lru_cache
def _panel() -> tuple[Tensor, Tensor]:
    x, weights = np.polynomial.legendre.leggauss(20)
    return torch.from_numpy(x), torch.from_numpy(weights)
