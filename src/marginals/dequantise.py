"""From a density to the probability of whole-number pixels: bounds that get tighter with work.

A stored picture k is the box of all x = 2(k + u)/256 − 1 with u in [0, 1)^D, so its probability
under a density p is an integral over the box, and for any law r(u) on it

    log P(k) = log E_u[p(x)·(2/256)^D]  ≥  E_{u_1..u_K ~ r} log (1/K) Σ_j p(x_j)·(2/256)^D/r(u_j).

r uniform and K = 1 is uniform dequantisation (Theis et al. 2016); K > 1 is the importance-weighted
bound (Burda et al. 2016; for dequantisation Hoogeboom et al. 2020), which rises with K and ends at
log P(k). A better r lies closer to p inside the box: over so small a box log p is nearly a plane,
so r(u) ∝ e^(g·u) with its slope g (:func:`slopes`) takes off what changes to first order, for one
evaluation of the denoiser.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .bound import Bound, fingerprint
from .denoiser import Denoiser
from .errors import MarginalsError
from .gaussian import sum_dims
from .pixels import BIN_WIDTH, dequantise, to_float

_FLAT = 1e-3
"""Slopes below this are read by their series: the closed forms would lose their digits."""


def tilted(u: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """(quantile u of r, log r there, per entry) for r(z) = g·e^(g·z)/(e^g − 1) on [0, 1].

    ``u`` in [0, 1) and ``slope`` g of one shape; g = 0 is uniform. z = log(1 + u·(e^g − 1))/g.
    """
    size, g = slope.abs(), slope.masked_fill(slope.abs() < _FLAT, 1.0)
    # for g > 0 from the right end, so that e^g never overflows: z = 1 + log(u + (1 − u)e^−g)/g
    rise = 1.0 + torch.log(u + (1.0 - u) * (-g.abs()).exp()) / g.abs()
    fall = -torch.log1p(u * torch.expm1(-g.abs())) / g.abs()
    flat = u + 0.5 * slope * u * (1.0 - u)
    z = torch.where(size < _FLAT, flat, torch.where(g > 0, rise, fall)).clamp(0.0, 1.0)
    # log g/(e^g − 1) = log |g| − log(1 − e^−|g|) − max(g, 0)
    norm = g.abs().log() - torch.log(-torch.expm1(-g.abs())) - g.clamp(min=0.0)
    norm = torch.where(size < _FLAT, -0.5 * slope - slope.square() / 24.0, norm)
    return z, norm + slope * z


@torch.no_grad()
def slopes(
    denoiser: Denoiser,
    pixels: Tensor,
    lam: float,
    cond: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """g = ∇ log q at the centres of the bins, times the bin's width: one evaluation at level λ.

    The score at a level whose noise is narrower than a bin stands for that of the data (Luo Eqs.
    131-133): λ = 13 has σ/α = 0.2 bins.
    """
    level = denoiser.scaling(lam)
    x = to_float(pixels, dtype) * level.alpha
    return denoiser(x, lam, cond).score.double() * level.alpha * BIN_WIDTH


def whole_number_log_prob(
    log_prob: Callable[[Tensor], Bound],
    pixels: Tensor,
    *,
    draws: int = 8,
    slope: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Bound:
    """log P of uint8 pixels (B, ...) from a ``log_prob`` of densities, by ``draws`` pictures each.

    ``log_prob`` takes float pictures and answers a :class:`Bound`; ``slope``: of :func:`slopes`, or
    None for uniform draws. The answer is of whole-number pixels and a bound, whatever ``log_prob``
    is: it compares with 256-way decoders, and ``draws`` = 1 without slopes is the usual
    dequantised number in that shape. Costs ``draws`` times ``log_prob``.
    """
    if pixels.dtype != torch.uint8 or draws < 1:
        raise MarginalsError(
            f"Whole-number pixels (uint8, not {pixels.dtype}) and at least 1 draw, not {draws}."
        )
    weights, nfe, dims = [], 0, pixels[0].numel()
    for _ in range(draws):
        u = torch.rand(pixels.shape, generator=generator, dtype=torch.float64).to(pixels.device)
        log_r = torch.zeros(len(pixels), dtype=torch.float64, device=pixels.device)
        if slope is not None:
            u, log_r = tilted(u, slope)
            log_r = sum_dims(log_r)
        bound = log_prob(dequantise(pixels, u.to(dtype)))
        if not bound.density:
            raise MarginalsError("Dequantisation is for densities, and this is a probability.")
        weights.append(bound.nats - log_r)
        nfe += bound.nfe
    nats = torch.stack(weights).logsumexp(0) - math.log(draws) + dims * math.log(BIN_WIDTH)
    terms = {"density in the bins": nats}
    return Bound(nats, "bound", False, dims, nfe, terms, pictures=fingerprint(pixels))
