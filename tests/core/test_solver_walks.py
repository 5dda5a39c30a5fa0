"""Walks: the papers' algorithms written out in their own variables, and measured orders."""

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from marginals.denoiser import Estimate, Rescaled
from marginals.oracle import Gaussian, Mixture
from marginals.predict import EPS, SCORE, VELOCITY, V
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP, units
from marginals.solvers import (
    SOLVERS,
    ddim,
    ddpm,
    dpmpp_2m,
    edm,
    euler,
    euler_maruyama,
    grid,
    heun,
    karras,
    langevin,
    langevin_adaptive,
    predictor_corrector,
    sa,
    sde_dpmpp_2m,
    uniform_lam,
)

MIXTURE = Mixture(torch.tensor([[-1.5, 0.3], [1.0, -0.8], [0.7, 1.4]]), [0.5, 0.3, 0.4])
NOISE = torch.randn(8, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
LAMS = [-7.0, -4.5, -1.0, 0.0, 2.0, 6.5]


def start(scaling, lam):
    """The same noise as a state at level λ, in any units."""
    level = VP(lam)
    return (level.alpha * 0.1 + NOISE) * units(lam, VP, scaling)


def walk(solver, lams, scaling=VP, **options):
    return sample(Rescaled(MIXTURE, scaling), start(scaling, lams[0]), lams, solver, **options).x


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("end", [[], [math.inf]])
def test_the_same_samples_in_four_scalings(name, end):
    lams = [*LAMS, *end]
    wanted = walk(SOLVERS[name], lams)
    for scaling in (VE, FLOW, SUB_VP):
        got = walk(SOLVERS[name], lams, scaling) * units(lams[-1], scaling, VP)
        assert (got - wanted).abs().max() < 1e-10


def test_dpmpp_2m_is_algorithm_2_of_its_paper():
    """Lu et al. 2022b, Algorithm 2: λ is log(α/σ), D extrapolates the last two estimates."""
    for scaling in (VP, FLOW):
        denoiser = Rescaled(MIXTURE, scaling)
        alpha, sigma = zip(*(scaling(lam)[1:] for lam in LAMS), strict=True)
        log_snr = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
        x = start(scaling, LAMS[0])
        previous = denoiser(x, LAMS[0]).x0
        h = log_snr[1] - log_snr[0]
        x = sigma[1] / sigma[0] * x - alpha[1] * math.expm1(-h) * previous
        for i in range(2, len(LAMS)):
            last, h = h, log_snr[i] - log_snr[i - 1]
            r = last / h
            now = denoiser(x, LAMS[i - 1]).x0
            d = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * previous
            x = sigma[i] / sigma[i - 1] * x - alpha[i] * math.expm1(-h) * d
            previous = now
        assert torch.allclose(walk(dpmpp_2m(), LAMS, scaling), x, rtol=1e-11, atol=1e-12)


def test_dpmpp_2m_in_sigma_down_to_zero():
    """The form used with noise levels σ (t = −log σ), whose last step to σ = 0 is first order."""
    sigmas = [math.exp(-0.5 * lam) for lam in LAMS] + [0.0]
    denoiser, x, old = Rescaled(MIXTURE, VE), start(VE, LAMS[0]), None
    for i, (now, to) in enumerate(pairwise(sigmas)):
        d = clean = denoiser(x, -2.0 * math.log(now)).x0
        h = math.inf if to == 0 else math.log(now) - math.log(to)
        if old is not None and to > 0:
            r = (math.log(sigmas[i - 1]) - math.log(now)) / h
            d = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * old
        x = to / now * x - math.expm1(-h) * d
        old = clean
    assert torch.allclose(walk(dpmpp_2m(), [*LAMS, math.inf], VE), x, rtol=1e-11, atol=1e-12)


def test_heun_is_edms_algorithm_1():
    sigmas = [math.exp(-0.5 * lam) for lam in LAMS] + [0.0]
    denoiser, x = Rescaled(MIXTURE, VE), start(VE, LAMS[0])
    for now, to in pairwise(sigmas):
        d = (x - denoiser(x, -2.0 * math.log(now)).x0) / now
        ahead = x + (to - now) * d
        if to > 0:
            second = (ahead - denoiser(ahead, -2.0 * math.log(to)).x0) / to
            ahead = x + (to - now) * 0.5 * (d + second)
        x = ahead
    assert torch.allclose(walk(heun(), [*LAMS, math.inf], VE), x, rtol=1e-11, atol=1e-12)


def slope(steps, errors):
    """The measured order: minus the slope of log error against log steps."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@cache
def reference(low, high, count=600):
    """Classical Runge–Kutta on dx/dσ = ε̂ in VE units, in equal steps of λ."""
    x, h, denoiser = start(VE, low), (high - low) / count, Rescaled(MIXTURE, VE)

    def rate(x, lam):
        return -0.5 * math.exp(-0.5 * lam) * denoiser(x, lam).eps

    for i in range(count):
        lam = low + i * h
        k1 = rate(x, lam)
        k2 = rate(x + 0.5 * h * k1, lam + 0.5 * h)
        k3 = rate(x + 0.5 * h * k2, lam + 0.5 * h)
        k4 = rate(x + h * k3, lam + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@pytest.mark.parametrize("solver", [ddim(), euler(), heun(), dpmpp_2m()], ids=lambda s: s.name)
@pytest.mark.parametrize("make", [uniform_lam, karras])
def test_measured_order_on_a_mixture(solver, make):
    low, high, steps, errors = -4.0, 3.0, [64, 128, 256], []
    for n in steps:
        gap = walk(solver, grid(make(low, high), n, final=False), VE) - reference(low, high)
        errors.append(gap.square().mean().sqrt().item())
    assert slope(steps, errors) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("solver", [ddim(), euler(), heun(), dpmpp_2m()], ids=lambda s: s.name)
@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=["vp", "ve", "flow", "sub_vp"])
def test_measured_order_on_a_gaussian_with_its_exact_flow(solver, scaling):
    cov = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)
    oracle = Gaussian(torch.tensor([0.5, -1.0]), cov, scaling)
    x, steps = start(scaling, -4.0), [64, 128, 256]
    wanted = oracle.flow(x, -4.0, 4.0)
    errors = []
    for n in steps:
        lams = grid(uniform_lam(-4.0, 4.0), n, final=False)
        errors.append((sample(oracle, x, lams, solver).x - wanted).abs().max().item())
    assert slope(steps, errors) == pytest.approx(solver.order, abs=0.15)
    assert errors[-1] < 0.03


def moments(solver, lams, mean, var, data=(0.7, 0.25)):
    """Mean and variance of a 1-D Gaussian carried through a table exactly, without sampling.

    The denoiser of N(m, s²) is linear, x̂0 = m + αs²/V·(x − αm), so a row that uses only the last
    state makes a Gaussian out of a Gaussian.
    """
    m, s2 = data
    at, history = VP(lams[0]), []
    for i, row in enumerate(solver.table([VP(lam) for lam in lams])):
        gain = at.alpha * s2 / (at.alpha**2 * s2 + at.sigma**2)
        x, d = row.x[i], row.d.get(i, 0.0)
        assert set(row.x) == {i} and set(row.d) <= {i}
        mean, var = (
            (x + d * gain) * mean + d * (m - gain * at.alpha * m),
            ((x + d * gain) ** 2 * var + row.noise**2),
        )
        at = row.at
        history.append((mean, var))
    return history


@pytest.mark.parametrize("solver", [ddpm(), euler_maruyama()], ids=lambda s: s.name)
def test_weak_order_of_the_stochastic_solvers(solver):
    low, high, steps, errors = VP(-5.0), VP(5.0), [50, 100, 200, 400], []
    for n in steps:
        lams = grid(uniform_lam(-5.0, 5.0), n, final=False)
        mean, var = moments(solver, lams, low.alpha * 0.7, low.alpha**2 * 0.25 + low.sigma**2)[-1]
        assert mean == pytest.approx(high.alpha * 0.7, rel=1e-10)
        errors.append(abs(var - (high.alpha**2 * 0.25 + high.sigma**2)))
    assert slope(steps, errors) == pytest.approx(solver.order, abs=0.15)
    assert errors[-1] < 0.01


def test_deterministic_walks_converge_to_the_marginals_too():
    low, high = VP(-5.0), VP(5.0)
    lams = grid(uniform_lam(-5.0, 5.0), 3000, final=False)
    mean, var = moments(ddim(), lams, low.alpha * 0.7, low.alpha**2 * 0.25 + low.sigma**2)[-1]
    assert mean == pytest.approx(high.alpha * 0.7, rel=1e-10)
    assert var == pytest.approx(high.alpha**2 * 0.25 + high.sigma**2, rel=3e-3)


@pytest.mark.parametrize("step", [0.05, 0.35])
def test_langevin_settles_where_the_theory_says(step):
    """Stationary variance V/(1 − c/(2V)) for N(·, V) with c = step·σ² (PAPER E11, Luo Eq. 158)."""
    lams, many = [0.5, 1.0, 1.5], 4000
    history = moments(langevin(many, step), lams, 5.0, 9.0)
    for i, lam in enumerate(lams[:2]):
        level = VP(lam)
        mean, var = history[many - 1 + i * (many + 1)]
        target = level.alpha**2 * 0.25 + level.sigma**2
        c = step * level.sigma**2
        assert mean == pytest.approx(level.alpha * 0.7, rel=1e-9)
        assert var == pytest.approx(target / (1 - c / (2 * target)), rel=1e-9)


REAL = [ddpm(), euler_maruyama(), langevin(8), sa(), edm(), sde_dpmpp_2m(1.5)]
REAL += [predictor_corrector(), langevin_adaptive(8)]


@pytest.mark.parametrize("solver", REAL, ids=lambda s: s.name)
def test_stochastic_samples_follow_the_data(solver):
    """End to end with real noise: class weights and spread of a mixture on a line."""
    line = Mixture(torch.tensor([[-2.0], [1.0]]), 0.3, torch.tensor([1.0, 3.0]))

    class EveryPixelAlone:
        scaling = VP

        def __call__(self, x, lam, cond=None):
            return Estimate(x, lam, VP, line(x.reshape(-1, 1), lam).x0.view_as(x))

    x = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lams = grid(uniform_lam(-8.0, 6.0), 120)
    got = sample(EveryPixelAlone(), x, lams, solver).x
    left = (got < -0.5).double().mean().item()
    assert left == pytest.approx(0.25, abs=0.035)
    assert got[got < -0.5].mean().item() == pytest.approx(-2.0, abs=0.06)
    assert got[got > -0.5].std().item() == pytest.approx(0.3, abs=0.04)


def test_solvers_keep_no_hidden_state():
    solver, lams = dpmpp_2m(), [*LAMS, math.inf]
    first = walk(solver, lams)
    walk(solver, [-3.0, 1.0, 2.0])
    for name in SOLVERS:
        walk(SOLVERS[name], LAMS)
    assert torch.equal(walk(solver, lams), first)
    assert torch.equal(walk(ddpm(), lams), walk(ddpm(), lams))


def test_a_walk_from_pure_noise_is_the_ddim_step_of_the_mean():
    x = NOISE.clone()
    got = sample(MIXTURE, x, [-math.inf, 0.0], ddim()).x
    mean = (MIXTURE.log_weights.exp() @ MIXTURE.means).expand(8, 2)
    assert torch.allclose(got, VP(0.0).alpha * mean + VP(0.0).sigma * x, rtol=1e-12)
    assert torch.equal(x, NOISE)  # the caller's tensor is left alone


def test_an_estimate_is_all_a_solver_needs():
    """A denoiser may speak ε, v or the score: the walk is the same."""

    class Speaking:
        scaling = VP

        def __init__(self, prediction):
            self.prediction = prediction

        def __call__(self, x, lam, cond=None):
            out = MIXTURE(x, lam, cond).read(self.prediction)
            return Estimate(x, lam, VP, out, self.prediction)

    for prediction in (EPS, SCORE, V, VELOCITY):
        got = sample(Speaking(prediction), start(VP, -7.0), LAMS, heun()).x
        assert torch.allclose(got, walk(heun(), LAMS), rtol=1e-9, atol=1e-10)
