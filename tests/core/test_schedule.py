"""Time and noise levels: every schedule against its own paper's formula."""

import math

import numpy as np
import pytest
import torch

from marginals.errors import MarginalsError
from marginals.scaling import SUB_VP, VE, VP
from marginals.schedule import (
    Cosine,
    Karras,
    LinearBeta,
    Logit,
    LogLinear,
    Tabulated,
    Truncated,
)

ALL = {
    "linear": LinearBeta(),
    "linear_sub_vp": LinearBeta(0.1, 20.0, SUB_VP),
    "cosine": Cosine(),
    "logit": Logit(),
    "shifted": Logit(3.0),
    "log_linear": LogLinear(),
    "karras": Karras(),
    "ddpm": Tabulated.ddpm(),
    "truncated": Truncated(Cosine(), 9.0, -7.0),
    "truncated_linear": Truncated(LinearBeta(), 8.0, -9.0),
}
T = torch.linspace(0.002, 0.998, 499, dtype=torch.float64)
each = pytest.mark.parametrize("schedule", ALL.values(), ids=ALL.keys())


@each
def test_strictly_falling_and_inverse_both_ways(schedule):
    lam = schedule.lam(T)
    assert bool((lam.diff() < 0).all())
    assert torch.allclose(schedule.t(lam), T, rtol=1e-11, atol=0)
    mid = torch.linspace(lam.min().item(), lam.max().item(), 301, dtype=torch.float64)
    assert torch.allclose(schedule.lam(schedule.t(mid)), mid, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["linear", "linear_sub_vp", "cosine", "logit", "ddpm"])
def test_inverse_keeps_its_precision_near_the_data(name):
    """Clean levels are those where α rounds to 1: t(λ) must not be computed from log α there."""
    lam = torch.linspace(10.0, 60.0, 51, dtype=torch.float64)
    assert torch.allclose(ALL[name].lam(ALL[name].t(lam)), lam, rtol=0, atol=1e-10)


@each
def test_derivative_is_the_slope(schedule):
    h = 1e-6
    t = torch.linspace(0.0105, 0.9895, 90, dtype=torch.float64)  # between the table's corners
    slope = (schedule.lam(t + h) - schedule.lam(t - h)) / (2 * h)
    assert torch.allclose(schedule.dlam(t), slope, rtol=1e-6, atol=0)


@each
def test_derivative_at_the_data_end(schedule):
    t = torch.tensor([2e-4, 6e-4], dtype=torch.float64)
    slope = (schedule.lam(t * (1 + 1e-5)) - schedule.lam(t * (1 - 1e-5))) / (2e-5 * t)
    assert torch.allclose(schedule.dlam(t), slope, rtol=1e-6, atol=0)


@each
def test_density_of_levels_integrates_to_one(schedule):
    low = max(schedule.lam(1.0 - 1e-15), -150.0)
    high = min(schedule.lam(1e-30), 150.0)
    lam = torch.linspace(low, high, 400_001, dtype=torch.float64)
    # the midpoint rule never touches the ends, where the density may jump to zero
    middle = 0.5 * (lam[1:] + lam[:-1])
    mass = (schedule.density(middle) * lam.diff()).sum().item()
    assert mass == pytest.approx(1.0, abs=1e-5)
    # and it is the density of λ(t), t ~ U: the probability of an interval is the time spent in it
    a, b = schedule.lam(0.6), schedule.lam(0.3)
    part = torch.linspace(a, b, 200_001, dtype=torch.float64)
    middle = 0.5 * (part[1:] + part[:-1])
    assert (schedule.density(middle) * part.diff()).sum().item() == pytest.approx(0.3, abs=1e-7)


def test_schedules_are_values():
    assert len(set(ALL.values())) == len(ALL) and LinearBeta() == LinearBeta(0.1, 20.0, VP)
    assert LogLinear() == LogLinear(13.3, -5.0) and Karras() == Karras(0.002, 80.0, 7.0)
    assert Logit() == Logit(1.0) and Tabulated.ddpm() == Tabulated.ddpm(1000, 1e-4, 0.02)


@each
def test_floats_give_floats(schedule):
    t = torch.tensor(0.37, dtype=torch.float64)
    for function, value in ((schedule.lam, 0.37), (schedule.t, 0.5), (schedule.dlam, 0.37)):
        assert isinstance(function(value), float)
        assert function(value) == function(torch.tensor(value, dtype=torch.float64)).item()
    assert schedule.lam(t).dtype == torch.float64


def test_exact_ends():
    for schedule in (LinearBeta(), Cosine(), Logit(3.0), Tabulated.ddpm()):
        assert schedule.lam(0.0) == math.inf
        assert schedule.t(math.inf) == 0.0
    for schedule in (Cosine(), Logit(3.0)):
        assert schedule.lam(1.0) == -math.inf
        assert schedule.t(-math.inf) == 1.0
    assert LogLinear(13.3, -5.0).lam(0.0) == 13.3
    assert LogLinear(13.3, -5.0).lam(1.0) == pytest.approx(-5.0, abs=1e-14)
    assert Truncated(Cosine(), 9.0, -7.0).lam(0.0) == pytest.approx(9.0, abs=1e-12)
    assert Truncated(Cosine(), 9.0, -7.0).lam(1.0) == pytest.approx(-7.0, abs=1e-12)
    assert Truncated(Cosine(), 9.0, -7.0).t(9.0) == 0.0
    assert Truncated(Cosine(), 9.0, -7.0).t(-7.0) == 1.0


def test_ddpm_is_the_cumulative_product_of_its_betas():
    """Ho et al. 2020: β from 1e-4 to 0.02 in 1000 equal steps; ᾱ_T = 4.0358e-5."""
    bar = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    assert bar[-1] == pytest.approx(4.0358e-5, rel=1e-4)
    schedule = Tabulated.ddpm()
    steps = torch.arange(1, 1001, dtype=torch.float64) / 1000
    alpha, sigma = VP(schedule.lam(steps))[1:]
    assert np.allclose((alpha**2).numpy(), bar, rtol=1e-11)
    assert np.allclose((sigma**2).numpy(), 1.0 - bar, rtol=1e-11)
    assert torch.allclose(schedule.t(steps.new_tensor(schedule.lams)), steps, rtol=1e-12)
    short = Tabulated.ddpm(4, 0.1, 0.4)
    assert VP(short.lam(0.5)).alpha ** 2 == pytest.approx(0.9 * 0.8)
    # straight between the steps, σ/α ∝ t before the first one
    assert short.lam(0.625) == pytest.approx(0.5 * (short.lams[1] + short.lams[2]))
    assert math.exp(-0.5 * short.lam(0.1)) == pytest.approx(0.4 * math.exp(-0.5 * short.lams[0]))


def test_a_table_goes_on_straight_beyond_its_last_step():
    chain = Tabulated.ddpm(10, 1e-3, 0.5)
    lam = torch.tensor([chain.lams[-1] - 1.0, chain.lams[-1] - 7.0], dtype=torch.float64)
    slope = (chain.lams[-1] - chain.lams[-2]) * 10
    assert torch.allclose(chain.t(lam), 1.0 + (lam - chain.lams[-1]) / slope)
    assert torch.allclose(chain.lam(chain.t(lam)), lam)


@pytest.mark.parametrize("t", [1e-3, 0.05, 0.3, 0.7, 1.0])
def test_linear_beta_has_songs_mean_and_std(t):
    """Song et al. 2021, Appendix C: mean e^(−¼t²(β1 − β0) − ½tβ0); VP and sub-VP std."""
    log_mean = -0.25 * t**2 * (20.0 - 0.1) - 0.5 * t * 0.1
    vp, sub = VP(LinearBeta().lam(t)), SUB_VP(LinearBeta(scaling=SUB_VP).lam(t))
    assert vp.alpha == pytest.approx(math.exp(log_mean), rel=1e-12)
    assert vp.sigma == pytest.approx(math.sqrt(1.0 - math.exp(2.0 * log_mean)), rel=1e-10)
    assert sub.alpha == pytest.approx(math.exp(log_mean), rel=1e-12)
    assert sub.sigma == pytest.approx(1.0 - math.exp(2.0 * log_mean), rel=1e-10)


def test_ve_karras_cosine_and_shift_formulas():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    # Song's VE: σ = σ_min(σ_max/σ_min)^t
    song = LogLinear(-2.0 * math.log(0.01), -2.0 * math.log(50.0))
    assert torch.allclose(VE(song.lam(t)).sigma, 0.01 * 5000.0**t, rtol=1e-12)
    # EDM Eq. 5 with N levels: i/(N−1) counts from σ_max
    i = torch.arange(18, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert torch.allclose(VE(Karras().lam(1.0 - i / 17)).sigma, sigma, rtol=1e-11)
    # Nichol & Dhariwal with s = 0: ᾱ = cos²(πt/2)
    level = VP(Cosine().lam(t))
    assert torch.allclose(level.alpha, (0.5 * math.pi * t).cos(), rtol=1e-13)
    assert torch.allclose(level.sigma, (0.5 * math.pi * t).sin(), rtol=1e-13)
    # Esser et al. 2024, Eq. 23: t' = s·t/(1 + (s − 1)t)
    moved = 3.0 * t / (1.0 + 2.0 * t)
    assert torch.allclose(Logit(3.0).lam(t), Logit().lam(moved), rtol=0, atol=1e-12)
    assert torch.allclose(Logit(3.0).lam(t), Logit().lam(t) - 2 * math.log(3), rtol=0, atol=1e-12)
    # Kingma & Gao: p(λ) of the cosine schedule is sech(λ/2)/2π
    lam = torch.linspace(-9, 9, 19, dtype=torch.float64)
    assert torch.allclose(Cosine().density(lam), 1 / (2 * math.pi * (0.5 * lam).cosh()), rtol=1e-12)


IMPOSSIBLE = {
    "no beta": lambda: LinearBeta(0.0, 1.0),
    "falling beta": lambda: LinearBeta(2.0, 1.0),
    "infinite beta": lambda: LinearBeta(0.1, math.inf),
    "wrong process": lambda: LinearBeta(scaling=VE),
    "no shift": lambda: Logit(0.0),
    "infinite shift": lambda: Logit(math.inf),
    "rising": lambda: LogLinear(-1.0, 1.0),
    "flat": lambda: LogLinear(1.0, 1.0),
    "infinite": lambda: LogLinear(math.inf, 0.0),
    "nan": lambda: LogLinear(1.0, math.nan),
    "karras zero": lambda: Karras(0.0, 1.0),
    "karras order": lambda: Karras(2.0, 1.0),
    "karras rho": lambda: Karras(rho=0.0),
    "karras infinite": lambda: Karras(sigma_max=math.inf),
    "one level": lambda: Tabulated((1.0,)),
    "equal levels": lambda: Tabulated((1.0, 1.0, 0.0)),
    "infinite level": lambda: Tabulated((math.inf, 0.0)),
    "truncated": lambda: Truncated(Cosine(), 0.0, 1.0),
    "too much noise at once": lambda: Tabulated.ddpm(10, 0.5, 1.0),
}


@pytest.mark.parametrize("make", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible_schedules_are_refused(make):
    with pytest.raises(MarginalsError):
        make()
