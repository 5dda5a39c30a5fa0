"""Luo Eqs. 158-161: Langevin sampling, and scores at many noise levels."""

import math

import torch
from torch import Tensor

from ...errors import MarginalsError
from ...oracle import Mixture
from ...scaling import VE, VP, VarianceExploding
from ...solvers import langevin
from ..equation import Finding, all_equal, equation, require
from ..extra_score import (
    denoising_target,
    fisher_divergence,
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


def _moves(state: Tensor, clean: Tensor, row: tuple[dict[int, float], dict[int, float]]) -> Tensor:
    (x,), (d,) = row[0].values(), row[1].values()
    return x * state + d * clean


@equation(
    "158",
    page=18,
    part=PART,
    latex=r"x_{i+1} \leftarrow x_i + c\,\nabla \log p(x_i) + \sqrt{2c}\,\epsilon, \quad i = 0, 1, "
    r"\ldots, K",
    says="Langevin sampling walks uphill in probability with a jiggle of matching size; with small "
    "steps it ends up visiting pictures as often as they are probable.",
    home=langevin,
    status="definition",
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
    status="definition",
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
