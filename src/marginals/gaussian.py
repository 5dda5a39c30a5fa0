"""Gaussians: divergences, densities, and the two ends of every diffusion model.

The noisy end needs a law for x at λ_min (:class:`Prior`); the clean end needs a law for the picture
given x at λ_max (the decoders). Both belong to the likelihood and to sampling alike.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import torch
from torch import Tensor

from .errors import MarginalsError
from .pixels import BIN_WIDTH, BINS
from .scaling import Level, Real

# Gauss–Legendre on [−1, 1] with 8 nodes: exact to 1e-13 for the narrow bins it is used for
_NODES = (0.1834346424956498, 0.525532409916329, 0.7966664774136267, 0.9602898564975363)
_WEIGHTS = (0.362683783378362, 0.3137066458778873, 0.2223810344533745, 0.1012285362903763)

_CHUNK = 1 << 24  # numbers held at once by the 256-way decoder


def sum_dims(values: Tensor) -> Tensor:
    """Sum over everything but the batch: (B, ...) → (B,), in float64."""
    return values.flatten(1).sum(1, dtype=torch.float64)


def normal_log_prob(x: Tensor, mean: Tensor | float, var: Real) -> Tensor:
    """log N(x; mean, var·I) in nats, summed over dimensions: (B, ...) → (B,)."""
    var = torch.as_tensor(var, dtype=torch.float64, device=x.device)
    return -0.5 * sum_dims((x.double() - mean) ** 2 / var + (2.0 * math.pi * var).log())


def kl_normal(mean1: Tensor, var1: Real, mean2: Tensor | float, var2: Real) -> Tensor:
    """KL( N(mean1, var1) ‖ N(mean2, var2) ) in nats, diagonal covariances, summed: (B,). Luo Eq.
    86."""
    v1 = torch.as_tensor(var1, dtype=torch.float64, device=mean1.device)
    v2 = torch.as_tensor(var2, dtype=torch.float64, device=mean1.device)
    gap = (mean1.double() - mean2) ** 2
    return 0.5 * sum_dims((v2 / v1).log() + (v1 + gap) / v2 - 1.0)


def log_normal_bin(centre: Tensor, width: Tensor) -> Tensor:
    """log( Φ(centre + width/2) − Φ(centre − width/2) ), accurate wherever the bin is.

    By symmetry the bin is taken left of zero, where log Φ keeps all digits. A bin over which the
    density changes much: log Φ(a) + log(1 − Φ(b)/Φ(a)). A narrow one, where that would cancel: the
    density integrated by Gauss–Legendre quadrature (8 nodes, relative error below 1e-12).
    """
    centre, width = torch.broadcast_tensors(-centre.abs(), width)
    narrow = (width <= 1.0) & (width * centre.abs() <= 4.0)
    upper = torch.special.log_ndtr(centre + 0.5 * width)
    ratio = torch.special.log_ndtr(centre - 0.5 * width) - upper
    far = upper + torch.log(-torch.expm1(ratio.masked_fill(narrow, -1.0)))
    half, mid = (0.5 * width).masked_fill(~narrow, 0.0), centre.masked_fill(~narrow, 0.0)
    total = torch.zeros_like(mid)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        h = node * half
        total = total + weight * (-0.5 * h.square()).exp() * 2.0 * (mid * h).cosh()
    near = total.log() + half.masked_fill(~narrow, 1.0).log()
    near = near - 0.5 * mid.square() - 0.5 * math.log(2.0 * math.pi)
    return torch.where(narrow, near, far)


class Normal(NamedTuple):
    """N(mean, exp(log_std)²), independent entries: what encoders and rungs of a ladder say.

    ``mean``: (B, ...); ``log_std``: the same shape, or one that broadcasts to it. −∞ is a point.
    """

    mean: Tensor
    log_std: Tensor

    @classmethod
    def of(cls, mean: Tensor, var: Real) -> Self:
        """N(mean, var): the variance is a number, or a tensor that broadcasts to the mean."""
        var = torch.as_tensor(var, dtype=torch.float64, device=mean.device)
        return cls(mean, 0.5 * var.log())

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std·noise: the reparametrisation trick (Luo Sec. "Variational Autoencoders",
        between Eqs. 22 and 23), so that gradients pass through samples."""
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """log density at z in nats, (B,), float64."""
        log_std = self.log_std.double()
        gap = (z.double() - self.mean) * (-log_std).exp()
        return sum_dims(-0.5 * gap.square() - log_std - 0.5 * math.log(2.0 * math.pi))

    def kl(self, other: "Normal") -> Tensor:
        """KL( self ‖ other ) in nats, (B,), float64 (Luo Eq. 86).

        :func:`kl_normal` from logarithms: networks that answer log_std = −60 or 60 do no harm. (And
        that one from variances, which keeps the digits that a logarithm of a tiny one would cost.)
        """
        wider = other.log_std.double() - self.log_std
        gap = (self.mean.double() - other.mean) * (-other.log_std.double()).exp()
        return sum_dims(wider + 0.5 * (torch.expm1(-2.0 * wider) + gap.square()))


@dataclass(frozen=True)
class Prior:
    """The law of x at the noisy end, matched to the data's first two moments.

    If x0 has mean m and variance s² then x = α·x0 + σ·ε has mean α·m and variance α²s² + σ². With
    m = 0, s = 1 in VP units this is the usual N(0, I) (Luo Eq. 33); at any finite λ_min the matched
    law is closer to the truth, and it is right in every scaling.
    """

    mean: float = 0.0
    std: float = 1.0

    def moments(self, level: Level) -> tuple[Real, Real]:
        """Mean and variance of x at a level."""
        return level.alpha * self.mean, (level.alpha * self.std) ** 2 + level.sigma**2

    def start(self, noise: Tensor, level: Level) -> Tensor:
        """Turn standard normal noise into a sample of x at a level."""
        mean, var = self.moments(level)
        return noise * var**0.5 + mean

    def log_prob(self, x: Tensor, level: Level) -> Tensor:
        """log p(x) in nats, (B,)."""
        mean, var = self.moments(level)
        return normal_log_prob(x, mean, var)

    def kl_from(self, x0: Tensor, level: Level) -> Tensor:
        """KL( q(x | x0) ‖ prior ) in nats, (B,): the prior-matching term of Luo Eq. 58."""
        mean, var = self.moments(level)
        return kl_normal(level.alpha * x0, level.sigma**2, mean, var)


@dataclass(frozen=True)
class Ends:
    """Where the walk begins and stops, and the law of x at its noisy end."""

    lam_min: float
    lam_max: float
    prior: Prior = field(default_factory=Prior)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lam_min) and math.isfinite(self.lam_max)):
            raise MarginalsError("Likelihoods need finite noise levels at both ends.")
        if not self.lam_min < self.lam_max:
            raise MarginalsError(f"lam_min must be below lam_max: {self.lam_min}, {self.lam_max}.")


def gaussian_reconstruction(x0: Tensor, level: Level) -> Tensor:
    """E_q[log p(x0 | x)] in nats for the decoder N(x0; x/α, σ²/α²), exactly: (B,).

    The decoder is q(x | x0) read as a density of x0. Its expected log density is minus its
    entropy, D/2·(λ − log 2πe), for every picture: the model is charged for the noise that is left.
    """
    dims = x0[0].numel()
    lam = torch.as_tensor(level.lam, dtype=torch.float64, device=x0.device)
    return (0.5 * dims * (lam - math.log(2.0 * math.pi * math.e))).expand(len(x0))


def discretised_reconstruction(pixels: Tensor, x: Tensor, level: Level) -> Tensor:
    """log P(k | x) in nats, summed over pixels: (B,). Kingma et al. 2021 (VDM), Eq. for p(x | z_0).

    P(k | x) ∝ N(x; α·c_k, σ²) over the 256 bin centres c_k: the decoder of whole-number pixels.
    ``pixels`` is uint8 of x's shape. A few pictures at a time: all 256 values of every pixel of a
    batch would fill the memory.
    """
    centres = torch.arange(BINS, dtype=torch.float64, device=x.device) * BIN_WIDTH
    centres = (centres + (0.5 * BIN_WIDTH - 1.0)) * level.alpha

    def log_prob(k: Tensor, z: Tensor) -> Tensor:
        gap = (z.double().flatten(1).unsqueeze(-1) - centres) / level.sigma
        log_probs = torch.log_softmax(-0.5 * gap**2, dim=-1)
        return log_probs.gather(-1, k.flatten(1).long().unsqueeze(-1)).squeeze(-1).sum(1)

    rows = max(1, _CHUNK // (BINS * x[:1].numel()))
    return torch.cat([log_prob(*part) for part in zip(pixels.split(rows), x.split(rows))])
