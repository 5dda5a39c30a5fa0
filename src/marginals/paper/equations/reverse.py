"""Luo Eqs. 71–85: where x came from, if the picture is known, q(x_{t−1} | x_t, x_0)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...chain import (
    forward_step,
    marginal,
    mean_from_x0,
    posterior,
    posterior_variance,
    step_signal,
    step_variance,
)
from ...gaussian import Normal
from ...scaling import Level
from ..equation import Finding, all_equal, equation
from ..fixtures import Steps, randn, steps

line = partial(equation, part="Variational Diffusion Models", page=12)

_ON = "steps of four chains (DDPM, cosine, VDM, random), three pixels"
_Q = r"q(x_{t-1} \mid x_t, x_0)"
_EXP = _Q + r" \propto \exp\left\{-\frac{1}{2}\left["
_END = r"\right]\right\}"
_SLOPE = (
    r"\left(\frac{\sqrt{\alpha_t}\,x_t}{1-\alpha_t} + "
    r"\frac{\sqrt{\bar\alpha_{t-1}}\,x_0}{1-\bar\alpha_{t-1}}\right)"
)
_CURVE = r"\frac{1-\bar\alpha_t}{(1-\alpha_t)(1-\bar\alpha_{t-1})}"


def _compare(log_q: Callable[[Steps, Tensor], Tensor], *, whole: bool) -> Finding:
    """The package's log q(x_{t−1} | x_t, x0) against a line's, at four places; unless the line is
    the ``whole`` density, up to one number that does not depend on the place."""
    f = steps(noise=0.02)  # the sums of large terms below would lose digits at cleaner levels
    places = [f.mean_q(f.x0) + f.var_q.sqrt() * z for z in randn(4, *f.x0.shape, seed=7)]
    ours = torch.stack([posterior(f.x_t, f.x0, f.t, f.s).log_prob(x) for x in places])
    theirs = torch.stack([log_q(f, x) for x in places])
    if whole:
        return all_equal([(ours, theirs)], f"log densities at four places, {_ON}")
    pair = (ours - ours[0], theirs - theirs[0])
    return all_equal([pair], f"differences of log densities between four places, {_ON}")


def _exponent(bracket: Callable[[Steps, Tensor], Tensor]) -> Finding:
    """The same for a line −½[...], given its bracket per pixel."""
    return _compare(lambda f, x: -0.5 * bracket(f, x).sum(1), whole=False)


def _gaussian(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """log N(x; mean, var) in nats, (B,), as anyone would write it."""
    return (-0.5 * ((x - mean) ** 2 / var + (2.0 * torch.pi * var).log())).sum(1)


def _slope(f: Steps) -> Tensor:
    """What multiplies −2·x_{t−1} in Eqs. 77–82."""
    return f.a.sqrt() * f.x_t / (1 - f.a) + f.prev.sqrt() * f.x0 / (1 - f.prev)


def _curve(f: Steps) -> Tensor:
    """What multiplies x_{t−1}² in Eqs. 81 and 82: one over the posterior's variance."""
    return (1 - f.bar) / ((1 - f.a) * (1 - f.prev))


def _parabola(top: Callable[[Steps], Tensor]) -> Finding:
    """The bracket of Eqs. 78–80, which differ in what stands above the first denominator."""

    def bracket(f: Steps, x: Tensor) -> Tensor:
        return top(f) / ((1 - f.a) * (1 - f.prev)) * x**2 - 2 * _slope(f) * x

    return _exponent(bracket)


def _rest(f: Steps) -> Tensor:
    """C(x_t, x_0): the terms without x_{t−1} that Eq. 75 collects."""
    apart = (f.x_t - f.bar.sqrt() * f.x0) ** 2 / (1 - f.bar)
    return f.x_t**2 / (1 - f.a) + f.prev * f.x0**2 / (1 - f.prev) - apart


@line(
    "71",
    latex=_Q + r" = \frac{q(x_t \mid x_{t-1}, x_0)\,q(x_{t-1} \mid x_0)}{q(x_t \mid x_0)}",
    says="By Bayes' rule, the way back is made of three ways forward, which are all known.",
    home=(posterior, forward_step, marginal),
)
def _() -> Finding:
    def bayes(f: Steps, x: Tensor) -> Tensor:
        up = forward_step(x, f.t, f.s).log_prob(f.x_t) + marginal(f.x0, f.s).log_prob(x)
        return up - marginal(f.x0, f.t).log_prob(f.x_t)

    return _compare(bayes, whole=True)


@line(
    "72",
    latex=_Q + r" = \frac{\mathcal{N}(x_t;\sqrt{\alpha_t}\,x_{t-1},(1-\alpha_t)I)\;"
    r"\mathcal{N}(x_{t-1};\sqrt{\bar\alpha_{t-1}}\,x_0,(1-\bar\alpha_{t-1})I)}"
    r"{\mathcal{N}(x_t;\sqrt{\bar\alpha_t}\,x_0,(1-\bar\alpha_t)I)}",
    says="All three are Gaussians whose means and variances were found above.",
    home=(posterior, Normal.log_prob),
)
def _() -> Finding:
    def three(f: Steps, x: Tensor) -> Tensor:
        up = _gaussian(f.x_t, f.a.sqrt() * x, 1 - f.a)
        up = up + _gaussian(x, f.prev.sqrt() * f.x0, 1 - f.prev)
        return up - _gaussian(f.x_t, f.bar.sqrt() * f.x0, 1 - f.bar)

    return _compare(three, whole=True)


@line(
    "73",
    latex=_Q + r" \propto \exp\left\{-\left[\frac{(x_t-\sqrt{\alpha_t}\,x_{t-1})^2}"
    r"{2(1-\alpha_t)} + \frac{(x_{t-1}-\sqrt{\bar\alpha_{t-1}}\,x_0)^2}{2(1-\bar\alpha_{t-1})} - "
    r"\frac{(x_t-\sqrt{\bar\alpha_t}\,x_0)^2}{2(1-\bar\alpha_t)}\right]\right\}",
    says="A product of Gaussians is the exponential of a sum of squares; the numbers in front do "
    "not depend on where x was.",
    home=posterior,
    note="From here to Eq. 83, ∝ means equal but for a number in front without x_{t-1}.",
)
def _() -> Finding:
    def bracket(f: Steps, x: Tensor) -> Tensor:
        one = (f.x_t - f.a.sqrt() * x) ** 2 / (2 * (1 - f.a))
        two = (x - f.prev.sqrt() * f.x0) ** 2 / (2 * (1 - f.prev))
        return one + two - (f.x_t - f.bar.sqrt() * f.x0) ** 2 / (2 * (1 - f.bar))

    return _compare(lambda f, x: -bracket(f, x).sum(1), whole=False)


@line(
    "74",
    latex=_EXP + r"\frac{(x_t-\sqrt{\alpha_t}\,x_{t-1})^2}{1-\alpha_t} + "
    r"\frac{(x_{t-1}-\sqrt{\bar\alpha_{t-1}}\,x_0)^2}{1-\bar\alpha_{t-1}} - "
    r"\frac{(x_t-\sqrt{\bar\alpha_t}\,x_0)^2}{1-\bar\alpha_t}" + _END,
    says="The halves are taken out of the sum.",
    home=posterior,
)
def _() -> Finding:
    def bracket(f: Steps, x: Tensor) -> Tensor:
        one = (f.x_t - f.a.sqrt() * x) ** 2 / (1 - f.a)
        two = (x - f.prev.sqrt() * f.x0) ** 2 / (1 - f.prev)
        return one + two - (f.x_t - f.bar.sqrt() * f.x0) ** 2 / (1 - f.bar)

    return _exponent(bracket)


@line(
    "75",
    latex=_EXP + r"\frac{-2\sqrt{\alpha_t}\,x_t x_{t-1}+\alpha_t x_{t-1}^2}{1-\alpha_t} + "
    r"\frac{x_{t-1}^2-2\sqrt{\bar\alpha_{t-1}}\,x_{t-1}x_0}{1-\bar\alpha_{t-1}} + C(x_t,x_0)"
    + _END,
    says="The squares are multiplied out, and what does not depend on where x was is put aside.",
    home=posterior,
    note="C(x_t, x_0) = x_t²/(1−α_t) + ᾱ_{t−1}x_0²/(1−ᾱ_{t−1}) − (x_t−√ᾱ_t x_0)²/(1−ᾱ_t).",
)
def _() -> Finding:
    def bracket(f: Steps, x: Tensor) -> Tensor:
        one = (-2 * f.a.sqrt() * f.x_t * x + f.a * x**2) / (1 - f.a)
        return one + (x**2 - 2 * f.prev.sqrt() * x * f.x0) / (1 - f.prev) + _rest(f)

    def whole(f: Steps, x: Tensor) -> Tensor:
        normaliser = (2.0 * torch.pi * f.var_q).log()  # C makes it a whole square: nothing is lost
        return -0.5 * (bracket(f, x) + normaliser).sum(1)

    return _compare(whole, whole=True)


@line(
    "76",
    latex=_EXP + r"-\frac{2\sqrt{\alpha_t}\,x_t x_{t-1}}{1-\alpha_t} + "
    r"\frac{\alpha_t x_{t-1}^2}{1-\alpha_t} + \frac{x_{t-1}^2}{1-\bar\alpha_{t-1}} - "
    r"\frac{2\sqrt{\bar\alpha_{t-1}}\,x_{t-1}x_0}{1-\bar\alpha_{t-1}}" + _END,
    says="What was put aside only scales the density, so it may be left out for now.",
    home=posterior,
)
def _() -> Finding:
    def bracket(f: Steps, x: Tensor) -> Tensor:
        one = -2 * f.a.sqrt() * f.x_t * x / (1 - f.a) + f.a * x**2 / (1 - f.a)
        return one + x**2 / (1 - f.prev) - 2 * f.prev.sqrt() * x * f.x0 / (1 - f.prev)

    return _exponent(bracket)


@line(
    "77",
    latex=_EXP + r"\left(\frac{\alpha_t}{1-\alpha_t}+\frac{1}{1-\bar\alpha_{t-1}}\right)x_{t-1}^2 "
    r"- 2" + _SLOPE + r"x_{t-1}" + _END,
    says="The terms are sorted by powers of x.",
    home=posterior,
)
def _() -> Finding:
    def bracket(f: Steps, x: Tensor) -> Tensor:
        return (f.a / (1 - f.a) + 1 / (1 - f.prev)) * x**2 - 2 * _slope(f) * x

    return _exponent(bracket)


@line(
    "78",
    latex=_EXP + r"\frac{\alpha_t(1-\bar\alpha_{t-1})+1-\alpha_t}"
    r"{(1-\alpha_t)(1-\bar\alpha_{t-1})}x_{t-1}^2 - 2" + _SLOPE + r"x_{t-1}" + _END,
    says="The two fractions in front of x² are brought to one denominator.",
    home=posterior,
)
def _() -> Finding:
    return _parabola(lambda f: f.a * (1 - f.prev) + 1 - f.a)


@line(
    "79",
    latex=_EXP + r"\frac{\alpha_t-\bar\alpha_t+1-\alpha_t}{(1-\alpha_t)(1-\bar\alpha_{t-1})}"
    r"x_{t-1}^2 - 2" + _SLOPE + r"x_{t-1}" + _END,
    says="One more factor makes the product up to t−1 the product up to t.",
    home=posterior,
)
def _() -> Finding:
    return _parabola(lambda f: f.a - f.bar + 1 - f.a)


@line(
    "80",
    latex=_EXP + _CURVE + r"x_{t-1}^2 - 2" + _SLOPE + r"x_{t-1}" + _END,
    says="Two terms cancel, and a simple number is left in front of x².",
    home=posterior,
)
def _() -> Finding:
    return _parabola(lambda f: 1 - f.bar)


@line(
    "81",
    latex=_Q + r" \propto \exp\left\{-\frac{1}{2}\left(" + _CURVE + r"\right)\left[x_{t-1}^2 - 2"
    r"\frac{" + _SLOPE + r"}{" + _CURVE + r"}x_{t-1}" + _END,
    says="That number is taken out of the bracket, as one does to complete a square.",
    home=posterior,
)
def _() -> Finding:
    return _exponent(lambda f, x: _curve(f) * (x**2 - 2 * (_slope(f) / _curve(f)) * x))


@line(
    "82",
    latex=_Q + r" \propto \exp\left\{-\frac{1}{2}\left(" + _CURVE + r"\right)\left[x_{t-1}^2 - 2"
    r"\frac{" + _SLOPE + r"(1-\alpha_t)(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}x_{t-1}" + _END,
    says="Dividing by a fraction is multiplying by it turned over.",
    home=posterior,
)
def _() -> Finding:
    def bracket(f: Steps, x: Tensor) -> Tensor:
        centre = _slope(f) * (1 - f.a) * (1 - f.prev) / (1 - f.bar)
        return _curve(f) * (x**2 - 2 * centre * x)

    return _exponent(bracket)


@line(
    "83",
    latex=_Q + r" \propto \exp\left\{-\frac{1}{2}\left(\frac{1}{\frac{(1-\alpha_t)"
    r"(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}}\right)\left[x_{t-1}^2 - 2\,\frac{\sqrt{\alpha_t}"
    r"(1-\bar\alpha_{t-1})x_t+\sqrt{\bar\alpha_{t-1}}(1-\alpha_t)x_0}{1-\bar\alpha_t}x_{t-1}"
    + _END,
    says="Now it reads like a Gaussian: the variance stands in front, the mean next to x.",
    home=posterior,
)
def _() -> Finding:
    def bracket(f: Steps, x: Tensor) -> Tensor:
        centre = f.a.sqrt() * (1 - f.prev) * f.x_t + f.prev.sqrt() * (1 - f.a) * f.x0
        variance = (1 - f.a) * (1 - f.prev) / (1 - f.bar)
        return (1 / variance) * (x**2 - 2 * centre / (1 - f.bar) * x)

    return _exponent(bracket)


@line(
    "84",
    latex=_Q + r" \propto \mathcal{N}\left(x_{t-1};\, \underbrace{\frac{\sqrt{\alpha_t}"
    r"(1-\bar\alpha_{t-1})x_t+\sqrt{\bar\alpha_{t-1}}(1-\alpha_t)x_0}{1-\bar\alpha_t}}"
    r"_{\mu_q(x_t,x_0)},\, \underbrace{\frac{(1-\alpha_t)(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}I}"
    r"_{\Sigma_q(t)}\right)",
    says="If the picture is known, one step back is a Gaussian whose mean is a mixture of the "
    "noisy picture and the clean one.",
    home=(posterior, mean_from_x0, posterior_variance, step_signal, step_variance),
    note="At t = 1 it is the picture itself, with variance 0.",
    erratum="E9",
)
def _() -> Finding:
    f = steps()
    q = posterior(f.x_t, f.x0, f.t, f.s)
    top = f.a.sqrt() * (1 - f.prev) * f.x_t + f.prev.sqrt() * (1 - f.a) * f.x0
    one, picture = torch.ones_like(f.t.lam), torch.inf * torch.ones_like(f.t.lam)
    start = posterior(f.x_t, f.x0, f.t, Level(picture, one, 0 * one))
    pairs = [(q.mean, top / (1 - f.bar)), (q.mean, f.mean_q(f.x0)), (start.mean, f.x0)]
    pairs += [((2 * q.log_std).exp() / f.var_q, 1.0), (start.log_std.exp(), 0.0)]
    return all_equal(pairs, f"mean and variance by conditioning a joint Gaussian, {_ON}; t = 1")


@line(
    "85",
    latex=r"\Sigma_q(t) = \sigma_q^2(t)I, \quad \sigma_q^2(t) = "
    r"\frac{(1-\alpha_t)(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}",
    says="The spread of one step back is the same for every pixel and every picture, and known "
    "beforehand.",
    home=(posterior_variance, step_variance),
    note="0 at t = 1: the first step is not a KL but the reconstruction.",
    erratum="E9",
)
def _() -> Finding:
    f = steps()
    ours = torch.as_tensor(posterior_variance(f.t, f.s)).unsqueeze(1)
    printed = (1 - f.a) * (1 - f.prev) / (1 - f.bar)
    snr, snr_before = f.bar / (1 - f.bar), f.prev / (1 - f.prev)
    vdm = (1 - f.prev) * (1 - snr / snr_before)  # Kingma et al. 2021: σ_s²(1 − SNR(t)/SNR(s))
    pairs = [(ours / printed, 1.0), (ours / vdm, 1.0), (ours / f.var_q, 1.0)]
    return all_equal(pairs, f"three ways to the variance, relative, {_ON}")
