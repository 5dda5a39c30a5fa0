"""The second way to write the bound of a diffusion model, line by line (Luo Eqs. 46-58).

Bayes' rule with x_0 kept turns every noising step around; the ratios of marginals cancel, and what
is left compares p(x_{t-1} | x_t) with q(x_{t-1} | x_t, x_0), both pointing the same way. This is
the bound to use. Each function is one line of the paper on a linear-Gaussian
:class:`~marginals.paper.linear.Chain`. Lines 47-55 are what stands inside the expectation, (N,)
for N paths; from line 56 on the expectation is taken exactly and the value is a number of nats.
"""

import torch
from torch import Tensor

from ..chain import marginal, posterior
from ..gaussian import Normal
from .first_bound import first_reconstruction
from .linear import (
    Chain,
    down,
    log_back,
    log_down,
    log_joint,
    log_jump,
    log_noising,
    log_top,
    log_up,
    moments,
    paths,
    top,
)


def log_up_given_start(chain: Chain, path: Tensor, t: int) -> Tensor:
    """log q(x_t | x_{t-1}, x_0) for t ≥ 2, (N,), by conditioning the joint law given x_0.

    All paths have the same x_0. That the answer is log q(x_t | x_{t-1}) is the Markov property.
    """
    mean, cov = moments(chain, path[0, 0])
    slope = cov[t, t - 1] / cov[t - 1, t - 1]
    var = cov[t, t] - slope * cov[t, t - 1]
    expected = mean[t] + slope * (path[:, t - 1] - mean[t - 1])
    return Normal(expected, 0.5 * var.log()).log_prob(path[:, t])


def log_up_by_bayes(chain: Chain, path: Tensor, t: int) -> Tensor:
    """Eq. 46: log [ q(x_{t-1} | x_t, x_0)·q(x_t | x_0)/q(x_{t-1} | x_0) ], t ≥ 2, (N,)."""
    here, before = log_jump(chain, path, t), log_jump(chain, path, t - 1)
    return log_back(chain, path, t) + here - before


def line_47(chain: Chain, path: Tensor) -> Tensor:
    """log [ p(x_0:T)/q(x_1:T | x_0) ], (N,): the start, as in Eq. 37."""
    return log_joint(chain, path) - log_noising(chain, path)


def line_48(chain: Chain, path: Tensor) -> Tensor:
    """log [ p(x_T)·Π_{t=1..T} p(x_{t-1} | x_t) / Π_{t=1..T} q(x_t | x_{t-1}) ], (N,)."""
    up, down = path.new_ones(len(path)), log_top(chain, path).exp()
    for t in range(1, chain.steps + 1):
        down = down * log_down(chain, path, t).exp()
        up = up * log_up(chain, path, t).exp()
    return (down / up).log()


def line_49(chain: Chain, path: Tensor) -> Tensor:
    """The first step of both ways by itself, (N,)."""
    ratio = log_top(chain, path) + log_down(chain, path, 1) - log_up(chain, path, 1)
    for t in range(2, chain.steps + 1):
        ratio = ratio + log_down(chain, path, t) - log_up(chain, path, t)
    return ratio


def line_50(chain: Chain, path: Tensor) -> Tensor:
    """q(x_t | x_{t-1}, x_0) for q(x_t | x_{t-1}): to know x_0 too changes nothing, (N,)."""
    ratio = log_top(chain, path) + log_down(chain, path, 1) - log_up(chain, path, 1)
    for t in range(2, chain.steps + 1):
        ratio = ratio + log_down(chain, path, t) - log_up_given_start(chain, path, t)
    return ratio


def first_factor(chain: Chain, path: Tensor) -> Tensor:
    """log [ p(x_T)·p(x_0 | x_1)/q(x_1 | x_0) ], (N,): the first half of lines 51-54."""
    return log_top(chain, path) + log_down(chain, path, 1) - log_jump(chain, path, 1)


def line_51(chain: Chain, path: Tensor) -> Tensor:
    """The log of the product as two logs, (N,)."""
    product = path.new_ones(len(path))
    for t in range(2, chain.steps + 1):
        up = log_up_given_start(chain, path, t)
        product = product * log_down(chain, path, t).exp() / up.exp()
    return first_factor(chain, path) + product.log()


def line_52(chain: Chain, path: Tensor) -> Tensor:
    """Eq. 46 put in for every q(x_t | x_{t-1}, x_0), (N,)."""
    total = first_factor(chain, path)
    for t in range(2, chain.steps + 1):
        total = total + log_down(chain, path, t) - log_up_by_bayes(chain, path, t)
    return total


def line_53(chain: Chain, path: Tensor) -> Tensor:
    """The ratios q(x_{t-1} | x_0)/q(x_t | x_0) by themselves: neighbours cancel, (N,)."""
    total = first_factor(chain, path)
    for t in range(2, chain.steps + 1):
        total = total + log_jump(chain, path, t - 1) - log_jump(chain, path, t)
    return total + log_back_ratio(chain, path)


def log_back_ratio(chain: Chain, path: Tensor) -> Tensor:
    """log Π_{t=2..T} p(x_{t-1} | x_t)/q(x_{t-1} | x_t, x_0), (N,)."""
    product = path.new_ones(len(path))
    for t in range(2, chain.steps + 1):
        product = product * (log_down(chain, path, t) - log_back(chain, path, t)).exp()
    return product.log()


def line_54(chain: Chain, path: Tensor) -> Tensor:
    """Of all those ratios the two ends are left: q(x_1 | x_0)/q(x_T | x_0), (N,)."""
    ends = log_jump(chain, path, 1) - log_jump(chain, path, chain.steps)
    return first_factor(chain, path) + ends + log_back_ratio(chain, path)


def line_55(chain: Chain, path: Tensor) -> Tensor:
    """q(x_1 | x_0) cancels too, and the log of the product is a sum, (N,)."""
    total = log_top(chain, path) + log_down(chain, path, 1) - log_jump(chain, path, chain.steps)
    for t in range(2, chain.steps + 1):
        total = total + log_down(chain, path, t) - log_back(chain, path, t)
    return total


def line_56(chain: Chain, x0: Tensor) -> Tensor:
    """One expectation over whole paths for each term."""
    path = paths(chain, x0)
    prior = log_top(chain, path) - log_jump(chain, path, chain.steps)
    total = log_down(chain, path, 1).mean() + prior.mean()
    for t in range(2, chain.steps + 1):
        total = total + (log_down(chain, path, t) - log_back(chain, path, t)).mean()
    return total


def line_57(chain: Chain, x0: Tensor) -> Tensor:
    """Every expectation over the variables it needs only: one for the ends, two for a step."""
    last = chain.steps
    top = paths(chain, x0, [last])
    total = first_reconstruction(chain, x0)
    total = total + (log_top(chain, top) - log_jump(chain, top, last)).mean()
    for t in range(2, last + 1):
        path = paths(chain, x0, [t - 1, t])
        total = total + (log_down(chain, path, t) - log_back(chain, path, t)).mean()
    return total


def prior_matching(chain: Chain, x0: Tensor) -> Tensor:
    """KL( q(x_T | x_0) ‖ p(x_T) ), a number: how much of x_0 is left at the end."""
    return marginal(x0.unsqueeze(0), chain.levels[-1]).kl(top(chain))[0]


def denoising_matching(chain: Chain, x0: Tensor, t: int) -> Tensor:
    """E_{q(x_t | x_0)}[ KL( q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t) ) ] for t ≥ 2, a number."""
    path = paths(chain, x0, [t])
    truth = posterior(path[:, t], path[:, 0], chain.levels[t], chain.levels[t - 1])
    return truth.kl(down(chain, path[:, t], t)).mean()


def line_58(chain: Chain, x0: Tensor) -> Tensor:
    """Eq. 58: reconstruction − prior matching − Σ_{t=2..T} denoising matching, a number."""
    steps = [denoising_matching(chain, x0, t) for t in range(2, chain.steps + 1)]
    matching = torch.stack(steps).sum() if steps else x0.new_zeros(())
    return first_reconstruction(chain, x0) - prior_matching(chain, x0) - matching
