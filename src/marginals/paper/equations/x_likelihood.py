"""Extensions: diffusion losses as likelihoods and as weightings."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from ...chain import weight_expm1, weight_snr
from ...objective import (
    Elbo,
    Objective,
    UniformTime,
)
from ...oracle import Mixture
from ...predict import EPS, V
from ...scaling import VP
from ...schedule import Cosine, Karras, LinearBeta, LogLinear, Truncated
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_likelihood import (
    augmented_elbos,
    best_density,
    clean_errors,
    continuous_loss,
    discrete_loss,
    second_moment,
)
from ..extra_worlds import gauss, integrate, line, normal, numbers, three_bumps

PART = "Likelihood and weighting"
VDM = "Kingma et al. 2021 (VDM), arXiv 2107.00630"
WEIGHTS = "Kingma & Gao 2023, arXiv 2303.00848"
STD = 0.6


def _error(lam: Tensor) -> Tensor:
    """E‖ε − ε̂‖² of the exact denoiser of N(0, 0.6²) data: sigmoid(λ + 2·log s)."""
    return torch.sigmoid(lam + 2.0 * math.log(STD))


def _loss(high: float, low: float) -> float:
    """½ ∫ of it, in closed form."""
    return 0.5 * math.log((1.0 + STD**2 * math.exp(high)) / (1.0 + STD**2 * math.exp(low)))


@equation(
    "X1",
    part=PART,
    source=VDM + ", Eqs. 13-14",
    latex=r"L_T = \frac{1}{2}\sum_{i=1}^{T} \left(e^{\lambda_s - \lambda_t} - 1\right) \mathbb{E}"
    r"\left\lVert \epsilon - \hat\epsilon \right\rVert^2 = \frac{1}{2}\sum_{i=1}^{T} "
    r"\left(\mathrm{SNR}(s) - \mathrm{SNR}(t)\right) \mathbb{E}\left\lVert x - \hat x "
    r"\right\rVert^2",
    says="The cost of all denoising steps can be counted in wrongly guessed noise or in wrongly "
    "guessed picture, and is the same.",
    home=(discrete_loss, clean_errors),
)
def _() -> Finding:
    lams = numbers(-4.1, -2.7, -1.9, 0.3, 1.1, 3.2)
    noisy, x, eps = VP(lams[:-1]), normal(5, 4), normal(5, 4)
    guess = eps + 0.4 * normal(5, 4)
    x_t = noisy.alpha.unsqueeze(1) * x + noisy.sigma.unsqueeze(1) * eps
    picture = (x_t - noisy.sigma.unsqueeze(1) * guess) / noisy.alpha.unsqueeze(1)
    error, clean = (eps - guess).square().sum(1), (x - picture).square().sum(1)
    snr = lams.exp()
    steps = [(VP(a), VP(b)) for a, b in zip(lams.tolist(), lams.tolist()[1:])]
    by_step = sum(weight_expm1(t, s) * e for (t, s), e in zip(steps, error.tolist()))
    in_x = sum(weight_snr(t, s) * e for (t, s), e in zip(steps, clean.tolist()))
    found = discrete_loss(error, lams)
    pairs = [(found, 0.5 * ((snr[1:] - snr[:-1]) * clean).sum()), (found, by_step), (found, in_x)]
    return all_equal([*pairs, (clean_errors(error, lams[:-1]), clean)], "noise and picture errors")


@equation(
    "X2",
    part=PART,
    source=VDM + ", Eqs. 17-18",
    latex=r"L_\infty = \frac{1}{2}\int_{\lambda_{\min}}^{\lambda_{\max}} \mathbb{E}\left\lVert "
    r"\epsilon - \hat\epsilon(x_\lambda) \right\rVert^2 d\lambda = \frac{1}{2}"
    r"\int_{\mathrm{SNR}_{\min}}^{\mathrm{SNR}_{\max}} \mathbb{E}\left\lVert x - \hat x_v "
    r"\right\rVert^2 dv",
    says="With infinitely many steps the loss is the area under the error curve over all noise "
    "levels.",
    home=continuous_loss,
    tolerance=1e-6,
)
def _() -> Finding:
    lams = line(-5.0, 7.0, 12001)
    found = continuous_loss(_error(lams), lams)
    snr, weights = gauss(math.exp(-5.0), math.exp(7.0), 400)
    in_x = 0.5 * (weights * STD**2 / (1.0 + STD**2 * snr)).sum()
    pairs = [(found, _loss(7.0, -5.0)), (found, in_x)]
    return all_equal(pairs, "Gaussian data: trapezoids, ∫ dSNR, and the closed form")


@equation(
    "X3",
    part=PART,
    source=VDM + ", section 5.1",
    latex=r"\frac{1}{2}\,\mathbb{E}_{t}\left[-\frac{d\lambda}{dt}\, \mathbb{E}\left\lVert \epsilon "
    r"- \hat\epsilon \right\rVert^2\right] \text{ is the same for every schedule } \lambda(t) "
    r"\text{ with the same ends}",
    says="How time is spent between the two ends changes how noisy the estimate of the loss is, "
    "but not the loss.",
    home=Objective.weight,
)
def _() -> Finding:
    high, low, pairs = 6.0, -5.0, []
    u, nodes = gauss(0.0, 1.0, 400)
    ends = (math.exp(-0.5 * high), math.exp(-0.5 * low))
    schedules = (
        LogLinear(high, low),
        Truncated(Cosine(), high, low),
        Karras(*ends, 3.0),
        Truncated(LinearBeta(), high, low),
    )
    for schedule in schedules:
        levels = UniformTime(schedule)
        lam, objective = levels.sample(u), Objective(Elbo(), levels)
        in_v = _error(lam) / torch.sigmoid(lam)  # an error in v is 1/α² of one in ε
        for prediction, error in ((EPS, _error(lam)), (V, in_v)):
            found = (nodes * objective.weight(prediction, lam) * error).sum()
            pairs.append((found, _loss(high, low)))
    return all_equal(pairs, "four schedules, two predictions, one closed form")


@equation(
    "X4",
    part=PART,
    source=VDM + ", section 4",
    latex=r"L_T \ge L_{2T} \ge L_\infty, \qquad L_T - L_\infty = O(1/T)",
    says="With the best denoiser more steps never cost bits; once there are many, twice as many "
    "halve what is lost.",
    home=(discrete_loss, weight_expm1),
    status="limit",
    tolerance=0.01,
    note="For the exact denoiser. A network that guesses worse at cleaner levels may lose by more "
    "steps.",
)
def _() -> Finding:
    limit, gaps = _loss(5.0, -6.0), []
    for steps in (1, 4, 16, 64, 512, 1024):
        lams = line(-6.0, 5.0, steps + 1)
        errors = _error(lams[:-1])
        pairs = zip(lams.tolist(), lams.tolist()[1:])
        weights = numbers(*(float(weight_expm1(VP(t), VP(s))) for t, s in pairs))
        total = discrete_loss(errors, lams)
        require(abs(total - (weights * errors).sum()).item() < 1e-9, "both write the same weight")
        gaps.append((total - limit).item())
    require(all(a > b > 0 for a, b in pairwise(gaps)), "the loss falls to its limit")
    return Finding(abs(math.log2(gaps[-2] / gaps[-1]) - 1.0), "the order of L_T − L_∞ in 1/T")


@equation(
    "X5",
    part=PART,
    source="Guo, Shamai & Verdú 2005 (I-MMSE)",
    latex=r"I(x_0; x_{\lambda_1}) - I(x_0; x_{\lambda_0}) = \frac{1}{2}\int_{\lambda_0}"
    r"^{\lambda_1} e^{\lambda}\, \mathbb{E}\left[\mathrm{Var}(x_0 \mid x_\lambda)\right] d\lambda",
    says="What noise hides is measured by how badly the best denoiser does: information gained is "
    "the area under its error.",
    home=(Mixture.__call__, Mixture.log_prob),
    tolerance=1e-9,
)
def _() -> Finding:
    mixture, x = three_bumps(), line(-8.0, 8.0, 1201).unsqueeze(1)

    def information(lam: float) -> Tensor:
        log_p = mixture.log_prob(x, lam)
        noise = 0.5 * math.log(2.0 * math.pi * math.e) + math.log(VP(lam).sigma)
        return integrate(-log_p.exp() * log_p, x[:, 0]) - noise

    lams, weights = gauss(-3.0, 2.0, 24)
    errors = []
    for lam in lams.tolist():
        estimate, p = mixture(x, lam), mixture.log_prob(x, lam).exp()
        assert estimate.var is not None
        errors.append(integrate(p * estimate.var[:, 0], x[:, 0]) * math.exp(lam))
    area = 0.5 * (weights * torch.stack(errors)).sum()
    both = _posterior_moments(mixture, numbers(-1.7, 0.2, 0.9, 2.2).unsqueeze(1), 0.8)
    return all_equal([(area, information(2.0) - information(-3.0)), *both], "area and information")


def _posterior_moments(mixture: Mixture, x: Tensor, lam: float) -> list[tuple[Tensor, Tensor]]:
    """E[x0 | x] and Var[x0 | x] of the oracle, and by quadrature over x0."""
    clean, level = line(-5.0, 5.0, 2001), VP(lam)
    noise = torch.distributions.Normal(level.alpha * clean, level.sigma).log_prob(x)
    posterior = torch.softmax(mixture.log_prob(clean.unsqueeze(1)) + noise, 1)
    mean = posterior @ clean
    var = (posterior * (clean - mean.unsqueeze(1)) ** 2).sum(1)
    found = mixture(x, torch.full((len(x),), lam, dtype=torch.float64))
    assert found.var is not None
    noise = (x[:, 0] - level.alpha * mean) / level.sigma
    pairs = [(found.x0[:, 0], mean), (found.var[:, 0], var), (found.eps[:, 0], noise)]
    return [*pairs, (found.x, x)]


@equation(
    "X6",
    part=PART,
    source=WEIGHTS + ", Theorem 1",
    latex=r"\frac{1}{2}\int w(\lambda)\, \mathbb{E}\left\lVert \epsilon - \hat\epsilon "
    r"\right\rVert^2 d\lambda = w(\lambda_{\max}) L(\lambda_{\max}) - \int L(\lambda)\, "
    r"\frac{dw}{d\lambda}\, d\lambda",
    says="A loss that never weighs cleaner levels more is an average of likelihood bounds, each "
    "for pictures with some noise added.",
    home=augmented_elbos,
    status="condition",
    tolerance=1e-6,
    note="L(λ) is the loss of all levels noisier than λ, 0 at λ_min. The right side is an average "
    "only if w never rises with λ; otherwise some bounds count negatively.",
)
def _() -> Finding:
    lams = line(-5.0, 7.0, 12001)
    weights = torch.sigmoid(1.3 - lams)
    losses = 0.5 * torch.log1p(STD**2 * lams.exp()) - 0.5 * math.log1p(STD**2 * math.exp(-5.0))
    require(bool((weights.diff() < 0).all()), "the weight falls")
    at, nodes = gauss(-5.0, 7.0, 80)
    weighted = 0.5 * (nodes * torch.sigmoid(1.3 - at) * _error(at)).sum()
    return equal(augmented_elbos(weights, losses), weighted, "the weighted loss, by parts")


@equation(
    "X7",
    part=PART,
    source="Nichol & Dhariwal 2021, arXiv 2102.09672, section 3.3",
    latex=r"p(\lambda) \propto \sqrt{\mathbb{E}[e^2 \mid \lambda]} \quad\text{minimises}\quad "
    r"\frac{1}{4}\int \frac{\mathbb{E}[e^2 \mid \lambda]}{p(\lambda)}\, d\lambda",
    says="The estimate of the loss is least noisy if noise levels are visited as often as their "
    "errors are large.",
    home=(best_density, second_moment),
    note="The mean of the estimate does not depend on p. This is what a learned schedule learns.",
)
def _() -> Finding:
    lams, nodes = gauss(-5.0, 7.0, 60)
    squares = 3.0 * _error(lams) ** 2 + 0.05 * (1.0 + lams.sin())
    best = best_density(squares, nodes)
    least = 0.25 * (nodes * squares.sqrt()).sum() ** 2
    uniform = second_moment(squares, torch.full_like(lams, 1.0 / 12.0), nodes)
    pairs = [
        ((nodes * best).sum(), 1.0),
        (second_moment(squares, best, nodes), least),
        (uniform, 3.0 * (nodes * squares).sum()),
    ]
    for shift in (0.3, -0.2):
        other = best * (1.0 + shift * lams.sin())
        other = other / (nodes * other).sum()
        require(bool(second_moment(squares, other, nodes) > least), "every other density is worse")
    return all_equal(pairs, "the least second moment against ¼(∫√E[e²])²")
