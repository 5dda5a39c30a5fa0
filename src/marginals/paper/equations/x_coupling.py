"""Extensions: which noise goes with which picture: reflow, optimal transport, bridges."""

from functools import lru_cache

import torch
from torch import Tensor

from ...scaling import FLOW
from ...schedule import Logit
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_flow import (
    best_pairing,
    bridge_std,
    line_point,
    monotone_map,
    straightness,
    transport_cost,
)
from ..extra_worlds import (
    line,
    normal,
    numbers,
    three_bumps,
)

PART = "Flow matching"
LIU = "Liu et al. 2022 (rectified flow), arXiv 2209.03003"
TONG = "Tong et al. 2023 (OT-CFM), arXiv 2302.00482"


@lru_cache
def _paths() -> tuple[Tensor, Tensor, Tensor]:
    """1-D rectified flow from N(0, 1) to three bumps: starts, ends, and the velocities met."""
    bumps, steps = three_bumps(FLOW), 120
    start = torch.special.ndtri((torch.arange(31, dtype=torch.float64) + 0.5) / 31.0)
    x, met = start.unsqueeze(1), []

    def velocity(z: Tensor, t: float) -> Tensor:
        return bumps(z, Logit().lam(t)).velocity(Logit())

    h = (1.0 - 2e-6) / steps
    for i in range(steps):
        t = 1.0 - 1e-6 - i * h
        k1 = velocity(x, t)
        k2 = velocity(x - 0.5 * h * k1, t - 0.5 * h)
        k3 = velocity(x - 0.5 * h * k2, t - 0.5 * h)
        k4 = velocity(x - h * k3, t - h)
        met.append(-k1)
        x = x - h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    return start.unsqueeze(1), x, torch.stack(met)


@equation(
    "X71",
    part=PART,
    source=LIU + ", section 3.2",
    latex=r"Z_0 = T(Z_1), \quad T = F_{\text{data}}^{-1} \circ F_{\text{noise}} \qquad (d = 1)",
    says="On the line, following the flow never lets paths cross, so it pairs smallest with "
    "smallest: the cheapest pairing there is.",
    home=monotone_map,
    status="limit",
    tolerance=1e-4,
)
def _() -> Finding:
    start, end, _ = _paths()
    grid = line(-7.0, 7.0, 14001)
    noise = (-0.5 * grid**2).exp()
    data = three_bumps(FLOW).log_prob(grid.unsqueeze(1)).exp()
    found = monotone_map(start[:, 0], grid, noise, data)
    fine = line(-3.0, 3.0, 61)
    shifted = monotone_map(fine, grid, noise, (-0.5 * ((grid - 0.6) / 0.7) ** 2).exp())
    exact = equal(shifted, 0.6 + 0.7 * fine, "").error
    require(exact < 1e-4, "between two Gaussians the map is linear")
    return equal(end[:, 0], found, "ends of the flow against quantiles matched one by one")


@equation(
    "X72",
    part=PART,
    source=LIU + ", section 2.2",
    latex=r"S(Z) = \int_0^1 \mathbb{E}\left\lVert (Z_1 - Z_0) - v(Z_t, t) \right\rVert^2 dt, "
    r"\qquad S = 0 \text{ after one reflow on the line}",
    says="Training again on the pairs that the flow has made straightens its paths, so that few "
    "steps are enough.",
    home=straightness,
    tolerance=1e-9,
)
def _() -> Finding:
    start, end, met = _paths()
    first = straightness(start, end, met)
    by_hand = sum(((end - start - v) ** 2).sum(1).mean() for v in met) / len(met)
    require(bool(first > 0.01), "the first flow is curved")
    order = torch.argsort(start[:, 0])
    require(bool((end[order, 0].diff() > 0).all()), "its paths do not cross")
    # Reflow: pairs (Z_1, Z_0) that keep their order never meet, so E[Z_1 − Z_0 | x_t] is each's own
    again = []
    for t in (0.1, 0.5, 0.8):
        points = line_point(end, start, t)
        require(bool((points[order, 0].diff() > 0).all()), "the new lines do not cross either")
        again.append(end - start)
    one, two, speeds = normal(6, 3), normal(6, 3), normal(4, 6, 3)
    wide = torch.stack([(two - one - v).norm(dim=1).square().mean() for v in speeds]).mean()
    return all_equal(
        [
            (straightness(start, end, torch.stack(again)), 0.0),
            (first, by_hand),
            (straightness(one, two, speeds), wide),
        ],
        "straightness before and after reflow",
    )


@equation(
    "X73",
    part=PART,
    source=LIU + ", Theorem 3.5",
    latex=r"\mathbb{E}\left\lVert Z_1 - Z_0 \right\rVert^2 \le \mathbb{E}\left\lVert X_1 - X_0 "
    r"\right\rVert^2",
    says="The pairs a flow makes are on average no further apart than the random pairs it learned "
    "from.",
    home=transport_cost,
    status="bound",
    tolerance=1e-9,
)
def _() -> Finding:
    start, end, _ = _paths()
    flown = transport_cost(start, end)
    every = torch.cdist(start, end).square().mean()  # all pairs: independent noise and data
    cheapest = transport_cost(start.sort(0).values, end.sort(0).values)
    require(bool(flown < 0.8 * every), "and clearly nearer here")
    squares = (start**2).mean() + (end**2).mean() - 2.0 * (start * end).mean()
    worst = transport_cost(start, end.flip(0))
    pairs = [(flown, squares), (flown, cheapest)]
    pairs += [(worst, squares + 2.0 * (start * end).mean() - 2.0 * (start * end.flip(0)).mean())]
    one, two = normal(6, 3), normal(6, 3)
    pairs += [(transport_cost(one, two), (two - one).norm(dim=1).square().mean())]
    return all_equal(pairs, "cost of the flow's pairs; on the line it is the least possible")


@equation(
    "X74",
    part=PART,
    source=TONG,
    latex=r"\pi^* = \arg\min_{\pi \in S_B} \sum_{i=1}^{B} \left\lVert \epsilon_{\pi(i)} - x_{0,i} "
    r"\right\rVert^2",
    says="Within a batch, noise and pictures can be paired so that the lines between them are "
    "short and cross less.",
    home=best_pairing,
)
def _() -> Finding:
    x0, eps, pairs = normal(6, 1), normal(6, 1), []
    order = best_pairing(x0, eps)
    ranks = torch.argsort(torch.argsort(x0[:, 0]))
    sorted_eps = eps.sort(0).values[ranks]
    pairs.append((eps[order], sorted_eps))
    pictures, noise = normal(5, 2, 3), normal(5, 2, 3)
    shuffle = torch.tensor([3, 0, 4, 2, 1])
    # noise that is a monotone map of the pictures (a gradient of a convex function) is paired back
    mapped = 2.0 * pictures + 0.3 * pictures.sign() + noise.mean()
    pairs.append((mapped[shuffle][best_pairing(pictures, mapped[shuffle])], mapped))
    # in the plane short squares are another wish than short lines
    here, there = numbers(0.0, 0.0, 1.0, 0.0).view(2, 2), numbers(1.0, 0.0, 2.0, 1.0).view(2, 2)
    require(best_pairing(here, there) == [0, 1], "1 + 1 + 1 is less than 4 + 1 + 0")
    require(best_pairing(here, there.flip(0)) == [1, 0], "in whatever order they come")
    require(sorted(order) == list(range(6)), "every noise is used once")
    return all_equal(pairs, "sorted order on the line; a monotone map found again in more space")


@equation(
    "X75",
    part=PART,
    source=TONG,
    latex=r"x_t \sim \mathcal{N}\left((1 - t)\, x_0 + t\, x_1, \sigma^2\, t (1 - t) \mathbf{I}"
    r"\right)",
    says="Between two known ends a random walk is widest in the middle: a bridge.",
    home=(bridge_std, line_point),
)
def _() -> Finding:
    t, sigma, a, b = numbers(0.15, 0.5, 0.83), 0.7, normal(3), normal(3)
    # a Brownian motion of variance σ²t, conditioned on where it is at t = 1
    mean = a + t * sigma**2 / sigma**2 * (b - a)
    var = sigma**2 * t - (sigma**2 * t) ** 2 / sigma**2
    pairs = [(bridge_std(t, sigma), var.sqrt()), (line_point(a, b, t), mean)]
    return all_equal(pairs, "Gaussian conditioning on the far end")
