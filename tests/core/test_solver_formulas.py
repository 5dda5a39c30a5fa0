"""The papers' algorithms written out in their own variables, against the tables of the same name.

λ of the DPM-Solver papers is log(α/σ), half of ours; below it is ``half``. Where a published code
is not what its paper derives, the test says so.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from marginals.denoiser import Rescaled
from marginals.noise import item_noise
from marginals.oracle import Mixture
from marginals.sampling import sample
from marginals.scaling import FLOW, VE, VP, units
from marginals.schedule import LinearBeta
from marginals.solvers import (
    Row,
    Solver,
    ddpm,
    deis,
    dpm_2,
    dpm_2m,
    dpm_3,
    dpm_3m,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_3s,
    edm,
    euler_ancestral,
    langevin_adaptive,
    lms,
    predictor_corrector,
    rk4,
    sde,
    sde_dpmpp_2m,
    sde_dpmpp_3m,
    unipc,
)

MIXTURE = Mixture(torch.tensor([[-1.5, 0.3], [1.0, -0.8], [0.7, 1.4]]), [0.5, 0.3, 0.4])
NOISE = torch.randn(8, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
LAMS = [-7.0, -4.5, -1.0, 0.0, 2.0, 6.5]
HALF = [0.5 * lam for lam in LAMS]
SIGMAS = [math.exp(-half) for half in HALF]
SEEDS = range(8)
both = pytest.mark.parametrize("scaling", [VP, FLOW], ids=["vp", "flow"])


def start(scaling, lam=LAMS[0]):
    level = VP(lam)
    return (level.alpha * 0.1 + NOISE) * units(lam, VP, scaling)


def walk(solver, scaling=VP, lams=LAMS):
    return sample(Rescaled(MIXTURE, scaling), start(scaling, lams[0]), lams, solver, seeds=SEEDS).x


def close(got, want):
    return torch.allclose(got, want, rtol=1e-10, atol=1e-11)


def clean(x, half, scaling=VP):
    return Rescaled(MIXTURE, scaling)(x, 2.0 * half).x0


def noise(x, half, scaling=VP):
    return Rescaled(MIXTURE, scaling)(x, 2.0 * half).eps


def ve_noise(x, sigma):
    return noise(x, -math.log(sigma), VE)


def ve_clean(x, sigma):
    return clean(x, -math.log(sigma), VE)


def alpha_sigma(half, scaling):
    return scaling(2.0 * half)[1:]


@both
def test_dpm_solver_2_and_pp_2s(scaling):
    """Lu et al. 2022, Algorithm 1, and 2022b, Algorithm 1 with r_1 = ½."""
    x = y = start(scaling)
    for t, s in pairwise(HALF):
        h, middle = s - t, 0.5 * (s + t)
        (a_t, s_t), (a_m, s_m), (a_s, s_s) = (alpha_sigma(v, scaling) for v in (t, middle, s))
        u = a_m / a_t * x - s_m * math.expm1(0.5 * h) * noise(x, t, scaling)
        x = a_s / a_t * x - s_s * math.expm1(h) * noise(u, middle, scaling)
        u = s_m / s_t * y - a_m * math.expm1(-0.5 * h) * clean(y, t, scaling)
        y = s_s / s_t * y - a_s * math.expm1(-h) * clean(u, middle, scaling)
    assert close(walk(dpm_2(), scaling), x)
    assert close(walk(dpmpp_2s(), scaling), y)


@both
def test_dpm_solver_3(scaling):
    """Lu et al. 2022, Algorithm 2: r_1 = 1/3, r_2 = 2/3."""
    x, r1, r2 = start(scaling), 1 / 3, 2 / 3
    for t, s in pairwise(HALF):
        h = s - t
        a_t, _ = alpha_sigma(t, scaling)
        one, two = t + r1 * h, t + r2 * h
        (a_1, s_1), (a_2, s_2), (a_s, s_s) = (alpha_sigma(v, scaling) for v in (one, two, s))
        e = noise(x, t, scaling)
        u1 = a_1 / a_t * x - s_1 * math.expm1(r1 * h) * e
        d1 = noise(u1, one, scaling) - e
        u2 = a_2 / a_t * x - s_2 * math.expm1(r2 * h) * e
        u2 = u2 - s_2 * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
        d2 = noise(u2, two, scaling) - e
        x = a_s / a_t * x - s_s * math.expm1(h) * e - s_s / r2 * (math.expm1(h) / h - 1) * d2
    assert close(walk(dpm_3(), scaling), x)


@both
def test_dpm_solver_pp_3s(scaling):
    x, r1, r2 = start(scaling), 1 / 3, 2 / 3
    for t, s in pairwise(HALF):
        h = s - t
        _, s_t = alpha_sigma(t, scaling)
        one, two = t + r1 * h, t + r2 * h
        (a_1, s_1), (a_2, s_2), (a_s, s_s) = (alpha_sigma(v, scaling) for v in (one, two, s))
        d = clean(x, t, scaling)
        u1 = s_1 / s_t * x - a_1 * math.expm1(-r1 * h) * d
        d1 = clean(u1, one, scaling) - d
        u2 = s_2 / s_t * x - a_2 * math.expm1(-r2 * h) * d
        u2 = u2 + a_2 * r2 / r1 * (math.expm1(-r2 * h) / (r2 * h) + 1) * d1
        d2 = clean(u2, two, scaling) - d
        x = s_s / s_t * x - a_s * math.expm1(-h) * d + a_s / r2 * (math.expm1(-h) / h + 1) * d2
    assert close(walk(dpmpp_3s(), scaling), x)


def test_dpm_2_of_k_diffusion():
    """The midpoint rule on dx/dσ = ε̂ at the geometric mean of both σ."""
    x = start(VE)
    for now, to in pairwise(SIGMAS):
        middle = math.sqrt(now * to)
        ahead = x + (middle - now) * ve_noise(x, now)
        x = x + (to - now) * ve_noise(ahead, middle)
    assert close(walk(dpm_2(), VE), x)


@both
def test_dpm_solver_2m_on_the_noise(scaling):
    x, old, last = start(scaling), None, 0.0
    for t, s in pairwise(HALF):
        h, e = s - t, noise(x, t, scaling)
        (a_t, _), (a_s, s_s) = alpha_sigma(t, scaling), alpha_sigma(s, scaling)
        d = e if old is None else e + h / (2 * last) * (e - old)
        x, old, last = a_s / a_t * x - s_s * math.expm1(h) * d, e, h
    assert close(walk(dpm_2m(), scaling), x)


def three_m(scaling, share, lams=LAMS):
    """DPM-Solver++(3M) by its φ functions: ``slope`` and ``bend`` are the first and the second
    derivative of the parabola through the last three estimates, in units of the step."""
    x, past, steps = start(scaling, lams[0]), [], []
    for t, s in pairwise(0.5 * lam for lam in lams):
        h = s - t
        (_, s_t), (a_s, s_s) = alpha_sigma(t, scaling), alpha_sigma(s, scaling)
        m = [clean(x, t, scaling), *past]
        phi1 = math.expm1(-h)
        phi2, phi3 = phi1 / h + 1, (phi1 + h) / h**2 - 0.5
        new = s_s / s_t * x - a_s * phi1 * m[0]
        if len(past) == 1:
            new = new + a_s * phi2 * (m[0] - m[1]) / (steps[-1] / h)
        if len(past) >= 2:
            r0, r1 = steps[-1] / h, steps[-2] / h
            d0, d1 = (m[0] - m[1]) / r0, (m[1] - m[2]) / r1
            slope, bend = d0 + r0 / (r0 + r1) * (d0 - d1), 2.0 * (d0 - d1) / (r0 + r1)
            new = new + a_s * phi2 * slope - a_s * phi3 * share * bend
        x, past, steps = new, m[:2], [*steps, h]
    return x


@both
def test_dpm_solver_pp_3m(scaling):
    assert close(walk(dpmpp_3m(), scaling), three_m(scaling, 1.0))


def test_the_published_3m_is_of_second_order():
    """The paper's code, diffusers and k-diffusion give φ_3 half of the second derivative."""
    fine = walk(rk4(), VP, [-4.0 + 8.0 * (i / 300) ** 2 for i in range(301)])
    slopes = {}
    for share in (1.0, 0.5):
        errors = []
        for n in (32, 64, 128):
            lams = [-4.0 + 8.0 * (i / n) ** 2 for i in range(n + 1)]
            errors.append((three_m(VP, share, lams) - fine).square().mean().sqrt().item())
        slopes[share] = -np.polyfit([0, 1, 2], np.log2(errors), 1)[0]
    assert slopes[1.0] > 2.7 and slopes[0.5] < 2.3


def lagrange(nodes, j):
    return lambda v: math.prod((v - m) / (nodes[j] - m) for m in nodes if m != nodes[j])


def multistep(order, integral, scaling, lams=LAMS):
    """x_s = (α_s/α_t)·x + α_s·Σ_j ε̂_j·∫ℓ_j, with the integral given for levels t → s."""
    x, past, at = start(scaling), [], []
    for t, s in pairwise(lams):
        past = [Rescaled(MIXTURE, scaling)(x, t).eps, *past][:order]
        at = [t, *at][:order]
        low, high = scaling(t), scaling(s)
        x = high.alpha / low.alpha * x
        for j, eps in enumerate(past):
            x = x + high.alpha * integral(at, j, t, s) * eps
    return x


@both
def test_dpm_solver_3m_on_the_noise(scaling):
    """∫ ℓ_j(λ) d(σ/α), ℓ_j in λ."""

    def integral(at, j, t, s):
        basis = lagrange(at, j)
        return quad(lambda v: -0.5 * math.exp(-0.5 * v) * basis(v), t, s, epsrel=1e-13)[0]

    assert close(walk(dpm_3m(), scaling), multistep(3, integral, scaling))


def test_lms_is_k_diffusions():
    """Coefficients ∫ ℓ_j(σ) dσ over the step, ℓ_j in σ, up to four of them."""

    def integral(at, j, t, s):
        sigma = [math.exp(-0.5 * lam) for lam in (t, s)]
        return quad(lagrange([math.exp(-0.5 * v) for v in at], j), *sigma, epsrel=1e-13)[0]

    assert close(walk(lms(), VE), multistep(4, integral, VE))
    to_zero = [*LAMS, math.inf]  # its last step, to σ = 0, is like the others
    assert close(walk(lms(), VE, to_zero), multistep(4, integral, VE, to_zero))
    assert close(walk(lms(2), VE), multistep(2, integral, VE))


def test_deis_is_its_papers_tab():
    """Zhang & Chen 2023, Eq. 15: C_j = ∫ ½·Ψ(s, τ)·β(τ)/σ_τ·ℓ_j(τ) dτ with Ψ(s, τ) = α_s/α_τ."""
    clock = LinearBeta()

    def integral(at, j, t, s):
        basis = lagrange([clock.t(lam) for lam in at], j)

        def rate(tau):
            level = VP(clock.lam(tau))
            return 0.5 / level.alpha * (0.1 + 19.9 * tau) / level.sigma * basis(tau)

        return quad(rate, clock.t(t), clock.t(s), epsrel=1e-13)[0]

    assert close(walk(deis(), VP), multistep(3, integral, VP))


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_is_its_papers_algorithm(order, variant):
    """Zhao et al. 2023 with data prediction: R·ρ = b with R_km = r_m^(k−1) and b_k = k!·φ-terms
    over B(h); ρ = ½ where one difference is weighed (as its code does)."""
    x = start(VP)
    estimate = clean(x, HALF[0])
    past = [(HALF[0], estimate)]
    for step, (t, s) in enumerate(pairwise(HALF)):
        p, h = min(order, step + 1), s - t
        (_, s_t), (a_s, s_s) = alpha_sigma(t, VP), alpha_sigma(s, VP)
        r = [(past[k][0] - t) / h for k in range(1, p)]
        diffs = [(past[k][1] - past[0][1]) / rk for k, rk in enumerate(r, 1)]
        hh = -h
        scale = hh if variant == "bh1" else math.expm1(hh)
        r, rows, b = [*r, 1.0], [], []
        phi, factorial = math.expm1(hh) / hh - 1, 1
        for k in range(1, p + 1):
            rows.append([rk ** (k - 1) for rk in r])
            b.append(phi * factorial / scale)
            factorial *= k + 1
            phi = phi / hh - 1 / factorial
        rows, b = np.array(rows), np.array(b)
        base = s_s / s_t * x - a_s * math.expm1(hh) * past[0][1]
        rho = [0.5] if p == 2 else np.linalg.solve(rows[:-1, :-1], b[:-1]) if p > 2 else []
        ahead = base - a_s * scale * sum(c * d for c, d in zip(rho, diffs, strict=True))
        if s == HALF[-1]:
            x = ahead
            break
        estimate = clean(ahead, s)
        rho = [0.5] if p == 1 else np.linalg.solve(rows, b)
        seen = [*diffs, estimate - past[0][1]]
        x = base - a_s * scale * sum(c * d for c, d in zip(rho, seen, strict=True))
        past = [(s, estimate), *past]
    assert close(walk(unipc(order, variant)), x)


def test_rk4_is_runge_and_kuttas_in_the_time_of_rectified_flow():
    def slope(x, t):
        est = Rescaled(MIXTURE, FLOW)(x, -2.0 * math.log(t / (1.0 - t)))
        return est.eps - est.x0

    x, times = start(FLOW), [FLOW(lam).sigma for lam in LAMS]
    for t, s in pairwise(times):
        h = s - t
        k1 = slope(x, t)
        k2 = slope(x + 0.5 * h * k1, t + 0.5 * h)
        k3 = slope(x + 0.5 * h * k2, t + 0.5 * h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(x + h * k3, s))
    assert close(walk(rk4(), FLOW), x)


def draws():
    """The fresh noise of a walk, in order."""
    count = 0
    while True:
        count += 1
        yield item_noise(SEEDS, (2,), count, dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.4])
def test_the_sde_solvers_of_k_diffusion(eta):
    """dpmpp_2m_sde (midpoint) and 3m_sde in σ, with its eta = our η²; φ_3 as above."""
    theirs, fresh = eta**2, draws()
    x, past, steps = start(VE), [], []
    y, old, last = start(VE), None, 0.0
    z = item_noise
    for k, (now, to) in enumerate(pairwise(SIGMAS), 1):
        h = math.log(now / to)
        wide, noisy = h * (theirs + 1), to * math.sqrt(-math.expm1(-2 * h * theirs))
        keep = to / now * math.exp(-h * theirs)
        fresh = z(SEEDS, (2,), k, dtype=torch.float64)
        d = ve_clean(y, now)
        new = keep * y - math.expm1(-wide) * d
        if old is not None:
            new = new - 0.5 * math.expm1(-wide) * h / last * (d - old)
        y, old, last = new + noisy * fresh, d, h
        m = [ve_clean(x, now), *past]
        phi2 = math.expm1(-wide) / wide + 1
        new = keep * x - math.expm1(-wide) * m[0]
        if len(past) == 1:
            new = new + phi2 * (m[0] - m[1]) / (steps[-1] / h)
        if len(past) == 2:
            r0, r1 = steps[-1] / h, steps[-2] / h
            d0, d1 = (m[0] - m[1]) / r0, (m[1] - m[2]) / r1
            slope = d0 + r0 / (r0 + r1) * (d0 - d1)
            new = new + phi2 * slope - (phi2 / wide - 0.5) * 2 * (d0 - d1) / (r0 + r1)
        x, past, steps = new + noisy * fresh, m[:2], [*steps, h]
    assert close(walk(sde_dpmpp_2m(eta), VE), y)
    assert close(walk(sde_dpmpp_3m(eta), VE), x)


def test_ancestral_euler_of_k_diffusion():
    for eta in (0.6, 1.0):
        x, fresh = start(VE), draws()
        for now, to in pairwise(SIGMAS):
            up = min(to, eta * math.sqrt(to**2 * (now**2 - to**2) / now**2))
            down = math.sqrt(to**2 - up**2)
            x = x + (down - now) * ve_noise(x, now) + up * next(fresh)
        assert close(walk(euler_ancestral(eta), VE), x)


@pytest.mark.parametrize("end", [[], [math.inf]])
def test_edm_is_its_papers_algorithm_2(end):
    """γ_i = min(S_churn/N, √2 − 1) within [S_tmin, S_tmax]; Heun from σ̂ to the next level."""
    churn, low, high, scale = 1.5, 0.2, 20.0, 1.007
    x, fresh, lams = start(VE), draws(), [*LAMS, *end]
    sigmas = [math.exp(-0.5 * lam) for lam in lams]
    lifted = 0
    for now, to in pairwise(sigmas):
        if low <= now <= high:
            lifted += 1
            hat = now + min(churn / (len(sigmas) - 1), math.sqrt(2) - 1) * now
            x = x + math.sqrt(hat**2 - now**2) * scale * next(fresh)
            now = hat
        d = ve_noise(x, now)
        ahead = x + (to - now) * d
        x = ahead if to == 0 else x + (to - now) * 0.5 * (d + ve_noise(ahead, to))
    assert lifted == 4
    got = walk(edm(churn, low, high, scale), VE, lams)
    assert close(got, x)
    # the cap on γ, in another scaling
    rows = edm(1000.0, 0.0, 100.0).table([FLOW(lam) for lam in LAMS])
    assert rows[0].at.lam == pytest.approx(LAMS[0] - math.log(2.0))
    assert not edm(churn=0.0).stochastic and edm(churn=0.5).stochastic


def langevin_move(x, sigma, z, snr):
    """Song et al. 2021, Algorithm 4: ε = 2·(r·‖z‖/‖score‖)², every picture its own norms, and here
    never farther than to x̂0 (ε ≤ σ²)."""
    score = (ve_clean(x, sigma) - x) / sigma**2
    step = 2.0 * (snr * z.norm(dim=1, keepdim=True) / score.norm(dim=1, keepdim=True)) ** 2
    step = step.clamp(max=sigma**2)
    return x + step * score + (2.0 * step).sqrt() * z


@pytest.mark.parametrize("scaling", [VE, VP, FLOW], ids=["ve", "vp", "flow"])
def test_predictor_corrector_is_its_papers_algorithm(scaling):
    lams = [-4.0, -3.0, -2.0, -1.0]
    sigmas, fresh, x = [math.exp(-0.5 * lam) for lam in lams], draws(), start(VE, -4.0)
    for now, to in pairwise(sigmas):
        share = to**2 / now**2
        mean = ve_clean(x, now) * (1.0 - share) + share * x
        x = mean + math.sqrt(to**2 * (1.0 - share)) * next(fresh)
        if to != sigmas[-1]:
            for _ in range(2):
                x = langevin_move(x, to, next(fresh), 0.1)
    got = walk(predictor_corrector(2, 0.1), scaling, lams) * units(lams[-1], scaling, VE)
    assert close(got, x)


def test_adaptive_langevin_moves_by_norms_and_then_denoises():
    lams = [-4.0, -3.0, math.inf]
    fresh, x = draws(), start(VE, -4.0)
    for sigma in (math.exp(2.0), math.exp(1.5)):
        for _ in range(3):
            x = langevin_move(x, sigma, next(fresh), 0.16)
    assert close(walk(langevin_adaptive(), VE, lams), ve_clean(x, math.exp(1.5)))


def test_a_move_by_norms_never_goes_past_the_clean_end():
    """θ ≤ 1, and a score of zero is not a division by zero."""
    still = Solver(
        "still", lambda at: [Row(at[1], {0: 0.0}, {0: 1.0}, 0.5, snr=0.9)], None, True, ""
    )
    x = torch.tensor([[0.0, 0.0], [3.0, 1.0]], dtype=torch.float64)

    class Zero:
        scaling = VE

        def __call__(self, x, lam, cond=None):
            from marginals.denoiser import Estimate

            return Estimate(x, lam, VE, torch.zeros_like(x))

    got = sample(Zero(), x, [0.0, 1.0], still, seeds=[0, 1]).x
    z = item_noise([0, 1], (2,), 1, dtype=torch.float64)
    assert torch.allclose(got[0], math.sqrt(2.0) * 0.5 * z[0])  # θ = 1
    theta = min(1.0, (2 * (0.9 * 0.5 * z[1].norm() / x[1].norm()) ** 2).item())
    want = (1 - theta) * x[1] + math.sqrt(2 * theta) * 0.5 * z[1]
    assert torch.allclose(got[1], want) and got.isfinite().all()


def test_large_ddpm_adds_the_forward_variance():
    """σ_t² = β_t = 1 − ᾱ_t/ᾱ_s in VP units (Ho et al. 2020); the mean is that of the small one."""
    lams = [*LAMS, math.inf]
    for scaling in (VP, VE, FLOW):
        small = ddpm().table([scaling(lam) for lam in lams])
        large = ddpm("large").table([scaling(lam) for lam in lams])
        for t, row, other in zip(lams, large, small, strict=False):
            assert (row.x, row.d) == (other.x, other.d)
            if math.isinf(row.at.lam):
                assert row.noise == 0.0
                continue
            beta = 1.0 - VP(t).alpha ** 2 / VP(row.at.lam).alpha ** 2
            assert row.noise * units(row.at.lam, scaling, VP) == pytest.approx(math.sqrt(beta))


def test_the_sde_step_is_the_exact_solution_for_a_known_picture():
    """dX of the η-SDE with x̂0 = c: mean and variance by a fine Euler–Maruyama recursion."""
    eta, t, s, c, x = 0.7, -1.0, 0.5, 0.3, 1.9
    (row,) = sde(eta).table([VE(t), VE(s)])
    mean, var, n = x, 0.0, 200_000
    step = (s - t) / n
    lam = t + (np.arange(n) + 0.5) * step
    r2 = np.exp(-lam)
    # VE: dx/dλ = ½(1 + η²)·(c − x), noise rate η²·r² per λ
    decay = np.exp(-0.5 * (1 + eta**2) * (s - lam))
    mean = c + (x - c) * math.exp(-0.5 * (1 + eta**2) * (s - t))
    var = float((eta**2 * r2 * decay**2).sum() * step)
    assert row.x[0] * x + row.d[0] * c == pytest.approx(mean, rel=1e-12)
    assert row.noise**2 == pytest.approx(var, rel=1e-8)
