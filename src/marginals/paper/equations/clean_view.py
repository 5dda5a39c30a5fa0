"""Luo Eqs. 93–100: the step back told by a guess of the clean picture, and the loss of that."""

from functools import partial

import torch
from torch import Tensor

from ...chain import mean_from_x0, mean_gap, posterior, posterior_variance, weight_x0
from ...gaussian import Normal
from ...learned import StepTime
from ...objective import Elbo, Objective, Sigmoid
from ...predict import EPS, X0
from ...scaling import VP
from ...schedule import LogLinear
from ..equation import Finding, all_equal, equal, equation, require
from ..fixtures import Steps, network, randn, steps

line = partial(equation, part="Variational Diffusion Models", page=13)

_ON = "steps of four chains, three pixels, an untrained network"
_MIN = r"\arg\min_\theta\; "
_KL = r"D_{\mathrm{KL}}\left(q(x_{t-1} \mid x_t, x_0)\,\Vert\,p_\theta(x_{t-1} \mid x_t)\right)"
_TWO = (
    r"D_{\mathrm{KL}}\left(\mathcal{N}(x_{t-1};\mu_q,\Sigma_q(t))\,\Vert\,"
    r"\mathcal{N}(x_{t-1};\mu_\theta,\Sigma_q(t))\right)"
)
_HALF = r"\frac{1}{2\sigma_q^2(t)}"
_MEAN = (
    r"\frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})x_t + \sqrt{\bar\alpha_{t-1}}(1-\alpha_t)%s}"
    r"{1-\bar\alpha_t}"
)
_SHARE = r"\frac{\sqrt{\bar\alpha_{t-1}}(1-\alpha_t)}{1-\bar\alpha_t}"


def _kl(f: Steps) -> Tensor:
    """KL(q ‖ p_θ), (B,), as the package computes it; both steps have the same variance."""
    q = posterior(f.x_t, f.x0, f.t, f.s)
    return q.kl(Normal(mean_from_x0(f.x_t, f.x_hat, f.t, f.s), q.log_std))


@line(
    "93",
    latex=r"\mu_q(x_t,x_0) = " + _MEAN % "x_0",
    says="The true mean of the step back is a mixture of the noisy picture and the clean one.",
    home=mean_from_x0,
)
def _() -> Finding:
    f = steps()
    top = f.a.sqrt() * (1 - f.prev) * f.x_t + f.prev.sqrt() * (1 - f.a) * f.x0
    ours = mean_from_x0(f.x_t, f.x0, f.t, f.s)
    return all_equal([(ours, top / (1 - f.bar)), (ours, f.mean_q(f.x0))], f"μ_q, {_ON}")


@line(
    "94",
    latex=r"\mu_\theta(x_t,t) = " + _MEAN % r"\hat x_\theta(x_t,t)",
    says="The model's mean is the same mixture, with the network's guess in place of the unknown "
    "clean picture.",
    home=mean_from_x0,
)
def _() -> Finding:
    f = steps()
    ours = mean_from_x0(f.x_t, f.x_hat, f.t, f.s)
    top = f.a.sqrt() * (1 - f.prev) * f.x_t + f.prev.sqrt() * (1 - f.a) * f.x_hat
    return equal(ours, top / (1 - f.bar), f"μ_θ, {_ON}")


@line(
    "95",
    latex=_MIN + _KL + " = " + _MIN + _TWO,
    says="Compare the two steps back again, now with both means written out.",
    home=(Normal.kl, posterior, mean_from_x0),
)
def _() -> Finding:
    f = steps()
    p, q = (
        torch.distributions.Normal(mean, f.var_q.sqrt())
        for mean in (f.mean_q(f.x_hat), f.mean_q(f.x0))
    )
    kl = torch.distributions.kl_divergence(q, p).sum(1)
    ours = mean_from_x0(f.x_t, f.x_hat, f.t, f.s)
    return all_equal([(_kl(f), kl), (ours, p.mean)], f"KL and the model's mean, {_ON}")


def _loss(f: Steps, printed: Tensor) -> Finding:
    """Luo Eq. 92 with the package's means and variance against a line's loss, (B,)."""
    p, q = (mean_from_x0(f.x_t, x0, f.t, f.s) for x0 in (f.x_hat, f.x0))
    pairs = [(mean_gap(p, q, posterior_variance(f.t, f.s)), printed)]
    pairs += [(p, f.mean_q(f.x_hat)), (q, f.mean_q(f.x0))]
    return all_equal(pairs, f"loss and means, {_ON}")


@line(
    "96",
    latex=_MIN + _HALF + r"\left[\left\Vert" + _MEAN % r"\hat x_\theta" + " - " + _MEAN % "x_0"
    + r"\right\Vert_2^2\right]",
    says="Only the squared distance of the two mixtures counts.",
    home=(mean_gap, mean_from_x0),
)  # fmt: skip
def _() -> Finding:
    f = steps()
    keep, share = f.a.sqrt() * (1 - f.prev) * f.x_t, f.prev.sqrt() * (1 - f.a)
    both = ((keep + share * x0) / (1 - f.bar) for x0 in (f.x_hat, f.x0))
    return _loss(f, f.loss(*both))


@line(
    "97",
    latex=_MIN + _HALF + r"\left[\left\Vert" + _SHARE + r"\hat x_\theta(x_t,t) - " + _SHARE
    + r"x_0\right\Vert_2^2\right]",
    says="Both contain the same share of the noisy picture, which cancels.",
    home=(mean_gap, mean_from_x0),
)  # fmt: skip
def _() -> Finding:
    f = steps()
    share = f.prev.sqrt() * (1 - f.a) / (1 - f.bar)
    return _loss(f, f.loss(share * f.x_hat, share * f.x0))


@line(
    "98",
    latex=_MIN + _HALF + r"\left[\left\Vert" + _SHARE
    + r"\left(\hat x_\theta(x_t,t) - x_0\right)\right\Vert_2^2\right]",
    says="What is left is the error of the guess, times one number.",
    home=(mean_gap, mean_from_x0),
)  # fmt: skip
def _() -> Finding:
    f = steps()
    share = f.prev.sqrt() * (1 - f.a) / (1 - f.bar)
    return _loss(f, f.loss(share * (f.x_hat - f.x0)))


@line(
    "99",
    latex=_MIN + _HALF + r"\frac{\bar\alpha_{t-1}(1-\alpha_t)^2}{(1-\bar\alpha_t)^2}"
    r"\left[\left\Vert\hat x_\theta(x_t,t) - x_0\right\Vert_2^2\right]",
    says="Training a diffusion model is guessing the clean picture from a noisy one; the formula "
    "says how much an error counts at each noise level.",
    home=weight_x0,
    note="Infinite at t = 1, which is the reconstruction term and not a KL.",
    erratum="E9",
)
def _() -> Finding:
    f = steps()
    error = ((f.x_hat - f.x0) ** 2).sum(1)
    printed = f.prev * (1 - f.a) ** 2 / (2 * f.var_q * (1 - f.bar) ** 2)
    ours = torch.as_tensor(weight_x0(f.t, f.s))
    one = torch.ones_like(error)
    return all_equal([(ours * error, _kl(f)), (ours / printed.squeeze(1), one)], f"KL, {_ON}")


@line(
    "100",
    latex=_MIN + r"\mathbb{E}_{t\sim U\{2,T\}}\left[\mathbb{E}_{q(x_t \mid x_0)}\left[" + _KL
    + r"\right]\right]",
    says="Instead of adding up all noise levels one may draw one at random; the sum is T−1 times "
    "the average.",
    home=(StepTime.sample, StepTime.density, Objective.weight),
    status="condition",
    note="The same minimum as the sum of Eq. 58, but not the same value: the factor T−1 and the "
    "reconstruction are left out, so it is not a bound as printed.",
    erratum="E8",
    page=14,
)  # fmt: skip
def _() -> Finding:
    schedule, steps_back, net = LogLinear(6.0, -4.0), 9, network(3)
    objective = Objective(Elbo(), StepTime(schedule, steps_back))
    x0, eps = randn(2, steps_back, 3, seed=2)
    i = torch.arange(1, steps_back + 1, dtype=torch.float64)
    lam = torch.linspace(6.0, -4.0, steps_back + 1, dtype=torch.float64)  # Luo's t = 1..T
    t, s = VP(lam[1:]), VP(lam[:-1])
    x_t = t.alpha.unsqueeze(1) * x0 + t.sigma.unsqueeze(1) * eps
    guess = net(x_t, t.lam)
    q = posterior(x_t, x0, t, s)
    kl = q.kl(Normal(mean_from_x0(x_t, guess, t, s), q.log_std))
    drawn = objective.levels.sample((i - 0.4) / steps_back)  # every step once: the exact average
    error = (x0 - guess).square().sum(1)
    ours = objective.weight(X0, drawn) * error
    noise = objective.weight(EPS, drawn) * error * t.alpha**2 / t.sigma**2  # the error of ε̂
    other = Objective(Sigmoid(1.3), objective.levels).weight(X0, drawn) * error
    require(bool((kl.sum() - kl.mean()).abs() > 0.1), "the printed average differs from the sum")
    pairs = [(ours.mean(), kl.sum()), (ours, steps_back * kl), (noise, ours), (drawn, lam[1:])]
    pairs += [(other * (1.0 + (lam[1:] - 1.3).exp()), ours)]
    return all_equal(pairs, f"T-1 times the average over t against the sum, T = {steps_back + 1}")
