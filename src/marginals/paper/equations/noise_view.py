"""Luo Eqs. 115–130: guessing the picture and guessing the noise are one task."""

from functools import partial

import torch
from torch import Tensor

from ...chain import (
    mean_from_eps,
    mean_from_x0,
    mean_gap,
    posterior,
    posterior_variance,
    weight_eps,
    weight_expm1,
    weight_x0,
)
from ...denoiser import Estimate
from ...gaussian import Normal
from ...predict import EPS, VELOCITY, X0, NoisePrediction, V
from ...scaling import FLOW, VP, units
from ..equation import Finding, all_equal, equal, equation
from ..fixtures import Steps, steps

line = partial(equation, part="Three Equivalent Interpretations", page=15)

_ON = "steps of four chains, three pixels"
_MU = r"\mu_q(x_t,x_0) = "
_MIN = r"\arg\min_\theta\; "
_HALF = r"\frac{1}{2\sigma_q^2(t)}"
_SHARE = r"\frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}\sqrt{\alpha_t}}"
_NOISE = " - " + _SHARE + r"\epsilon_0"


def _mean(printed: Tensor) -> Finding:
    """The mean of the step back, told by the noise and told by the picture, against a line's."""
    f = steps()
    by_noise = mean_from_eps(f.x_t, f.eps, f.t, f.s)
    by_picture = mean_from_x0(f.x_t, f.x0, f.t, f.s)
    return all_equal([(by_noise, printed), (by_picture, printed)], f"μ_q both ways, {_ON}")


def _share(f: Steps) -> Tensor:
    """What multiplies −ε_0 in Eqs. 121–130."""
    return (1 - f.a) / ((1 - f.bar).sqrt() * f.a.sqrt())


def _loss(f: Steps, printed: Tensor) -> Finding:
    """Luo Eq. 92 with both means told by noise against a line's loss, (B,)."""
    q, p = (mean_from_eps(f.x_t, eps, f.t, f.s) for eps in (f.eps, f.eps_hat))
    pairs = [(mean_gap(p, q, posterior_variance(f.t, f.s)), printed), (q, f.mean_q(f.x0))]
    return all_equal(pairs, f"loss and means, {_ON}, an untrained network")


@line(
    "115",
    latex=r"x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\,\epsilon_0}{\sqrt{\bar\alpha_t}}",
    says="Who knows the noise in a picture knows the picture: take the noise off, undo the "
    "shrinking.",
    home=(Estimate.read, NoisePrediction.row),
)
def _() -> Finding:
    f = steps()
    lam, (alpha, sigma) = f.t.lam, (f.bar.sqrt(), (1 - f.bar).sqrt())
    by_noise = Estimate(f.x_t, lam, VP, f.eps, EPS)
    printed = (f.x_t - (1 - f.bar).sqrt() * f.eps) / f.bar.sqrt()
    by_v = Estimate(f.x_t, lam, VP, alpha * f.eps - sigma * f.x0, V)
    mixed = f.x_t * units(lam, VP, FLOW).unsqueeze(1)
    by_velocity = Estimate(mixed, lam, FLOW, f.eps - f.x0, VELOCITY)
    guess = Estimate(f.x_t, lam, VP, f.x_hat, X0)
    pairs = [(by_noise.read(X0), printed), (by_noise.read(X0), f.x0), (by_v.read(X0), f.x0)]
    pairs += [(by_velocity.read(X0), f.x0), (by_v.read(VELOCITY), f.eps - f.x0)]
    pairs += [(by_noise.read(EPS), f.eps), (sigma * guess.read(EPS), f.x_t - alpha * f.x_hat)]
    return all_equal(pairs, f"picture from noise, from v and from velocity, {_ON}")


@line(
    "116",
    latex=_MU + r"\frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})x_t + \sqrt{\bar\alpha_{t-1}}"
    r"(1-\alpha_t)x_0}{1-\bar\alpha_t}",
    says="Start from the mean of the step back, told by the clean picture.",
    home=mean_from_x0,
)
def _() -> Finding:
    f = steps()
    top = f.a.sqrt() * (1 - f.prev) * f.x_t + f.prev.sqrt() * (1 - f.a) * f.x0
    return _mean(top / (1 - f.bar))


@line(
    "117",
    latex=_MU + r"\frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})x_t + \sqrt{\bar\alpha_{t-1}}"
    r"(1-\alpha_t)\frac{x_t-\sqrt{1-\bar\alpha_t}\,\epsilon_0}{\sqrt{\bar\alpha_t}}}"
    r"{1-\bar\alpha_t}",
    says="Write the picture as the noisy picture without its noise.",
    home=(mean_from_eps, mean_from_x0),
)
def _() -> Finding:
    f = steps()
    x0 = (f.x_t - (1 - f.bar).sqrt() * f.eps) / f.bar.sqrt()
    top = f.a.sqrt() * (1 - f.prev) * f.x_t + f.prev.sqrt() * (1 - f.a) * x0
    return _mean(top / (1 - f.bar))


def _clean(f: Steps) -> Tensor:
    """x_t without its noise, x_t − √(1−ᾱ_t)·ε_0."""
    return f.x_t - (1 - f.bar).sqrt() * f.eps


@line(
    "118",
    latex=_MU + r"\frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})x_t + (1-\alpha_t)"
    r"\frac{x_t-\sqrt{1-\bar\alpha_t}\,\epsilon_0}{\sqrt{\alpha_t}}}{1-\bar\alpha_t}",
    says="The shrinking of all steps but the last cancels.",
    home=mean_from_eps,
)
def _() -> Finding:
    f = steps()
    top = f.a.sqrt() * (1 - f.prev) * f.x_t + (1 - f.a) * _clean(f) / f.a.sqrt()
    return _mean(top / (1 - f.bar))


@line(
    "119",
    latex=_MU + r"\frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})x_t}{1-\bar\alpha_t} + "
    r"\frac{(1-\alpha_t)x_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}} - "
    r"\frac{(1-\alpha_t)\sqrt{1-\bar\alpha_t}\,\epsilon_0}{(1-\bar\alpha_t)\sqrt{\alpha_t}}",
    says="The fraction is split into its three parts.",
    home=mean_from_eps,
)
def _() -> Finding:
    f = steps()
    below = (1 - f.bar) * f.a.sqrt()
    keep = f.a.sqrt() * (1 - f.prev) * f.x_t / (1 - f.bar) + (1 - f.a) * f.x_t / below
    return _mean(keep - (1 - f.a) * (1 - f.bar).sqrt() * f.eps / below)


@line(
    "120",
    latex=_MU + r"\left(\frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})}{1-\bar\alpha_t} + "
    r"\frac{1-\alpha_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}}\right)x_t - "
    r"\frac{(1-\alpha_t)\sqrt{1-\bar\alpha_t}}{(1-\bar\alpha_t)\sqrt{\alpha_t}}\epsilon_0",
    says="The two parts with the noisy picture are put together.",
    home=mean_from_eps,
)
def _() -> Finding:
    f = steps()
    below = (1 - f.bar) * f.a.sqrt()
    keep = f.a.sqrt() * (1 - f.prev) / (1 - f.bar) + (1 - f.a) / below
    return _mean(keep * f.x_t - (1 - f.a) * (1 - f.bar).sqrt() / below * f.eps)


@line(
    "121",
    latex=_MU + r"\left(\frac{\alpha_t(1-\bar\alpha_{t-1})}{(1-\bar\alpha_t)\sqrt{\alpha_t}} + "
    r"\frac{1-\alpha_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}}\right)x_t" + _NOISE,
    says="Both are brought to one denominator, and a root of the noise cancels.",
    home=mean_from_eps,
)
def _() -> Finding:
    f = steps()
    below = (1 - f.bar) * f.a.sqrt()
    keep = f.a * (1 - f.prev) / below + (1 - f.a) / below
    return _mean(keep * f.x_t - _share(f) * f.eps)


@line(
    "122",
    latex=_MU
    + r"\frac{\alpha_t-\bar\alpha_t+1-\alpha_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}}x_t"
    + _NOISE,
    says="One more factor makes the product up to t−1 the product up to t.",
    home=mean_from_eps,
)
def _() -> Finding:
    f = steps()
    keep = (f.a - f.bar + 1 - f.a) / ((1 - f.bar) * f.a.sqrt())
    return _mean(keep * f.x_t - _share(f) * f.eps)


@line(
    "123",
    latex=_MU + r"\frac{1-\bar\alpha_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}}x_t" + _NOISE,
    says="Two terms cancel, and above stands what stands below.",
    home=mean_from_eps,
)
def _() -> Finding:
    f = steps()
    return _mean((1 - f.bar) / ((1 - f.bar) * f.a.sqrt()) * f.x_t - _share(f) * f.eps)


@line(
    "124",
    latex=_MU + r"\frac{1}{\sqrt{\alpha_t}}x_t" + _NOISE,
    says="The mean of the step back is the noisy picture with a little of its noise taken off, "
    "stretched a little.",
    home=mean_from_eps,
)
def _() -> Finding:
    f = steps()
    return _mean(f.x_t / f.a.sqrt() - _share(f) * f.eps)


@line(
    "125",
    latex=r"\mu_\theta(x_t,t) = \frac{1}{\sqrt{\alpha_t}}x_t - " + _SHARE
    + r"\hat\epsilon_\theta(x_t,t)",
    says="The model may therefore guess the noise instead of the picture.",
    home=(mean_from_eps, Estimate.read),
)  # fmt: skip
def _() -> Finding:
    f = steps()
    ours = mean_from_eps(f.x_t, f.eps_hat, f.t, f.s)
    picture = Estimate(f.x_t, f.t.lam, VP, f.eps_hat, EPS).read(X0)
    pairs = [(ours, f.x_t / f.a.sqrt() - _share(f) * f.eps_hat)]
    pairs += [(ours, mean_from_x0(f.x_t, picture, f.t, f.s)), (ours, f.mean_q(picture))]
    return all_equal(pairs, f"μ_θ of an untrained network, {_ON}")


@line(
    "126",
    latex=_MIN + r"D_{\mathrm{KL}}\left(q(x_{t-1} \mid x_t, x_0)\,\Vert\,p_\theta(x_{t-1} \mid x_t)"
    r"\right) = " + _MIN + r"D_{\mathrm{KL}}\left(\mathcal{N}(x_{t-1};\mu_q,\Sigma_q(t))\,\Vert\,"
    r"\mathcal{N}(x_{t-1};\mu_\theta,\Sigma_q(t))\right)",
    says="Compare the two steps back, now with means that are told by noise.",
    home=(mean_from_eps, posterior, Normal.kl),
    page=16,
)
def _() -> Finding:
    f = steps()
    q = posterior(f.x_t, f.x0, f.t, f.s)
    kl = q.kl(Normal(mean_from_eps(f.x_t, f.eps_hat, f.t, f.s), q.log_std))
    picture = (f.x_t - (1 - f.bar).sqrt() * f.eps_hat) / f.bar.sqrt()
    p, q = (torch.distributions.Normal(f.mean_q(x0), f.var_q.sqrt()) for x0 in (picture, f.x0))
    return equal(kl, torch.distributions.kl_divergence(q, p).sum(1), f"KL, {_ON}")


@line(
    "127",
    latex=_MIN + _HALF + r"\left[\left\Vert\frac{1}{\sqrt{\alpha_t}}x_t - " + _SHARE
    + r"\hat\epsilon_\theta - \frac{1}{\sqrt{\alpha_t}}x_t + " + _SHARE
    + r"\epsilon_0\right\Vert_2^2\right]",
    says="Only the squared distance of the two means counts.",
    home=(mean_gap, mean_from_eps),
    page=16,
)  # fmt: skip
def _() -> Finding:
    f = steps()
    p, q = (f.x_t / f.a.sqrt() - _share(f) * eps for eps in (f.eps_hat, f.eps))
    return _loss(f, f.loss(p, q))


@line(
    "128",
    latex=_MIN + _HALF + r"\left[\left\Vert" + _SHARE + r"\epsilon_0 - " + _SHARE
    + r"\hat\epsilon_\theta(x_t,t)\right\Vert_2^2\right]",
    says="Both contain the noisy picture in the same way, which cancels.",
    home=(mean_gap, mean_from_eps),
    page=16,
)  # fmt: skip
def _() -> Finding:
    f = steps()
    return _loss(f, f.loss(_share(f) * f.eps, _share(f) * f.eps_hat))


@line(
    "129",
    latex=_MIN + _HALF + r"\left[\left\Vert" + _SHARE
    + r"\left(\epsilon_0 - \hat\epsilon_\theta(x_t,t)\right)\right\Vert_2^2\right]",
    says="What is left is the error of the guessed noise, times one number.",
    home=(mean_gap, mean_from_eps),
    page=16,
)  # fmt: skip
def _() -> Finding:
    f = steps()
    return _loss(f, f.loss(_share(f) * (f.eps - f.eps_hat)))


@line(
    "130",
    latex=_MIN + _HALF + r"\frac{(1-\alpha_t)^2}{(1-\bar\alpha_t)\alpha_t}\left[\left\Vert"
    r"\epsilon_0 - \hat\epsilon_\theta(x_t,t)\right\Vert_2^2\right]",
    says="Guessing the picture and guessing the noise are the same training, if errors are "
    "weighted by the right numbers.",
    home=(weight_eps, weight_expm1, weight_x0),
    note="With its weight. The plain squared error of the noise, used in practice, is another "
    "objective. Infinite at t = 1.",
    erratum="E16",
    page=16,
)
def _() -> Finding:
    f = steps()
    printed = (1 - f.a) ** 2 / (2 * f.var_q * (1 - f.bar) * f.a)
    error = ((f.eps - f.eps_hat) ** 2).sum(1)
    picture = (f.x_t - (1 - f.bar).sqrt() * f.eps_hat) / f.bar.sqrt()
    by_picture = weight_x0(f.t, f.s) * ((picture - f.x0) ** 2).sum(1)
    one = torch.ones_like(error)
    pairs = [(w(f.t, f.s) / printed.squeeze(1), one) for w in (weight_eps, weight_expm1)]
    pairs += [(weight_eps(f.t, f.s) * error, by_picture)]
    pairs += [(by_picture, f.loss(_share(f) * (f.eps - f.eps_hat)))]
    return all_equal(pairs, f"weights relative, and the loss as Eq. 99 has it, {_ON}")
