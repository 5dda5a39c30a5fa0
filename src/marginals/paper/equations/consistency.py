"""Luo Eqs. 34-45: the first form of a diffusion model's bound; checked on exact chains."""

from collections.abc import Callable
from functools import partial
from math import sqrt

import torch
from torch import Tensor

from .. import dense, linear
from .. import first_bound as lines
from ..equation import Finding, all_equal, equation, gap, require

luo = partial(equation, part="Variational Diffusion Models", page=8)

PATH = r"\mathbb{E}_{q(x_{1:T} \mid x_0)}"
RECONSTRUCTION = r"\mathbb{E}_{q(x_1 \mid x_0)}\left[\log p_\theta(x_0 \mid x_1)\right]"
VALUE = "against log p(x) − KL of the whole chain as one Gaussian, T = 1, 2, 4"

Inside = Callable[[linear.Chain, Tensor], Tensor]


def _chains() -> list[tuple[linear.Chain, Tensor]]:
    return [dense.some_chain(steps) for steps in (1, 2, 4)]


def inside(line: Inside) -> Finding:
    """What stands inside the expectation: right at arbitrary paths, and on average."""
    pairs = []
    for chain, x0 in _chains():
        path = dense.some_paths(chain, x0)
        p = dense.model_law(chain).log_prob(path.mT).sum(1)
        q = dense.forward_law(chain, x0).log_prob(path[:, 1:].mT).sum(1)
        pairs.append((line(chain, path), p - q))
        pairs.append((line(chain, linear.paths(chain, x0)).mean(), dense.bound(chain, x0)))
    return all_equal(pairs, f"log p/q at arbitrary paths, and its mean {VALUE}")


def value(line: Inside) -> Finding:
    """A line whose expectation is taken: the right number of nats."""
    pairs = [(line(chain, x0), dense.bound(chain, x0)) for chain, x0 in _chains()]
    return all_equal(pairs, f"the expectation {VALUE}")


@luo(
    "34",
    latex=r"\log p(x) = \log\int p(x_{0:T})\, dx_{1:T}",
    says="A diffusion model's probability of a picture adds up all the noisy ways that could have "
    "led to it.",
    home=linear.log_evidence,
)
def _() -> Finding:
    pairs = [(linear.log_evidence(c, x0), dense.log_evidence(c, x0)) for c, x0 in _chains()]
    chain, x0 = dense.some_chain(2, dims=1)
    grid, cell = dense.grid_paths(x0, 2)
    total = dense.model_law(chain).log_prob(grid.mT).sum(1).exp().sum() * cell
    pairs.append((linear.log_evidence(chain, x0), total.log()))
    return all_equal(pairs, "rung by rung against one big Gaussian, and against an integral")


@luo(
    "35",
    latex=r"= \log\int \frac{p(x_{0:T})\, q(x_{1:T} \mid x_0)}{q(x_{1:T} \mid x_0)}\, dx_{1:T}",
    says="As before, multiplying and dividing by the probability of the way to noise changes "
    "nothing.",
    home=linear.log_integral_times_one,
)
def _() -> Finding:
    pairs = []
    for steps in (1, 2):
        chain, x0 = dense.some_chain(steps, dims=1)
        grid, cell = dense.grid_paths(x0, steps)
        total = linear.log_integral_times_one(chain, grid, cell)
        pairs.append((total, dense.log_evidence(chain, x0)))
    return all_equal(pairs, "the integral on a grid against the closed form, T = 1, 2")


@luo(
    "36",
    latex=rf"= \log{PATH}" + r"\left[\frac{p(x_{0:T})}{q(x_{1:T} \mid x_0)}\right]",
    says="So the probability of the picture is an average over the ways in which it turns into "
    "noise, each weighted by how probable the way back is.",
    home=linear.log_mean_ratio,
)
def _() -> Finding:
    pairs = []
    for steps in (1, 2):
        chain, x0 = dense.some_chain(steps, dims=1)
        grid, cell = dense.grid_paths(x0, steps)
        log_q = dense.forward_law(chain, x0).log_prob(grid[:, 1:].mT).sum(1)
        likely = log_q > -600.0  # elsewhere nothing is left of q, nor of p
        mean = linear.log_mean_ratio(chain, grid[likely], log_q[likely].exp() * cell)
        pairs.append((mean, dense.log_evidence(chain, x0)))
    return all_equal(pairs, "the average by quadrature against the closed form, T = 1, 2")


@luo(
    "37",
    latex=rf"\geq {PATH}" + r"\left[\log\frac{p(x_{0:T})}{q(x_{1:T} \mid x_0)}\right]",
    says="The ELBO of a diffusion model: never above the log-probability of the picture, and equal "
    "to it only if the way back undoes the noise perfectly.",
    home=(linear.elbo, linear.paths, linear.moments),
    status="bound",
)
def _() -> Finding:
    pairs = []
    for chain, x0 in _chains():
        require(dense.gap(chain, x0).item() > 0.1, "the bound is not strict")
        pairs.append((linear.elbo(chain, x0) + dense.gap(chain, x0), dense.log_evidence(chain, x0)))
    perfect, x0 = dense.perfect_chain(4, 0.4, 0.7), torch.tensor([0.9], dtype=torch.float64)
    law = torch.distributions.Normal(x0.new_tensor(0.4), x0.new_tensor(0.7))
    pairs.append((linear.elbo(perfect, x0), law.log_prob(x0)[0]))
    return all_equal(pairs, "the bound plus the KL against log p(x); tight for a perfect way back")


@luo(
    "38",
    latex=rf"= {PATH}" + r"\left[\log\frac{p(x_T) \prod_{t=1}^{T} p_\theta(x_{t-1} \mid x_t)}"
    r"{\prod_{t=1}^{T} q(x_t \mid x_{t-1})}\right]",
    says="Both ways are written out as products of their steps.",
    home=lines.line_38,
)
def _() -> Finding:
    return inside(lines.line_38)


@luo(
    "39",
    latex=rf"= {PATH}" + r"\left[\log\frac{p(x_T)\, p_\theta(x_0 \mid x_1) \prod_{t=2}^{T} "
    r"p_\theta(x_{t-1} \mid x_t)}{q(x_T \mid x_{T-1}) \prod_{t=1}^{T-1} "
    r"q(x_t \mid x_{t-1})}\right]",
    says="The step that ends in the picture and the step that ends in noise are written apart from "
    "the others.",
    home=lines.line_39,
)
def _() -> Finding:
    return inside(lines.line_39)


@luo(
    "40",
    latex=rf"= {PATH}" + r"\left[\log\frac{p(x_T)\, p_\theta(x_0 \mid x_1) \prod_{t=1}^{T-1} "
    r"p_\theta(x_t \mid x_{t+1})}{q(x_T \mid x_{T-1}) \prod_{t=1}^{T-1} "
    r"q(x_t \mid x_{t-1})}\right]",
    says="The steps back are counted differently, so that both products speak about the same noisy "
    "picture, reached from either side.",
    home=lines.line_40,
)
def _() -> Finding:
    return inside(lines.line_40)


@luo(
    "41",
    latex=rf"= {PATH}"
    + r"\left[\log\frac{p(x_T)\, p_\theta(x_0 \mid x_1)}{q(x_T \mid x_{T-1})}\right] + "
    + PATH
    + r"\left[\log\prod_{t=1}^{T-1} \frac{p_\theta(x_t \mid x_{t+1})}{q(x_t \mid x_{t-1})}\right]",
    says="The log of the product is split: the two ends, and everything between.",
    home=lines.line_41,
)
def _() -> Finding:
    return value(lines.line_41)


@luo(
    "42",
    latex=rf"= {PATH}\left[\log p_\theta(x_0 \mid x_1)\right] + {PATH}"
    + r"\left[\log\frac{p(x_T)}{q(x_T \mid x_{T-1})}\right] + "
    + PATH
    + r"\left[\sum_{t=1}^{T-1} \log\frac{p_\theta(x_t \mid x_{t+1})}{q(x_t \mid x_{t-1})}\right]",
    says="The two ends are split too, and the log of a product becomes a sum of logs.",
    home=lines.line_42,
)
def _() -> Finding:
    return value(lines.line_42)


@luo(
    "43",
    latex=rf"= {PATH}\left[\log p_\theta(x_0 \mid x_1)\right] + {PATH}"
    + r"\left[\log\frac{p(x_T)}{q(x_T \mid x_{T-1})}\right] + \sum_{t=1}^{T-1} "
    + PATH
    + r"\left[\log\frac{p_\theta(x_t \mid x_{t+1})}{q(x_t \mid x_{t-1})}\right]",
    says="The average of a sum is the sum of the averages.",
    home=lines.line_43,
)
def _() -> Finding:
    return value(lines.line_43)


@luo(
    "44",
    latex=rf"= {RECONSTRUCTION}"
    + r" + \mathbb{E}_{q(x_{T-1}, x_T \mid x_0)}\left[\log\frac{p(x_T)}{q(x_T \mid x_{T-1})}"
    r"\right] + \sum_{t=1}^{T-1} \mathbb{E}_{q(x_{t-1}, x_t, x_{t+1} \mid x_0)}\left[\log"
    r"\frac{p_\theta(x_t \mid x_{t+1})}{q(x_t \mid x_{t-1})}\right]",
    says="Each average needs only the noisy pictures that occur in it: one for the picture's end, "
    "two for the noise's end, three neighbours for each step between.",
    home=(lines.line_44, lines.first_reconstruction, linear.paths),
    note="This is the last correct line of the first derivation; its third term may be negative "
    "or positive and is not a KL divergence.",
)
def _() -> Finding:
    return value(lines.line_44)


@luo(
    "45",
    latex=rf"= \underbrace{{{RECONSTRUCTION}}}_{{\text{{reconstruction}}}}"
    + r" - \underbrace{\mathbb{E}_{q(x_{T-1} \mid x_0)}\left[D_{\mathrm{KL}}\left("
    r"q(x_T \mid x_{T-1}) \,\Vert\, p(x_T)\right)\right]}_{\text{prior matching}}"
    r" - \sum_{t=1}^{T-1} \underbrace{\mathbb{E}_{q(x_{t-1}, x_{t+1} \mid x_0)}\left["
    r"D_{\mathrm{KL}}\left(q(x_t \mid x_{t-1}) \,\Vert\, p_\theta(x_t \mid x_{t+1})\right)\right]}"
    r"_{\text{consistency}}",
    says="The paper's last line of this derivation replaces the averages by distances; with two or "
    "more steps that gives a different number, so it should not be used for training or reporting.",
    home=(lines.line_45, lines.consistency_gap),
    status="wrong",
    note="Equal to Eq. 44 for T = 1 only: given both neighbours, x_t "
    "does not follow q(x_t | x_{t-1}). On linear-Gaussian chains Eq. 45 − Eq. 44 = "
    "−Σ c_{t+1}·√α_{t+1}·(1 − α_t)/s²_{t+1}. It still never exceeds log p(x).",
    erratum="E1",
)
def _() -> Finding:
    worst = 0.0
    for chain, x0 in [*_chains(), dense.some_chain(3, seed=5)]:
        printed, true = lines.line_45(chain, x0), dense.bound(chain, x0)
        formula = _gap_by_hand(chain)
        require(chain.steps == 1 or abs(formula) > 0.3, "Eq. 45 looks like Eq. 44")
        require(printed.item() < dense.log_evidence(chain, x0).item(), "Eq. 45 exceeds log p(x)")
        worst = max(worst, gap(printed - true, formula))
        worst = max(worst, gap(lines.consistency_gap(chain), formula))
    return Finding(worst, "Eq. 45 − Eq. 44 against the gap formula, T = 1 (none), 2, 3, 4")


def _gap_by_hand(chain: linear.Chain) -> float:
    """−Σ_{t<T} c_{t+1}·√α_{t+1}·(1 − α_t)/s²_{t+1}, summed over the pixels."""
    total = 0.0
    for t in range(1, chain.steps):
        alpha, after = chain.alphas[t - 1].item(), chain.alphas[t].item()
        for c, s2 in zip(chain.gain[t].tolist(), chain.var[t].tolist()):
            total -= c * sqrt(after) * (1.0 - alpha) / s2
    return total
