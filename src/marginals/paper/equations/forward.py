"""Luo Eqs. 59–70: many small steps of noise are one jump, q(x_t | x_0)."""

from functools import partial, reduce
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import Normal as TorchNormal

from ...chain import chain_lams, forward_step, marginal, step, step_signal, step_variance, two_steps
from ...gaussian import Normal, normal_log_prob
from ...scaling import VP, Level
from ..equation import Finding, all_equal, equal, equation
from ..fixtures import bars, chains, randn, steps

line = partial(equation, part="Variational Diffusion Models", page=11)

_STEP = (forward_step, step, step_signal, step_variance)
_ON = "steps of four chains (DDPM, cosine, VDM, random), three pixels"


def _two_steps_back() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_{t−2}, the noises of the two steps after it, and x_t as the package walks there."""
    f = steps()
    x, first, second = f.x0, f.eps, f.guess  # any x_{t−2} and any two noises will do
    middle = forward_step(x, f.s, f.r).sample(first)
    return x, first, second, forward_step(middle, f.t, f.s).sample(second)


def _merged() -> tuple[Tensor, Tensor]:
    """Signal and standard deviation of two steps as one, each (B, 1)."""
    f = steps()
    both = two_steps(step(f.s, f.r), step(f.t, f.s))
    signal, var = torch.as_tensor(both.signal), torch.as_tensor(both.variance)
    return signal.unsqueeze(1), var.sqrt().unsqueeze(1)


@line(
    "59",
    latex=r"x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{1-\alpha_t}\,\epsilon,"
    r"\quad \epsilon \sim \mathcal{N}(0, I)",
    says="One step towards noise shrinks the picture a little and adds a little fresh noise, so "
    "that the spread of the pixels stays the same.",
    home=(*_STEP, Normal.sample),
)
def _() -> Finding:
    f = steps()
    x_t = forward_step(f.guess, f.t, f.s).sample(f.eps)
    return equal(x_t, f.a.sqrt() * f.guess + (1.0 - f.a).sqrt() * f.eps, f"x_t in {_ON}")


@line(
    "60",
    latex=r"x_{t-1} = \sqrt{\alpha_{t-1}}\,x_{t-2} + \sqrt{1-\alpha_{t-1}}\,\epsilon,"
    r"\quad \epsilon \sim \mathcal{N}(0, I)",
    says="The step before works in the same way, with its own amount of noise.",
    home=_STEP,
)
def _() -> Finding:
    f = steps()
    x = forward_step(f.guess, f.s, f.r).sample(f.eps)
    return equal(x, f.a1.sqrt() * f.guess + (1.0 - f.a1).sqrt() * f.eps, f"x_(t-1) in {_ON}")


@line(
    "61",
    latex=r"x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{1-\alpha_t}\,\epsilon^*_{t-1}",
    says="To see what two steps do together, start from the second one and give its noise a name.",
    home=forward_step,
)
def _() -> Finding:
    f = steps()
    x, first, second, walked = _two_steps_back()
    middle = f.a1.sqrt() * x + (1.0 - f.a1).sqrt() * first
    return equal(walked, f.a.sqrt() * middle + (1.0 - f.a).sqrt() * second, f"two of the {_ON}")


@line(
    "62",
    latex=r"x_t = \sqrt{\alpha_t}\left(\sqrt{\alpha_{t-1}}\,x_{t-2} + "
    r"\sqrt{1-\alpha_{t-1}}\,\epsilon^*_{t-2}\right) + \sqrt{1-\alpha_t}\,\epsilon^*_{t-1}",
    says="Write the result of the first step into the second.",
    home=forward_step,
)
def _() -> Finding:
    f = steps()
    x, first, second, walked = _two_steps_back()
    inner = f.a1.sqrt() * x + (1.0 - f.a1).sqrt() * first
    return equal(walked, f.a.sqrt() * inner + (1.0 - f.a).sqrt() * second, f"two of the {_ON}")


@line(
    "63",
    latex=r"x_t = \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2} + "
    r"\sqrt{\alpha_t-\alpha_t\alpha_{t-1}}\,\epsilon^*_{t-2} + \sqrt{1-\alpha_t}\,\epsilon^*_{t-1}",
    says="Multiplied out, the older noise has been shrunk by the second step just as the picture "
    "was.",
    home=forward_step,
)
def _() -> Finding:
    f = steps()
    x, first, second, walked = _two_steps_back()
    noise = (f.a - f.a * f.a1).sqrt() * first + (1.0 - f.a).sqrt() * second
    return equal(walked, (f.a * f.a1).sqrt() * x + noise, f"two of the {_ON}")


def _law(signal: Tensor, std: Tensor) -> Finding:
    """The merged step against a line's two coefficients."""
    return all_equal(zip(_merged(), (signal, std)), f"signal and noise of two of the {_ON}")


@line(
    "64",
    latex=r"x_t = \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2} + \sqrt{\sqrt{\alpha_t-\alpha_t"
    r"\alpha_{t-1}}^2 + \sqrt{1-\alpha_t}^2}\;\epsilon_{t-2}",
    says="Two independent noises act together like one noise whose variance is the sum of theirs.",
    home=two_steps,
    note="Equal in distribution: the one noise is a mixture of the two, not a new draw.",
)
def _() -> Finding:
    f = steps()
    pair = (f.a - f.a * f.a1).sqrt() ** 2 + (1.0 - f.a).sqrt() ** 2
    return _law((f.a * f.a1).sqrt(), pair.sqrt())


@line(
    "65",
    latex=r"x_t = \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2} + "
    r"\sqrt{\alpha_t-\alpha_t\alpha_{t-1}+1-\alpha_t}\;\epsilon_{t-2}",
    says="The squares of the square roots are taken.",
    home=two_steps,
)
def _() -> Finding:
    f = steps()
    return _law((f.a * f.a1).sqrt(), (f.a - f.a * f.a1 + 1.0 - f.a).sqrt())


@line(
    "66",
    latex=r"x_t = \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2} + "
    r"\sqrt{1-\alpha_t\alpha_{t-1}}\,\epsilon_{t-2}",
    says="Two steps have the form of one step: only the product of their two numbers counts.",
    home=two_steps,
)
def _() -> Finding:
    f = steps()
    return _law((f.a * f.a1).sqrt(), (1.0 - f.a * f.a1).sqrt())


@line(
    "67",
    latex=r"x_t = \sqrt{\alpha_t\alpha_{t-1}\alpha_{t-2}}\,x_{t-3} + "
    r"\sqrt{1-\alpha_t\alpha_{t-1}\alpha_{t-2}}\,\epsilon_{t-3} = \dots",
    says="The same merging goes on, step after step, back to the picture.",
    home=two_steps,
    note="Printed as three dots; the line of three steps is written out here.",
)
def _() -> Finding:
    pairs: list[tuple[Tensor | float, Tensor | float]] = []
    for alphas in chains().values():
        bar = bars(alphas)
        back = (bar / (1.0 - bar)).log()[-4:]
        merged = reduce(two_steps, [step(VP(t), VP(s)) for s, t in pairwise(back)])
        product = alphas[-3:].prod()
        pairs += [(merged.signal, product.sqrt()), (merged.variance, 1.0 - product)]
    return all_equal(pairs, "the last three steps of each of four chains")


def _jump(chain: Tensor) -> Level[Tensor]:
    """The levels t = 1..T of a chain as the package reads them off Luo's α_1..α_T."""
    return VP(chain_lams(chain)[1:])


@line(
    "68",
    latex=r"x_t = \sqrt{\prod_{i=1}^{t}\alpha_i}\,x_0 + "
    r"\sqrt{1-\prod_{i=1}^{t}\alpha_i}\,\epsilon_0",
    says="All steps from the picture on are one jump, and only the product of their numbers is "
    "left.",
    home=(chain_lams, two_steps),
)
def _() -> Finding:
    pairs: list[tuple[Tensor | float, Tensor | float]] = []
    for alphas in (chains()["random"], chains()["cosine"]):
        lams = chain_lams(alphas)
        jump = reduce(two_steps, [step(VP(t), VP(s)) for s, t in pairwise(lams)])
        pairs += [(jump.signal, alphas.prod().sqrt()), (jump.variance, 1.0 - alphas.prod())]
        pairs += [(_jump(alphas).alpha ** 2, alphas.cumprod(0)), (lams[:1].isinf().double(), 1.0)]
    return all_equal(pairs, "every step of two chains, merged from the picture on")


@line(
    "69",
    latex=r"x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon_0,"
    r"\quad \bar\alpha_t = \prod_{i=1}^{t}\alpha_i",
    says="A picture can be brought to any noise level at once: shrink it, add noise, done.",
    home=(marginal, chain_lams),
)
def _() -> Finding:
    pairs = []
    for alphas in chains().values():
        bar = bars(alphas)[1:].unsqueeze(1)
        x0, eps = randn(2, len(alphas), 3, seed=5)
        x_t = marginal(x0, _jump(alphas)).sample(eps)
        pairs.append((x_t, bar.sqrt() * x0 + (1.0 - bar).sqrt() * eps))
    return all_equal(pairs, "every level of four chains (1000, 40, 30 and 7 steps)")


@line(
    "70",
    latex=r"q(x_t \mid x_0) = \mathcal{N}\left(x_t;\, \sqrt{\bar\alpha_t}\,x_0,\, "
    r"(1-\bar\alpha_t)\,I\right)",
    says="Given the picture, the noisy picture at level t is Gaussian, with the shrunken picture "
    "as its mean and a known variance.",
    home=(marginal, Normal.log_prob, normal_log_prob),
)
def _() -> Finding:
    f = steps()
    q, x = marginal(f.x0, f.t), f.guess
    truth = TorchNormal(f.bar.sqrt() * f.x0, (1.0 - f.bar).sqrt().expand_as(x)).log_prob(x).sum(1)
    recursion = f.a * (1.0 - f.prev) + 1.0 - f.a  # v_t = α_t·v_{t−1} + 1 − α_t
    pairs = [(q.log_prob(x), truth), ((2.0 * q.log_std).exp(), recursion)]
    pairs += [(normal_log_prob(x, f.bar.sqrt() * f.x0, 1.0 - f.bar), truth)]
    return all_equal(pairs, f"log densities and variances at the {_ON}")
