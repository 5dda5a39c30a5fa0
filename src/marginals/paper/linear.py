"""A diffusion model whose every expectation is exact: linear and Gaussian (Luo Eqs. 30-37).

The noising steps are Luo's own, q(x_t | x_{t-1}) = N(√α_t·x_{t-1}, 1 − α_t); the way back is any
linear-Gaussian p(x_{t-1} | x_t) = N(c_t·x_t + d_t, s_t²), p(x_T) = N(m, v), right or wrong. Then
every log-density in Eqs. 30-58 is a polynomial of degree two in the *path* x_0, x_1, ..., x_T, and
the mean of such a polynomial under q(x_1:T | x_0) is its plain average over 2T well-chosen paths
(:func:`paths`): an expectation without sampling and without error.

A batch of paths is (N, T + 1, D), ``path[:, t]`` being x_t. Values are nats, summed over D.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..chain import chain_lams, forward_step, marginal, posterior
from ..gaussian import Normal
from ..scaling import VP, Level


@dataclass(frozen=True)
class Chain:
    """Noising steps and a linear-Gaussian way back.

    ``alphas`` (T,): Luo's α_1..α_T. ``gain``, ``shift``, ``var`` (T, D): c_t, d_t, s_t² of
    p(x_{t-1} | x_t), entry t − 1 for step t. ``top_mean``, ``top_var`` (D,): p(x_T), Luo's N(0, I)
    if zero and one.
    """

    alphas: Tensor
    gain: Tensor
    shift: Tensor
    var: Tensor
    top_mean: Tensor
    top_var: Tensor

    @property
    def steps(self) -> int:
        """T."""
        return len(self.alphas)

    @cached_property
    def levels(self) -> list[Level[float]]:
        """The noise levels of x_0, x_1, ..., x_T; x_0 has none (λ = ∞)."""
        return [VP(lam) for lam in chain_lams(self.alphas).tolist()]


# ---- the log-density of every piece, at every path: (N,) ---------------------------------------


def up(chain: Chain, x_before: Tensor, t: int) -> Normal:
    """q(x_t | x_{t-1}), Eq. 31."""
    return forward_step(x_before, chain.levels[t], chain.levels[t - 1])


def log_up(chain: Chain, path: Tensor, t: int) -> Tensor:
    """log q(x_t | x_{t-1})."""
    return up(chain, path[:, t - 1], t).log_prob(path[:, t])


def log_jump(chain: Chain, path: Tensor, t: int) -> Tensor:
    """log q(x_t | x_0), Eq. 70."""
    return marginal(path[:, 0], chain.levels[t]).log_prob(path[:, t])


def log_back(chain: Chain, path: Tensor, t: int) -> Tensor:
    """log q(x_{t-1} | x_t, x_0), Eqs. 84 and 85, for t ≥ 2."""
    law = posterior(path[:, t], path[:, 0], chain.levels[t], chain.levels[t - 1])
    return law.log_prob(path[:, t - 1])


def down(chain: Chain, x_t: Tensor, t: int) -> Normal:
    """p(x_{t-1} | x_t) = N(c_t·x_t + d_t, s_t²)."""
    return Normal(chain.gain[t - 1] * x_t + chain.shift[t - 1], 0.5 * chain.var[t - 1].log())


def top(chain: Chain) -> Normal:
    """p(x_T) = N(m, v), a batch of one."""
    return Normal(chain.top_mean.unsqueeze(0), 0.5 * chain.top_var.log())


def log_down(chain: Chain, path: Tensor, t: int) -> Tensor:
    """log p(x_{t-1} | x_t), a rung of Eq. 32."""
    return down(chain, path[:, t], t).log_prob(path[:, t - 1])


def log_top(chain: Chain, path: Tensor) -> Tensor:
    """log p(x_T), Eq. 33."""
    return top(chain).log_prob(path[:, -1])


def log_noising(chain: Chain, path: Tensor) -> Tensor:
    """Eq. 30: log q(x_1:T | x_0) = Σ_t log q(x_t | x_{t-1})."""
    return torch.stack([log_up(chain, path, t) for t in range(1, chain.steps + 1)]).sum(0)


def log_joint(chain: Chain, path: Tensor) -> Tensor:
    """Eq. 32: log p(x_0:T) = log p(x_T) + Σ_t log p(x_{t-1} | x_t)."""
    rungs = [log_down(chain, path, t) for t in range(1, chain.steps + 1)]
    return log_top(chain, path) + torch.stack(rungs).sum(0)


# ---- exact expectations ------------------------------------------------------------------------


def moments(chain: Chain, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (T + 1, D) and covariance (T + 1, T + 1) of the path given x_0, by Eq. 31 step by step.

    x_t = √α_t·x_{t-1} + noise: the mean and every covariance with the past shrink by √α_t, the
    variance by α_t, to which 1 − α_t is added. The covariance is the same for all D entries.
    """
    mean = [x0]
    size = chain.steps + 1
    cov = x0.new_zeros(size, size)
    for t, alpha in enumerate(chain.alphas.tolist(), start=1):
        mean.append(math.sqrt(alpha) * mean[-1])
        cov[t, :t] = cov[:t, t] = math.sqrt(alpha) * cov[t - 1, :t]
        cov[t, t] = alpha * cov[t - 1, t - 1] + (1.0 - alpha)
    return torch.stack(mean), cov


def paths(chain: Chain, x0: Tensor, times: Sequence[int] | None = None) -> Tensor:
    """2k paths over which any quadratic function averages to its mean under q, (2k, T + 1, D).

    With C = L·Lᵀ the covariance of the k variables x_t, t in ``times`` (all of 1..T if None), the
    paths are mean ± √k·L_i, one pair per column: they have the right mean and covariance, and that
    is all a quadratic function sees. x_0 is known and needs no drawing. Variables not in ``times``
    are NaN, so that an expectation over too few variables cannot go unnoticed.
    """
    mean, cov = moments(chain, x0)
    chosen = [t for t in times or range(chain.steps + 1) if t > 0]
    root = torch.linalg.cholesky(cov[chosen][:, chosen]) * math.sqrt(len(chosen))
    offset = root.T.unsqueeze(2)  # (k, k, 1): one path, one variable, all of D alike
    result = torch.full((2 * len(chosen), *mean.shape), math.nan, dtype=mean.dtype)
    result[:, 0] = x0
    result[:, chosen] = torch.cat([mean[chosen] + offset, mean[chosen] - offset])
    return result


# ---- Eqs. 34-37 --------------------------------------------------------------------------------


def log_evidence(chain: Chain, x0: Tensor) -> Tensor:
    """Eq. 34: log p(x_0) = log ∫ p(x_0:T) dx_1:T, a number.

    Every rung keeps a Gaussian Gaussian: mean ↦ c·mean + d, variance ↦ c²·variance + s².
    """
    mean, var = chain.top_mean.unsqueeze(0), chain.top_var
    for gain, shift, noise in zip(chain.gain.flip(0), chain.shift.flip(0), chain.var.flip(0)):
        mean, var = gain * mean + shift, gain**2 * var + noise
    return Normal(mean, 0.5 * var.log()).log_prob(x0.unsqueeze(0))[0]


def log_integral_times_one(chain: Chain, grid: Tensor, cell: float) -> Tensor:
    """Eq. 35: log ∫ p(x_0:T)·q(x_1:T | x_0)/q(x_1:T | x_0) dx_1:T, a number.

    ``grid`` (N, T + 1, D): paths with the same x_0, evenly spaced in x_1:T; ``cell``: the volume
    that each stands for.
    """
    log_p, log_q = log_joint(chain, grid), log_noising(chain, grid)
    return (log_p + log_q - log_q).exp().sum().mul(cell).log()


def log_mean_ratio(chain: Chain, path: Tensor, weights: Tensor) -> Tensor:
    """Eq. 36: log E_q[p(x_0:T)/q(x_1:T | x_0)], a number.

    ``path`` and ``weights`` (N,): a quadrature rule for the law q(x_1:T | x_0).
    """
    return (weights * (log_joint(chain, path) - log_noising(chain, path)).exp()).sum().log()


def elbo(chain: Chain, x0: Tensor) -> Tensor:
    """Eq. 37: E_q[log p(x_0:T)/q(x_1:T | x_0)], a number, exactly; never above Eq. 34."""
    path = paths(chain, x0)
    return (log_joint(chain, path) - log_noising(chain, path)).mean()
