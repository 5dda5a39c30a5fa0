"""Extensions: low-discrepancy times, the 256-way decoder, and score matching as a bound."""

import math

import torch
from torch import Tensor

from ...gaussian import discretised_reconstruction
from ...learned import LearnedSchedule
from ...objective import spread_uniform
from ...pixels import to_float
from ...scaling import VP
from ...schedule import LinearBeta
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_likelihood import likelihood_bound
from ..extra_sde import diffusion_squared
from ..extra_worlds import gauss, normal, numbers

PART = "Likelihood and weighting"
VDM = "Kingma et al. 2021 (VDM), arXiv 2107.00630"
SCORE_FLOW = "Song, Durkan, Murray & Ermon 2021, arXiv 2101.09258"


@equation(
    "X8",
    part=PART,
    source=VDM + ", appendix I.1",
    latex=r"t_i = \left(u_0 + \frac{i}{B}\right) \bmod 1, \qquad u_0 \sim U[0, 1)",
    says="The times of one batch are spread evenly, and each alone is still uniformly random.",
    home=spread_uniform,
    status="definition",
)
def _() -> Finding:
    generator = torch.Generator().manual_seed(11)
    u = spread_uniform(16, generator)
    first = torch.rand(1, generator=generator.manual_seed(11), dtype=torch.float64)
    many = torch.stack([spread_uniform(16) for _ in range(400)])
    spread = torch.sort(many, dim=1).values.diff(dim=1)
    require(bool((many >= 0).all() and (many < 1).all()), "times lie in [0, 1)")
    require(len(spread_uniform(0)) == 0, "an empty batch has no times")
    # an estimate of ∫ sin²(πt) dt from evenly spread times has no error at all
    pairs = [
        (u, (first + torch.arange(16) / 16.0) % 1.0),
        (spread, 1.0 / 16.0),
        ((torch.pi * many).sin().square().mean(1), 0.5),
    ]
    return all_equal(pairs, "gaps of 1/B, and the mean of sin² over every batch")


@equation(
    "X9",
    part=PART,
    source=VDM + ", section 3.3",
    latex=r"P(k \mid x_\lambda) = \frac{\mathcal{N}(x_\lambda; \alpha c_k, \sigma^2)}"
    r"{\sum_{j=0}^{255} \mathcal{N}(x_\lambda; \alpha c_j, \sigma^2)}",
    says="The last decoder asks which of the 256 values of a stored pixel would most likely have "
    "given this nearly clean number.",
    home=discretised_reconstruction,
    status="definition",
)
def _() -> Finding:
    pixels = torch.tensor([[0, 17, 255], [128, 127, 200]], dtype=torch.uint8)
    level = VP(7.5)
    x = level.alpha * to_float(pixels, torch.float64) + level.sigma * normal(2, 3)
    centres = (2.0 * torch.arange(256, dtype=torch.float64) + 1.0) / 256.0 - 1.0
    density = torch.distributions.Normal(level.alpha * centres, level.sigma)
    all_values = density.log_prob(x.unsqueeze(-1)).exp()
    share = all_values.gather(-1, pixels.long().unsqueeze(-1))[..., 0] / all_values.sum(-1)
    found = discretised_reconstruction(pixels, x, level)
    one = torch.arange(256, dtype=torch.uint8).unsqueeze(1)
    total = discretised_reconstruction(one, x[:1, 1:2].expand(256, 1), level).exp().sum()
    return all_equal([(found, share.log().sum(1)), (total, 1.0)], "Bayes over 256 values, and Σ P")


@equation(
    "X10",
    part=PART,
    source=SCORE_FLOW + ", section 4",
    latex=r"\frac{1}{2} g(t)^2 \left\lVert s_\theta - \nabla \log q \right\rVert^2 dt = "
    r"\frac{1}{2} \left\lVert \epsilon - \hat\epsilon \right\rVert^2 \left|d\lambda\right|",
    tolerance=1e-7,
    says="Weighting score errors by the speed of the noise is the same as counting errors in the "
    "noise equally at all levels.",
    home=diffusion_squared,
)
def _() -> Finding:
    schedule, t = LinearBeta(), numbers(0.11, 0.42, 0.83)
    sigma = VP(schedule.lam(t)).sigma
    eps, guess = normal(3), normal(3)
    gap = (guess / sigma - eps / sigma) ** 2
    step = 1e-3
    lam = schedule.lam(torch.stack([t - 2 * step, t - step, t + step, t + 2 * step]))
    change = (lam[0] - 8.0 * lam[1] + 8.0 * lam[2] - lam[3]) / (12.0 * step)
    sides = (diffusion_squared(VP, schedule, t) * gap, -change * (eps - guess) ** 2)
    return equal(*sides, "g²·score error against |dλ/dt|·noise error, dλ/dt by differences")


@equation(
    "X11",
    part=PART,
    source=SCORE_FLOW + ", Theorem 1",
    latex=r"\mathrm{KL}(p_0 \Vert p_\theta) \le \frac{1}{2}\int_0^T g(t)^2\, \mathbb{E}_{p_t}"
    r"\left\lVert s_\theta - \nabla \log p_t \right\rVert^2 dt + \mathrm{KL}(p_T \Vert \pi)",
    says="Score matching with this weight bounds how far the model's pictures are from the real "
    "ones.",
    note="Equality holds, up to what starting from pure noise costs, if the model's score is the "
    "score of some noised distribution, as for two of the check's three models.",
    home=likelihood_bound,
    status="bound",
    tolerance=1e-9,
)
def _() -> Finding:
    schedule, (mean, var) = LinearBeta(), (0.7, 0.5)
    t, nodes = gauss(0.0, 1.0, 200)
    level, pairs = VP(schedule.lam(t)), []
    for m, v, k in ((0.2, 0.9, 1.3), (0.2, 0.9, 1.0), (0.7, 0.5, 1.0)):
        own, other = (level.alpha**2 * w + level.sigma**2 for w in (var, v))
        # s − ∇log p = (x − αm)/V − k·(x − αm')/V' at x ~ N(αm, V)
        errors = own * (1.0 / own - k / other) ** 2
        errors = errors + (k * level.alpha * (mean - m) / other) ** 2
        g2 = diffusion_squared(VP, schedule, t)
        last = VP(schedule.lam(1.0))
        end = _kl(last.alpha * mean, last.alpha**2 * var + last.sigma**2, 0.0, 1.0)
        found = likelihood_bound(errors, g2, nodes, end)
        truth = _kl(numbers(mean), numbers(var), *_samples_of(m, v, k)).item()
        require(truth <= found.item() + 1e-8, "the bound holds")
        require((truth < found.item() - 0.1) == (k != 1.0), "strictly, unless a law has the score")
        pairs.append((found, end + _noise_form(schedule, (mean, var), (m, v), k)))
    return all_equal(pairs, "the bound against the same area counted in noise errors")


@equation(
    "X12",
    part=PART,
    source=VDM + ", appendix I",
    latex=r"\nabla_\eta \log \mathbb{E}_{p_\eta}\left[\left(\frac{e}{p_\eta}\right)^2\right] = "
    r"\nabla_\eta \log \int \frac{\mathbb{E}[e^2 \mid \lambda]}{p_\eta(\lambda)}\, d\lambda",
    says="The interior of a learned schedule moves time to where the loss is uncertain, and leaves "
    "the loss itself alone.",
    home=(LearnedSchedule.density, LearnedSchedule.widths, LearnedSchedule._times),
)
def _() -> Finding:
    schedule = LearnedSchedule(6.0, -4.0, knots=5, floor=0.2)
    asked = numbers(0.27, 0.08, 0.19, 0.34, 0.12)
    schedule.assign(2.0 * asked)
    share = schedule.widths().detach()
    times = [0.0, *share.cumsum(0).tolist()]
    middle = numbers(*(6.0 - 2.0 * (k + 0.3) for k in range(5)))
    t = numbers(*(times[k] + 0.3 * share[k].item() for k in range(5)))
    pairs = [
        (schedule.density(middle), 0.5 * share),
        (schedule.lam(t), middle),
        (schedule.t(middle), t),
        (schedule.lam(numbers(0.0, 1.0)), numbers(6.0, -4.0)),
        (schedule.dlam(t), -2.0 / share),
        (schedule._times(schedule.widths()), numbers(*times)),
    ]
    # E[e²|λ] = 1 + λ², by quadrature under p and under dλ
    lams, nodes = gauss(-4.0, 6.0, 100)  # twenty in every bin
    p = schedule.density(lams)
    pairs += [((nodes * p).sum(), 1.0), ((nodes * p * (1.0 + lams**2) / p).sum(), 10 + 280 / 3)]
    (pull,) = torch.autograd.grad((nodes * (1.0 + lams**2) / p).sum().log(), schedule.logits)
    areas = (nodes * (1.0 + lams**2)).view(5, 20).sum(1).flip(0)  # from the clean end on
    soft = (share - 0.04) / 0.8
    back = -areas / (0.5 * share**2) / (areas / (0.5 * share)).sum()  # d log/d w_k
    wanted = soft * (back - (soft * back).sum())
    rough = [(pull / pull.norm(), wanted / wanted.norm()), (share, asked)]
    slow = all_equal(rough, "").error * 1e-4  # the logits are float32
    return Finding(max(slow, all_equal(pairs, "").error), "histogram, inverse, ends and slope")


def _noise_form(schedule: LinearBeta, data: tuple, model: tuple, k: float) -> Tensor:
    """½∫E‖ε̂ − ε̂'‖²dλ for Gaussians: the same area, integrated over log(1/σ) instead of time."""
    s, nodes = gauss(0.0, 1.0, 400)
    t = s**2
    lam = schedule.lam(t)
    level = VP(lam)
    own, other = (level.alpha**2 * v + level.sigma**2 for v in (data[1], model[1]))
    a, b = level.sigma / own, k * level.sigma / other
    shift = level.alpha * (data[0] - model[0]) * b
    beta = 0.1 + 19.9 * t  # −σ²·dλ/dt of the VP process
    rate = beta / level.sigma**2
    return 0.5 * (nodes * 2.0 * s * rate * (own * (a - b) ** 2 + shift**2)).sum()


def _kl(m1: Tensor | float, v1: Tensor | float, m2: Tensor | float, v2: Tensor | float) -> Tensor:
    ratio = torch.as_tensor(v1 / v2, dtype=torch.float64)
    return 0.5 * (ratio - 1.0 - ratio.log() + (m1 - m2) ** 2 / v2)


def _samples_of(m: float, v: float, k: float) -> tuple[float, float]:
    """Mean and variance of the reverse SDE's samples when the score is k times N(m, v)'s: their
    equations, by Runge–Kutta from N(0, 1) at t = 1, with β(t) = 0.1 + 19.9t."""

    def rates(t: float, mean: float, var: float) -> tuple[float, float]:
        beta, kept = 0.1 + 19.9 * t, math.exp(-0.1 * t - 0.5 * 19.9 * t * t)
        pull = k * beta / (kept * v + 1.0 - kept)
        d_mean = 0.5 * beta * mean - pull * (mean - math.sqrt(kept) * m)
        return d_mean, 2.0 * (0.5 * beta - pull) * var + beta

    mean, var, h = 0.0, 1.0, 1.0 / 400
    for i in range(400):
        t = 1.0 - i * h
        a1, b1 = rates(t, mean, var)
        a2, b2 = rates(t - 0.5 * h, mean + 0.5 * h * a1, var + 0.5 * h * b1)
        a3, b3 = rates(t - 0.5 * h, mean + 0.5 * h * a2, var + 0.5 * h * b2)
        a4, b4 = rates(t - h, mean + h * a3, var + h * b3)
        mean += h / 6.0 * (a1 + 2.0 * a2 + 2.0 * a3 + a4)
        var += h / 6.0 * (b1 + 2.0 * b2 + 2.0 * b3 + b4)
    return mean, var
