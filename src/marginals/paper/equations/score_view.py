"""Luo Eqs. 131–142: the slope of the log density knows the picture, on average."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from ...chain import mean_from_score, mean_from_x0
from ...denoiser import Estimate
from ...oracle import Mixture
from ...predict import SCORE, X0, ScorePrediction
from ...scaling import FLOW, VP, units
from ..equation import Finding, all_equal, equation, require
from ..fixtures import OnALine, level, randn, steps

line = partial(equation, part="Three Equivalent Interpretations", page=16)

_ON = "three levels of a mixture on a line"
_NABLA = r"\nabla\log p(x_t)"
_TWEEDIE = r"x_t + (1-\bar\alpha_t)" + _NABLA
_MU = r"\mu_q(x_t,x_0) = "
_TOP = r"\sqrt{\alpha_t}(1-\bar\alpha_{t-1})"
_average = partial(
    line,
    status="expectation",
    erratum="E5",
    note="x_0 stands for E[x_0 | x_t] as in Eq. 133: with the slope of log p(x_t) this is the "
    "average of x_{t-1} given x_t; with the slope of log q(x_t | x_0) it is exactly μ_q.",
)
_SPOTS = torch.linspace(-4.0, 4.0, 25, dtype=torch.float64).unsqueeze(1)
_LEVELS = ((0.55, 0.8), (0.3, 0.45), (0.12, 0.31))  # (ᾱ_t, ᾱ_{t−1})


def _lam(bar: float) -> float:
    return torch.tensor(bar / (1.0 - bar), dtype=torch.float64).log().item()


@line(
    "131",
    latex=r"\mathbb{E}\left[\mu_{x_t} \mid x_t\right] = x_t + (1-\bar\alpha_t)"
    r"\nabla_{x_t}\log p(x_t)",
    says="Tweedie's formula: the best guess of the shrunken picture is the noisy one, moved to "
    "where such pictures are more common.",
    home=(Mixture.score, Mixture.__call__),
)
def _() -> Finding:
    world, x, pairs = OnALine(), _SPOTS, []
    for bar, _ in _LEVELS:
        oracle = world.oracle()
        truth = bar**0.5 * world.mean(x, bar)
        estimate = oracle(x, _lam(bar))
        pairs += [(bar**0.5 * estimate.x0, truth), (x + (1 - bar) * estimate.score, truth)]
        pairs += [(x + (1 - bar) * oracle.score(x, _lam(bar)), truth)]
        pairs += [(x + (1 - bar) * world.score(x, bar), truth)]
    flat = Mixture(randn(4, 2, seed=8), [0.3, 0.7, 0.5, 0.9], torch.tensor([0.1, 0.4, 0.2, 0.3]))
    z, lam = randn(9, 2, seed=9).requires_grad_(), torch.linspace(-3.0, 3.0, 9).double()
    (slope,) = torch.autograd.grad(flat.log_prob(z, lam).sum(), z)
    alpha, var = lam.sigmoid().sqrt().unsqueeze(1), lam.neg().sigmoid().unsqueeze(1)
    pairs += [(flat.score(z, lam), slope), (alpha * flat(z, lam).x0, z + var * slope)]
    return all_equal(pairs, f"{_ON}, by quadrature, and a mixture in the plane, by autograd")


@line(
    "132",
    latex=r"\sqrt{\bar\alpha_t}\,x_0 = " + _TWEEDIE,
    says="The shrunken picture is the mean of the noisy one, so the best guess of it stands in for "
    "it; no single picture has to be equal to it.",
    home=(Estimate.read, ScorePrediction.row),
    status="expectation",
    erratum="E5",
    note="Read x_0 as E[x_0 | x_t].",
)
def _() -> Finding:
    world, x, pairs = OnALine(), _SPOTS, []
    for bar, _ in _LEVELS:
        score = world.score(x, bar)
        told = Estimate(x, _lam(bar), VP, score, SCORE)
        pairs += [(bar**0.5 * told.read(X0), x + (1 - bar) * score)]
        pairs += [(told.read(X0), world.mean(x, bar))]
        factor = units(_lam(bar), VP, FLOW)  # in other units of x the score is another number
        other = Estimate(x * factor, _lam(bar), FLOW, score / factor, ScorePrediction(FLOW))
        pairs += [(other.read(X0), world.mean(x, bar)), (other.read(SCORE), score)]
    return all_equal(pairs, f"E[x0 | x_t] at 25 places, {_ON}")


@line(
    "133",
    latex=r"\therefore\; x_0 = \frac{" + _TWEEDIE + r"}{\sqrt{\bar\alpha_t}}",
    says="Who knows the slope of the log density knows the best guess of the picture; what is "
    "left over is real uncertainty.",
    home=(Mixture.__call__, Estimate.read),
    status="expectation",
    erratum="E5",
    note="Read x_0 as E[x_0 | x_t]: single pictures miss it by the least possible squared error.",
)
def _() -> Finding:
    world, pairs = OnALine(), []
    for bar, _ in _LEVELS:
        x, share = world.places(bar)
        guess = (x + (1 - bar) * world.score(x, bar)) / bar**0.5
        estimate = world.oracle()(x, _lam(bar))
        assert estimate.var is not None
        square = world.mean(x, bar, (world.x0 - guess) ** 2)
        missed, known = (share * square).sum(), (share * estimate.var).sum()
        require(bool(missed > 0.05), "single pictures are not equal to the best guess")
        told = Estimate(x, _lam(bar), VP, world.score(x, bar), SCORE).read(X0)
        pairs += [(share * told, share * guess), (share * estimate.x0, share * guess)]
        pairs += [(missed, known), (share * estimate.var, share * square)]
    return all_equal(pairs, f"the guess, and how far pictures are from it, {_ON}")


Line = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""A line's μ from (α_t, ᾱ_{t−1}, ᾱ_t, x_t, slope of the log density)."""


@cache
def _on_a_line() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """ᾱ_t, ᾱ_{t−1}, the slope of log p(x_t) and E[x_{t−1} | x_t], by quadrature."""
    world, x, found = OnALine(), _SPOTS, []
    for now, before in _LEVELS:
        bar, prev = (torch.tensor([[value]], dtype=torch.float64) for value in (now, before))
        found.append((bar, prev, world.score(x, now), world.step_back(x, now, before)))
    return found


def _mean(printed: Line) -> Finding:
    """A line's mean against the package's: on the line with the slope of log p(x_t), and on
    pictures with that of log q(x_t | x_0)."""
    x, pairs = _SPOTS, []
    for bar, prev, score, back in _on_a_line():
        ours = mean_from_score(x, score, level(bar), level(prev))
        pairs += [(ours, printed(bar / prev, prev, bar, x, score)), (ours, back)]
    f = steps()
    score = -(f.x_t - f.bar.sqrt() * f.x0) / (1 - f.bar)
    ours = mean_from_score(f.x_t, score, f.t, f.s)
    pairs += [(ours, printed(f.a, f.prev, f.bar, f.x_t, score))]
    pairs += [(ours, mean_from_x0(f.x_t, f.x0, f.t, f.s))]
    return all_equal(pairs, f"E[x_(t-1) | x_t] at 25 places, {_ON}; μ_q in steps of four chains")


def _tweedie(bar: Tensor, x: Tensor, score: Tensor) -> Tensor:
    return x + (1 - bar) * score


@_average(
    "134",
    latex=_MU + r"\frac{" + _TOP + r"x_t + \sqrt{\bar\alpha_{t-1}}(1-\alpha_t)x_0}"
    r"{1-\bar\alpha_t}",
    says="Start once more from the mean of the step back, told by the clean picture.",
    home=(mean_from_score, mean_from_x0),
)
def _() -> Finding:
    def printed(a: Tensor, prev: Tensor, bar: Tensor, x: Tensor, score: Tensor) -> Tensor:
        x0 = _tweedie(bar, x, score) / bar.sqrt()
        return (a.sqrt() * (1 - prev) * x + prev.sqrt() * (1 - a) * x0) / (1 - bar)

    return _mean(printed)


@_average(
    "135",
    latex=_MU + r"\frac{" + _TOP + r"x_t + \sqrt{\bar\alpha_{t-1}}(1-\alpha_t)\frac{" + _TWEEDIE
    + r"}{\sqrt{\bar\alpha_t}}}{1-\bar\alpha_t}",
    says="Write the picture as what the slope of the log density says it is.",
    home=mean_from_score,
)  # fmt: skip
def _() -> Finding:
    def printed(a: Tensor, prev: Tensor, bar: Tensor, x: Tensor, score: Tensor) -> Tensor:
        told = prev.sqrt() * (1 - a) * _tweedie(bar, x, score) / bar.sqrt()
        return (a.sqrt() * (1 - prev) * x + told) / (1 - bar)

    return _mean(printed)


@_average(
    "136",
    latex=_MU + r"\frac{" + _TOP + r"x_t + (1-\alpha_t)\frac{" + _TWEEDIE
    + r"}{\sqrt{\alpha_t}}}{1-\bar\alpha_t}",
    says="The shrinking of all steps but the last cancels.",
    home=mean_from_score,
)  # fmt: skip
def _() -> Finding:
    def printed(a: Tensor, prev: Tensor, bar: Tensor, x: Tensor, score: Tensor) -> Tensor:
        told = (1 - a) * _tweedie(bar, x, score) / a.sqrt()
        return (a.sqrt() * (1 - prev) * x + told) / (1 - bar)

    return _mean(printed)


@_average(
    "137",
    latex=_MU + r"\frac{" + _TOP + r"x_t}{1-\bar\alpha_t} + \frac{(1-\alpha_t)x_t}"
    r"{(1-\bar\alpha_t)\sqrt{\alpha_t}} + \frac{(1-\alpha_t)(1-\bar\alpha_t)" + _NABLA
    + r"}{(1-\bar\alpha_t)\sqrt{\alpha_t}}",
    says="The fraction is split into its three parts.",
    home=mean_from_score,
)  # fmt: skip
def _() -> Finding:
    def printed(a: Tensor, prev: Tensor, bar: Tensor, x: Tensor, score: Tensor) -> Tensor:
        below = (1 - bar) * a.sqrt()
        keep = a.sqrt() * (1 - prev) * x / (1 - bar) + (1 - a) * x / below
        return keep + (1 - a) * (1 - bar) * score / below

    return _mean(printed)


_SLOPE = r"\frac{1-\alpha_t}{\sqrt{\alpha_t}}" + _NABLA


@_average(
    "138",
    latex=_MU + r"\left(\frac{" + _TOP + r"}{1-\bar\alpha_t} + \frac{1-\alpha_t}"
    r"{(1-\bar\alpha_t)\sqrt{\alpha_t}}\right)x_t + " + _SLOPE,
    says="The two parts with the noisy picture are put together.",
    home=mean_from_score,
)
def _() -> Finding:
    def printed(a: Tensor, prev: Tensor, bar: Tensor, x: Tensor, score: Tensor) -> Tensor:
        keep = a.sqrt() * (1 - prev) / (1 - bar) + (1 - a) / ((1 - bar) * a.sqrt())
        return keep * x + (1 - a) / a.sqrt() * score

    return _mean(printed)


@_average(
    "139",
    latex=_MU + r"\left(\frac{\alpha_t(1-\bar\alpha_{t-1})}{(1-\bar\alpha_t)\sqrt{\alpha_t}} + "
    r"\frac{1-\alpha_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}}\right)x_t + " + _SLOPE,
    says="Both are brought to one denominator.",
    home=mean_from_score,
)
def _() -> Finding:
    def printed(a: Tensor, prev: Tensor, bar: Tensor, x: Tensor, score: Tensor) -> Tensor:
        below = (1 - bar) * a.sqrt()
        return (a * (1 - prev) / below + (1 - a) / below) * x + (1 - a) / a.sqrt() * score

    return _mean(printed)


@_average(
    "140",
    latex=_MU
    + r"\frac{\alpha_t-\bar\alpha_t+1-\alpha_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}}x_t + "
    + _SLOPE,
    says="One more factor makes the product up to t−1 the product up to t.",
    home=mean_from_score,
)
def _() -> Finding:
    def printed(a: Tensor, prev: Tensor, bar: Tensor, x: Tensor, score: Tensor) -> Tensor:
        return (a - bar + 1 - a) / ((1 - bar) * a.sqrt()) * x + (1 - a) / a.sqrt() * score

    return _mean(printed)


@_average(
    "141",
    latex=_MU + r"\frac{1-\bar\alpha_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}}x_t + " + _SLOPE,
    says="Two terms cancel, and above stands what stands below.",
    home=mean_from_score,
)
def _() -> Finding:
    def printed(a: Tensor, prev: Tensor, bar: Tensor, x: Tensor, score: Tensor) -> Tensor:
        return (1 - bar) / ((1 - bar) * a.sqrt()) * x + (1 - a) / a.sqrt() * score

    return _mean(printed)


@_average(
    "142",
    latex=_MU + r"\frac{1}{\sqrt{\alpha_t}}x_t + " + _SLOPE,
    says="A step back follows the slope of the log density, uphill towards likely pictures, and "
    "stretches a little.",
    home=mean_from_score,
)
def _() -> Finding:
    def printed(a: Tensor, prev: Tensor, bar: Tensor, x: Tensor, score: Tensor) -> Tensor:
        return x / a.sqrt() + (1 - a) / a.sqrt() * score

    return _mean(printed)
