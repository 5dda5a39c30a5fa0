"""Extensions: DDPM's chain, its schedules and its variances."""

import itertools
import math

import torch

from ...chain import posterior_variance, step_variance, variance
from ...scaling import VP
from ...schedule import Cosine, Tabulated
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_ddpm import (
    best_variance,
    clipped_betas,
    cosine_alpha_bar,
    ddpm_alpha_bars,
    hybrid_loss,
    respaced_betas,
)
from ..extra_worlds import integrate, line, normal, numbers, three_bumps

PART = "DDPM and its samplers"
HO = "Ho et al. 2020 (DDPM), arXiv 2006.11239"
IMPROVED = "Nichol & Dhariwal 2021 (Improved DDPM), arXiv 2102.09672"


@equation(
    "X41",
    part=PART,
    source=HO + ", section 4",
    latex=r"\beta_t = 10^{-4} + \frac{t-1}{T-1}\left(0.02 - 10^{-4}\right), \qquad \bar\alpha_T = "
    r"\prod_{t=1}^{1000} (1 - \beta_t) = 4.0358 \times 10^{-5}",
    says="DDPM's thousand small steps leave 0.6 % of the picture's amplitude at the end.",
    home=(Tabulated.ddpm, ddpm_alpha_bars),
    erratum="E13",
    note="So the last step is almost, but not exactly, pure noise.",
)
def _() -> Finding:
    pairs = []
    for steps, low, high in ((1000, 1e-4, 0.02), (50, 0.003, 0.11)):
        betas = [low + (high - low) * i / (steps - 1) for i in range(steps)]
        product, bars = 1.0, []
        for beta in betas:
            product *= 1.0 - beta
            bars.append(product)
        chain = Tabulated.ddpm(steps, low, high)
        pairs += [(ddpm_alpha_bars(numbers(*betas)), numbers(*bars))]
        pairs += [(torch.sigmoid(numbers(*chain.lams)), numbers(*bars))]
    last = torch.sigmoid(numbers(Tabulated.ddpm().lams[-1])).item()
    require(abs(last - 4.0358e-5) < 5e-10, "what is left of ᾱ after a thousand steps")
    return all_equal(pairs, "the table's levels against the product, step by step")


@equation(
    "X42",
    part=PART,
    source=IMPROVED + ", Eq. 17",
    latex=r"\bar\alpha(t) = \frac{f(t)}{f(0)}, \quad f(t) = \cos^2\left(\frac{t + s}{1 + s} \cdot "
    r"\frac{\pi}{2}\right), \quad \beta_t \le 0.999",
    says="The cosine schedule destroys the picture evenly, with a little extra noise at the start "
    "and no step that destroys everything.",
    home=(cosine_alpha_bar, clipped_betas),
    status="definition",
    note="The Cosine schedule of this package is the case s = 0, where no clipping is needed.",
)
def _() -> Finding:
    t, offset = numbers(0.0, 0.13, 0.52, 0.91), 0.008
    direct = [0.5 * (1.0 + torch.cos(math.pi * (u + offset) / (1.0 + offset))) for u in (t, t[:1])]
    bars = cosine_alpha_bar(torch.arange(1001, dtype=torch.float64) / 1000.0)
    betas = clipped_betas(bars)
    rebuilt = torch.cumprod(1.0 - betas, 0)
    require(betas[-1].item() == 0.999, "the last step is clipped")
    pairs = [
        (cosine_alpha_bar(t), direct[0] / direct[1]),
        (cosine_alpha_bar(t[1:], 0.0), torch.sigmoid(Cosine().lam(t[1:]))),
        (rebuilt[:-1], bars[1:-1]),
        (clipped_betas(bars, 0.01), torch.minimum(betas, numbers(0.01))),
    ]
    return all_equal(pairs, "half-angle formula, the core's schedule at s = 0, and the products")


@equation(
    "X43",
    part=PART,
    source=IMPROVED + ", Eq. 15",
    latex=r"\Sigma_\theta = \exp\left(v \log \beta_t + (1 - v) \log \tilde\beta_t\right)",
    says="A network may choose how random its backward step is, between the two values that are "
    "right for the simplest data.",
    home=variance,
    status="definition",
)
def _() -> Finding:
    t, s, mix = VP(numbers(-2.1, 0.3, 2.4)), VP(numbers(-1.6, 0.9, 3.7)), numbers(0.2, 0.7, 1.3)
    beta = 1.0 - (t.alpha / s.alpha) ** 2
    small = beta * (1.0 - s.alpha**2) / (1.0 - t.alpha**2)
    found = torch.as_tensor(variance(t, s, mix))
    pairs = [
        (found, (mix * beta.log() + (1.0 - mix) * small.log()).exp()),
        (variance(t, s, 0.0), small),
        (variance(t, s, 1.0), beta),
    ]
    return all_equal(pairs, "logarithms mixed against the product form, in Luo's letters")


@equation(
    "X44",
    part=PART,
    source=IMPROVED + ", Eq. 16",
    latex=r"L_{\text{hybrid}} = L_{\text{simple}} + 0.001\, L_{\text{vlb}}, \qquad L_{\text{vlb}} "
    r"= \mathbb{E}_{t}\left[T L_t\right]",
    says="A thousandth of the likelihood is enough to teach a network how random its steps should "
    "be.",
    home=hybrid_loss,
    status="expectation",
    note="Inside L_vlb the mean is held fixed, so that it teaches the spread only.",
)
def _() -> Finding:
    terms, simple = 2.0 + normal(7), normal(7)
    found = hybrid_loss(simple, terms).mean()
    return equal(found, simple.mean() + 0.001 * terms.sum(), "the mean over t against the sum")


@equation(
    "X45",
    part=PART,
    source=HO + ", section 3.2; Bao et al. 2022 (Analytic-DPM), arXiv 2201.06503",
    latex=r"\operatorname{Var}[x_s \mid x_t] = \tilde\beta_t + \left(\frac{\alpha_s \beta_t}"
    r"{\sigma_t^2}\right)^2 \operatorname{Var}[x_0 \mid x_t]",
    says="The best spread of a backward step grows with how unsure one is about the clean picture.",
    home=(best_variance, posterior_variance, step_variance),
    note="Small (β̃, Luo's Eq. 85) is exact for a data set of one point and large (β) for N(0, I); "
    "on average over x_t the best spread is never more than β/(1 − β).",
)
def _() -> Finding:
    t, s, pairs = VP(-0.4), VP(0.7), []
    beta = torch.as_tensor(step_variance(t, s), dtype=torch.float64)
    small = torch.as_tensor(posterior_variance(t, s), dtype=torch.float64)
    gain = torch.as_tensor(s.alpha * beta / t.sigma**2)
    for var in (0.0, 0.36, 1.0):
        seen = var * t.sigma**2 / (t.alpha**2 * var + t.sigma**2)
        # Var[x_s | x_t] of jointly Gaussian numbers, by the Schur complement
        above, below = t.alpha**2 * var + t.sigma**2, s.alpha**2 * var + s.sigma**2
        both = t.alpha / s.alpha * below
        pairs.append((best_variance(small, gain, numbers(seen)), below - both**2 / above))
    bumps, x_t, x_s = three_bumps(), numbers(-1.1, 0.3, 1.2).unsqueeze(1), line(-6.0, 6.0, 2401)
    step = torch.distributions.Normal(t.alpha / s.alpha * x_s, beta.sqrt()).log_prob(x_t)
    weights = torch.softmax(bumps.log_prob(x_s.unsqueeze(1), s.lam) + step, 1)
    mean = weights @ x_s
    spread = (weights * (x_s - mean.unsqueeze(1)) ** 2).sum(1)
    seen, everywhere = bumps(x_t, t.lam).var, bumps(x_s.unsqueeze(1), t.lam).var
    assert seen is not None and everywhere is not None
    density = bumps.log_prob(x_s.unsqueeze(1), t.lam).exp()
    average = integrate(density * best_variance(small, gain, everywhere[:, 0]), x_s)
    require(
        bool(small < average) and bool(average < beta / (t.alpha / s.alpha) ** 2), "in its bounds"
    )
    pairs += [(best_variance(small, gain, seen[:, 0]), spread)]
    return all_equal(pairs, "Gaussian data of three sizes, and a mixture by quadrature")


@equation(
    "X46",
    part=PART,
    source=IMPROVED + ", section 4",
    latex=r"\beta_{S_i} = 1 - \frac{\bar\alpha_{S_i}}{\bar\alpha_{S_{i-1}}}",
    says="A chain that skips steps must add the noise of all the steps it skips.",
    home=respaced_betas,
)
def _() -> Finding:
    betas = line(1e-4, 0.02, 100)
    bars, kept = torch.cumprod(1.0 - betas, 0), [9, 24, 51, 88, 99]
    found = respaced_betas(bars, kept)
    edges = [-1, *kept]
    steps = [1.0 - (1.0 - betas[a + 1 : b + 1]).prod() for a, b in itertools.pairwise(edges)]
    pairs = [(found, torch.stack(steps)), (torch.cumprod(1.0 - found, 0), bars[kept])]
    return all_equal(pairs, "the skipped steps multiplied out")
