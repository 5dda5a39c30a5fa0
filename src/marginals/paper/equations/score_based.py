"""Luo Eqs. 152-161: score-based generative models."""

import math

import torch
from torch import Tensor

from ...denoiser import Estimate
from ...errors import MarginalsError
from ...gaussian import normal_log_prob
from ...oracle import Mixture
from ...predict import ScorePrediction
from ...scaling import VE, VP, VarianceExploding
from ...solvers.rules import langevin
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_score import (
    denoising_target,
    energy_log_prob,
    energy_score,
    fisher_divergence,
    implicit_score_matching,
    log_normaliser,
    score_matching,
)
from ..extra_worlds import (
    flat_bumps,
    gradient,
    integrate,
    line,
    normal,
    numbers,
    three_bumps,
)

PART = "Score-based Generative Models"


def _energy(x: Tensor) -> Tensor:
    """Of a Gaussian in the plane with mean (0.7, −0.4), variances (0.36, 1.21), plus a constant."""
    return ((x - numbers(0.7, -0.4)) ** 2 / (2.0 * numbers(0.36, 1.21))).sum(-1) + 1.9


def _bumpy(x: Tensor) -> Tensor:
    """An energy whose Z nobody knows."""
    return (0.3 * x**4 - 0.8 * x**2 + 0.5 * x * x.roll(1, -1) + x.sin()).sum(-1)


@equation(
    "152",
    page=17,
    part=PART,
    latex=r"p_\theta(x) = \frac{1}{Z_\theta} e^{-f_\theta(x)}",
    says="Any function that gives low energy to likely pictures becomes a probability once it is "
    "divided by its total, Z.",
    home=(energy_log_prob, log_normaliser),
    status="definition",
)
def _() -> Finding:
    x = line(-7.0, 8.0)
    energies = (x - 0.7) ** 2 / (2.0 * 0.36) + 1.9
    log_z = log_normaliser(energies, (x[1] - x[0]).item())
    truth = normal_log_prob(x.unsqueeze(1), 0.7, 0.36)
    pairs = [
        (energy_log_prob(energies, log_z), truth),
        (log_z, 0.5 * math.log(2.0 * math.pi * 0.36) - 1.9),
    ]
    return all_equal(pairs, "a quadratic energy, with Z by quadrature, against the normal density")


@equation(
    "153",
    page=17,
    part=PART,
    latex=r"\nabla_x \log p_\theta(x) = \nabla_x \log\left(\frac{1}{Z_\theta} "
    r"e^{-f_\theta(x)}\right)",
    says="The score is the direction in which the log probability rises fastest.",
    home=(energy_score, energy_log_prob),
)
def _() -> Finding:
    x, log_z = normal(6, 2), 0.5 * math.log((2.0 * math.pi) ** 2 * 0.36 * 1.21) - 1.9
    by_hand = (numbers(0.7, -0.4) - x) / numbers(0.36, 1.21)
    log_p = energy_log_prob(_energy(x), log_z)
    truth = torch.distributions.Normal(numbers(0.7, -0.4), numbers(0.6, 1.1)).log_prob(x).sum(-1)
    pairs = [(energy_score(_energy, x), by_hand), (log_p, truth)]
    return all_equal(pairs, "autograd of log p with its Z against the Gaussian's score by hand")


@equation(
    "154",
    page=17,
    part=PART,
    latex=r"\nabla_x \log p_\theta(x) = \nabla_x \log \frac{1}{Z_\theta} + \nabla_x \log "
    r"e^{-f_\theta(x)}",
    says="The logarithm splits the score into the part of the total Z and the part of the energy, "
    "and the total does not depend on the picture.",
    home=energy_score,
)
def _() -> Finding:
    x = normal(6, 3)
    with_z = gradient(lambda v: energy_log_prob(_bumpy(v), 4.2), x)
    without = gradient(lambda v: (-_bumpy(v)).exp().log(), x)
    pairs = [(energy_score(_bumpy, x), with_z), (energy_score(_bumpy, x), without)]
    return all_equal(pairs, "the score with any Z against the score with none")


@equation(
    "155",
    page=17,
    part=PART,
    latex=r"\nabla_x \log p_\theta(x) = -\nabla_x f_\theta(x)",
    says="So the score is the downhill direction of the energy, and nobody needs to know Z.",
    home=energy_score,
)
def _() -> Finding:
    x = normal(6, 3)
    uphill = 1.2 * x**3 - 1.6 * x + 0.5 * (x.roll(1, -1) + x.roll(-1, -1)) + x.cos()
    return equal(energy_score(_bumpy, x), -uphill, "autograd against −∇f worked out by hand")


@equation(
    "156",
    page=17,
    part=PART,
    latex=r"-\nabla_x f_\theta(x) \approx s_\theta(x)",
    says="A network can therefore be asked for the score itself, and its answer read like any "
    "other prediction.",
    home=ScorePrediction.row,
    status="definition",
    note="A free network need not be the slope of any energy: nothing forces its field to be "
    "free of whirls. The equation says what it is trained to be close to.",
)
def _() -> Finding:
    mixture, lam = flat_bumps(VE), 0.7
    x = normal(8, 2)
    says = mixture.score(x, lam)
    heard = Estimate(x, lam, VE, says, ScorePrediction(VE))
    pairs = [(heard.x0, mixture(x, lam).x0), (heard.eps, mixture(x, lam).eps)]
    clean = ScorePrediction(VP).row(math.inf)
    a, b = ScorePrediction(VP).row(numbers(-1.3, 0.4, 2.0))
    pairs += [(a, 0.0), (b, -(1.0 + numbers(-1.3, 0.4, 2.0).exp()).sqrt())]
    require(clean == (0.0, -math.inf), "at zero noise a score says nothing finite about the noise")
    return all_equal(pairs, "x0 and ε read from an exact score against the exact posterior means")


@equation(
    "157",
    page=17,
    part=PART,
    latex=r"\mathbb{E}_{p(x)}\left[\left\lVert s_\theta(x) - \nabla \log p(x) "
    r"\right\rVert_2^2\right]",
    says="The Fisher divergence is the average squared distance between the model's score and "
    "the data's.",
    home=(fisher_divergence, implicit_score_matching),
    status="definition",
    note="There is no factor one half here. Up to a constant that no model can change it is twice "
    "Hyvärinen's objective, which needs no score of the data.",
)
def _() -> Finding:
    mixture, x = three_bumps(), line(-9.0, 9.0, 3601).unsqueeze(1)
    weights = mixture.log_prob(x).exp() * 0.005
    data, own = mixture.score(x, math.inf), (weights * mixture.score(x, math.inf)[:, 0] ** 2).sum()
    mean, var = (weights * x[:, 0]).sum(), None
    var = (weights * (x[:, 0] - mean) ** 2).sum()
    pairs = []
    for m, v in ((0.3, 0.8), (-0.5, 2.1)):
        model, trace = (m - x) / v, torch.full_like(weights, -1.0 / v)
        found = fisher_divergence(model, data, weights)
        # E[s²] − 2E[s·∇log p] + E[(∇log p)²], where E[s·∇log p] = −E[s′] by parts
        closed = (var + (mean - m) ** 2) / v**2 - 2.0 / v + own
        implicit = implicit_score_matching(model, trace, weights)
        pairs += [(found, closed), (2.0 * implicit + own, closed)]
    pairs += _in_the_plane()
    return all_equal(pairs, "quadrature, and Hyvärinen's form, against moments of the mixture")


def _in_the_plane() -> list[tuple[Tensor, Tensor]]:
    """N(0, 1) data in the plane and the score of N(m, v) models: distances add up over axes."""
    axis = line(-8.0, 8.0, 161)
    x = torch.cartesian_prod(axis, axis)
    weights = (-0.5 * x.square().sum(1)).exp() / (2.0 * math.pi) * 0.01
    mean, var = numbers(0.3, -0.7), numbers(0.8, 1.9)
    model, trace = (mean - x) / var, torch.full_like(weights, -(1.0 / var).sum().item())
    closed = ((1.0 / var - 1.0) ** 2 + (mean / var) ** 2).sum()
    implicit = 2.0 * implicit_score_matching(model, trace, weights) + 2.0
    return [(fisher_divergence(model, -x, weights), closed), (implicit, closed)]


def _moves(state: Tensor, clean: Tensor, row: tuple[dict[int, float], dict[int, float]]) -> Tensor:
    (x,), (d,) = row[0].values(), row[1].values()
    return x * state + d * clean


@equation(
    "158",
    page=18,
    part=PART,
    latex=r"x_{i+1} \leftarrow x_i + c\,\nabla \log p(x_i) + \sqrt{2c}\,\epsilon, \quad i = 0, 1, "
    r"\ldots, K",
    says="Langevin sampling walks uphill in probability with a jiggle of matching size, and so "
    "ends up visiting pictures as often as they are probable.",
    home=langevin,
    note="With a finite step the walk is a little too wide: for a Gaussian of variance s² it "
    "settles at s²/(1 − c/(2s²)), which the check also confirms.",
    erratum="E11",
)
def _() -> Finding:
    mixture, share, moves = flat_bumps(VE), 0.23, 2
    levels = [VE(lam) for lam in (-1.1, 0.4, 1.9)]
    rows = langevin(moves, share).table(levels)
    at = [levels[0]] * 2 + [levels[1]] * 3 + [levels[2]]
    require([row.at for row in rows] == at, "two moves a level, and a carry into the next")
    require([[*row.x] for row in rows] == [[i] for i in range(6)], "every row moves the last state")
    pairs: list[tuple[Tensor | float, Tensor | float]] = []
    for i in (0, 1, 3, 4):
        level, x = rows[i].at, normal(5, 2)
        c = share * level.sigma**2
        moved = _moves(x, mixture(x, level.lam).x0, (rows[i].x, rows[i].d))
        pairs += [(moved, x + c * mixture.score(x, level.lam))]
        pairs += [(rows[i].noise, math.sqrt(2.0 * c)), (len(rows[i].d), 1)]
    for i in (2, 5):
        require(rows[i].d == {} and rows[i].noise == 0.0, "carrying to another level adds nothing")
        pairs += [(rows[i].x[i], 1.0)]
    pairs += _langevin_in_other_units(share) + _langevin_is_too_wide(share)
    _langevin_refuses()
    return all_equal(pairs, "each row of the solver's table against Luo's update, score and noise")


def _langevin_in_other_units(share: float) -> list[tuple[Tensor | float, Tensor | float]]:
    """In VP units a state is carried by its signal, and the last step is Tweedie's."""
    levels = [VP(lam) for lam in (-1.1, 0.4, math.inf)]
    rows = langevin(1, share).table(levels)
    require(len(rows) == 4, "one move a level, one carry, one denoising")
    end = (rows[-1].x[3], rows[-1].d[3], rows[-1].noise)
    pairs: list[tuple[Tensor | float, Tensor | float]] = [
        (rows[1].x[1], levels[1].alpha / levels[0].alpha),
        (rows[0].d[0], share * levels[0].alpha),
        *zip(end, (0.0, 1.0, 0.0), strict=True),
    ]
    return pairs


def _langevin_is_too_wide(share: float) -> list[tuple[Tensor | float, Tensor | float]]:
    """Stationary variance for the target N(0, σ²) itself (x̂0 = 0): (1 − c/σ²)²·V + 2c = V."""
    level = VP(-0.6)
    row = langevin(1, share).table([level, VP(0.9)])[0]
    step, var = share * level.sigma**2, level.sigma**2
    settled = row.noise**2 / (1.0 - row.x[0] ** 2)
    return [(settled, var / (1.0 - step / (2.0 * var)))]


def _langevin_refuses() -> None:
    refused = 0
    levels = [VP(-math.inf), VP(0.0)]
    for attempt in (
        lambda: langevin(0, 0.3),
        lambda: langevin(1, 0.0),
        lambda: langevin(1, 1.0),
        lambda: langevin(1, 0.3).table(levels),
    ):
        try:
            attempt()
        except MarginalsError:
            refused += 1
    require(refused == 4, "steps that cannot work are refused")


@equation(
    "159",
    page=19,
    part=PART,
    latex=r"p(x) = c_1 p_1(x) + c_2 p_2(x)",
    says="When two kinds of pictures have nothing in common, the score inside one kind says "
    "nothing about how common that kind is.",
    home=Mixture.score,
    status="condition",
    note="Exactly true for kinds that do not overlap; here the two are twenty standard deviations "
    "apart. Between overlapping kinds the shares do matter, and the check sees that too.",
    tolerance=1e-9,
)
def _() -> Finding:
    means, std, x = numbers(-10.0, 10.0).unsqueeze(1), 1.0, numbers(-10.7, -9.4, 9.2, 11.3)
    x, pairs = x.unsqueeze(1), []
    inside = torch.where(x < 0, means[0], means[1]) - x
    for share in (0.5, 0.99):
        mixture = Mixture(means, std, numbers(share, 1.0 - share))
        pairs.append((mixture.score(x, math.inf), inside))
    for lam in (0.3, -2.1):
        noisy, points = three_bumps(), normal(5, 1)
        truth = gradient(lambda v, lam=lam, m=noisy: m.log_prob(v, lam), points)
        pairs.append((noisy.score(points, lam), truth))
    near = [three_bumps().score(numbers(0.9).unsqueeze(1), -1.0)]
    near.append(Mixture(three_bumps().means, 0.4, scaling=VP).score(numbers(0.9).view(1, 1), -1.0))
    require((near[0] - near[1]).abs().item() > 1e-2, "where kinds overlap, shares matter")
    return all_equal(pairs, "the score inside either kind, whatever the shares, and autograd")


@equation(
    "160",
    page=19,
    part=PART,
    latex=r"p_{\sigma_t}(x_t) = \int p(x)\, \mathcal{N}(x_t; x, \sigma_t^2 \mathbf{I})\, dx",
    says="Adding Gaussian noise blurs the distribution of pictures until no region is empty.",
    home=(Mixture.log_prob, VarianceExploding._alpha_sigma),
)
def _() -> Finding:
    mixture, clean, pairs = three_bumps(VE), line(), []
    data = mixture.log_prob(clean.unsqueeze(1)).exp()
    for sigma in (0.3, 1.7):
        lam, x = -2.0 * math.log(sigma), line(-3.0, 3.0, 7).unsqueeze(1)
        kernel = torch.distributions.Normal(clean, sigma).log_prob(x).exp()
        blurred = integrate(kernel * data, clean)
        levels = torch.full((7,), lam, dtype=torch.float64)
        pairs += [(mixture.log_prob(x, levels).exp(), blurred)]
        pairs += [(VE(levels).sigma, sigma), (VE(levels).alpha, 1.0)]
    return all_equal(pairs, "the oracle's noisy density against the integral")


@equation(
    "161",
    page=20,
    part=PART,
    latex=r"\arg\min_\theta \sum_{t=1}^T \lambda(t)\, \mathbb{E}_{p_{\sigma_t}(x_t)}\left["
    r"\left\lVert s_\theta(x_t, t) - \nabla \log p_{\sigma_t}(x_t) \right\rVert_2^2\right]",
    says="Learn the scores of all noise levels at once, each level with its own weight.",
    home=(score_matching, fisher_divergence, denoising_target),
    note="Printed with s(x, t) where s(x_t, t) is meant. Regressing on the noise that was added "
    "is the same lesson: it costs a constant more, d/σ² − E‖∇log p_t‖² a level.",
    erratum="E10",
)
def _() -> Finding:
    mixture, x, clean = three_bumps(VE), line(-10.0, 10.0, 1001), line(-4.0, 4.0, 401)
    prior = mixture.log_prob(clean.unsqueeze(1)).exp() * 0.02
    sigmas, levels = numbers(0.5, 1.1), numbers(0.7, 1.9)
    constant, explicit, implicit = [], [], []
    for wrong in (0.6, 1.4):
        parts: list[list[Tensor]] = [[], [], [], []]
        denoising = torch.zeros((), dtype=torch.float64)
        for sigma, weight in zip(sigmas.tolist(), levels.tolist(), strict=True):
            lam = -2.0 * math.log(sigma)
            kernel = torch.distributions.Normal(clean.unsqueeze(1), sigma).log_prob(x).exp() * 0.02
            p, exact = prior @ kernel, mixture.score(x.unsqueeze(1), lam)
            model = wrong * exact + 0.3 * x.unsqueeze(1).sin()
            for part, value in zip(parts[:3], (model, exact, p), strict=True):
                part.append(value)
            target = denoising_target(x, clean.unsqueeze(1), sigma)
            joint = prior.unsqueeze(1) * kernel
            denoising = denoising + weight * (joint * (model[:, 0] - target) ** 2).sum()
            own = (p * exact[:, 0] ** 2).sum()
            parts[3].append(weight * (1.0 / sigma**2 - own))
        model, exact, weights = (torch.stack(part) for part in parts[:3])
        explicit.append(score_matching(model, exact, weights, levels))
        by_hand = (weights * (model - exact)[..., 0] ** 2).sum(1)
        implicit.append((explicit[-1], (levels * by_hand).sum()))
        constant.append((denoising - explicit[-1], torch.stack(parts[3]).sum()))
    require(abs(explicit[0] - explicit[1]) > 1e-2, "two different models have different losses")
    return all_equal([*constant, *implicit], "denoising minus exact loss against d/σ² − J, summed")
