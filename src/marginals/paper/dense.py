"""The linear-Gaussian chain once more, as two big Gaussians: what Eqs. 30-58 are checked against.

Nothing here is done step by step. With x = (x_0, ..., x_T) as one vector, either direction of a
:class:`~marginals.paper.linear.Chain` is a triangular linear system x = M·x + b + S·ε, so its law
is N((I − M)⁻¹·b, (I − M)⁻¹·S²·(I − M)⁻ᵀ); marginals pick rows, conditionals are Schur complements.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from .linear import Chain


class Law(NamedTuple):
    """D Gaussians of n numbers each: ``mean`` (D, n), ``cov`` (D, n, n)."""

    mean: Tensor
    cov: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """x (..., D, n) → (..., D), in nats."""
        gap = (x - self.mean).unsqueeze(-1)
        square = (gap.mT @ torch.linalg.inv(self.cov) @ gap)[..., 0, 0]
        return -0.5 * (square + torch.logdet(2.0 * math.pi * self.cov))

    def kl(self, other: "Law") -> Tensor:
        """KL( self ‖ other ), (D,), in nats."""
        inverse = torch.linalg.inv(other.cov)
        gap = (self.mean - other.mean).unsqueeze(2)
        square = (gap.mT @ inverse @ gap)[..., 0, 0]
        trace = (inverse @ self.cov).diagonal(dim1=1, dim2=2).sum(1)
        widths = torch.logdet(other.cov) - torch.logdet(self.cov)
        return 0.5 * (widths - self.mean.shape[1] + trace + square)


def some_chain(steps: int, dims: int = 3, seed: int = 0) -> tuple[Chain, Tensor]:
    """A chain whose way back is wrong in every entry, and an x_0 (D,); nothing is 0, 1 or equal."""
    draw = torch.Generator().manual_seed(1000 * seed + steps)

    def between(low: float, high: float, *shape: int) -> Tensor:
        unit = torch.rand(*shape, generator=draw, dtype=torch.float64)
        return low + (high - low) * unit

    shape = (steps, dims)
    chain = Chain(
        alphas=between(0.5, 0.9, steps),
        gain=between(0.6, 1.1, *shape),
        shift=between(-0.6, 0.6, *shape),
        var=between(0.2, 0.9, *shape),
        top_mean=between(-0.5, 0.5, dims),
        top_var=between(0.7, 1.4, dims),
    )
    return chain, between(-1.5, 1.5, dims)


def perfect_chain(steps: int, mean: float, std: float, seed: int = 0) -> Chain:
    """The chain whose way back is the exact reversal of the noise for data N(mean, std²), D = 1."""
    alphas = some_chain(steps, 1, seed)[0].alphas
    before_mean, before_var = torch.tensor([mean, std**2], dtype=torch.float64)
    gain, shift, var = [], [], []
    for alpha in alphas:
        after_var = alpha * before_var + 1.0 - alpha
        back = alpha.sqrt() * before_var / after_var  # regression of x_{t-1} on x_t
        gain.append(back)
        shift.append(before_mean - back * alpha.sqrt() * before_mean)
        var.append(before_var - back * alpha.sqrt() * before_var)
        before_mean, before_var = alpha.sqrt() * before_mean, after_var
    columns = [torch.stack(values).unsqueeze(1) for values in (gain, shift, var)]
    return Chain(alphas, columns[0], columns[1], columns[2], before_mean[None], before_var[None])


def forward_law(chain: Chain, x0: Tensor) -> Law:
    """q(x_1:T | x_0): D laws of T numbers."""
    root, steps = chain.alphas.sqrt(), chain.steps
    system = torch.eye(steps, dtype=x0.dtype) - torch.diag(root[1:], -1)
    inverse = torch.linalg.inv(system)
    cov = inverse @ torch.diag(1.0 - chain.alphas) @ inverse.T
    mean = inverse[:, 0] * root[0] * x0.unsqueeze(1)
    return Law(mean, cov.expand(len(x0), -1, -1))


def model_law(chain: Chain) -> Law:
    """p(x_0:T): D laws of T + 1 numbers."""
    system = torch.eye(chain.steps + 1, dtype=chain.gain.dtype) - torch.diag_embed(chain.gain.T, 1)
    inverse = torch.linalg.inv(system)
    offset = torch.cat([chain.shift, chain.top_mean.unsqueeze(0)]).T
    noise = torch.cat([chain.var, chain.top_var.unsqueeze(0)]).T
    cov = inverse @ torch.diag_embed(noise) @ inverse.mT
    return Law((inverse @ offset.unsqueeze(2)).squeeze(2), cov)


def log_evidence(chain: Chain, x0: Tensor) -> Tensor:
    """log p(x_0), a number."""
    law = model_law(chain)
    return Normal(law.mean[:, 0], law.cov[:, 0, 0].sqrt()).log_prob(x0).sum()


def model_posterior(chain: Chain, x0: Tensor) -> Law:
    """p(x_1:T | x_0): D laws of T numbers."""
    law = model_law(chain)
    mean, cov = law.mean, law.cov
    slope = cov[:, 1:, 0] / cov[:, :1, 0]
    shifted = mean[:, 1:] + slope * (x0 - mean[:, 0]).unsqueeze(1)
    rest = cov[:, 1:, 1:] - slope.unsqueeze(2) * cov[:, :1, 1:]
    return Law(shifted, rest)


def gap(chain: Chain, x0: Tensor) -> Tensor:
    """KL( q(x_1:T | x_0) ‖ p(x_1:T | x_0) ), a number: what the bound loses."""
    return forward_law(chain, x0).kl(model_posterior(chain, x0)).sum()


def bound(chain: Chain, x0: Tensor) -> Tensor:
    """log p(x_0) − KL: the value of Eqs. 37-44 and 47-58, found without any of them."""
    return log_evidence(chain, x0) - gap(chain, x0)


def some_paths(chain: Chain, x0: Tensor, count: int = 7, seed: int = 0) -> Tensor:
    """Arbitrary paths (N, T + 1, D) that start at x_0: identities hold at each, likely or not."""
    draw = torch.Generator().manual_seed(seed)
    rest = torch.randn(count, chain.steps, len(x0), generator=draw, dtype=x0.dtype)
    return torch.cat([x0.expand(count, 1, -1), rest], 1)


def grid_paths(
    x0: Tensor, steps: int, side: int = 161, reach: float = 10.0
) -> tuple[Tensor, float]:
    """A grid over x_1:T for D = 1, and the volume of its cells.

    Sums over it are integrals to 1e-12 for smooth functions that vanish within ``reach``.
    """
    axis = torch.linspace(-reach, reach, side, dtype=x0.dtype)
    rest = torch.cartesian_prod(*[axis] * steps).reshape(-1, steps, 1)
    path = torch.cat([x0.expand(len(rest), 1, -1), rest], 1)
    return path, math.pow((axis[1] - axis[0]).item(), steps)
