"""Extensions: the stochastic processes behind the marginals, forwards and backwards."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...scaling import SUB_VP, VE, VP, Scaling, SubVariancePreserving, UnitVariance
from ...schedule import LinearBeta, LogLinear, NoiseSchedule
from ..equation import Finding, all_equal, equation
from ..extra_sde import (
    diffusion_squared,
    drift_rate,
    flow_drift,
    geometric_sigmas,
    reverse_drift,
)
from ..extra_worlds import gradient, integrate, line, numbers, slope, three_bumps

PART = "Score SDE"
SONG = "Song et al. 2021, arXiv 2011.13456"
TIMES = (0.13, 0.37, 0.58, 0.86)
GEOMETRIC = LogLinear(-2.0 * math.log(0.05), -2.0 * math.log(7.0))
PROCESSES: tuple[tuple[Scaling, NoiseSchedule], ...] = (
    (VP, LinearBeta()),
    (SUB_VP, LinearBeta(scaling=SUB_VP)),
    (VE, GEOMETRIC),
)


@equation(
    "X24",
    part=PART,
    source=SONG + ", section 3.1 and appendix B",
    latex=r"dx = f(t)\, x\, dt + g(t)\, dw, \qquad f = \frac{d \log \alpha}{dt}, \quad g^2 = "
    r"-\sigma^2 \frac{d\lambda}{dt}",
    says="Noising in infinitely many small steps is a random walk with a pull towards zero, and "
    "both follow from how signal and noise change in time.",
    home=(drift_rate, diffusion_squared),
    tolerance=1e-7,
)
def _() -> Finding:
    t, pairs = numbers(*TIMES), []
    for scaling, schedule in PROCESSES:
        level = scaling(schedule.lam(t))
        f, g2 = drift_rate(scaling, schedule, t), diffusion_squared(scaling, schedule, t)

        def signal(at: Tensor, way: Scaling = scaling, by: NoiseSchedule = schedule) -> Tensor:
            return way(by.lam(at)).alpha

        def variance(at: Tensor, way: Scaling = scaling, by: NoiseSchedule = schedule) -> Tensor:
            return way(by.lam(at)).sigma ** 2

        pairs += [(f * level.alpha, slope(signal, t))]
        pairs += [(2.0 * f * level.sigma**2 + g2, slope(variance, t))]
    return all_equal(pairs, "dα/dt = f·α and dσ²/dt = 2f·σ² + g² in three processes")


@equation(
    "X25",
    part=PART,
    source=SONG + ", Eqs. 11 and 29",
    latex=r"dx = -\frac{1}{2}\beta(t) x\, dt + \sqrt{\beta(t)}\, dw: \quad x_t \sim \mathcal{N}"
    r"\left(e^{-B/2} x_0, (1 - e^{-B}) \mathbf{I}\right), \; B = \int_0^t \beta",
    says="DDPM in continuous time shrinks the picture and adds noise so that the total power stays "
    "one if it was one.",
    home=(LinearBeta._lam, LinearBeta._dlam, LinearBeta._integral, UnitVariance._slopes),
)
def _() -> Finding:
    schedule, t = LinearBeta(0.3, 14.0), numbers(*TIMES)
    beta = 0.3 + 13.7 * t
    area = 0.3 * t + 6.85 * t**2
    level = VP(schedule.lam(t))
    wide = UnitVariance(0.7)
    d_alpha, d_sigma = wide.slopes(schedule.lam(t))
    own = wide(schedule.lam(t))
    pairs = [
        (level.alpha, (-0.5 * area).exp()),
        (level.sigma**2, -torch.expm1(-area)),
        (drift_rate(VP, schedule, t), -0.5 * beta),
        (diffusion_squared(VP, schedule, t), beta),
        (schedule.lam(t), -torch.log(torch.expm1(area))),
        (d_alpha, 0.5 * own.alpha * own.sigma**2),
        (own.sigma * d_sigma, -0.49 * own.alpha * d_alpha),
        (schedule._integral(t), area),
    ]
    return all_equal(pairs, "drift, noise, mean and variance for a linear β, in closed form")


@equation(
    "X26",
    part=PART,
    source=SONG + ", Eqs. 9 and 29",
    latex=r"dx = \sigma(t)\sqrt{2 \ln\frac{\sigma_{\max}}{\sigma_{\min}}}\, dw, \qquad \sigma(t) = "
    r"\sigma_{\min}\left(\frac{\sigma_{\max}}{\sigma_{\min}}\right)^t",
    says="The variance-exploding process leaves the picture alone and piles up noise in equal "
    "ratios.",
    home=(geometric_sigmas, LogLinear._lam, LogLinear._dlam),
    note="Started from a clean picture at t = 0 the process has variance σ(t)² − σ_min²; the "
    "levels themselves count σ_min² of noise as already there.",
)
def _() -> Finding:
    t = numbers(*TIMES)
    sigma = geometric_sigmas(0.05, 7.0, t)
    steady = (sigma[1:] / sigma[:-1]).log() / t.diff()
    noise = diffusion_squared(VE, GEOMETRIC, t).sqrt()
    pairs = [
        (VE(GEOMETRIC.lam(t)).sigma, sigma),
        (noise, sigma * math.sqrt(2.0 * math.log(7.0 / 0.05))),
        (drift_rate(VE, GEOMETRIC, t), 0.0),
        (steady, math.log(7.0 / 0.05)),
        (geometric_sigmas(0.05, 7.0, numbers(0.0, 1.0)), numbers(0.05, 7.0)),
    ]
    return all_equal(pairs, "levels, their ratios, and the noise of the process")


@equation(
    "X27",
    part=PART,
    source=SONG + ", Eqs. 12 and 29",
    latex=r"dx = -\frac{1}{2}\beta x\, dt + \sqrt{\beta\left(1 - e^{-2B}\right)}\, dw: \quad x_t "
    r"\sim \mathcal{N}\left(e^{-B/2} x_0, (1 - e^{-B})^2 \mathbf{I}\right)",
    says="The sub-VP process adds less noise than the others; its noise level is already the "
    "number that looks like a variance.",
    home=(
        SubVariancePreserving._alpha_sigma,
        SubVariancePreserving._slopes,
        LinearBeta._dlam,
        LinearBeta._t,
    ),
    note="1 − e^(−B) is the standard deviation here and the variance in the VP process.",
)
def _() -> Finding:
    schedule, t = LinearBeta(0.3, 14.0, SUB_VP), numbers(*TIMES)
    beta, area = 0.3 + 13.7 * t, 0.3 * t + 6.85 * t**2
    level = SUB_VP(schedule.lam(t))
    d_alpha, d_sigma = SUB_VP.slopes(schedule.lam(t))
    both = numbers(0.003, *TIMES, 0.97)
    pairs = [
        (level.alpha, (-0.5 * area).exp()),
        (level.sigma, -torch.expm1(-area)),
        (drift_rate(SUB_VP, schedule, t), -0.5 * beta),
        (diffusion_squared(SUB_VP, schedule, t), beta * -torch.expm1(-2.0 * area)),
        (d_alpha / level.alpha - d_sigma / level.sigma, 0.5),
        (schedule.t(schedule.lam(both)), both),
        (LinearBeta(0.3, 14.0).t(LinearBeta(0.3, 14.0).lam(both)), both),
        (schedule.t(schedule.lam(1e-9)) / 1e-9, 1.0),
    ]
    return all_equal(pairs, "mean, standard deviation, drift and noise, in closed form")


def _residuals(drift: Callable[..., Tensor], noise_sign: float) -> list[tuple[Tensor, Tensor]]:
    """∂p/∂t against −∂(drift·p)/∂x + noise_sign·½g²·∂²p/∂x² at a few points of every process."""
    return [_residual(drift, noise_sign, *process) for process in PROCESSES]


def _residual(
    drift: Callable[..., Tensor], noise_sign: float, scaling: Scaling, schedule: NoiseSchedule
) -> tuple[Tensor, Tensor]:
    x, t = numbers(-1.6, -0.3, 0.7, 1.9), numbers(*TIMES)
    bumps = three_bumps(scaling)
    rate, g2 = drift_rate(scaling, schedule, t), diffusion_squared(scaling, schedule, t)

    def density(v: Tensor, at: Tensor) -> Tensor:
        return bumps.log_prob(v.unsqueeze(1), schedule.lam(at)).exp()

    def flux(v: Tensor) -> Tensor:
        score = bumps.score(v.unsqueeze(1), schedule.lam(t))[:, 0]
        return drift(v, score, rate, g2) * density(v, t)

    change = slope(lambda at: density(x, at), t, 2e-4)
    spread = slope(lambda v: gradient(lambda w: density(w, t), v), x)
    return change, -slope(flux, x) + noise_sign * 0.5 * g2 * spread


@equation(
    "X28",
    part=PART,
    source="Fokker–Planck; " + SONG + ", appendix D",
    latex=r"\frac{\partial p_t}{\partial t} = -\nabla \cdot \left(f x\, p_t\right) + \frac{1}{2} "
    r"g^2 \Delta p_t",
    says="The cloud of all noisy pictures moves with the pull and is blurred by the noise.",
    home=(drift_rate, diffusion_squared),
    tolerance=1e-6,
)
def _() -> Finding:
    pairs = _residuals(lambda x, score, rate, g2: rate * x, 1.0)
    return all_equal(pairs, "both sides on a mixture in three processes, by differences")


@equation(
    "X29",
    part=PART,
    source="Anderson 1982; " + SONG + ", Eq. 6",
    latex=r"dx = \left[f x - g^2 \nabla \log p_t(x)\right] dt + g\, d\bar w",
    says="The same process run backwards needs one thing only, the score: that is how noise "
    "becomes pictures.",
    home=reverse_drift,
    tolerance=1e-6,
)
def _() -> Finding:
    pairs = _residuals(reverse_drift, -1.0)
    return all_equal(pairs, "the cloud of the backward process against the forward one's")


@equation(
    "X30",
    part=PART,
    source=SONG + ", Eq. 13",
    latex=r"\frac{dx}{dt} = f x - \frac{1}{2} g^2 \nabla \log p_t(x)",
    says="A smooth flow without any randomness carries the same clouds from noise to data and "
    "back.",
    home=flow_drift,
    tolerance=1e-6,
)
def _() -> Finding:
    return all_equal(_residuals(flow_drift, 0.0), "∂p/∂t = −∇·(velocity·p) in three processes")


@equation(
    "X31",
    part=PART,
    source=SONG + ", section 3.4",
    latex=r"p_1(x) \approx \pi(x): \quad \mathrm{KL}(p_1 \Vert \pi) \le \frac{1}{2}\,\mathbb{E}"
    r"\left[\alpha_1^2 \lVert x_0 \rVert^2 - d\,(1 + \log \sigma_1^2 - \sigma_1^2)\right]",
    says="After enough noise almost nothing is left of the picture, so one may start from pure "
    "noise; what that costs is small and known.",
    home=(LinearBeta._lam, UnitVariance._alpha_sigma),
    status="bound",
    tolerance=1e-9,
    note="The bound is the average KL of single pictures; the cloud of all is closer to noise.",
)
def _() -> Finding:
    schedule, x = LinearBeta(0.1, 6.0), line(-9.0, 9.0, 2401)
    lam = schedule.lam(1.0)
    level, bumps = VP(lam), three_bumps()
    log_p = bumps.log_prob(x.unsqueeze(1), lam)
    truth = integrate(log_p.exp() * (log_p + 0.5 * x**2 + 0.5 * math.log(2.0 * math.pi)), x)
    shares, area = bumps.log_weights.exp(), 0.1 + 2.95
    power = (shares * (bumps.means[:, 0] ** 2 + bumps.std**2)).sum()
    kept = math.exp(-area)
    bound = 0.5 * (kept * power - 1.0 - math.log(1.0 - kept) + 1.0 - kept)
    own = 0.5 * (level.alpha**2 * power - 1.0 - math.log(level.sigma**2) + level.sigma**2)
    excess = max(0.0, (truth - own).item())
    tensors = UnitVariance(0.8)(numbers(-1.0, 0.4))
    same = [(tensors.alpha**2 * 0.64 + tensors.sigma**2, 1.0), (own, bound)]
    return Finding(max(excess, all_equal(same, "").error), "the KL by quadrature and the bound")
