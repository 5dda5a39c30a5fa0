"""Luo Eqs. 152-157: energies, scores, and the distance between scores."""

import math

import torch
from torch import Tensor

from ...denoiser import Estimate
from ...gaussian import normal_log_prob
from ...predict import ScorePrediction
from ...scaling import VE, VP
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_score import (
    energy_log_prob,
    energy_score,
    fisher_divergence,
    implicit_score_matching,
    log_normaliser,
)
from ..extra_worlds import (
    flat_bumps,
    gradient,
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
