"""Luo Eqs. 30-33: a diffusion model as a ladder; checked on linear-Gaussian chains."""

from functools import partial
from math import log, pi

import torch
from torch import Tensor
from torch.distributions import Normal

from ...chain import forward_step
from .. import dense, linear
from ..equation import Finding, all_equal, equation, require

luo = partial(equation, part="Variational Diffusion Models", page=7, status="definition")


def _cases() -> list[tuple[linear.Chain, Tensor, Tensor]]:
    """Chains of 1, 2 and 4 steps with 3 pixels, x_0 (D,), and arbitrary paths from it."""
    found = []
    for steps in (1, 2, 4):
        chain, x0 = dense.some_chain(steps)
        found.append((chain, x0, dense.some_paths(chain, x0)))
    return found


@luo(
    "30",
    latex=r"q(x_{1:T} \mid x_0) = \prod_{t=1}^{T} q(x_t \mid x_{t-1})",
    says="The way from a picture to noise is a chain of T fixed steps, each depending on the one "
    "before only.",
    home=(linear.log_noising, linear.log_up, linear.moments),
)
def _() -> Finding:
    pairs = []
    for chain, x0, path in _cases():
        law = dense.forward_law(chain, x0)
        whole = law.log_prob(path[:, 1:].mT).sum(1)
        pairs.append((linear.log_noising(chain, path), whole))
        pairs.append((linear.moments(chain, x0)[0][1:].T, law.mean))
        pairs.append((linear.moments(chain, x0)[1][1:, 1:], law.cov[0]))
    return all_equal(pairs, "the product against one Gaussian of all steps, T = 1, 2, 4")


@luo(
    "31",
    latex=r"q(x_t \mid x_{t-1}) = \mathcal{N}\left(x_t;\, \sqrt{\alpha_t}\, x_{t-1},\, "
    r"(1 - \alpha_t)\, \mathbf{I}\right)",
    says="Each step fades the picture a little and adds noise, just as much as keeps the spread of "
    "the pixels at one if it was one.",
    home=(forward_step, linear.up, linear.log_up),
)
def _() -> Finding:
    pairs = []
    for chain, _, path in _cases():
        for t in range(1, chain.steps + 1):
            alpha = chain.alphas[t - 1]
            law = Normal(alpha.sqrt() * path[:, t - 1], (1.0 - alpha).sqrt())
            pairs.append((linear.log_up(chain, path, t), law.log_prob(path[:, t]).sum(1)))
            step = forward_step(path[:, t - 1], chain.levels[t], chain.levels[t - 1])
            pairs += [(step.mean, law.mean), (step.log_std.exp(), law.stddev)]
            fade = step.mean / path[:, t - 1]
            pairs.append((fade**2 + (2.0 * step.log_std).exp(), 1.0))  # a variance of one stays
    return all_equal(pairs, "density, mean and spread of every step; a variance of 1 stays 1")


@luo(
    "32",
    latex=r"p(x_{0:T}) = p(x_T) \prod_{t=1}^{T} p_\theta(x_{t-1} \mid x_t)",
    says="The way back is learned: start from noise and undo one step after another, looking only "
    "at the noisier picture.",
    home=(linear.log_joint, linear.log_down, linear.down),
)
def _() -> Finding:
    pairs = []
    for chain, _, path in _cases():
        whole = dense.model_law(chain).log_prob(path.mT).sum(1)
        pairs.append((linear.log_joint(chain, path), whole))
        for t in range(1, chain.steps + 1):
            mean = chain.gain[t - 1] * path[:, t] + chain.shift[t - 1]
            law = Normal(mean, chain.var[t - 1].sqrt())
            pairs.append((linear.log_down(chain, path, t), law.log_prob(path[:, t - 1]).sum(1)))
    return all_equal(pairs, "the product against one Gaussian of the whole path, T = 1, 2, 4")


@luo(
    "33",
    latex=r"p(x_T) = \mathcal{N}\left(x_T;\, \mathbf{0},\, \mathbf{I}\right)",
    says="The noise that the way back starts from is standard noise, the same for every picture.",
    home=(linear.log_top, linear.top),
)
def _() -> Finding:
    pairs = []
    for chain, _, path in _cases():
        zero, one = torch.zeros_like(chain.top_mean), torch.ones_like(chain.top_var)
        standard = linear.Chain(chain.alphas, chain.gain, chain.shift, chain.var, zero, one)
        formula = -0.5 * (path[:, chain.steps].square() + log(2.0 * pi)).sum(1)
        pairs.append((linear.log_top(standard, path), formula))
        law = Normal(chain.top_mean, chain.top_var.sqrt())
        pairs.append((linear.log_top(chain, path), law.log_prob(path[:, chain.steps]).sum(1)))
        require(bool(((formula - pairs[-1][1]).abs() > 0.01).all()), "the two priors are alike")
    return all_equal(pairs, "log-densities by formula, for N(0, I) and for another Gaussian")
