"""Luo Eq. 58, the bound to use: on exact chains, on tables, and as the package computes it."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ... import ancestral, likelihood
from ...bound import Terms
from ...chain import variance
from ...decoders import discretised_gaussian
from ...denoiser import Estimate
from ...gaussian import Prior
from ...oracle import Gaussian
from ...scaling import VP, Real
from .. import dense, finite, linear
from .. import second_bound as lines
from ..equation import Finding, all_equal, equation, require
from ..rungs import constant_chain
from ..tables import some_ladder
from .consistency import RECONSTRUCTION, value
from .denoising import back

Ticks = list[tuple[int, int]]


@equation(
    "58",
    part="Variational Diffusion Models",
    page=10,
    latex=rf"= \underbrace{{{RECONSTRUCTION}}}_{{\text{{reconstruction}}}}"
    + r" - \underbrace{D_{\mathrm{KL}}\left(q(x_T \mid x_0) \,\Vert\, p(x_T)\right)}"
    r"_{\text{prior matching}} - \sum_{t=2}^{T} \underbrace{\mathbb{E}_{q(x_t \mid x_0)}\left["
    r"D_{\mathrm{KL}}\left(q(x_{t-1} \mid x_t, x_0) \,\Vert\, p_\theta(x_{t-1} \mid x_t)\right)"
    r"\right]}_{\text{denoising matching}}",
    says="A diffusion model is trained to end at the picture, minus a charge for what is left of "
    "it in the final noise, minus, for every step, how far the learned step back is from the step "
    "back of one who knows the picture.",
    home=(
        ancestral.chain_elbo,
        likelihood.discrete_elbo,
        lines.line_58,
        lines.prior_matching,
        lines.denoising_matching,
        finite.ladder_denoising_bound,
    ),
    note="The form holds for every Markov hierarchical model, as the check on tables shows; for "
    "T = 1 it is the bound of a VAE, Eq. 19.",
)
def _() -> Finding:
    found = value(lines.line_58)
    pairs = _one_by_one()
    for steps in (1, 3):
        pairs += _discrete_elbo(steps) + _chain_elbo(steps, "small") + _chain_elbo(steps, "large")
    for sizes in ((3, 4, 2, 5), (4, 3, 2), (3, 5)):
        table = some_ladder(sizes)
        pairs.append((finite.ladder_denoising_bound(table), finite.ladder_elbo(table)))
    compared = f"{found.compared}; the package's own bounds, part by part; tables"
    return Finding(max(found.error, all_equal(pairs, "").error), compared)


def _one_by_one() -> list[tuple[Tensor, Tensor]]:
    """The terms of Eq. 58 one by one, the laws found by conditioning one big Gaussian."""
    chain, x0 = dense.some_chain(4)
    law = dense.forward_law(chain, x0)
    last = Normal(law.mean[:, -1], law.cov[:, -1, -1].sqrt())
    top = Normal(chain.top_mean, chain.top_var.sqrt())
    pairs = [(lines.prior_matching(chain, x0), kl_divergence(last, top).sum())]
    for t in range(2, 5):
        path = linear.paths(chain, x0)
        rung = Normal(chain.gain[t - 1] * path[:, t] + chain.shift[t - 1], chain.var[t - 1].sqrt())
        paid = kl_divergence(back(chain, path, t), rung).sum(1).mean()
        pairs.append((lines.denoising_matching(chain, x0, t), paid))
    return pairs


# A denoiser that always answers the same picture makes every step back p(x_{t-1} | x_t) =
# q(x_{t-1} | x_t, answer) linear and Gaussian, and the noise drops out of every KL. So the two
# bounds of the package are exact numbers for it, and the bound of a Chain.

ANSWER = torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64)
DENOISER = Gaussian(ANSWER, torch.zeros(3, 3, dtype=torch.float64))
CLEANEST, NOISIEST = 3.5, -2.5


def _lams(steps: int) -> Tensor:
    """λ_1, ..., λ_T with T = steps + 1."""
    return torch.linspace(CLEANEST, NOISIEST, steps + 1, dtype=torch.float64)


def _part_by_part(terms: Terms, chain: linear.Chain, x0: Tensor) -> list[tuple[Tensor, Tensor]]:
    pairs = [(terms.at.double(), _lams(chain.steps - 1).flip(0)[:-1])]
    for i, picture in enumerate(x0):
        paid = [lines.denoising_matching(chain, picture, t) for t in range(chain.steps, 1, -1)]
        pairs.append((terms.nats[i], lines.line_58(chain, picture)))
        pairs.append((terms.matching[i], torch.stack(paid)))
        pairs.append((terms.prior[i], lines.prior_matching(chain, picture)))
    return pairs


def _discrete_elbo(steps: int) -> list[tuple[Tensor, Tensor]]:
    """discrete_elbo, whose decoder is q(x_1 | x_0) read backwards. A prior that is a point leaves
    its estimate of the error as it is drawn."""
    prior, ticks = Prior(mean=0.3, std=0.0), Ticks()
    x0 = torch.randn(1, 3, dtype=torch.float64)
    terms = likelihood.discrete_elbo(
        DENOISER,
        x0,
        likelihood.Ends(NOISIEST, CLEANEST, prior),
        steps=steps,
        dtype=torch.float64,
        tick=lambda done, total: ticks.append((done, total)),
    )
    require(ticks == [(i + 1, steps) for i in range(steps)], "the steps are not counted")
    return _part_by_part(terms, constant_chain(ANSWER, prior, _lams(steps)), x0)


def _ddpm(lams: Tensor, prior: Prior, kind: ancestral.Variance) -> linear.Chain:
    """The same chain with a variance of DDPM's, and a last step that ends in the answer."""
    chain = constant_chain(ANSWER, prior, lams)
    first, second = chain.levels[1:3]
    spread = [variance(t, s, float(kind == "large")) for s, t in pairwise(chain.levels[1:])]
    small = float(variance(second, first, 0.0)) / first.alpha**2
    spread.insert(0, small if kind == "small" else (first.sigma / first.alpha) ** 2)
    gain, shift = chain.gain.clone(), chain.shift.clone()
    gain[0], shift[0] = 0.0, ANSWER
    var = torch.tensor(spread, dtype=torch.float64).unsqueeze(1).expand(-1, 3)
    return replace(chain, gain=gain, shift=shift, var=var)


def _chain_elbo(steps: int, kind: ancestral.Variance) -> list[tuple[Tensor, Tensor]]:
    """chain_elbo with a variance of DDPM's and either of its decoders, and what it shows to the
    denoiser."""
    prior, ticks, lams = Prior(mean=0.3, std=0.6), Ticks(), _lams(steps)
    seen: list[Tensor] = []

    def denoiser(x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        seen.append((x - VP(lam).alpha * x0) / VP(lam).sigma)  # the noise in it
        return DENOISER(x, lam, cond)

    denoiser.scaling = VP
    about = {"prior": prior, "variance": kind, "dtype": torch.float64}
    bound = partial(ancestral.chain_elbo, denoiser, lams=lams.flip(0).tolist(), **about)
    chain = _ddpm(lams, prior, kind)
    x0 = torch.randn(1, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(7)
    terms = bound(x0, generator=generator, tick=lambda done, total: ticks.append((done, total)))
    require(ticks == [(i + 1, steps + 1) for i in range(steps + 1)], "the steps are not counted")
    drawn = [torch.randn(1, 3, generator=generator.manual_seed(7), dtype=torch.float64)]
    drawn += [torch.randn(1, 3, generator=generator, dtype=torch.float64) for _ in range(steps)]
    pixels = torch.tensor([[3, 130, 201]], dtype=torch.uint8)
    bins = discretised_gaussian(pixels, ANSWER.unsqueeze(0), chain.var[:1].sqrt())
    pairs = [(torch.stack(seen), torch.stack(drawn)), (bound(pixels).reconstruction, bins)]
    return pairs + _part_by_part(terms, chain, x0)
