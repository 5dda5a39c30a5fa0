"""Luo Eqs. 143–151: learning the slope of the log density, and what it has to do with noise."""

import math
from functools import partial

import torch
from torch import Tensor

from ...chain import (
    mean_from_score,
    mean_from_x0,
    mean_gap,
    posterior,
    posterior_variance,
    weight_eps,
    weight_score,
)
from ...denoiser import Estimate
from ...gaussian import Normal
from ...oracle import Mixture
from ...predict import EPS, SCORE, X0, ScorePrediction
from ...scaling import FLOW, VP, units
from ..equation import Finding, all_equal, equal, equation, require
from ..fixtures import OnALine, Steps, level, network, steps

line = partial(equation, part="Three Equivalent Interpretations", page=17)

_ON = "steps of four chains, three pixels"
_MIN = r"\arg\min_\theta\; "
_HALF = r"\frac{1}{2\sigma_q^2(t)}"
_SHARE = r"\frac{1-\alpha_t}{\sqrt{\alpha_t}}"
_NABLA = r"\nabla\log p(x_t)"
_SPOTS = torch.linspace(-4.0, 4.0, 25, dtype=torch.float64).unsqueeze(1)
_LEVELS = (0.55, 0.3, 0.12)
_given = partial(
    line,
    status="condition",
    erratum="E7",
    note="True if ∇log p(x_t) is read as ∇log q(x_t | x_0), the slope given the picture.",
)
_average = partial(
    line,
    status="condition",
    erratum="E6",
    note="True for ∇log q(x_t | x_0); for ∇log p(x_t) read x_0 and ε_0 as their averages given "
    "x_t.",
)


def _slope(f: Steps) -> Tensor:
    """∇ log q(x_t | x_0) of a Gaussian, (B, 3), by autograd."""
    x = f.x_t.clone().requires_grad_()
    log_q = torch.distributions.Normal(f.bar.sqrt() * f.x0, (1 - f.bar).sqrt()).log_prob(x)
    return torch.autograd.grad(log_q.sum(), x)[0]


def _share(f: Steps) -> Tensor:
    return (1 - f.a) / f.a.sqrt()


def _loss(f: Steps, printed: Tensor) -> Finding:
    """Luo Eq. 92 with both means told by a slope against a line's loss, (B,)."""
    q, p = (mean_from_score(f.x_t, score, f.t, f.s) for score in (_slope(f), f.s_hat))
    pairs = [(mean_gap(p, q, posterior_variance(f.t, f.s)), printed), (q, f.mean_q(f.x0))]
    return all_equal(pairs, f"loss and means, {_ON}, an untrained network")


def _number(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def _lam(bar: float) -> float:
    return math.log(bar / (1.0 - bar))


@line(
    "143",
    latex=r"\mu_\theta(x_t,t) = \frac{1}{\sqrt{\alpha_t}}x_t + " + _SHARE + r"s_\theta(x_t,t)",
    says="The model may therefore also guess the slope of the log density, the score.",
    home=(mean_from_score, Estimate.read),
)
def _() -> Finding:
    f = steps()
    ours = mean_from_score(f.x_t, f.s_hat, f.t, f.s)
    picture = Estimate(f.x_t, f.t.lam, VP, f.s_hat, SCORE).read(X0)
    pairs = [(ours, f.x_t / f.a.sqrt() + _share(f) * f.s_hat), (ours, f.mean_q(picture))]
    pairs += [(ours, mean_from_x0(f.x_t, picture, f.t, f.s))]
    return all_equal(pairs, f"μ_θ of an untrained network, {_ON}")


@_given(
    "144",
    latex=_MIN + r"D_{\mathrm{KL}}\left(q(x_{t-1} \mid x_t, x_0)\,\Vert\,p_\theta(x_{t-1} \mid x_t)"
    r"\right) = " + _MIN + r"D_{\mathrm{KL}}\left(\mathcal{N}(x_{t-1};\mu_q,\Sigma_q(t))\,\Vert\,"
    r"\mathcal{N}(x_{t-1};\mu_\theta,\Sigma_q(t))\right)",
    says="Compare the two steps back, now with means that are told by the score.",
    home=(mean_from_score, posterior, Normal.kl),
)
def _() -> Finding:
    f = steps()
    q = posterior(f.x_t, f.x0, f.t, f.s)
    kl = q.kl(Normal(mean_from_score(f.x_t, f.s_hat, f.t, f.s), q.log_std))
    means = (f.x_t / f.a.sqrt() + _share(f) * score for score in (f.s_hat, _slope(f)))
    p, q = (torch.distributions.Normal(mean, f.var_q.sqrt()) for mean in means)
    return equal(kl, torch.distributions.kl_divergence(q, p).sum(1), f"KL, {_ON}")


@_given(
    "145",
    latex=_MIN + _HALF + r"\left[\left\Vert\frac{1}{\sqrt{\alpha_t}}x_t + " + _SHARE
    + r"s_\theta - \frac{1}{\sqrt{\alpha_t}}x_t - " + _SHARE + _NABLA
    + r"\right\Vert_2^2\right]",
    says="Only the squared distance of the two means counts.",
    home=(mean_gap, mean_from_score),
)  # fmt: skip
def _() -> Finding:
    f = steps()
    p, q = (f.x_t / f.a.sqrt() + _share(f) * score for score in (f.s_hat, _slope(f)))
    return _loss(f, f.loss(p, q))


@_given(
    "146",
    latex=_MIN + _HALF + r"\left[\left\Vert" + _SHARE + r"s_\theta(x_t,t) - " + _SHARE + _NABLA
    + r"\right\Vert_2^2\right]",
    says="Both contain the noisy picture in the same way, which cancels.",
    home=(mean_gap, mean_from_score),
)  # fmt: skip
def _() -> Finding:
    f = steps()
    return _loss(f, f.loss(_share(f) * f.s_hat, _share(f) * _slope(f)))


@_given(
    "147",
    latex=_MIN + _HALF + r"\left[\left\Vert" + _SHARE + r"\left(s_\theta(x_t,t) - " + _NABLA
    + r"\right)\right\Vert_2^2\right]",
    says="What is left is the error of the guessed score, times one number.",
    home=(mean_gap, mean_from_score),
)  # fmt: skip
def _() -> Finding:
    f = steps()
    return _loss(f, f.loss(_share(f) * (f.s_hat - _slope(f))))


@line(
    "148",
    latex=_MIN
    + _HALF
    + r"\frac{(1-\alpha_t)^2}{\alpha_t}\left[\left\Vert s_\theta(x_t,t) - "
    + _NABLA
    + r"\right\Vert_2^2\right]",
    says="Guessing the score is the third form of the same training; with the slope of the whole "
    "density the loss is lower by a number that training cannot change.",
    home=(weight_score, weight_eps),
    status="condition",
    erratum="E7",
    note="Equal to the KL with ∇log q(x_t | x_0); with ∇log p(x_t) it is lower by the weight times "
    "1/(1−ᾱ_t) per pixel minus the mean square of ∇log p(x_t), so a bound reported from it is too "
    "good.",
)
def _() -> Finding:
    f = steps()
    printed = ((1 - f.a) ** 2 / (2 * f.var_q * f.a)).squeeze(1)
    one = torch.ones_like(printed)
    weight = weight_score(f.t, f.s)
    loss = f.loss(_share(f) * (f.s_hat - _slope(f)))
    pairs = [(weight / printed, one), (weight * ((f.s_hat - _slope(f)) ** 2).sum(1), loss)]
    pairs += [(weight_eps(f.t, f.s) * (1 - f.bar).squeeze(1) / printed, one)]
    pairs += [pair for seed in (5, 6) for pair in _both_scores(seed)]
    return all_equal(pairs, f"weight, loss, {_ON}; the gap of the two readings on a line")


def _both_scores(seed: int) -> list[tuple[Tensor, Tensor]]:
    """E[KL] against the loss with the slope of log p(x_t), plus the number that sets them apart;
    for an untrained network on the line."""
    bar, prev = _number(0.4), _number(0.7)
    world = OnALine(401)
    x, share = world.places(0.4, 201)
    t, s = level(bar), level(prev)
    guess = network(seed, dims=1)(x, t.lam.expand(len(x)))
    marginal = world.score(x, 0.4)
    square = (share * marginal**2).sum()
    everywhere = world.joint(x, 0.4) * (x[1] - x[0])  # the probability of every (x_t, x_0)
    mean = mean_from_score(x, guess, t, s)
    target = (mean_from_x0(x, x0.expand(len(x), 1), t, s) for x0 in world.x0)
    kl = torch.stack([mean_gap(mean, q, posterior_variance(t, s)) for q in target], 1)
    loss = weight_score(t, s) * (share * (guess - marginal) ** 2).sum()
    apart = weight_score(t, s) * (1.0 / (1.0 - 0.4) - square)
    require(bool(apart > 0.01), "the two readings of the score give different losses")
    return [((everywhere * kl).sum(), (loss + apart).squeeze())]


def _readings() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(x_t, slope, noise, ᾱ_t): given the picture, and on average on a line."""
    f, world, x = steps(), OnALine(), _SPOTS
    found = [(f.x_t, _slope(f), f.eps, f.bar)]
    for bar in _LEVELS:
        noise = world.mean(x, bar, (x - bar**0.5 * world.x0) / (1 - bar) ** 0.5)
        found.append((x, world.score(x, bar), noise, _number(bar)))
    return found


def _told(x: Tensor, out: Tensor, bar: Tensor, *, noise: bool) -> Estimate:
    lam = (bar / (1 - bar)).log().flatten().expand(len(x))
    return Estimate(x, lam, VP, out, EPS if noise else SCORE)


@_average(
    "149",
    latex=r"x_0 = \frac{x_t + (1-\bar\alpha_t)" + _NABLA + r"}{\sqrt{\bar\alpha_t}} = "
    r"\frac{x_t - \sqrt{1-\bar\alpha_t}\,\epsilon_0}{\sqrt{\bar\alpha_t}}",
    says="The score and the noise both tell the picture, so they must tell each other.",
    home=(Estimate.read, ScorePrediction.row),
)
def _() -> Finding:
    pairs = []
    for x, slope, noise, bar in _readings():
        by_score = _told(x, slope, bar, noise=False).read(X0)
        by_noise = _told(x, noise, bar, noise=True).read(X0)
        pairs += [(by_score, (x + (1 - bar) * slope) / bar.sqrt())]
        pairs += [(by_noise, (x - (1 - bar).sqrt() * noise) / bar.sqrt()), (by_score, by_noise)]
    return all_equal(pairs, f"given the picture: {_ON}; on average: three levels of a mixture")


@_average(
    "150",
    latex=r"\therefore\; (1-\bar\alpha_t)" + _NABLA + r" = -\sqrt{1-\bar\alpha_t}\,\epsilon_0",
    says="What is equal on both sides is taken away.",
    home=(Estimate.read, ScorePrediction.row),
)
def _() -> Finding:
    pairs = []
    for x, slope, noise, bar in _readings():
        by_noise = _told(x, noise, bar, noise=True).read(SCORE)
        pairs += [((1 - bar) * by_noise, (1 - bar) * slope)]
        pairs += [((1 - bar) * slope, -((1 - bar).sqrt()) * noise)]
    return all_equal(pairs, f"given the picture: {_ON}; on average: three levels of a mixture")


@_average(
    "151",
    latex=_NABLA + r" = -\frac{1}{\sqrt{1-\bar\alpha_t}}\epsilon_0",
    says="The score is the noise, turned round and scaled: the way uphill is straight against the "
    "noise.",
    home=(ScorePrediction.row, Estimate.read, Mixture.score),
)
def _() -> Finding:
    pairs = []
    for x, slope, noise, bar in _readings():
        by_score = _told(x, slope, bar, noise=False).read(EPS)
        pairs += [(by_score, noise), (slope, -noise / (1 - bar).sqrt())]
    world, x = OnALine(), _SPOTS
    for bar in _LEVELS:
        pairs += [(world.oracle().score(x, _lam(bar)), world.score(x, bar))]
        factor = units(_lam(bar), VP, FLOW)  # in other units x is stretched and the slope shrunk
        estimate = Estimate(x, _lam(bar), VP, world.score(x, bar), SCORE)
        pairs += [(estimate.read(ScorePrediction(FLOW)) * factor, world.score(x, bar))]
    require(ScorePrediction(VP).row(math.inf) == (0.0, -math.inf), "infinite without noise")
    return all_equal(pairs, f"given the picture: {_ON}; on average: three levels of a mixture")
