"""Extensions: DDIM, VDM's sampler, and the decoder of DDPM's last step."""

import itertools
import math

import torch
from torch import Tensor

from ...chain import mean_from_x0, posterior_variance
from ...decoders import discretised_gaussian
from ...pixels import to_float
from ...scaling import FLOW, VE, VP
from ...solvers import ddim, noise_error
from ...solvers.rules import first_order
from ..equation import Finding, all_equal, equation, require
from ..extra_ddpm import (
    ddim_sigma,
    ddim_step,
    vdm_step,
)
from ..extra_worlds import flat_bumps, normal, numbers

PART = "DDPM and its samplers"
HO = "Ho et al. 2020 (DDPM), arXiv 2006.11239"
DDIM = "Song, Meng & Ermon 2021 (DDIM), arXiv 2010.02502"
ETAS = (0.0, 0.37, 1.0)


def _bars(*lams: float) -> Tensor:
    return torch.sigmoid(numbers(*lams))


@equation(
    "X47",
    part=PART,
    source=DDIM + ", Eqs. 12 and 16",
    latex=r"x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, "
    r"\hat\epsilon + \sigma z, \quad \sigma = \eta \sqrt{\frac{1 - \bar\alpha_s}{1 - "
    r"\bar\alpha_t}} \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}}",
    says="Denoise, then put back some of the noise that was found and some fresh noise.",
    home=(first_order, ddim_step, ddim_sigma),
)
def _() -> Finding:
    oracle, x, z, pairs = flat_bumps(), normal(5, 2), normal(5, 2), []
    for eta in ETAS:
        t, s = VP(-0.9), VP(0.8)
        row, est = first_order(0, t, s, eta), oracle(x, t.lam)
        walked = row.x[0] * x + row.d[0] * est.x0 + row.noise * z
        bars = _bars(-0.9, 0.8)
        pairs.append((ddim_step(x, est.eps, z, bars[0], bars[1], eta), walked))
        require(row.at == s, "the new state lives at s")
    clean = first_order(3, VP(0.4), VP(math.inf), 0.6)
    pairs += [(clean.x[3], 0.0), (clean.d[3], 1.0), (clean.noise, 0.0)]
    return all_equal(pairs, "the solver's row against the paper's formula, for three η")


@equation(
    "X48",
    part=PART,
    source=DDIM + ", section 4.1; Luo Eq. 85",
    latex=r"\eta = 1: \quad \sigma^2 = \tilde\beta_t = \sigma_q^2(t), \qquad \mathbb{E}[x_s] = "
    r"\mu_q(x_t, \hat x_0)",
    says="With η = 1 this is DDPM's own chain: the same mean and the same variance.",
    home=(first_order, ddim_sigma, posterior_variance, mean_from_x0),
)
def _() -> Finding:
    t, s, x, clean = VP(-1.3), VP(0.4), normal(6), normal(6)
    row, bars = first_order(0, t, s, 1.0), _bars(-1.3, 0.4)
    alpha = bars[0] / bars[1]
    mean = alpha.sqrt() * (1.0 - bars[1]) * x + bars[1].sqrt() * (1.0 - alpha) * clean
    var = (1.0 - alpha) * (1.0 - bars[1]) / (1.0 - bars[0])
    pairs = [
        (row.x[0] * x + row.d[0] * clean, mean / (1.0 - bars[0])),
        (mean_from_x0(x, clean, t, s), mean / (1.0 - bars[0])),
        (row.noise**2, var),
        (posterior_variance(t, s), var),
        (ddim_sigma(bars[0], bars[1], 1.0) ** 2, var),
    ]
    return all_equal(pairs, "row, chain and DDIM's σ against Luo's Eqs. 84 and 85")


@equation(
    "X49",
    part=PART,
    source=DDIM + ", Lemma 1",
    latex=r"q_\eta(x_s \mid x_0) = \mathcal{N}\left(\sqrt{\bar\alpha_s} x_0, (1 - \bar\alpha_s) "
    r"\mathbf{I}\right) \text{ for every } \eta \in [0, 1]",
    says="However much of the noise is fresh, the cloud at every level is the right one, if the "
    "picture is known.",
    home=(first_order, noise_error),
)
def _() -> Finding:
    pairs: list[tuple[Tensor | float, Tensor | float]] = []
    for scaling in (VP, VE, FLOW):
        levels = [scaling(lam) for lam in (-2.2, -0.7, 0.6, 3.1)]
        for eta in ETAS:
            rows = ddim(eta).table(levels)
            pairs += [(error, 0.0) for error in noise_error(levels, rows)]
            for i, (t, s) in enumerate(itertools.pairwise(levels)):
                row = first_order(i, t, s, eta)
                pairs += [(row.x[i] * t.alpha + row.d[i], s.alpha)]
                spread = (row.x[i] * t.sigma) ** 2 + row.noise**2
                pairs += [(spread, s.sigma**2)]
        wrong = [row._replace(noise=row.noise + 0.1) for row in ddim(0.5).table(levels)]
        by_hand = [(r.noise**2 - (r.noise - 0.1) ** 2) for r in wrong]
        pairs += list(zip(noise_error(levels, wrong), by_hand, strict=True))
    return all_equal(pairs, "signal and noise of every row, three units, three η")


@equation(
    "X50",
    part=PART,
    source=DDIM + ", Eqs. 13 and 14",
    latex=r"\eta = 0: \quad \frac{x_s}{\alpha_s} - \frac{x_t}{\alpha_t} = \left(\frac{\sigma_s}"
    r"{\alpha_s} - \frac{\sigma_t}{\alpha_t}\right) \hat\epsilon(x_t)",
    says="Without fresh noise the walk is a straight step along an ODE whose time is the noise "
    "level.",
    home=first_order,
)
def _() -> Finding:
    oracle, pairs = flat_bumps(), []
    for scaling in (VP, VE, FLOW):
        t, s = scaling(-1.4), scaling(0.3)
        row, x = first_order(0, t, s, 0.0), normal(4, 2)
        est = oracle(x * (VP(-1.4).alpha / t.alpha), -1.4)
        eps = (x - t.alpha * est.x0) / t.sigma
        moved = row.x[0] * x + row.d[0] * est.x0
        euler = (s.sigma / s.alpha - t.sigma / t.alpha) * eps
        pairs += [(moved / s.alpha - x / t.alpha, euler), (row.noise, 0.0)]
    return all_equal(pairs, "the row against Euler's step in σ/α, in three units")


@equation(
    "X51",
    part=PART,
    source="Kingma et al. 2021 (VDM), arXiv 2107.00630, ancestral sampling",
    latex=r"x_s = \frac{\alpha_s}{\alpha_t}\left(x_t - \sigma_t c\, \hat\epsilon\right) + "
    r"\sqrt{\sigma_s^2 c}\; z, \qquad c = 1 - e^{\lambda_t - \lambda_s}",
    says="VDM's sampler is DDPM's, written so that nothing cancels.",
    home=(vdm_step, first_order),
)
def _() -> Finding:
    oracle, x, z, pairs = flat_bumps(), normal(5, 2), normal(5, 2), []
    for low, high in ((-1.6, -0.2), (0.5, 4.1)):
        row, est = first_order(0, VP(low), VP(high), 1.0), oracle(x, low)
        walked = row.x[0] * x + row.d[0] * est.x0 + row.noise * z
        pairs.append((vdm_step(x, est.eps, z, numbers(low)[0], numbers(high)[0]), walked))
    return all_equal(pairs, "the formula against the row of the ddpm solver")


@equation(
    "X52",
    part=PART,
    source=HO + ", Eq. 13",
    latex=r"p_\theta(x_0 \mid x_1) = \prod_{i=1}^{D} \int_{\delta_-(x_0^i)}^{\delta_+(x_0^i)} "
    r"\mathcal{N}\left(x; \mu_\theta^i(x_1, 1), \sigma_1^2\right) dx",
    says="The last step must be about the 256 values a stored pixel can have: each gets the "
    "probability of its bin.",
    home=discretised_gaussian,
    status="definition",
    note="The first and the last bin are open, so that the 256 probabilities add up to one. "
    "DDPM's bins are 2/255 wide; this package uses 2/256 everywhere.",
)
def _() -> Finding:
    pixels = torch.tensor([[0, 3, 200], [255, 128, 77]], dtype=torch.uint8)
    mean, std = to_float(pixels, torch.float64) + 0.05 * normal(2, 3), 0.08
    edges = (2.0 * torch.arange(257, dtype=torch.float64)) / 256.0 - 1.0
    edges[0], edges[-1] = -math.inf, math.inf
    below = torch.special.ndtr((edges - mean.unsqueeze(-1)) / std)
    chance = below.diff(dim=-1).gather(-1, pixels.long().unsqueeze(-1))[..., 0]
    every = torch.arange(256, dtype=torch.uint8).unsqueeze(1)
    total = discretised_gaussian(every, torch.full((256, 1), 0.93).double(), 0.3).exp().sum()
    pairs = [(discretised_gaussian(pixels, mean, std), chance.log().sum(1)), (total, 1.0)]
    return all_equal(pairs, "differences of the distribution function, and all 256 together")
