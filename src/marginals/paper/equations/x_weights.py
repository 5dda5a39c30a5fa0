"""Extensions: every published loss is one weight w(λ) on the error in the noise."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...objective import (
    P2,
    Edm,
    Elbo,
    MinSnr,
    Mse,
    NormalLevels,
    Objective,
    Sigmoid,
    UniformTime,
)
from ...predict import EPS, VELOCITY, X0, V, VelocityPrediction, VPrediction, noise_gain
from ...scaling import FLOW, SUB_VP, VP
from ...schedule import Cosine, LinearBeta, Logit, Tabulated
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_worlds import gauss, line, normal, numbers

PART = "Likelihood and weighting"
WEIGHTS = "Kingma & Gao 2023, arXiv 2303.00848, Table 1"
AT = (-6.3, -2.1, -0.4, 0.9, 2.7, 5.8)


def _monotone(weight: Callable[[Tensor], Tensor]) -> bool:
    """Whether the weight never rises with λ on [−12, 12]."""
    values = weight(line(-12.0, 12.0, 2401))
    return bool((values.diff() <= 0).all())


def _sech(x: Tensor) -> Tensor:
    return 1.0 / x.cosh()


@equation(
    "X13",
    part=PART,
    source=WEIGHTS,
    latex=r"\mathbb{E}_{t \sim U}\left\lVert \epsilon - \hat\epsilon \right\rVert^2, \text{ cosine "
    r"schedule}: \quad w(\lambda) = \frac{1}{2\pi} \operatorname{sech}\frac{\lambda}{2}",
    says="Plainly averaging the squared noise error under a cosine schedule looks mostly at middle "
    "noise levels.",
    home=(Mse.__call__, Cosine._dlam, Cosine._t),
)
def _() -> Finding:
    lam = numbers(*AT)
    weight = Mse(EPS, Cosine())
    require(not _monotone(weight), "this loss is not an average of likelihood bounds")
    t = numbers(0.07, 0.31, 0.5, 0.74, 0.93)
    clean = (0.5 * math.pi * t).cos() ** 2
    levels = (clean / (1.0 - clean)).log()
    pairs = [(weight(lam), _sech(0.5 * lam) / (2.0 * math.pi)), (Cosine().t(levels), t)]
    tiny = numbers(1e-12)  # the first moments keep all digits
    pairs += [(Cosine().dlam(tiny) * tiny, -2.0)]
    return all_equal(pairs, "the density of levels times one, in closed form")


@equation(
    "X14",
    part=PART,
    source="Salimans & Ho 2022, arXiv 2202.00512; " + WEIGHTS,
    latex=r"\mathbb{E}_{t \sim U}\left\lVert v - \hat v \right\rVert^2, \text{ cosine schedule}: "
    r"\quad w(\lambda) = \frac{1}{\pi} e^{-\lambda/2}",
    says="Averaging the error in v instead gives a weight that falls steadily towards clean "
    "pictures.",
    home=(VPrediction.row, noise_gain),
)
def _() -> Finding:
    lam = numbers(*AT)
    weight = Mse(V, Cosine())
    require(_monotone(weight), "this loss is an average of likelihood bounds")
    level, (a, b) = VP(lam), V.row(lam)
    x0, eps, guess = normal(6), normal(6), normal(6)
    # v from its meaning: the velocity in the angle φ with x = cos φ·x0 + sin φ·ε
    said = level.alpha * guess - level.sigma * (
        (level.alpha * x0 + level.sigma * (eps - guess)) / level.alpha
    )
    error = said - (a * x0 + b * eps)
    two = VPrediction(0.6).row(lam)
    pairs = [
        (weight(lam), (-0.5 * lam).exp() / math.pi),
        (guess - eps, error * noise_gain(V, lam)),
        (two[0] ** 2 * 0.36 + two[1] ** 2, 1.0),
        (two[1], 0.6 / (0.36 + (-lam).exp()).sqrt()),
    ]
    return all_equal(pairs, "w in closed form, and errors in v turned into errors in ε")


@equation(
    "X15",
    part=PART,
    source="Lipman et al. 2023, arXiv 2210.02747; " + WEIGHTS,
    latex=r"\mathbb{E}_{t \sim U}\left\lVert u - \hat u \right\rVert^2, \; x = (1-t) x_0 + t "
    r"\epsilon: \quad w(\lambda) = \frac{1}{2} e^{-\lambda/2}",
    says="Flow matching with uniformly random times is v-prediction with a cosine schedule: the "
    "same loss, up to a factor.",
    home=(VelocityPrediction.row, Logit._dlam, Logit._t),
)
def _() -> Finding:
    lam = numbers(*AT)
    found = Mse(VELOCITY, Logit())(lam)
    schedule = LinearBeta(scaling=SUB_VP)
    curved = VelocityPrediction(schedule, SUB_VP)
    t, step = schedule.t(lam[2:4]), 1e-4
    near = [SUB_VP(schedule.lam(t + k * step)) for k in (-2, -1, 1, 2)]
    by_hand = [
        (a - 8.0 * b + 8.0 * c - d) / (12.0 * step)
        for a, b, c, d in (
            [level.alpha for level in near],
            [level.sigma for level in near],
        )
    ]
    require(VELOCITY.row(lam) == (-1.0, 1.0), "on the straight line the velocity is ε − x0")
    shifted = Logit(1.7)
    moved, time = shifted.lam(numbers(0.3, 0.8)), numbers(0.3, 0.8)
    odds = (1.0 - time) / time / 1.7
    pairs = [
        (found, 0.5 * (-0.5 * lam).exp()),
        (found / Mse(V, Cosine())(lam), 0.5 * math.pi),
        (moved, 2.0 * odds.log()),
        (shifted.t(moved), time),
    ]
    row = curved.row(lam[2:4])
    slow = [equal(row[i], by_hand[i], "").error * 1e-3 for i in (0, 1)]
    return Finding(max(all_equal(pairs, "").error, *slow), "w in closed form; velocity by steps")


@equation(
    "X16",
    part=PART,
    source="InDI: Delbracio & Milanfar 2023, arXiv 2303.11435; " + WEIGHTS,
    latex=r"\mathbb{E}_{t \sim U}\left\lVert x_0 - \hat x_0 \right\rVert^2, \; x = (1-t) x_0 + t "
    r"\epsilon: \quad w(\lambda) = \frac{1}{8} e^{-\lambda} \operatorname{sech}^2"
    r"\frac{\lambda}{4}",
    says="Averaging the error in the picture itself hardly looks at nearly clean pictures.",
    home=(noise_gain, Mse.__call__),
)
def _() -> Finding:
    lam = numbers(*AT)
    weight = Mse(X0, Logit())
    require(_monotone(weight), "this loss is an average of likelihood bounds")
    return equal(weight(lam), (-lam).exp() * _sech(0.25 * lam) ** 2 / 8.0, "w in closed form")


@equation(
    "X17",
    part=PART,
    source="Karras et al. 2022 (EDM), arXiv 2206.00364; " + WEIGHTS,
    latex=r"w(\lambda) = \mathcal{N}\left(\lambda; 2.4, 2.4^2\right) \frac{e^{-\lambda} + "
    r"\sigma_d^2}{\sigma_d^2}",
    says="EDM's loss looks most at a noise level far above the one its training visits most.",
    home=(Edm.__call__, NormalLevels.density),
)
def _() -> Finding:
    lam, sigma = numbers(*AT), (-0.5 * numbers(*AT)).exp()
    # from EDM's own loss: ln σ ~ N(−1.2, 1.2²), weight (σ² + σ_d²)/(σσ_d)² on ‖D − x0‖²
    log_normal = torch.distributions.Normal(numbers(-1.2), 1.2)
    own = (sigma**2 + 0.25) / (sigma * 0.5) ** 2 * sigma**2
    density = log_normal.log_prob(sigma.log()).exp() * 0.5
    fine = line(-6.0, 0.0, 6001)
    peak = fine[Edm()(fine).argmax()]
    require(not _monotone(Edm()), "this loss is not an average of likelihood bounds")
    require(abs(peak.item() + 3.308) < 2e-3, "the weight is largest at λ = −3.308, σ = 5.23")
    other = Edm(-0.7, 0.9, 0.8)(lam)
    wide = torch.distributions.Normal(numbers(-0.7), 0.9).log_prob(sigma.log()).exp() * 0.5
    pairs = [(Edm()(lam), density * own), (other, wide * (sigma**2 + 0.64) / 0.64)]
    return all_equal(pairs, "EDM's loss, rewritten step by step as an error in ε")


@equation(
    "X18",
    part=PART,
    source="Choi et al. 2022, arXiv 2204.00227",
    latex=r"w(\lambda) = \frac{w_{\epsilon}(\lambda)}{(k + e^{\lambda})^{\gamma}}",
    says="P2 takes weight away from nearly clean pictures, where only invisible detail is left.",
    home=P2.__call__,
    status="definition",
)
def _() -> Finding:
    lam = numbers(*AT)
    plain = _sech(0.5 * lam) / (2.0 * math.pi)
    found = P2(gamma=0.7, k=1.4)(lam)
    return equal(found, plain / (1.4 + lam.exp()) ** 0.7, "on top of ε-MSE under a cosine schedule")


@equation(
    "X19",
    part=PART,
    source="Hang et al. 2023, arXiv 2303.09556",
    latex=r"w(\lambda) = w_{\epsilon}(\lambda) \min\left(1, \gamma e^{-\lambda}\right)",
    says="Min-SNR caps what clean levels may contribute, whatever the network is asked to predict.",
    home=MinSnr.__call__,
)
def _() -> Finding:
    lam, gamma = numbers(*AT), 5.0
    # Hang et al. write it for a network that predicts x0: min(SNR, γ) on ‖x0 − x̂0‖²
    on_x0 = torch.minimum(lam.exp(), numbers(gamma))
    on_eps = on_x0 * (-lam).exp()
    found = MinSnr(Mse(EPS, Cosine()), gamma)(lam)
    return equal(found, _sech(0.5 * lam) / (2.0 * math.pi) * on_eps, "min(SNR, γ) on errors in x0")


@equation(
    "X20",
    part=PART,
    source="Kingma & Gao 2023; Hoogeboom et al. 2024, arXiv 2410.19324",
    latex=r"w(\lambda) = \operatorname{sigmoid}(b - \lambda)",
    says="The sigmoid weight counts noisy levels fully and clean levels ever less, so it is an "
    "average of likelihood bounds.",
    home=Sigmoid.__call__,
    status="definition",
)
def _() -> Finding:
    lam = numbers(*AT)
    require(_monotone(Sigmoid(1.3)), "it falls")
    return equal(Sigmoid(1.3)(lam), math.exp(1.3) / (math.exp(1.3) + lam.exp()), "written out")


@equation(
    "X21",
    part=PART,
    source=WEIGHTS,
    latex=r"w_{\text{EDM-monotonic}}(\lambda) = \max_{\lambda' \ge \lambda} w_{\text{EDM}}"
    r"(\lambda')",
    says="Holding EDM's weight at its highest value for all noisier levels makes it an average of "
    "likelihood bounds.",
    home=Edm.__call__,
    status="condition",
    tolerance=1e-6,
    note="Kingma & Gao report that it samples as well as EDM's own weight (FID 1.43 both on "
    "ImageNet-64). It is a rule about EDM's weight, not a class of its own in this package.",
)
def _() -> Finding:
    lam = line(-12.0, 12.0, 24001)
    held = Edm()(lam).flip(0).cummax(0).values.flip(0)
    require(bool((held.diff() <= 0).all()), "it never rises with λ")
    # the peak solves d log w/dλ = −(λ − 2.4)/2.4² − e^(−λ)/(e^(−λ) + ¼) = 0
    low, high = -5.0, -1.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        share = math.exp(-middle) / (math.exp(-middle) + 0.25)
        low, high = (middle, high) if -(middle - 2.4) / 5.76 > share else (low, middle)
    top = math.exp(-0.5 * ((low - 2.4) / 2.4) ** 2) / (2.4 * math.sqrt(2.0 * math.pi))
    return equal(held[0], top * (math.exp(-low) / 0.25 + 1.0), "its height, from the slope's zero")


@equation(
    "X22",
    part=PART,
    source="Ho et al. 2020 (DDPM), arXiv 2006.11239, Eq. 14",
    latex=r"L_{\text{simple}} = \mathbb{E}_{t \sim U, \epsilon}\left\lVert \epsilon - "
    r"\hat\epsilon \right\rVert^2 = \frac{1}{2}\int 2\,p(\lambda)\, \mathbb{E}\left\lVert "
    r"\epsilon - \hat\epsilon \right\rVert^2 d\lambda",
    says="DDPM's simple loss forgets the weights of the likelihood and counts all steps alike.",
    home=(Objective.weight, Mse.__call__),
    note="This package halves it with all other losses, ½∫w·E‖ε − ε̂‖²dλ, so w = p(λ).",
)
def _() -> Finding:
    chain = Tabulated.ddpm()
    objective = Objective(Mse(EPS, chain), UniformTime(chain))
    lam = numbers(-8.1, -3.0, 0.4, 3.9, 8.2)
    in_v = objective.weight(V, lam) * (1.0 + (-lam).exp())  # errors in v are 1/α² those in ε
    true = Objective(Elbo(), UniformTime(chain)).weight(EPS, lam)
    pairs = [(objective.weight(EPS, lam), 0.5), (in_v, 0.5), (2.0 * true * chain.density(lam), 1.0)]
    return all_equal(pairs, "every error in ε counts one half; the likelihood's does not")


@equation(
    "X23",
    part=PART,
    source="Esser et al. 2024, arXiv 2403.03206, section 3.1; Karras et al. 2022",
    latex=r"\operatorname{logit} t \sim \mathcal{N}(m, s^2) \iff \lambda \sim \mathcal{N}(-2m, "
    r"(2s)^2) \iff \ln \sigma \sim \mathcal{N}(m, s^2)",
    says="The logit-normal times of Stable Diffusion 3 and the log-normal noise of EDM are the "
    "same choice.",
    home=(NormalLevels.sample, NormalLevels.density),
)
def _() -> Finding:
    m, s, u = -0.7, 0.9, numbers(0.03, 0.2, 0.5, 0.81, 0.99)
    levels = NormalLevels(-2.0 * m, 2.0 * s)
    lam = levels.sample(u)
    t = FLOW(lam).sigma  # straight-line time
    normal_law = torch.distributions.Normal(numbers(m), s)
    density = normal_law.log_prob(torch.logit(t)).exp()
    at, nodes = gauss(-20.0, 20.0, 120)
    pairs = [
        (normal_law.cdf(torch.logit(t)), 1.0 - u),
        (levels.density(lam), 0.5 * density),
        ((nodes * levels.density(at)).sum(), 1.0),
    ]
    return all_equal(pairs, "quantiles and densities of logit t, and the total")
