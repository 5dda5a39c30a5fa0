"""Extensions: flow matching, rectified flow and stochastic interpolants."""

import math

import torch
from torch import Tensor

from ...denoiser import Estimate
from ...predict import EPS, VELOCITY, X0, VelocityPrediction, VPrediction
from ...scaling import FLOW, SUB_VP, VP, Level, LinearMix, Scaling
from ...schedule import Cosine, LinearBeta, Logit, NoiseSchedule
from ..equation import Finding, all_equal, equation, require
from ..extra_flow import (
    conditional_velocity,
    line_point,
    matching_loss,
    narrow_path,
    score_of_velocity,
    shifted_time,
)
from ..extra_sde import family_drift
from ..extra_worlds import (
    flat_bumps,
    gradient,
    line,
    normal,
    numbers,
    slope,
    three_bumps,
)

PART = "Flow matching"
LIPMAN = "Lipman et al. 2023, arXiv 2210.02747"
LIU = "Liu et al. 2022 (rectified flow), arXiv 2209.03003"
SIT = "Albergo et al. 2023, arXiv 2303.08797; Ma et al. 2024 (SiT), arXiv 2401.08740"


@equation(
    "X63",
    part=PART,
    source=LIPMAN + ", Eqs. 13-15",
    latex=r"u_t(x \mid x_0) = \frac{\dot\sigma}{\sigma}\left(x - \alpha x_0\right) + "
    r"\dot\alpha x_0 = \dot\alpha x_0 + \dot\sigma \epsilon",
    says="If the picture is known, every noisy point knows its velocity.",
    home=(conditional_velocity, VelocityPrediction.row),
)
def _() -> Finding:
    t, pairs = numbers(0.2, 0.45, 0.8), []
    x0, eps = normal(3), normal(3)
    sub = LinearBeta(scaling=SUB_VP)
    ways: list[tuple[Scaling, NoiseSchedule]] = [(VP, Cosine()), (SUB_VP, sub), (FLOW, Logit())]
    for scaling, schedule in ways:

        def path(at: Tensor, way: Scaling = scaling, by: NoiseSchedule = schedule) -> Tensor:
            level = way(by.lam(at))
            return level.alpha * x0 + level.sigma * eps

        lam = schedule.lam(t)
        level, (d_alpha, d_sigma) = scaling(lam), VelocityPrediction(schedule, scaling).row(lam)
        speed = conditional_velocity(path(t), x0, level, Level(lam, d_alpha, d_sigma))
        moved = d_alpha * x0 + d_sigma * eps
        pairs += [(speed, moved), (moved * 1e-3, slope(path, t) * 1e-3)]
    return all_equal(pairs, "the formula, the core's row, and the path's slope by differences")


@equation(
    "X64",
    part=PART,
    source=LIU + ", Eq. 1",
    latex=r"x_t = (1 - t)\, x_0 + t\, \epsilon, \qquad u = \epsilon - x_0",
    says="The simplest path from a picture to noise is a straight line at constant speed.",
    home=(LinearMix._alpha_sigma, LinearMix._slopes, line_point),
)
def _() -> Finding:
    t, x0, eps = numbers(0.07, 0.38, 0.5, 0.93), normal(4), normal(4)
    lam = Logit().lam(t)
    level, (d_alpha, d_sigma) = FLOW(lam), FLOW.slopes(lam)
    rate = Logit().dlam(t)
    require(VELOCITY.row(0.3) == (-1.0, 1.0), "the row of the velocity is (−1, 1)")
    pairs = [
        (level.sigma, t),
        (level.alpha, 1.0 - t),
        (d_alpha * rate, -1.0),
        (d_sigma * rate, 1.0),
        (line_point(x0, eps, t), level.alpha * x0 + level.sigma * eps),
        (line_point(x0, eps, t) - x0, t * (eps - x0)),
    ]
    return all_equal(pairs, "the FLOW units with their own time")


@equation(
    "X65",
    part=PART,
    source=LIPMAN + ", Eqs. 20-23",
    latex=r"x_t = (1 - t)\, x_0 + \left(\sigma_{\min} + (1 - \sigma_{\min})\, t\right) \epsilon, "
    r"\qquad u = (1 - \sigma_{\min})\, \epsilon - x_0",
    says="The original flow matching stops at a very narrow cloud around each picture instead of "
    "at the picture.",
    home=narrow_path,
    note="This package stops at λ_max instead, which is the same up to the units of x and t.",
)
def _() -> Finding:
    x0, eps, narrow, t, step = normal(4), normal(4), 0.07, 0.37, 1e-3
    x, speed = narrow_path(x0, eps, t, narrow)
    later, sooner = (narrow_path(x0, eps, t + k * step, narrow)[0] for k in (1, -1))
    alpha, sigma = 1.0 - t, 1.0 - (1.0 - narrow) * (1.0 - t)
    velocity = conditional_velocity(
        x, x0, Level(numbers(0.0), alpha, sigma), Level(numbers(0.0), -1.0, 1.0 - narrow)
    )
    pairs = [
        (speed, (later - sooner) / (2.0 * step)),
        (x, alpha * x0 + sigma * eps),
        (speed, velocity),
        (narrow_path(x0, eps, 0.0, narrow)[0], x0 + narrow * eps),
        (narrow_path(x0, eps, 1.0, narrow)[0], eps),
    ]
    return all_equal(pairs, "the path's slope, its ends, and the general formula")


@equation(
    "X66",
    part=PART,
    source=LIPMAN + ", Theorem 1; " + LIU + ", Theorem 3.3",
    latex=r"v(x, t) = \mathbb{E}[\epsilon - x_0 \mid x_t = x], \qquad \frac{\partial p_t}"
    r"{\partial t} = -\nabla \cdot (v\, p_t)",
    says="Averaging the velocities of all pairs that pass through a point gives a flow that moves "
    "the whole cloud.",
    home=(Estimate.velocity, Estimate.read),
    tolerance=1e-7,
)
def _() -> Finding:
    bumps, x, t = three_bumps(FLOW), numbers(-1.2, 0.3, 1.1, 1.9), numbers(0.2, 0.4, 0.6, 0.85)

    def velocity(v: Tensor) -> Tensor:
        return bumps(v.unsqueeze(1), Logit().lam(t)).velocity(Logit())[:, 0]

    def density(v: Tensor, at: Tensor) -> Tensor:
        return bumps.log_prob(v.unsqueeze(1), Logit().lam(at)).exp()

    clean = line(-5.0, 5.0, 4001)
    noise = (x.unsqueeze(1) - (1.0 - t.unsqueeze(1)) * clean) / t.unsqueeze(1)
    weights = torch.softmax(bumps.log_prob(clean.unsqueeze(1)) - 0.5 * noise**2, 1)
    average = (weights * (noise - clean)).sum(1)
    flux = slope(lambda v: velocity(v) * density(v, t), x)
    change = slope(lambda at: density(x, at), t, 1e-4)
    pairs = [(velocity(x), average), (change, -flux), *_readings()]
    return all_equal(pairs, "average velocity, continuity, and a 2×2 solve")


def _readings() -> list[tuple[Tensor, Tensor]]:
    """One output read in other ways, against torch's own solution of two equations."""
    lam, x, out = numbers(-1.1, 0.3, 1.8), normal(3, 2), normal(3, 2)
    level, (a, b) = SUB_VP(lam), VPrediction(0.6).row(lam)
    rows = torch.stack([torch.stack([level.alpha, level.sigma], 1), _columns(a, b)], 1)
    both = torch.linalg.solve(rows, torch.stack([x, out], 1))
    speed = VelocityPrediction(Cosine(), SUB_VP).row(lam)
    wanted = (_columns(*speed).unsqueeze(1) @ both)[:, 0]
    est = Estimate(x, lam, SUB_VP, out, VPrediction(0.6))
    pairs = [(est.read(X0), both[:, 0]), (est.read(EPS), both[:, 1])]
    return [*pairs, (est.velocity(Cosine()), wanted), (est.read(VPrediction(0.6)), out)]


def _columns(a: float | Tensor, b: float | Tensor) -> Tensor:
    return torch.stack([torch.as_tensor(a), torch.as_tensor(b)], 1)


@equation(
    "X67",
    part=PART,
    source=LIPMAN + ", Theorem 2",
    latex=r"\mathbb{E}\left\lVert v_\theta - (\epsilon - x_0) \right\rVert^2 - \mathbb{E}"
    r"\left\lVert v_\theta - v \right\rVert^2 = \text{const}",
    says="Learning the velocity of single pairs teaches the velocity of the cloud; only a constant "
    "is lost.",
    home=matching_loss,
    status="expectation",
)
def _() -> Finding:
    bumps, t, found = three_bumps(FLOW), 0.45, []
    clean, eps = line(-4.0, 4.0, 401), line(-7.0, 7.0, 701)
    prior = bumps.log_prob(clean.unsqueeze(1)).exp().unsqueeze(1)
    joint = prior * (-0.5 * eps**2).exp() / math.sqrt(2.0 * math.pi) * 0.02 * 0.02
    x = line_point(clean.unsqueeze(1), eps, t)
    exact = bumps(x.reshape(-1, 1), Logit().lam(t)).velocity(Logit()).view_as(x)
    single = eps - clean.unsqueeze(1)
    for wrong in (0.7, 1.6):
        model = wrong * exact + (2.0 * x).sin()
        parts = [side.unsqueeze(-1) for side in (model, single, exact)]
        pairwise = matching_loss(parts[0], parts[1], joint)
        found.append(pairwise - matching_loss(parts[0], parts[2], joint))
        direct = (joint * (model - single) ** 2).sum()
        require(abs(pairwise - direct).item() < 1e-9, "a mean of squares")
    unsure = (joint * (single - exact) ** 2).sum()
    one, two = normal(4, 3), normal(4, 3)
    flat = matching_loss(one, two, torch.full((4,), 0.25, dtype=torch.float64))
    found.append(unsure + flat - (one - two).norm(dim=1).square().mean())
    return all_equal([(gap, unsure) for gap in found], "two models and the spread of velocities")


@equation(
    "X68",
    part=PART,
    source=SIT,
    latex=r"\nabla \log p_t(x) = -\frac{x + (1 - t)\, v(x, t)}{t}",
    says="A velocity and a score say the same thing, so a flow model can be used as a score model.",
    home=score_of_velocity,
    note="It divides by t: near the data a small error of the velocity is a large one of the "
    "score.",
)
def _() -> Finding:
    bumps, x, pairs = flat_bumps(FLOW), normal(5, 2), []
    for t in (0.15, 0.6, 0.9):
        lam = Logit().lam(t)
        velocity = bumps(x, lam).velocity(Logit())
        score = gradient(lambda v, lam=lam: bumps.log_prob(v, lam), x)
        pairs.append((score_of_velocity(x, velocity, t), score))
    return all_equal(pairs, "the score from the exact velocity against autograd of log p")


@equation(
    "X69",
    part=PART,
    source=SIT,
    latex=r"dx = \left(v + \frac{1}{2} w\, \nabla \log p_t\right) dt + \sqrt{w}\, dW \text{ has "
    r"the same marginals for every } w(t) \ge 0",
    says="How much randomness the walk has is free to choose; the clouds it passes through are "
    "the same.",
    home=family_drift,
    tolerance=1e-6,
    note="Written for the walk towards the noise; towards the data the sign of the score turns.",
)
def _() -> Finding:
    bumps, x, t, pairs = three_bumps(FLOW), numbers(-1.2, 0.3, 1.1, 1.9), 0.45, []
    lam = Logit().lam(t)

    def density(v: Tensor, at: float = t) -> Tensor:
        return bumps.log_prob(v.unsqueeze(1), Logit().lam(at)).exp()

    change = (density(x, t + 1e-4) - density(x, t - 1e-4)) / 2e-4
    for noise in (0.0, 0.4, 1.7):

        def flux(v: Tensor, w: float = noise) -> Tensor:
            column = v.unsqueeze(1)
            velocity = bumps(column, lam).velocity(Logit())[:, 0]
            return family_drift(velocity, bumps.score(column, lam)[:, 0], w) * density(v)

        spread = slope(lambda v: gradient(density, v), x)
        pairs.append((change, -slope(flux, x) + 0.5 * noise * spread))
    return all_equal(pairs, "∂p/∂t = −∂(drift·p) + ½w·∂²p for three amounts of noise")


@equation(
    "X70",
    part=PART,
    source="Esser et al. 2024, arXiv 2403.03206, Eq. 23",
    latex=r"t' = \frac{s\, t}{1 + (s - 1)\, t} \iff \lambda' = \lambda - 2 \log s",
    says="Shifting the times of a flow towards the noise is moving the noise level, and nothing "
    "else.",
    home=(shifted_time, Logit._lam),
)
def _() -> Finding:
    t, s = numbers(0.08, 0.33, 0.71, 0.95), 2.6
    later = shifted_time(t, s)
    pairs = [
        (Logit().lam(later), Logit().lam(t) - 2.0 * math.log(s)),
        (Logit(s).lam(t), 2.0 * ((1.0 - later) / later).log()),
        (shifted_time(later, 1.0 / s), t),
    ]
    return all_equal(pairs, "times, levels, and shifting back")
