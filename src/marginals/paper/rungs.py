"""Linear-Gaussian chains as models of the package: a Ladder, and a diffusion model.

The bounds of a :class:`~marginals.ladder.Ladder` are averages over random latents, but at the
latents that were drawn they are formulas. So they can be compared, exactly, with the
log-densities of :mod:`marginals.paper.linear` at the recorded path.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..chain import mean_from_x0, posterior_variance
from ..decoders import GaussianDecoder
from ..gaussian import Normal, Prior
from ..ladder import Ladder
from .linear import Chain, down, top, up


class LinearRung:
    """x_t as a latent: prior p(x_t | x_{t+1}), posterior q(x_t | x_{t-1}); keeps what was drawn."""

    def __init__(self, chain: Chain, t: int) -> None:
        self.chain, self.t = chain, t
        self.drawn: list[Tensor] = []

    def prior(self, above: Any) -> Normal:
        if self.t == self.chain.steps:
            return top(self.chain)
        return down(self.chain, above, self.t + 1)

    def posterior(self, evidence: Any, above: Any) -> Normal:
        return up(self.chain, evidence, self.t)

    def carry(self, z: Tensor, above: Any) -> Tensor:
        self.drawn.append(z)
        return z


def evidence(x: Tensor, labels: Tensor | None) -> Tensor:
    """What the posterior sees: the picture, moved a little by its label."""
    return x if labels is None else x + 0.2 * labels.unsqueeze(1)


def as_ladder(chain: Chain) -> tuple[Ladder, list[LinearRung]]:
    """The chain as a bottom-up ladder with a Gaussian decoder, and its rungs, the top one first."""
    rungs = [LinearRung(chain, t) for t in range(chain.steps, 0, -1)]

    def decode(x_1: Tensor) -> Tensor:
        mean, log_std = down(chain, x_1, 1)
        return torch.cat([mean, log_std.expand_as(mean)], 1)

    ladder = Ladder(rungs, decode, GaussianDecoder(), evidence=evidence, posterior="bottom_up")
    return ladder, rungs


def drawn_path(x0: Tensor, rungs: list[LinearRung], walk: int = 0) -> Tensor:
    """The path (B, T + 1, D) of one walk: x_0 (B, D), then what each rung drew, lowest first."""
    return torch.stack([x0, *(rung.drawn[walk] for rung in reversed(rungs))], 1)


def constant_chain(answer: Tensor, prior: Prior, lams: Tensor) -> Chain:
    """The chain of a diffusion model whose denoiser always answers the same picture, (D,).

    ``lams`` (T,): the levels of x_1, ..., x_T, falling. Its steps back are q(x_{t-1} | x_t,
    answer), its decoder is q(x_1 | x_0) read as a law of x_0, and its top law is ``prior``.
    """
    bars = torch.sigmoid(lams)  # ᾱ_1, ..., ᾱ_T
    alphas = torch.cat([bars[:1], bars[1:] / bars[:-1]])
    zero, one = torch.zeros_like(answer), torch.ones_like(answer)
    levels = Chain(alphas, zero, zero, zero, zero, zero).levels
    noise = (1.0 - bars[0]) / bars[0]
    gain, shift, var = [one / bars[0].sqrt()], [zero], [noise * one]  # p(x_0 | x_1)
    for s, t in pairwise(levels[1:]):
        gain.append(mean_from_x0(one, zero, t, s))
        shift.append(mean_from_x0(zero, answer, t, s))
        var.append(posterior_variance(t, s) * one)
    mean, spread = prior.moments(levels[-1])
    c, d, s2 = (torch.stack(part) for part in (gain, shift, var))
    return Chain(alphas, c, d, s2, one * mean, one * spread)
