"""The probability-flow ODE: noise and data joined by a smooth, invertible map.

For every level there is a velocity that moves x without randomness and keeps all marginals q(x_λ)
(Song et al. 2021). In VP units it has its simplest form,

    dx/dλ = −½·α·σ·v̂(x, λ)            (dx/dφ = v̂ in the angle φ = atan(σ/α))

smooth and bounded everywhere. Along a path the log density changes by the divergence of this
velocity (Chen et al. 2018), d log q/dλ = ½·α·σ·tr(∂v̂/∂x), which gives exact likelihoods.

The integrator is classical Runge–Kutta of order 4 in λ: deterministic, the same for
encoding (data → noise) and decoding.
"""

from collections.abc import Callable, Sequence
from itertools import count, pairwise

import torch
from torch import Tensor

from .denoiser import Denoiser, Rescaled
from .errors import MarginalsError
from .scaling import VP

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(v, x) → tr(∂v/∂x) per example (B,), where v was computed from x with gradients on."""

Tick = Callable[[int, int], None]
"""Called with (network evaluations done, network evaluations in all)."""


def exact_trace(v: Tensor, x: Tensor, *, graph: bool = False) -> Tensor:
    """tr(∂v/∂x) by D backward passes: exact, for small D. ``graph``: it can be differentiated."""
    flat = v.flatten(1).sum(0)
    grads = (torch.autograd.grad(e, x, retain_graph=True, create_graph=graph)[0] for e in flat)
    return torch.stack([grad.flatten(1)[:, i] for i, grad in enumerate(grads)], 1).double().sum(1)


def hutchinson(probe: Tensor, *, keep: bool = False, graph: bool = False) -> Divergence:
    """tr(∂v/∂x) ≈ probeᵀ(∂v/∂x)probe with one backward pass (Hutchinson 1989; Grathwohl et al.
    2019).

    ``probe`` has mean 0 and covariance I; one probe is kept for a whole solve, so that the
    integrand stays smooth. Random signs have the smallest variance. ``keep``: v is asked again,
    with another probe; ``graph``: the answer can be differentiated.
    """

    def divergence(v: Tensor, x: Tensor) -> Tensor:
        product = (v * probe).sum()
        (grad,) = torch.autograd.grad(product, x, retain_graph=keep or graph, create_graph=graph)
        return (grad * probe).flatten(1).double().sum(1)

    return divergence


def solve(
    denoiser: Denoiser,
    x: Tensor,
    lams: Sequence[float],
    *,
    cond: Tensor | None = None,
    divergence: Divergence | None = None,
    tick: Tick | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Follow the ODE through the levels ``lams`` (in either direction), x in VP units.

    Returns x at the last level, the change of log density along the path (B,) in nats (zero without
    ``divergence``; (K, B) if that answers for K probes), and the number of network evaluations, 4
    per step.
    """
    if len(lams) < 2:
        raise MarginalsError("The ODE needs at least two noise levels: ask for at least 1 step.")
    vp, total, calls = Rescaled(denoiser, VP), 4 * (len(lams) - 1), count(1)

    def slope(state: Tensor, lam: float) -> tuple[Tensor, Tensor]:
        """(dx/dλ, d log q/dλ) at a state."""
        level = VP(lam)
        rate = -0.5 * level.alpha * level.sigma
        with torch.set_grad_enabled(divergence is not None):
            leaf = state.detach().requires_grad_(divergence is not None)
            v = vp(leaf, lam, cond).v
            trace = still if divergence is None else divergence(v, leaf)
        if tick is not None:
            tick(next(calls), total)
        return rate * v.detach(), -rate * trace.detach().to(still)

    change = still = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for start, end in pairwise(lams):
        h = end - start
        k1, d1 = slope(x, start)
        k2, d2 = slope(x + 0.5 * h * k1, start + 0.5 * h)
        k3, d3 = slope(x + 0.5 * h * k2, start + 0.5 * h)
        k4, d4 = slope(x + h * k3, end)
        x = x + (h / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        change = change + (h / 6.0) * (d1 + 2.0 * d2 + 2.0 * d3 + d4)
    return x.detach(), change, total
