"""Solver tables against the papers' own formulas, coefficient by coefficient."""

import math
from itertools import pairwise

import numpy as np
import pytest

from marginals.errors import MarginalsError
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.schedule import Karras, Logit
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
    noise_error,
    predictor_corrector,
    signal_error,
    uniform_lam,
    uniform_time,
)

SCALINGS = {"vp": VP, "ve": VE, "flow": FLOW, "sub_vp": SUB_VP}
each_scaling = pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
LAMS = [-7.0, -4.5, -1.0, 0.0, 2.0, 6.5]


def levels(scaling, lams):
    return [scaling(lam) for lam in lams]


def many():
    return [*SOLVERS.values(), ddim(0.4), langevin(7, 0.1)]


@each_scaling
@pytest.mark.parametrize("solver", many(), ids=lambda s: s.name)
@pytest.mark.parametrize("end", [None, math.inf])
def test_a_constant_picture_is_transported_exactly(scaling, solver, end):
    at = levels(scaling, [*LAMS, end] if end else LAMS)
    rows = solver.table(at)
    assert rows[-1].at == at[-1]
    assert max(map(abs, signal_error(at, rows))) < 1e-14


@each_scaling
@pytest.mark.parametrize("solver", [ddim(), ddim(0.4), ddpm(), euler(), heun(), dpmpp_2m()])
def test_the_noise_of_a_constant_picture_keeps_the_marginal_variance(scaling, solver):
    for lams in (LAMS, [*LAMS, math.inf]):
        at = levels(scaling, lams)
        errors = noise_error(at, solver.table(at))
        scale = max(1.0, at[0].sigma ** 2)
        assert max(map(abs, errors)) < 1e-14 * scale


@each_scaling
def test_euler_maruyama_and_langevin_add_the_noise_their_papers_add(scaling):
    """Both put in more than the marginal variance, by a known amount that vanishes with the step.

    Reverse SDE: (r_s²/r_t)² + r_t² − r_s² instead of r_s² in VE units, too much by
    (r_t² − r_s²)²/r_t². Langevin: (1 − c)²σ² + 2cσ² = σ² + c²σ².
    """
    at = levels(scaling, LAMS)
    for error, t, s in zip(noise_error(at, euler_maruyama().table(at)), at, at[1:], strict=False):
        r_t, r_s = math.exp(-0.5 * t.lam), math.exp(-0.5 * s.lam)
        assert error == pytest.approx(s.alpha**2 * (r_t**2 - r_s**2) ** 2 / r_t**2, rel=1e-9)
    rows = langevin(1, 0.3).table(at)
    assert noise_error(at, rows)[0] == pytest.approx(0.09 * at[0].sigma ** 2, rel=1e-9)


def test_error_measures_notice_a_wrong_table():
    at = levels(VP, LAMS)
    rows = ddim().table(at)
    rows[2] = rows[2]._replace(d={2: rows[2].d[2] + 0.01})
    assert signal_error(at, rows)[2] == pytest.approx(0.01)
    rows[3] = rows[3]._replace(noise=0.1)
    assert noise_error(at, rows)[3] == pytest.approx(0.01)


def test_ddpm_is_luos_posterior():
    """Luo Eqs. 84 and 85 with DDPM's own betas, for every one of the 1000 steps."""
    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.cumprod(1.0 - beta)
    lams = np.log(bar) - np.log1p(-bar)
    at = levels(VP, [*lams[::-1].tolist(), math.inf])
    rows = ddpm().table(at)
    before = np.concatenate([[1.0], bar[:-1]])
    for row, t in zip(rows, range(999, -1, -1), strict=True):
        i = 999 - t
        spread = beta[t] * (1.0 - before[t]) / (1.0 - bar[t])
        keep = math.sqrt(1.0 - beta[t]) * (1.0 - before[t]) / (1.0 - bar[t])
        clean = math.sqrt(before[t]) * beta[t] / (1.0 - bar[t])
        assert row.noise**2 == pytest.approx(spread, rel=1e-9, abs=1e-18)
        assert row.x[i] == pytest.approx(keep, rel=1e-9, abs=1e-15)
        assert row.d[i] == pytest.approx(clean, rel=1e-9)
    assert rows[-1].noise == 0.0 and rows[-1].x == {999: 0.0} and rows[-1].d[999] == 1.0


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_its_papers_formula(eta):
    """Song et al. 2020, Eqs. 12 and 16."""
    at = levels(VP, LAMS)
    for row, i in zip(ddim(eta).table(at), range(5), strict=True):
        bar_t, bar_s = at[i].alpha ** 2, at[i + 1].alpha ** 2
        spread = eta * math.sqrt((1 - bar_s) / (1 - bar_t)) * math.sqrt(1 - bar_t / bar_s)
        from_eps = math.sqrt(1 - bar_s - spread**2)
        # ε̂ = (x − √ᾱ_t·x̂0)/√(1 − ᾱ_t)
        assert row.x[i] == pytest.approx(from_eps / math.sqrt(1 - bar_t), rel=1e-10)
        wanted = math.sqrt(bar_s) - from_eps * math.sqrt(bar_t / (1 - bar_t))
        assert row.d[i] == pytest.approx(wanted, rel=1e-10)
        assert row.noise == pytest.approx(spread, rel=1e-10, abs=0)


@each_scaling
def test_ddim_is_dpm_solver_1(scaling):
    """Lu et al. 2022: x_s = (σ_s/σ_t)·x_t − α_s·(e^(−h) − 1)·x̂0, with h half of our step in λ."""
    at = levels(scaling, LAMS)
    for i, row in enumerate(ddim().table(at)):
        h = 0.5 * (at[i + 1].lam - at[i].lam)
        assert row.x[i] == pytest.approx(at[i + 1].sigma / at[i].sigma, rel=1e-13)
        assert row.d[i] == pytest.approx(-at[i + 1].alpha * math.expm1(-h), rel=1e-12)
    assert euler().table(at) == ddim().table(at)


def test_euler_is_straight_in_rectified_flow_and_in_edm_units():
    flow = levels(FLOW, LAMS)
    for i, row in enumerate(euler().table(flow)):
        t, s = flow[i].sigma, flow[i + 1].sigma  # the time of rectified flow
        # x + (s − t)·(ε̂ − x̂0), ε̂ = (x − (1 − t)x̂0)/t
        assert row.x[i] == pytest.approx(1 + (s - t) / t)
        assert row.d[i] == pytest.approx(-(s - t) * ((1 - t) / t + 1))
    ve = levels(VE, LAMS)
    for i, row in enumerate(euler().table(ve)):
        t, s = ve[i].sigma, ve[i + 1].sigma
        assert row.x[i] == pytest.approx(1 + (s - t) / t)  # x + (s − t)·(x − x̂0)/t
        assert row.d[i] == pytest.approx(-(s - t) / t)


def test_euler_maruyama_is_the_reverse_sde_of_ve():
    """x + (σ_t² − σ_s²)·score + √(σ_t² − σ_s²)·z (Song et al. 2021), score = (x̂0 − x)/σ_t²."""
    at = levels(VE, [*LAMS, math.inf])
    rows = euler_maruyama().table(at)
    for i, row in enumerate(rows):
        gap = at[i].sigma ** 2 - at[i + 1].sigma ** 2
        assert row.x[i] == pytest.approx(1 - gap / at[i].sigma ** 2, abs=1e-15)
        assert row.d[i] == pytest.approx(gap / at[i].sigma ** 2)
        assert row.noise == pytest.approx(math.sqrt(gap) if i < 5 else 0.0)


@each_scaling
def test_langevin_rows_are_luo_158(scaling):
    """x + c·score + √(2c)·z with c = step·σ² and score = (α·x̂0 − x)/σ²."""
    at = levels(scaling, LAMS[:3])
    rows = langevin(2, 0.2).table(at)
    assert [row.at.lam for row in rows] == [-7.0, -7.0, -4.5, -4.5, -4.5, -1.0]
    for i in (0, 1, 3, 4):
        level, c = rows[i].at, 0.2 * rows[i].at.sigma ** 2
        assert row_is(rows[i], {i: 1 - c / level.sigma**2}, {i: c * level.alpha / level.sigma**2})
        assert rows[i].noise == pytest.approx(math.sqrt(2 * c))
    for i in (2, 5):  # carried: x/α unchanged, no network, no noise
        before = at[0] if i == 2 else at[1]
        assert row_is(rows[i], {i: rows[i].at.alpha / before.alpha}, {}) and rows[i].noise == 0.0


def row_is(row, x, d):
    return row.x == pytest.approx(x, rel=1e-13) and row.d == pytest.approx(d, rel=1e-13)


# evaluations of a finite step, and declared order
DECLARED = {
    "auto": (1, 5),
    "ddim": (1, 1),
    "euler": (1, 1),
    "heun": (2, 2),
    "dpm_2": (2, 2),
    "dpm_3": (3, 3),
    "dpmpp_2s": (2, 2),
    "dpmpp_3s": (3, 3),
    "rk4": (4, 4),
    "dpm_2m": (1, 2),
    "dpm_3m": (1, 3),
    "dpmpp_2m": (1, 2),
    "dpmpp_3m": (1, 3),
    "lms": (1, 4),
    "deis": (1, 3),
    "adams": (1, 3),
    "abm": (1, 4),
    "unipc": (1, 4),
    "ddpm": (1, 1),
    "euler_ancestral": (1, 1),
    "euler_maruyama": (1, 1),
    "sde": (1, 1),
    "sde_dpmpp_2m": (1, 2),
    "sde_dpmpp_3m": (1, 2),
    "sa": (1, 2),
    "edm": (2, 2),
    "predictor_corrector": (2, None),
    "langevin": (3, None),
    "langevin_adaptive": (3, None),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_evaluations_and_declarations(name):
    solver = SOLVERS[name]
    at = levels(VP, [*LAMS, math.inf])
    each, order = DECLARED[name]
    last = {"predictor_corrector": 1, "langevin": 4, "langevin_adaptive": 4}.get(name, 1)
    assert solver.evaluations(at) == 5 * each + last  # into λ = ∞ every step is the one of DDIM
    assert solver.name == name and solver.about and solver.order == order
    noisy = any(row.noise > 0 for row in solver.table(at))
    assert noisy == solver.stochastic
    assert not ddim(0.0).stochastic and ddim(0.5).stochastic


@pytest.mark.parametrize("solver", [ddim(), ddpm(), euler(), heun(), dpmpp_2m()])
def test_the_step_out_of_pure_noise(solver):
    """At λ = −∞ x is ε, so x_s = α_s·x̂0 + (its noise): the DDIM step, in one piece."""
    for scaling in (VP, FLOW, SUB_VP):
        at = levels(scaling, [-math.inf, -2.0, 3.0, math.inf])
        rows = solver.table(at)
        assert rows[0].d == {0: pytest.approx(at[1].alpha)}
        keep = math.hypot(rows[0].x[0], rows[0].noise)
        assert keep == pytest.approx(at[1].sigma)
        assert max(map(abs, signal_error(at, rows))) < 1e-14
        assert all(math.isfinite(c) for row in rows for c in (*row.x.values(), *row.d.values()))


BAD = {
    "one level": lambda: ddim().table(levels(VP, [0.0])),
    "falling": lambda: ddim().table(levels(VP, [1.0, 0.0])),
    "equal": lambda: heun().table(levels(VP, [0.0, 0.0, 1.0])),
    "nan": lambda: dpmpp_2m().table(levels(VP, [0.0, math.nan, 1.0])),
    "past the end": lambda: ddim().table(levels(VP, [0.0, math.inf, math.inf])),
    "eta": lambda: ddim(1.5),
    "negative eta": lambda: ddim(-0.1),
    "corrections": lambda: langevin(0),
    "step": lambda: langevin(3, 1.0),
    "no step": lambda: langevin(3, 0.0),
    "adaptive corrections": lambda: langevin_adaptive(0),
    "adaptive snr": lambda: langevin_adaptive(3, 1.0),
    "no snr": lambda: predictor_corrector(1, 0.0),
    "no corrector": lambda: predictor_corrector(0),
    "churn": lambda: edm(-1.0),
    "churn range": lambda: edm(1.0, 3.0, 2.0),
    "churn noise": lambda: edm(noise=0.0),
    "ddpm variance": lambda: ddpm("medium"),  # type: ignore[arg-type]
    "adaptive langevin from noise": lambda: langevin_adaptive().table(levels(VP, [-math.inf, 0.0])),
    "langevin from noise": lambda: langevin().table(levels(VP, [-math.inf, 0.0])),
    "sde from noise": lambda: euler_maruyama().table(levels(VP, [-math.inf, 0.0])),
    "ve from noise": lambda: ddim().table(levels(VE, [-math.inf, 0.0])),
    "no steps": lambda: grid(Karras(), 0),
    "empty range": lambda: grid(uniform_lam(3.0, 3.0), 5),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_impossible_walks_are_refused(make):
    with pytest.raises(MarginalsError):
        make()


@pytest.mark.parametrize("make", [uniform_lam, karras, uniform_time(Logit())])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_grids_have_steps_plus_one_levels_and_exact_ends(make, steps):
    lams = grid(make(-6.0, 8.0), steps)
    assert len(lams) == steps + 1 and lams[-1] == math.inf
    assert lams[0] == pytest.approx(-6.0, abs=1e-12)
    inner = grid(make(-6.0, 8.0), steps, final=False)
    assert len(inner) == steps + 1
    assert (inner[0], inner[-1]) == pytest.approx((-6.0, 8.0), abs=1e-11)
    assert all(a < b for a, b in pairwise(inner))
    if steps > 1:
        assert lams[-2] == pytest.approx(8.0, abs=1e-11)


def test_grids_are_their_papers():
    i = np.arange(18)
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # EDM Eq. 5
    lam_min, lam_max = -2 * math.log(80), -2 * math.log(0.002)
    got = grid(karras(lam_min, lam_max), 18)
    assert np.allclose(np.exp(-0.5 * np.array(got[:-1])), sigma, rtol=1e-11)
    assert np.allclose(np.diff(grid(uniform_lam(-6.0, 8.0), 8)[:-1]), 2.0)
    times = [FLOW(lam).sigma for lam in grid(uniform_time(Logit())(-6.0, 8.0), 5, final=False)]
    assert np.allclose(np.diff(times, 2), 0.0, atol=1e-13)
