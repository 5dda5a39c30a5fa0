"""The first way to write the bound of a diffusion model, line by line (Luo Eqs. 38-45).

It compares every noising step q(x_t | x_{t-1}) with the step p(x_t | x_{t+1}) that comes from the
other side, so each term needs three neighbouring variables. Eqs. 38-44 are the same number; the
last line is not (erratum E1). Each function is one line of the paper on a linear-Gaussian
:class:`~marginals.paper.linear.Chain`. Lines 38-40 are what stands inside the expectation, (N,)
for N paths; from line 41 on the expectation is taken exactly and the value is a number of nats.
"""

from torch import Tensor

from .linear import Chain, down, log_down, log_top, log_up, paths, top, up


def line_38(chain: Chain, path: Tensor) -> Tensor:
    """log [ p(x_T)·Π_{t=1..T} p(x_{t-1} | x_t) / Π_{t=1..T} q(x_t | x_{t-1}) ], (N,)."""
    ratio = log_top(chain, path).exp()
    for t in range(1, chain.steps + 1):
        ratio = ratio * log_down(chain, path, t).exp() / log_up(chain, path, t).exp()
    return ratio.log()


def line_39(chain: Chain, path: Tensor) -> Tensor:
    """The first generative and the last noising step by themselves, (N,)."""
    last = chain.steps
    ratio = log_top(chain, path) + log_down(chain, path, 1) - log_up(chain, path, last)
    for t in range(2, last + 1):
        ratio = ratio + log_down(chain, path, t)
    for t in range(1, last):
        ratio = ratio - log_up(chain, path, t)
    return ratio


def line_40(chain: Chain, path: Tensor) -> Tensor:
    """The generative steps counted from one: p(x_t | x_{t+1}), t = 1..T−1, (N,)."""
    last = chain.steps
    ratio = log_top(chain, path) + log_down(chain, path, 1) - log_up(chain, path, last)
    for t in range(1, last):
        ratio = ratio + log_down(chain, path, t + 1) - log_up(chain, path, t)
    return ratio


def line_41(chain: Chain, x0: Tensor) -> Tensor:
    """E[log p(x_T)·p(x_0 | x_1)/q(x_T | x_{T-1})] + E[log Π_{t<T} p(x_t | x_{t+1})/q(x_t |
    x_{t-1})]."""
    path, last = paths(chain, x0), chain.steps
    ends = log_top(chain, path) + log_down(chain, path, 1) - log_up(chain, path, last)
    product = path.new_ones(len(path))
    for t in range(1, last):
        product = product * (log_down(chain, path, t + 1) - log_up(chain, path, t)).exp()
    return ends.mean() + product.log().mean()


def line_42(chain: Chain, x0: Tensor) -> Tensor:
    """The two ends apart, and the log of the product as a sum inside the expectation."""
    path, last = paths(chain, x0), chain.steps
    middle = path.new_zeros(len(path))
    for t in range(1, last):
        middle = middle + log_down(chain, path, t + 1) - log_up(chain, path, t)
    prior = log_top(chain, path) - log_up(chain, path, last)
    return log_down(chain, path, 1).mean() + prior.mean() + middle.mean()


def line_43(chain: Chain, x0: Tensor) -> Tensor:
    """The sum outside the expectation: one expectation over whole paths per step."""
    path, last = paths(chain, x0), chain.steps
    total = log_down(chain, path, 1).mean()
    total = total + (log_top(chain, path) - log_up(chain, path, last)).mean()
    for t in range(1, last):
        total = total + (log_down(chain, path, t + 1) - log_up(chain, path, t)).mean()
    return total


def first_reconstruction(chain: Chain, x0: Tensor) -> Tensor:
    """E_{q(x_1 | x_0)}[log p(x_0 | x_1)]: the first term of Eqs. 44, 45, 57 and 58."""
    return log_down(chain, paths(chain, x0, [1]), 1).mean()


def line_44(chain: Chain, x0: Tensor) -> Tensor:
    """Every expectation over the variables it needs only: one, two, and three neighbours."""
    last = chain.steps
    path = paths(chain, x0, [last - 1, last])
    total = first_reconstruction(chain, x0)
    total = total + (log_top(chain, path) - log_up(chain, path, last)).mean()
    for t in range(1, last):
        path = paths(chain, x0, [t - 1, t, t + 1])
        total = total + (log_down(chain, path, t + 1) - log_up(chain, path, t)).mean()
    return total


def line_45(chain: Chain, x0: Tensor) -> Tensor:
    """Eq. 45 as printed: reconstruction − prior matching − Σ consistency, with KL divergences.

    Not Eq. 44 for T ≥ 2: inside the third term x_t is drawn from q(x_t | x_{t-1}) while x_{t+1}
    is held fixed, although given both neighbours its law is another one.
    """
    last = chain.steps
    path = paths(chain, x0, [max(last - 1, 1)])
    prior = up(chain, path[:, last - 1], last).kl(top(chain))
    total = first_reconstruction(chain, x0) - prior.mean()
    for t in range(1, last):
        path = paths(chain, x0, [t - 1, t + 1])
        consistency = up(chain, path[:, t - 1], t).kl(down(chain, path[:, t + 1], t + 1))
        total = total - consistency.mean()
    return total


def consistency_gap(chain: Chain) -> Tensor:
    """Eq. 45 − Eq. 44 = −Σ_{t<T} c_{t+1}·√α_{t+1}·(1 − α_t)/s²_{t+1}, a number (erratum E1).

    Zero for T = 1, and the same for every x_0: the covariance of x_t and x_{t+1} that the last
    line forgets.
    """
    forgotten = chain.alphas[1:].sqrt() * (1.0 - chain.alphas[:-1])
    return -(forgotten.unsqueeze(1) * chain.gain[1:] / chain.var[1:]).sum()
