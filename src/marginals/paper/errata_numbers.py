"""The numbers in the errata, computed when asked: each function belongs to one erratum.

The examples are small enough to be exact: one pixel whose values have two heaps (a mixture of two
normal distributions), integrals by quadrature, DDPM's own thousand noise levels.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from marginals.oracle import Mixture
from marginals.scaling import VP

Numbers = dict[str, float]


def ddpm_alphas() -> Tensor:
    """DDPM's α_1 .. α_1000 (Luo's letters): 1 − β, β from 1e-4 to 0.02 on a line."""
    return 1.0 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


def two_heaps() -> Mixture:
    """One pixel: 30 % around −1.2, 70 % around 0.9, each of spread 0.25; class 0 and class 1."""
    means = torch.tensor([[-1.2], [0.9]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    return Mixture(means, 0.25, weights=torch.tensor([0.3, 0.7]), labels=labels)


def line(points: int = 8001) -> tuple[Tensor, float]:
    """Points for integrals over one pixel, (N, 1), and their distance."""
    x = torch.linspace(-8.0, 8.0, points, dtype=torch.float64)
    return x[:, None], float(x[1] - x[0])


def log_snr(alphabar: float) -> float:
    """λ = log(ᾱ/(1 − ᾱ))."""
    return math.log(alphabar) - math.log1p(-alphabar)


def first_bound() -> Numbers:
    """E1: the third terms of Eqs. 44 and 45 in a two-step chain, and the decoders they like."""
    a1, a2, c, var, x0 = 0.5, 0.5, 0.7, 0.25, 1.0
    mean1, mean2, cov = math.sqrt(a1) * x0, math.sqrt(a1 * a2) * x0, math.sqrt(a2) * (1.0 - a1)
    entropy = 0.5 * math.log(2.0 * math.pi * math.e * (1.0 - a1))

    def term(covariance: float) -> float:
        spread = (1.0 - a1) + c * c * (1.0 - a1 * a2) - 2.0 * c * covariance
        square = (mean1 - c * mean2) ** 2 + spread
        return entropy - 0.5 * math.log(2.0 * math.pi * var) - 0.5 * square / var

    return {
        "eq44": term(cov),
        "eq45": term(0.0),
        "gap": term(0.0) - term(cov),
        "formula": -c * math.sqrt(a2) * (1.0 - a1) / var,
        "best44": math.sqrt(a2),
        "best45": a1 * math.sqrt(a2),
    }


def prior_terms() -> Numbers:
    """E2: the prior terms of Eqs. 45 and 58, for pictures of variance one, DDPM's levels."""
    alphas = ddpm_alphas()

    def kl(signal: float) -> float:
        """KL( N(√signal·x, 1 − signal) ‖ N(0, 1) ), averaged over x of variance one."""
        return -0.5 * math.log1p(-signal)

    last, whole = kl(alphas[-1].item()), kl(alphas.prod().item())
    return {"eq45": last, "bits45": last / math.log(2.0), "eq58": whole}


def consistency() -> Numbers:
    """E3: how well x_t is known from the step before (less noise) and from the step after."""
    before, after = 0.9, 0.5  # α of the two steps, pictures of variance one
    std_before, std_after = math.sqrt(1.0 - before), math.sqrt(1.0 - after)
    price = math.log(std_after / std_before)
    return {"std_before": std_before, "std_after": std_after, "floor": price}


def missing_average(samples: int = 10) -> Numbers:
    """E4: the best encoder with and without 1/L: z ~ N(0, 1), x = z + noise of variance ½."""
    noise = 0.5
    right = 1.0 / (1.0 + 1.0 / noise)
    wrong = 1.0 / (1.0 + samples / noise)

    def bound(var: float, mean: float, x: float = 1.0) -> float:
        fit = -0.5 * math.log(2.0 * math.pi * noise) - 0.5 * ((x - mean) ** 2 + var) / noise
        return fit - 0.5 * (var + mean * mean - 1.0 - math.log(var))

    best = bound(right, right / noise)
    worse = bound(wrong, wrong * samples / noise)
    ratio = math.sqrt(right / wrong)
    return {"samples": samples, "right": best, "wrong": worse, "loss": best - worse, "ratio": ratio}


@lru_cache(maxsize=4)
def posterior_means(step: int = 400) -> Numbers:
    """E5, E6: what is left unknown about the picture, and about the noise, once x_t is seen."""
    alphabar = ddpm_alphas()[:step].prod().item()
    lam, heaps, (x, dx) = log_snr(alphabar), two_heaps(), line()
    weight = heaps.log_prob(x, lam).exp() * dx
    estimate = heaps(x, lam)
    assert estimate.var is not None
    mmse = (weight[:, None] * estimate.var).sum().item()
    return {
        "step": step,
        "mmse": mmse,
        "rms": math.sqrt(mmse),
        "noise": math.sqrt(alphabar / (1.0 - alphabar) * mmse),
    }


@lru_cache(maxsize=1)
def flattered_bound() -> Numbers:
    """E7: by how much losses with the marginal score make the bound of Eq. 58 look better.

    Σ_t weight_t · (1/(1 − ᾱ_t) − J_t), J_t = E‖∇ log p_t‖², the weight being that of Eq. 148.
    """
    alphas, heaps, (x, dx) = ddpm_alphas(), two_heaps(), line(2001)
    bars = alphas.cumprod(0)
    total = 0.0
    for t in range(1, 1000):
        a, bar, earlier = alphas[t].item(), bars[t].item(), bars[t - 1].item()
        lam = log_snr(bar)
        density = heaps.log_prob(x, lam).exp()
        power = (density[:, None] * heaps.score(x, lam) ** 2).sum().item() * dx
        variance = (1.0 - a) * (1.0 - earlier) / (1.0 - bar)
        total += 0.5 * (1.0 - a) ** 2 / (variance * a) * (1.0 / (1.0 - bar) - power)
    return {"nats": total, "bits": total / math.log(2.0)}


@lru_cache(maxsize=1)
def average_or_sum() -> Numbers:
    """E8: Eq. 100 averages over the steps 2..T where Eq. 58 adds them up."""
    lams = [log_snr(bar) for bar in ddpm_alphas().cumprod(0).tolist()]
    heaps, (x, dx) = two_heaps(), line(2001)
    terms = []
    for before, now in pairwise(lams):
        density = heaps.log_prob(x, now).exp() * dx
        var = heaps(x, now).var
        assert var is not None
        mmse = (density[:, None] * var).sum().item()
        terms.append(0.5 * (math.exp(before) - math.exp(now)) * mmse)
    return {"sum": sum(terms), "mean": sum(terms) / len(terms), "factor": len(terms)}


def first_step() -> Numbers:
    """E9: the weights of Eq. 130 near the clean end of DDPM's chain."""
    alphas = ddpm_alphas()
    snr = [math.exp(log_snr(bar)) for bar in alphas.cumprod(0).tolist()]

    def weight(t: int) -> float:
        return 0.5 * (snr[t - 2] / snr[t - 1] - 1.0)

    variance = (1.0 - alphas[1].item()) * (1.0 - alphas[0].item()) / (1.0 - (alphas[0] * alphas[1]))
    return {
        "w2": weight(2),
        "w100": weight(100),
        "ratio": weight(2) / weight(100),
        "ratio_var": float(variance) / (1.0 - alphas[1].item()),
    }


def wrong_argument(alphabar: float = 0.5) -> Numbers:
    """E10: the error of a perfect score network that is shown the clean x instead of x_t."""
    heaps, lam = two_heaps(), log_snr(alphabar)
    clean, _ = heaps.sample(20000, seed=1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2), dtype=clean.dtype)
    level = VP(lam)
    noisy = level.alpha * clean + level.sigma * noise
    gap = heaps.score(clean, lam) - heaps.score(noisy, lam)
    return {
        "error": gap.square().mean().item(),
        "power": heaps.score(noisy, lam).square().mean().item(),
    }


def langevin(step: float = 0.5) -> Numbers:
    """E11: the variance at which Langevin's recursion for N(0, 1) settles."""
    variance = 0.3
    for _ in range(500):
        variance = (1.0 - step) ** 2 * variance + 2.0 * step
    return {"step": step, "variance": variance, "formula": 1.0 / (1.0 - 0.5 * step)}


@lru_cache(maxsize=4)
def guided(gamma: float = 3.0, alphabar: float = 0.3) -> Numbers:
    """E12: the guided field against the true score of the tilted, then noised, distribution."""
    heaps, lam, (x, dx) = two_heaps(), log_snr(alphabar), line(4001)
    level = VP(lam)
    log_tilted = heaps.log_prob(x) + gamma * heaps.class_posterior(x, math.inf)[:, 1].log()
    tilted = log_tilted.exp()
    tilted = tilted / (tilted.sum() * dx)
    gap = x - level.alpha * x.T  # from every clean value to every noisy one
    kernel = (-0.5 * (gap / level.sigma) ** 2).exp() * tilted
    density = kernel.sum(1)
    truth = -(gap * kernel).sum(1) / (level.sigma**2 * density)
    everywhere = heaps.score(x, lam)[:, 0]
    one = heaps.score(x, lam, torch.ones(len(x), dtype=torch.long))[:, 0]
    field = gamma * one + (1.0 - gamma) * everywhere
    share = density / density.sum()
    inside = share > 1e-12  # elsewhere both densities are zero to rounding
    error = (share * (field - truth) ** 2)[inside].sum().item()
    return {"gamma": gamma, "gap": error, "power": (share * truth**2)[inside].sum().item()}


def last_level() -> Numbers:
    """E13: the share of the picture's variance that is still there at the last step."""
    t = torch.arange(1001, dtype=torch.float64) / 1000
    wave = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    cosine = (1.0 - (1.0 - wave[1:] / wave[:-1]).clamp(max=0.999)).prod().item()
    roots = torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000, dtype=torch.float64)
    latent = (1.0 - roots**2).prod().item()
    return {"linear": ddpm_alphas().prod().item(), "cosine": cosine, "latent": latent}


def wording() -> Numbers:
    """E14: the factor √α_T by which DDPM's last step shrinks, and the count of noise variables."""
    steps = 1000
    return {
        "shrink": math.sqrt(ddpm_alphas()[-1].item()),
        "said": 2 * steps,
        "are": 2 * (steps + 1),
    }


def monotone() -> Numbers:
    """E15: the weights ½(SNR(t−1) − SNR(t)) of a schedule that stands still and then goes back."""
    omega = (-2.0, -1.0, -1.0, -1.5)
    snr = [math.exp(-value) for value in omega]
    falls, stays, rises = (0.5 * (a - b) for a, b in pairwise(snr))
    return {"falls": falls, "stays": stays, "rises": rises}


def three_losses() -> Numbers:
    """E16: one error of 1 in x̂0, read as an error of the noise, at a clean and a noisy level."""
    clean, noisy = 0.99, 0.01
    ratio = {name: bar / (1.0 - bar) for name, bar in (("clean", clean), ("noisy", noisy))}
    return {**ratio, "ratio": ratio["clean"] / ratio["noisy"], "v": 1.0 / (1.0 - clean)}


NUMBERS: dict[str, Callable[[], Numbers]] = {
    "E1": first_bound,
    "E2": prior_terms,
    "E3": consistency,
    "E4": missing_average,
    "E5": posterior_means,
    "E6": posterior_means,
    "E7": flattered_bound,
    "E8": average_or_sum,
    "E9": first_step,
    "E10": wrong_argument,
    "E11": langevin,
    "E12": guided,
    "E13": last_level,
    "E14": wording,
    "E15": monotone,
    "E16": three_losses,
}
