"""Luo Eqs. 101–114: the loss sees only the signal-to-noise ratio, which may be learned."""

from functools import partial

import torch
from torch import Tensor

from ...chain import (
    chain_lams,
    mean_from_x0,
    posterior,
    posterior_variance,
    snr,
    weight_snr,
    weight_x0,
)
from ...gaussian import Normal
from ...learned import LearnedSchedule
from ...scaling import FLOW, VP, UnitVariance
from ..equation import Finding, all_equal, equation, require
from ..fixtures import bars, chains, level, steps

line = partial(equation, part="Learning Diffusion Noise Parameters", page=14)

_ON = "steps of four chains (DDPM, cosine, VDM, random), relative"
_ERROR = r"\left[\left\Vert\hat x_\theta(x_t,t) - x_0\right\Vert_2^2\right]"
_BELOW = r"(1-\bar\alpha_{t-1})(1-\bar\alpha_t)"


def _weight(coefficient: Tensor) -> Finding:
    """Both of the package's weights of ‖x̂ − x0‖² against a line's, as ratios."""
    f = steps()
    printed, one = coefficient.squeeze(1), torch.ones(len(coefficient), dtype=torch.float64)
    ours = (weight_x0(f.t, f.s), weight_snr(f.t, f.s))
    return all_equal([(w / printed, one) for w in ours], f"weights of the error, {_ON}")


@line(
    "101",
    latex=r"\frac{1}{2\sigma_q^2(t)}\frac{\bar\alpha_{t-1}(1-\alpha_t)^2}{(1-\bar\alpha_t)^2}"
    + _ERROR + r" = \frac{1}{2\frac{(1-\alpha_t)(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}}"
    r"\frac{\bar\alpha_{t-1}(1-\alpha_t)^2}{(1-\bar\alpha_t)^2}" + _ERROR,
    says="Put the known spread of the step back into the weight of the error.",
    home=(weight_x0, posterior_variance),
)  # fmt: skip
def _() -> Finding:
    f = steps()
    spread = (1 - f.a) * (1 - f.prev) / (1 - f.bar)
    return _weight(1 / (2 * spread) * (f.prev * (1 - f.a) ** 2 / (1 - f.bar) ** 2))


@line(
    "102",
    latex=r"= \frac{1}{2}\frac{1-\bar\alpha_t}{(1-\alpha_t)(1-\bar\alpha_{t-1})}"
    r"\frac{\bar\alpha_{t-1}(1-\alpha_t)^2}{(1-\bar\alpha_t)^2}" + _ERROR,
    says="Dividing by a fraction is multiplying by it turned over.",
    home=weight_x0,
)
def _() -> Finding:
    f = steps()
    turned = (1 - f.bar) / ((1 - f.a) * (1 - f.prev))
    return _weight(0.5 * turned * (f.prev * (1 - f.a) ** 2 / (1 - f.bar) ** 2))


@line(
    "103",
    latex=r"= \frac{1}{2}\frac{\bar\alpha_{t-1}(1-\alpha_t)}{" + _BELOW + r"}" + _ERROR,
    says="Equal factors above and below cancel.",
    home=weight_x0,
)
def _() -> Finding:
    f = steps()
    return _weight(0.5 * f.prev * (1 - f.a) / ((1 - f.prev) * (1 - f.bar)))


@line(
    "104",
    latex=r"= \frac{1}{2}\frac{\bar\alpha_{t-1}-\bar\alpha_t}{" + _BELOW + r"}" + _ERROR,
    says="The product up to t−1 times the number of step t is the product up to t.",
    home=(weight_x0, weight_snr),
)
def _() -> Finding:
    f = steps()
    return _weight(0.5 * (f.prev - f.bar) / ((1 - f.prev) * (1 - f.bar)))


@line(
    "105",
    latex=r"= \frac{1}{2}\frac{\bar\alpha_{t-1}-\bar\alpha_{t-1}\bar\alpha_t+"
    r"\bar\alpha_{t-1}\bar\alpha_t-\bar\alpha_t}{" + _BELOW + r"}" + _ERROR,
    says="Add a term and take it away again.",
    home=weight_snr,
)
def _() -> Finding:
    f = steps()
    top = f.prev - f.prev * f.bar + f.prev * f.bar - f.bar
    return _weight(0.5 * top / ((1 - f.prev) * (1 - f.bar)))


@line(
    "106",
    latex=r"= \frac{1}{2}\frac{\bar\alpha_{t-1}(1-\bar\alpha_t)-\bar\alpha_t(1-\bar\alpha_{t-1})}"
    r"{" + _BELOW + r"}" + _ERROR,
    says="Now both halves above share a factor with what stands below.",
    home=weight_snr,
)
def _() -> Finding:
    f = steps()
    top = f.prev * (1 - f.bar) - f.bar * (1 - f.prev)
    return _weight(0.5 * top / ((1 - f.prev) * (1 - f.bar)))


@line(
    "107",
    latex=r"= \frac{1}{2}\left(\frac{\bar\alpha_{t-1}(1-\bar\alpha_t)}{" + _BELOW + r"} - "
    r"\frac{\bar\alpha_t(1-\bar\alpha_{t-1})}{" + _BELOW + r"}\right)" + _ERROR,
    says="The fraction is split into its two halves.",
    home=weight_snr,
)
def _() -> Finding:
    f = steps()
    below = (1 - f.prev) * (1 - f.bar)
    return _weight(0.5 * (f.prev * (1 - f.bar) / below - f.bar * (1 - f.prev) / below))


@line(
    "108",
    latex=r"= \frac{1}{2}\left(\frac{\bar\alpha_{t-1}}{1-\bar\alpha_{t-1}} - "
    r"\frac{\bar\alpha_t}{1-\bar\alpha_t}\right)" + _ERROR,
    says="Each half speaks of one noise level only, in the same way.",
    home=(weight_snr, snr),
)
def _() -> Finding:
    f = steps()
    return _weight(0.5 * (f.prev / (1 - f.prev) - f.bar / (1 - f.bar)))


@line(
    "109",
    latex=r"\mathrm{SNR}(t) = \frac{\bar\alpha_t}{1-\bar\alpha_t}",
    says="That number is the signal-to-noise ratio: how strong the picture is compared to the "
    "noise; every step lowers it.",
    home=(snr, chain_lams),
    status="definition",
    note="The power of the data is not counted: it is taken as one.",
)
def _() -> Finding:
    pairs = []
    for alphas in chains().values():
        bar = bars(alphas)[1:]
        ours = torch.as_tensor(snr(VP(chain_lams(alphas)[1:])))
        require(bool((ours.diff() < 0).all()), "the signal-to-noise ratio falls with every step")
        pairs += [(ours * (1 - bar) / bar, torch.ones_like(bar))]
        # the ratio is the same in every unit of x
        pairs += [(snr(FLOW(chain_lams(alphas)[1:])) / ours, torch.ones_like(bar))]
    return all_equal(pairs, "every level of four chains (1000, 40, 30 and 7 steps), relative")


@line(
    "110",
    latex=r"\frac{1}{2\sigma_q^2(t)}\frac{\bar\alpha_{t-1}(1-\alpha_t)^2}{(1-\bar\alpha_t)^2}"
    + _ERROR + r" = \frac{1}{2}\left(\mathrm{SNR}(t-1)-\mathrm{SNR}(t)\right)" + _ERROR,
    says="An error counts by as much as the step lowers the signal-to-noise ratio; nothing else "
    "about the noise matters.",
    home=(weight_snr, weight_x0, snr),
    note="Infinite at t = 1, where SNR(0) is.",
    erratum="E9",
)  # fmt: skip
def _() -> Finding:
    f = steps()
    q = posterior(f.x_t, f.x0, f.t, f.s)
    kl = q.kl(Normal(mean_from_x0(f.x_t, f.x_hat, f.t, f.s), q.log_std))
    error = ((f.x_hat - f.x0) ** 2).sum(1)
    fall = (f.prev / (1 - f.prev) - f.bar / (1 - f.bar)).squeeze(1)
    pairs = [(weight_snr(f.t, f.s) / (0.5 * fall), torch.ones_like(fall))]
    pairs += [(weight_snr(f.t, f.s) * error, kl), (weight_x0(f.t, f.s) * error, kl)]
    return all_equal(pairs, f"weight and KL, {_ON}")


_LEARNED = (
    LearnedSchedule.widths,
    LearnedSchedule.place,
    LearnedSchedule.at,
    LearnedSchedule.density,
)


def _omega() -> Tensor:
    """Levels ω = −λ over all that is used in practice."""
    return torch.linspace(-13.3, 8.0, 41, dtype=torch.float64)


@line(
    "111",
    latex=r"\mathrm{SNR}(t) = \exp(-\omega_\eta(t)), \quad \omega_\eta \text{ increasing}",
    says="So one may let a network that can only rise say how noisy each moment is, and learn it "
    "along with the rest.",
    home=(*_LEARNED, snr),
    note="ω must rise strictly: where two neighbours are equal the weight is 0, and where it fell "
    "the loss would reward errors.",
    erratum="E15",
)
def _() -> Finding:
    schedule = LearnedSchedule(9.0, -4.5, knots=7, floor=0.2)
    with torch.no_grad():
        schedule.logits.copy_(torch.linspace(-1.0, 2.0, 7).sin() * 0.6)
        t = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)
        omega = -schedule.lam(t)
        require(bool((omega.diff() > 0).all()), "ω rises strictly")
        middles = 0.5 * (t[1:] + t[:-1])
        slope = (schedule.lam(middles + 1e-4) - schedule.lam(middles - 1e-4)) / 2e-4
        density = schedule.density(schedule.lam(middles))
        levels = torch.linspace(-4.5, 9.0, 70_001, dtype=torch.float64)
        mass = schedule.density(0.5 * (levels[1:] + levels[:-1])).mean() * 13.5
        powers = (5.0 * schedule.logits.double()).exp()
        shares = 0.8 * powers / powers.sum()
        pairs = [(snr(VP(-omega)) * omega.exp(), torch.ones_like(t)), (schedule.t(-omega), t)]
        pairs += [(omega[[0, -1]], torch.tensor([-9.0, 4.5]).double()), (mass, 1.0)]
        pairs += [(-density * slope, torch.ones_like(slope)), (schedule.widths(), shares + 0.2 / 7)]
    return all_equal(pairs, "a learned schedule with random parameters, at 201 moments")


@line(
    "112",
    latex=r"\frac{\bar\alpha_t}{1-\bar\alpha_t} = \exp(-\omega_\eta(t))",
    says="With the ratio given, the strengths of picture and noise follow.",
    home=(snr, UnitVariance._alpha_sigma),
)
def _() -> Finding:
    omega = _omega()
    at = UnitVariance(1.0)(-omega)
    bar = torch.as_tensor(at.alpha) ** 2
    pairs = [(snr(at) / (-omega).exp(), torch.ones_like(omega))]
    pairs += [(level(bar.unsqueeze(1)).lam / -omega, torch.ones_like(omega))]
    # the ratio is the same for data of another spread, whose units are others
    pairs += [(snr(UnitVariance(0.6)(-omega)) * omega.exp(), torch.ones_like(omega))]
    return all_equal(pairs, "41 levels from ω = -13.3 to 8, relative")


def _sigmoid(x: Tensor) -> Tensor:
    """1/(1 + e^(−x)), as it is defined."""
    return 1.0 / (1.0 + (-x).exp())


@line(
    "113",
    latex=r"\therefore\; \bar\alpha_t = \mathrm{sigmoid}(-\omega_\eta(t))",
    says="The strength of the picture is an S-shaped function of the level.",
    home=UnitVariance._alpha_sigma,
)
def _() -> Finding:
    omega = _omega()
    alpha, _ = UnitVariance(1.0)._alpha_sigma(-omega)
    other, noise = UnitVariance(0.6)._alpha_sigma(-omega)
    pairs = [(alpha**2 / _sigmoid(-omega), torch.ones_like(omega))]
    # for data of another spread s the same with λ + 2·log s, so that the pixels' spread stays one
    pairs += [(0.36 * other**2 + noise**2, torch.ones_like(omega))]
    pairs += [(other**2 / noise**2 * omega.exp(), torch.ones_like(omega))]
    return all_equal(pairs, "41 levels from ω = -13.3 to 8, relative")


@line(
    "114",
    latex=r"\therefore\; 1-\bar\alpha_t = \mathrm{sigmoid}(\omega_\eta(t))",
    says="The strength of the noise is the same curve mirrored, exact even where there is almost "
    "no noise.",
    home=UnitVariance._alpha_sigma,
)
def _() -> Finding:
    omega = _omega()
    alpha, sigma = UnitVariance(1.0)._alpha_sigma(-omega)
    _, other = UnitVariance(0.6)._alpha_sigma(-omega)  # data of another spread
    _, rough = UnitVariance(1.0)._alpha_sigma(-omega.float())
    one = torch.ones_like(omega)
    lost = ((1.0 - torch.sigmoid(-omega.float())).double() / _sigmoid(omega) - 1.0).abs().max()
    kept = (rough.double() ** 2 / _sigmoid(omega) - 1.0).abs().max()
    require(bool(kept < 3e-6) and bool(lost > 1e-3), "32-bit numbers keep the noise's digits")
    pairs = [(sigma**2 / _sigmoid(omega), one), (alpha**2 + sigma**2, one)]
    pairs += [(other**2 * (1.0 + 0.36 * (-omega).exp()), one)]
    return all_equal(pairs, "41 levels from ω = -13.3 to 8, relative; and in 32 bits")
