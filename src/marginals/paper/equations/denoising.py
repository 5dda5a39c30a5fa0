"""Luo Eqs. 46-57: the way to the second form of a diffusion model's bound."""

from functools import partial
from math import sqrt

from torch import Tensor
from torch.distributions import Normal

from .. import dense, linear
from .. import second_bound as lines
from ..equation import Finding, all_equal, equation, require
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
            law = back(chain, path, t)
            pairs.append((linear.log_back(chain, path, t), _sum(law, path[:, t - 1])))
    return all_equal(pairs, "against the step's own density; the step back by conditioning")


def _sum(law: Normal, x: Tensor) -> Tensor:
    return law.log_prob(x).sum(1)


def back(chain: linear.Chain, path: Tensor, t: int) -> Normal:
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
