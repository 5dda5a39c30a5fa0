"""Extensions: EDM's sampler, and EDM2's loss that weighs itself."""

import itertools
import math

import torch
from torch import Tensor

from ...oracle import Mixture
from ...scaling import FLOW, VE, VP
from ...schedule import Karras
from ...solvers import grid, heun, karras
from ..equation import Finding, all_equal, equation, require
from ..extra_edm import (
    churn,
    churn_share,
    karras_sigmas,
    uncertainty_loss,
)
from ..extra_worlds import flat_bumps, normal, numbers

PART = "EDM"
EDM = "Karras et al. 2022 (EDM), arXiv 2206.00364"
EDM2 = "Karras et al. 2024 (EDM2), arXiv 2312.02696"


@equation(
    "X59",
    part=PART,
    source=EDM + ", Eq. 5",
    latex=r"\sigma_i = \left(\sigma_{\max}^{1/\rho} + \frac{i}{N-1}\left(\sigma_{\min}^{1/\rho} - "
    r"\sigma_{\max}^{1/\rho}\right)\right)^{\rho}, \quad \sigma_N = 0",
    says="Steps are short near the picture and long in the noise, in a proportion that one number "
    "sets.",
    home=(Karras._lam, Karras._t, karras_sigmas, karras),
)
def _() -> Finding:
    low, high, rho = 0.004, 31.0, 5.3
    lams = grid(karras(-2.0 * math.log(high), -2.0 * math.log(low), rho), 9)
    sigmas = (-0.5 * numbers(*lams[:-1])).exp()
    root = sigmas ** (1.0 / rho)
    t = numbers(0.1, 0.47, 0.9)
    schedule = Karras(low, high, rho)
    wanted = (low ** (1 / rho) * (1.0 - t) + high ** (1 / rho) * t) ** rho
    require(lams[-1] == math.inf, "the last step removes all noise")
    pairs = [
        (sigmas, karras_sigmas(low, high, rho, 9)),
        (root.diff(), (low ** (1 / rho) - high ** (1 / rho)) / 8.0),
        ((-0.5 * schedule.lam(t)).exp(), wanted),
        (schedule.t(-2.0 * wanted.log()), t),
        (sigmas[[0, -1]], numbers(high, low)),
    ]
    return all_equal(pairs, "the grid that samplers walk against Eq. 5, and equal roots")


@equation(
    "X60",
    part=PART,
    source=EDM + ", Algorithm 1",
    latex=r"x_{i+1} = x_i + (\sigma_{i+1} - \sigma_i) \frac{d_i + d'_i}{2}, \qquad \text{NFE} = "
    r"2N - 1",
    says="Heun's method looks one step ahead, averages both slopes, and pays two network calls "
    "for a far smaller error.",
    home=heun,
    note="The step to σ = 0 has no slope at its end and is Euler's.",
)
def _() -> Finding:
    oracle, x, pairs = flat_bumps(VE), normal(4, 2), []
    for scaling in (VE, VP, FLOW):
        levels = [scaling(lam) for lam in (-2.4, -0.3, 1.8, math.inf)]
        rows = heun().table(levels)
        require(heun().evaluations(levels) == 5, "three steps cost five evaluations")
        states = [x * levels[0].alpha]
        for row in rows:
            new = sum(c * states[j] for j, c in row.x.items())
            for j, c in row.d.items():
                at = levels[0] if j == 0 else rows[j - 1].at
                new = new + c * oracle(states[j] / at.alpha, at.lam).x0
            states.append(torch.as_tensor(new))
        pairs.append((states[-1], _heun_by_hand(oracle, x)))
    return all_equal(pairs, "the table in three units against the algorithm, step by step")


def _heun_by_hand(ask: Mixture, x: Tensor) -> Tensor:
    sigmas = [math.exp(-0.5 * lam) for lam in (-2.4, -0.3, 1.8)]
    for now, then in itertools.pairwise(sigmas):
        d = (x - ask(x, -2.0 * math.log(now)).x0) / now
        ahead = x + (then - now) * d
        d_next = (ahead - ask(ahead, -2.0 * math.log(then)).x0) / then
        x = x + (then - now) * 0.5 * (d + d_next)
    d = (x - ask(x, -2.0 * math.log(sigmas[-1])).x0) / sigmas[-1]
    return x - sigmas[-1] * d


@equation(
    "X61",
    part=PART,
    source=EDM + ", Algorithm 2",
    latex=r"\hat x = x + \sqrt{\hat\sigma^2 - \sigma^2}\; z, \quad \hat\sigma = (1 + \gamma) "
    r"\sigma, \quad \gamma = \min\left(\frac{S_{\text{churn}}}{N}, \sqrt{2} - 1\right)",
    says="Adding a little noise before each step lets later steps correct the errors of earlier "
    "ones.",
    home=(churn, churn_share),
    note="EDM adds it between two noise levels S_min and S_max only; elsewhere γ = 0.",
)
def _() -> Finding:
    clean, noise, fresh, sigma = normal(5), normal(5), normal(5), 0.8
    share = churn_share(12.0, 36)
    moved, higher = churn(clean + sigma * noise, fresh, sigma, share)
    spread = (moved - clean - sigma * noise) / fresh
    pairs = [
        (share, 1.0 / 3.0),
        (churn_share(40.0, 36), math.sqrt(2.0) - 1.0),
        (spread, sigma * math.sqrt(7.0) / 3.0),
        (higher, sigma * 4.0 / 3.0),
        (churn(clean, fresh, sigma, churn_share(99.0, 3))[1] ** 2, 2.0 * sigma**2),
    ]
    return all_equal(pairs, "the variance after churning, and the cap at twice the variance")


@equation(
    "X62",
    part=PART,
    source=EDM2,
    latex=r"\frac{L(\sigma)}{e^{u(\sigma)}} + u(\sigma), \qquad u^* = \ln L, \; \nabla_\theta = "
    r"\frac{\nabla_\theta L}{L}",
    says="A network that also guesses its own loss at each noise level makes all levels count "
    "alike.",
    home=uncertainty_loss,
)
def _() -> Finding:
    losses = (0.4 * normal(5)).exp()
    u = losses.log().requires_grad_(True)
    (at_best,) = torch.autograd.grad(uncertainty_loss(losses, u).sum(), u)
    leaf = losses.clone().requires_grad_(True)
    (pull,) = torch.autograd.grad(uncertainty_loss(leaf, losses.log()).sum(), leaf)
    least = uncertainty_loss(losses, losses.log())
    for shift in (-0.4, 0.3):
        require(bool((uncertainty_loss(losses, losses.log() + shift) > least).all()), "least there")
    pairs = [(at_best, 0.0), (pull, 1.0 / losses), (least, 1.0 + losses.log())]
    return all_equal(pairs, "slopes at u = ln L, by autograd")
