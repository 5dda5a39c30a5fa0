"""Luo Eqs. 46-58: the second form of a diffusion model's bound, the one to use."""

from functools import partial
from math import sqrt

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ... import likelihood
from ...gaussian import Prior
from ...oracle import Gaussian
from .. import dense, finite, linear
from .. import second_bound as lines
from ..equation import Finding, all_equal, equation, require
from ..rungs import constant_chain
from ..tables import some_ladder
from .consistency import PATH, RECONSTRUCTION, inside, value

luo = partial(equation, part="Variational Diffusion Models", page=9)

ENDS = r"\frac{p(x_T)\, p_\theta(x_0 \mid x_1)}{q(x_1 \mid x_0)}"


@luo(
    "46",
    latex=r"q(x_t \mid x_{t-1}, x_0) = \frac{q(x_{t-1} \mid x_t, x_0)\, q(x_t \mid x_0)}"
    r"{q(x_{t-1} \mid x_0)}",
    says="Bayes' rule turns a noising step around: if the clean picture is known, the step towards "
    "noise can be told by the step back.",
    home=(lines.log_up_by_bayes, linear.log_back, linear.log_jump),
)
def _() -> Finding:
    pairs = []
    for steps in (2, 4):
        chain, x0 = dense.some_chain(steps)
        path = dense.some_paths(chain, x0)
        for t in range(2, steps + 1):
            alpha, bar = chain.alphas[t - 1], chain.alphas[:t].prod()
            up = Normal(alpha.sqrt() * path[:, t - 1], (1.0 - alpha).sqrt())
            jump = Normal(bar.sqrt() * x0, (1.0 - bar).sqrt())
            pairs.append((lines.log_up_by_bayes(chain, path, t), _sum(up, path[:, t])))
            pairs.append((linear.log_jump(chain, path, t), _sum(jump, path[:, t])))
            back = _back(chain, path, t)
            pairs.append((linear.log_back(chain, path, t), _sum(back, path[:, t - 1])))
    return all_equal(pairs, "against the step's own density; the step back by conditioning")


def _sum(law: Normal, x: Tensor) -> Tensor:
    return law.log_prob(x).sum(1)


def _back(chain: linear.Chain, path: Tensor, t: int) -> Normal:
    """q(x_{t-1} | x_t, x_0) by conditioning the joint Gaussian of both, given x_0."""
    law = dense.forward_law(chain, path[0, 0])
    mean, cov = law.mean.T, law.cov[0]  # entry t − 1 is x_t
    slope = cov[t - 2, t - 1] / cov[t - 1, t - 1]
    var = cov[t - 2, t - 2] - slope * cov[t - 1, t - 2]
    return Normal(mean[t - 2] + slope * (path[:, t] - mean[t - 1]), var.sqrt())


@luo(
    "47",
    latex=rf"\log p(x) \geq {PATH}" + r"\left[\log\frac{p(x_{0:T})}{q(x_{1:T} \mid x_0)}\right]",
    says="The second derivation starts from the same lower bound.",
    home=lines.line_47,
    status="bound",
)
def _() -> Finding:
    for steps in (1, 2, 4):
        require(dense.gap(*dense.some_chain(steps)).item() > 0.1, "the bound is not strict")
    return inside(lines.line_47)


@luo(
    "48",
    latex=rf"= {PATH}" + r"\left[\log\frac{p(x_T) \prod_{t=1}^{T} p_\theta(x_{t-1} \mid x_t)}"
    r"{\prod_{t=1}^{T} q(x_t \mid x_{t-1})}\right]",
    says="Again both ways are written out as products of their steps.",
    home=lines.line_48,
)
def _() -> Finding:
    return inside(lines.line_48)


@luo(
    "49",
    latex=rf"= {PATH}" + r"\left[\log\frac{p(x_T)\, p_\theta(x_0 \mid x_1) \prod_{t=2}^{T} "
    r"p_\theta(x_{t-1} \mid x_t)}{q(x_1 \mid x_0) \prod_{t=2}^{T} "
    r"q(x_t \mid x_{t-1})}\right]",
    says="Now the two steps between the picture and its first noisy version are written apart.",
    home=lines.line_49,
)
def _() -> Finding:
    return inside(lines.line_49)


@luo(
    "50",
    latex=rf"= {PATH}" + r"\left[\log\frac{p(x_T)\, p_\theta(x_0 \mid x_1) \prod_{t=2}^{T} "
    r"p_\theta(x_{t-1} \mid x_t)}{q(x_1 \mid x_0) \prod_{t=2}^{T} "
    r"q(x_t \mid x_{t-1}, x_0)}\right]",
    says="A noising step looks at the picture before it only, so telling it the clean picture as "
    "well changes nothing.",
    home=(lines.line_50, lines.log_up_given_start),
)
def _() -> Finding:
    pairs = []
    chain, x0 = dense.some_chain(4)
    path = dense.some_paths(chain, x0)
    for t in range(2, 5):
        alpha = chain.alphas[t - 1].item()
        law = Normal(sqrt(alpha) * path[:, t - 1], sqrt(1.0 - alpha))
        pairs.append((lines.log_up_given_start(chain, path, t), _sum(law, path[:, t])))
    markov = all_equal(pairs, "")
    found = inside(lines.line_50)
    compared = f"{found.compared}; q(x_t | x_t−1, x_0) against q(x_t | x_t−1)"
    return Finding(max(found.error, markov.error), compared)


@luo(
    "51",
    latex=rf"= {PATH}\left[\log{ENDS}"
    + r" + \log\prod_{t=2}^{T} \frac{p_\theta(x_{t-1} \mid x_t)}{q(x_t \mid x_{t-1}, x_0)}"
    r"\right]",
    says="The log of the product is split: the ends, and all other steps.",
    home=(lines.line_51, lines.first_factor),
)
def _() -> Finding:
    return inside(lines.line_51)


@luo(
    "52",
    latex=rf"= {PATH}\left[\log{ENDS}"
    + r" + \log\prod_{t=2}^{T} \frac{p_\theta(x_{t-1} \mid x_t)}{\frac{q(x_{t-1} \mid x_t, x_0)"
    r"\, q(x_t \mid x_0)}{q(x_{t-1} \mid x_0)}}\right]",
    says="Every one of those noising steps is turned around by Eq. 46.",
    home=lines.line_52,
)
def _() -> Finding:
    return inside(lines.line_52)


@luo(
    "53",
    latex=rf"= {PATH}\left[\log{ENDS}"
    + r" + \log\prod_{t=2}^{T} \frac{q(x_{t-1} \mid x_0)}{q(x_t \mid x_0)} + "
    r"\log\prod_{t=2}^{T} \frac{p_\theta(x_{t-1} \mid x_t)}{q(x_{t-1} \mid x_t, x_0)}\right]",
    says="The fractions that turning around brought in cancel, each with its neighbour.",
    home=(lines.line_53, lines.log_back_ratio),
    note="The paper shows this line with strokes through what cancels; here the fractions that "
    "cancel stand apart.",
)
def _() -> Finding:
    return inside(lines.line_53)


@luo(
    "54",
    latex=rf"= {PATH}\left[\log{ENDS}" + r" + \log\frac{q(x_1 \mid x_0)}{q(x_T \mid x_0)} + "
    r"\log\prod_{t=2}^{T} \frac{p_\theta(x_{t-1} \mid x_t)}{q(x_{t-1} \mid x_t, x_0)}\right]",
    says="Of that whole product only its first and its last piece are left.",
    home=lines.line_54,
)
def _() -> Finding:
    return inside(lines.line_54)


@luo(
    "55",
    latex=rf"= {PATH}"
    + r"\left[\log\frac{p(x_T)\, p_\theta(x_0 \mid x_1)}{q(x_T \mid x_0)} + \sum_{t=2}^{T} "
    r"\log\frac{p_\theta(x_{t-1} \mid x_t)}{q(x_{t-1} \mid x_t, x_0)}\right]",
    says="The first piece cancels with the ends, and the log of the product becomes a sum.",
    home=lines.line_55,
)
def _() -> Finding:
    return inside(lines.line_55)


@luo(
    "56",
    latex=rf"= {PATH}\left[\log p_\theta(x_0 \mid x_1)\right] + {PATH}"
    + r"\left[\log\frac{p(x_T)}{q(x_T \mid x_0)}\right] + \sum_{t=2}^{T} "
    + PATH
    + r"\left[\log\frac{p_\theta(x_{t-1} \mid x_t)}{q(x_{t-1} \mid x_t, x_0)}\right]",
    says="The average of the sum is split into one average per piece.",
    home=lines.line_56,
)
def _() -> Finding:
    return value(lines.line_56)


@luo(
    "57",
    latex=rf"= {RECONSTRUCTION}"
    + r" + \mathbb{E}_{q(x_T \mid x_0)}\left[\log\frac{p(x_T)}{q(x_T \mid x_0)}\right] + "
    r"\sum_{t=2}^{T} \mathbb{E}_{q(x_t, x_{t-1} \mid x_0)}\left[\log"
    r"\frac{p_\theta(x_{t-1} \mid x_t)}{q(x_{t-1} \mid x_t, x_0)}\right]",
    says="Each average needs only the noisy pictures that occur in it, never more than two.",
    home=(lines.line_57, lines.first_reconstruction, linear.paths),
)
def _() -> Finding:
    return value(lines.line_57)


@luo(
    "58",
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
        pairs += _a_real_bound(steps)
    for sizes in ((3, 4, 2, 5), (4, 3, 2), (3, 5)):
        table = some_ladder(sizes)
        pairs.append((finite.ladder_denoising_bound(table), finite.ladder_elbo(table)))
    compared = f"{found.compared}; each KL by conditioning; discrete_elbo part by part; on tables"
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
        paid = kl_divergence(_back(chain, path, t), rung).sum(1).mean()
        pairs.append((lines.denoising_matching(chain, x0, t), paid))
    return pairs


def _a_real_bound(steps: int) -> list[tuple[Tensor, Tensor]]:
    """discrete_elbo for a denoiser that always answers the same picture, part by part.

    Then p(x_{t-1} | x_t) = q(x_{t-1} | x_t, answer) is linear and Gaussian, the noise drops out of
    every term, and the whole bound is a :class:`~marginals.paper.linear.Chain`.
    """
    answer = torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64)
    prior = Prior(mean=0.3, std=0.0)
    ends = likelihood.Ends(-2.5, 3.5, prior)
    denoiser = Gaussian(answer, torch.zeros(3, 3, dtype=torch.float64))
    x0 = torch.randn(2, 3, dtype=torch.float64)
    ticks: list[tuple[int, int]] = []

    def tick(done: int, total: int) -> None:
        ticks.append((done, total))

    terms = likelihood.discrete_elbo(
        denoiser, x0, ends, steps=steps, dtype=torch.float64, tick=tick
    )
    require(ticks == [(i + 1, steps) for i in range(steps)], "the steps are not counted")
    lams = torch.linspace(3.5, -2.5, steps + 1, dtype=torch.float64)
    chain = constant_chain(answer, prior, lams)
    pairs = [(terms.at.double(), lams.flip(0)[:-1])]
    for i, picture in enumerate(x0):
        paid = [lines.denoising_matching(chain, picture, t) for t in range(steps + 1, 1, -1)]
        pairs.append((terms.nats[i], lines.line_58(chain, picture)))
        pairs.append((terms.matching[i], torch.stack(paid)))
        pairs.append((terms.prior[i], lines.prior_matching(chain, picture)))
    return pairs
