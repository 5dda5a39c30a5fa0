"""Extensions: EDM's preconditioning and loss."""

import math

import torch
from torch import Tensor

from ...denoiser import Estimate, Net
from ...objective import Edm, NormalLevels, Objective
from ...oracle import Gaussian
from ...predict import VelocityPrediction, VPrediction
from ...scaling import VE, UnitVariance, VarianceExploding
from ...schedule import Karras
from ..equation import Finding, all_equal, equation, require
from ..extra_edm import (
    denoised,
    loss_weight,
    slope,
    told,
)
from ..extra_worlds import flat_bumps, normal, numbers

PART = "EDM"
EDM = "Karras et al. 2022 (EDM), arXiv 2206.00364"
SIGMAS = (0.03, 0.4, 1.7, 22.0)


def _lam(sigma: Tensor) -> Tensor:
    return -2.0 * sigma.log()


@equation(
    "X53",
    part=PART,
    source=EDM + ", Eq. 7 and Table 1",
    latex=r"D_\theta(x; \sigma) = c_{\text{skip}} x + c_{\text{out}} F_\theta, \quad "
    r"c_{\text{skip}} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \; c_{\text{out}} = "
    r"\frac{\sigma \sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}",
    says="EDM's network says part of the answer and the noisy picture itself says the rest, in "
    "shares that depend on the noise.",
    home=(VPrediction.row, denoised),
    note="F is −v of the units in which the data's and the noise's powers add up to one.",
)
def _() -> Finding:
    sigma, std = numbers(*SIGMAS), 0.43
    x, out = normal(4, 3), normal(4, 3)
    est = Estimate(x, _lam(sigma), VE, -out, VPrediction(std))
    column = sigma.unsqueeze(1)
    by_hand = (std * x / (column**2 + std**2).sqrt() + column * out) * std
    by_hand = by_hand / (column**2 + std**2).sqrt()
    pairs = [(denoised(x, out, column, std), est.x0), (est.x0, by_hand)]
    return all_equal(pairs, "the core's 2×2 solve for v against c_skip and c_out")


@equation(
    "X54",
    part=PART,
    source=EDM + ", Table 1 and appendix B.6",
    latex=r"c_{\text{in}} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}: \quad "
    r"\operatorname{Var}\left[c_{\text{in}} x\right] = 1",
    says="The network always sees pictures of the same brightness spread, however noisy they are.",
    home=(UnitVariance._alpha_sigma, VarianceExploding._alpha_sigma),
    note="Preconditioning the input is a choice of units and nothing else.",
)
def _() -> Finding:
    sigma, std = numbers(*SIGMAS), 0.43
    inner, outer = UnitVariance(std)(_lam(sigma)), VE(_lam(sigma))
    c_in = 1.0 / (sigma**2 + std**2).sqrt()
    pairs = [
        (inner.alpha / outer.alpha, c_in),
        (inner.sigma / outer.sigma, c_in),
        (inner.alpha**2 * std**2 + inner.sigma**2, 1.0),
        (outer.sigma, sigma),
    ]
    return all_equal(pairs, "change of units against c_in, and the total variance")


@equation(
    "X55",
    part=PART,
    source=EDM + ", appendix B.6",
    latex=r"F^* = \frac{x_0 - c_{\text{skip}}\, x}{c_{\text{out}}}: \quad "
    r"\operatorname{Var}[F^*] = 1 \text{ and } c_{\text{out}} \text{ is as small as it can be}",
    says="What the network is asked for has the same size at every noise level, and its mistakes "
    "are amplified as little as possible.",
    home=(VPrediction.row, denoised),
)
def _() -> Finding:
    lam, std = _lam(numbers(*SIGMAS)), 0.43
    a, b = (torch.as_tensor(part) for part in VPrediction(std).row(lam))
    sigma = numbers(*SIGMAS)
    zero, one = torch.zeros(4).double(), torch.ones(4).double()
    keep, gain = denoised(one, zero, sigma, std), denoised(zero, one, sigma, std)
    # c_out² = (1 − c_skip)²·σ_d² + c_skip²·σ²: least where its slope in c_skip is zero
    least = -2.0 * (1.0 - keep) * std**2 + 2.0 * keep * sigma**2
    pairs = [
        ((a * std) ** 2 + b**2, 1.0),
        (gain**2, (1.0 - keep) ** 2 * std**2 + keep**2 * sigma**2),
        (least, 0.0),
        (-a * gain, 1.0 - keep),
        (-b * gain, -keep * sigma),
    ]
    return all_equal(pairs, "variance of the target, and c_skip as the minimiser of c_out")


@equation(
    "X56",
    part=PART,
    source=EDM + ", Table 1",
    latex=r"\lambda(\sigma)\, c_{\text{out}}(\sigma)^2 = 1, \qquad \lambda(\sigma) = "
    r"\frac{\sigma^2 + \sigma_d^2}{(\sigma \sigma_d)^2}",
    says="The loss weighs every noise level so that the network's own errors count alike.",
    home=(loss_weight, Objective.weight, Edm.__call__),
)
def _() -> Finding:
    sigma, std = numbers(*SIGMAS), 0.43
    gain = denoised(torch.zeros(4).double(), torch.ones(4).double(), sigma, std)
    objective = Objective(Edm(data_std=std), NormalLevels(2.4, 2.4))
    weight = objective.weight(VPrediction(std), _lam(sigma))
    pairs = [(loss_weight(sigma, std) * gain**2, 1.0), (weight, 0.5)]
    return all_equal(pairs, "in EDM's letters, and as a weighting over λ (half of it)")


@equation(
    "X57",
    part=PART,
    source=EDM + ", Table 1",
    latex=r"c_{\text{noise}} = \frac{1}{4} \ln \sigma = -\frac{\lambda}{8}",
    says="The network is told a gentle spelling of the noise level.",
    home=(told, Net.forward),
    note="Which spelling a network was trained with belongs to the network: it must see the same "
    "one ever after.",
)
def _() -> Finding:
    sigma, x = numbers(*SIGMAS), normal(4, 2)
    seen: list[Tensor] = []

    class Backbone(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            seen.extend([x, t] if cond is None else [x, t, cond])
            return 0.3 * x

    label = Karras(0.01, 90.0, 3.0)
    net = Net(Backbone(), prediction=VPrediction(0.5), scaling=VE, input_scaling=UnitVariance(0.5))
    net.label = label
    est = net(x, _lam(sigma))
    c_in = 1.0 / (sigma**2 + 0.25).sqrt().unsqueeze(1)
    time = (sigma ** (1 / 3) - 0.01 ** (1 / 3)) / (90.0 ** (1 / 3) - 0.01 ** (1 / 3))
    plain = Net(Backbone(), prediction=VPrediction(0.5), scaling=VE)(x, 0.7, torch.arange(4))
    pairs = [
        *_two_answers(x),
        (told(sigma), -_lam(sigma) / 8.0),
        (seen[0], c_in * x),
        (seen[1], time),
        (est.x, x),
        (est.x0, denoised(x, -0.3 * c_in * x, sigma.unsqueeze(1), 0.5)),
        (seen[2], x),
        (seen[3], (20.0 - 0.7) / 40.0),
        (seen[4], torch.arange(4)),
        (plain.out, 0.3 * x),
    ]
    return all_equal(pairs, "what a backbone is shown and told, and how its answer is read")


def _two_answers(x: Tensor) -> list[tuple[Tensor | float, Tensor | float]]:
    """A backbone with twice the channels also says how random the step is, from −1 to 1."""

    def backbone(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([0.3 * x, 0.7 * x], 1)

    module = torch.nn.Module()
    module.forward = backbone
    est = Net(module, prediction=VPrediction(0.5), scaling=VE)(x, 0.7)
    assert est.mix is not None
    return [(est.out, 0.3 * x), (est.mix, (1.0 + 0.7 * x) / 2.0), (est.x, x), (est.level.lam, 0.7)]


@equation(
    "X58",
    part=PART,
    source=EDM + ", Eqs. 1 and 3",
    latex=r"\frac{dx}{d\sigma} = \frac{x - D(x; \sigma)}{\sigma} = \hat\epsilon",
    says="With the noise level itself as time, the slope of the path is the noise one believes to "
    "see.",
    home=(slope, VelocityPrediction.row),
)
def _() -> Finding:
    oracle, x, lam = flat_bumps(VE), normal(6, 2), numbers(-1.3, -0.6, 0.1, 0.8, 1.5, 2.2)
    sigma, est = (-0.5 * lam).exp().unsqueeze(1), oracle(x, lam)
    linear = Karras(1e-9, 50.0, 1.0)  # time proportional to σ
    fast = est.velocity(linear) / (50.0 - 1e-9)
    gaussian = Gaussian(numbers(0.4, -1.0), torch.diag(numbers(0.3, 0.9)), VE)
    start, here, step = normal(5, 2), 1.3, 1e-4
    flows = [gaussian.flow(start, 0.0, -2.0 * math.log(here + k * step)) for k in (-1, 0, 1)]
    found = slope(flows[1], gaussian(flows[1], -2.0 * math.log(here)).x0, numbers(here))
    by_steps = (flows[2] - flows[0]) / (2.0 * step)
    require(((found - by_steps).abs().max() < 1e-7).item() is True, "it is the slope of the flow")
    pairs = [(slope(x, est.x0, sigma), est.eps), (fast, est.eps)]
    return all_equal(pairs, "(x − D)/σ, ε̂ and the core's velocity in VE units")
