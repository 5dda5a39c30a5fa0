"""Declared order = measured order, for every solver; and the measuring itself."""

import math

import pytest
import torch

from marginals.convergence import converge, flow_error, levels, moments, weak_error
from marginals.errors import MarginalsError
from marginals.noise import item_noise
from marginals.oracle import Gaussian
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.schedule import Cosine
from marginals.solvers import (
    SOLVERS,
    abm,
    adams,
    ddim,
    ddpm,
    deis,
    dpmpp_3m,
    edm,
    heun,
    langevin,
    langevin_adaptive,
    lms,
    rk4,
    sa,
    sde,
    sde_dpmpp_2m,
    unipc,
)

MEMBERS = {
    "lms 2": lms(2),
    "lms 3": lms(3),
    "deis 2": deis(2),
    "deis 4, cosine": deis(4, Cosine()),
    "rk4 on ε": rk4("eps"),
    "rk4 on x0": rk4("x0"),
    "rk4 on v": rk4("v"),
    "adams 1 corrected": adams(1, corrector=True),
    "adams 2, x0 in κ": adams(2, "x0", "kappa"),
    "adams 2, v": adams(2, "v", "angle"),
    "adams 3, v in λ": adams(3, "v", "lam"),
    "adams 3, v corrected": adams(3, "v", "angle", corrector=True),
    "adams 4": adams(4),
    "abm 4": abm(4),
    "adams 4, flow": adams(4, "flow", "t"),
    "adams 2, flow corrected": adams(2, "flow", "t", corrector=True),
    "unipc 1": unipc(1),
    "unipc 2, bh1": unipc(2, "bh1"),
    "unipc 2, bh2": unipc(2, "bh2"),
    "unipc 3, bh1": unipc(3, "bh1"),
    "unip 2": unipc(2, "bh1", corrector=False),
    "ddpm, large": ddpm("large"),
    "ddim 0.5": ddim(0.5),
    "sde 0.4": sde(0.4),
    "sde 1.5": sde(1.5),
    "sde_dpmpp_2m 0.5": sde_dpmpp_2m(0.5),
    "sde_dpmpp_2m 0": sde_dpmpp_2m(0.0),
    "sa 1": sa(1),
    "sa 1, half": sa(1, 0.5),
    "edm, no churn": edm(0.0),
}
ALL = {name: s for name, s in SOLVERS.items() if s.order is not None} | MEMBERS


@pytest.mark.parametrize("name", ALL)
def test_the_measured_order_is_the_declared_one(name):
    solver = ALL[name]
    found = converge(solver)
    assert found.slope == pytest.approx(solver.order, abs=0.15), found
    assert found.errors[-1] < (0.02 if solver.stochastic else 2e-3)


@pytest.mark.parametrize("scaling", [VE, FLOW, SUB_VP], ids=["ve", "flow", "sub_vp"])
@pytest.mark.parametrize("name", ["dpm_3", "rk4", "lms", "unipc"])
def test_the_order_holds_in_every_scaling(name, scaling):
    lams = [levels(n) for n in (128, 256)]
    first, second = (flow_error(SOLVERS[name], walk, scaling) for walk in lams)
    assert math.log2(first / second) == pytest.approx(SOLVERS[name].order, abs=0.15)


def test_a_solver_of_another_order_would_be_noticed():
    """The published DPM-Solver++(3M): half the curvature."""
    from dataclasses import replace

    right = dpmpp_3m()

    def halved(at):
        rows = right.rule(at)
        for i in range(2, len(rows)):
            line, bent = adams(2).rule(at[: i + 2])[i], rows[i].d
            share = {j: 0.5 * (bent[j] + line.d.get(j, 0.0)) for j in bent}
            rows[i] = rows[i]._replace(d=share)
        return rows

    assert converge(replace(right, rule=halved), (32, 64, 128)).slope < 2.5


def test_a_solver_without_an_order_is_refused():
    for solver in (langevin(), langevin_adaptive()):
        with pytest.raises(MarginalsError, match="order"):
            converge(solver)
    with pytest.raises(MarginalsError, match="linear"):
        moments(langevin_adaptive(), levels(3))


def test_flow_error_is_a_distance_from_the_exact_flow():
    lams = levels(8)
    cov = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)
    oracle = Gaussian(torch.tensor([0.5, -1.0]), cov, VE)
    x = item_noise(range(16), (2,), dtype=torch.float64) * VE(lams[0]).sigma
    gap = sample(oracle, x, lams, heun()).x - oracle.flow(x, lams[0], lams[-1])
    want = math.sqrt((gap**2).sum().item() / 32)
    assert flow_error(heun(), lams, VE) == pytest.approx(want, rel=1e-12)
    assert lams[0] == -4.0 and lams[-1] == 4.0 and len(lams) == 9
    assert lams[1] - lams[0] == pytest.approx((lams[-1] - lams[0]) / 64)


def drawn(solver, lams, count=40_000):
    """Mean and variance of real walks on the Gaussian of :mod:`marginals.convergence`."""
    first = VP(lams[0])
    oracle = Gaussian(torch.tensor([0.7]), torch.tensor([[0.25]]))

    class EveryNumberAlone:
        scaling = VP

        def __call__(self, x, lam, cond=None):
            from marginals.denoiser import Estimate

            return Estimate(x, lam, VP, oracle(x.reshape(-1, 1), lam).x0.view_as(x))

    z = item_noise([7], (count,), dtype=torch.float64)
    spread = math.sqrt(first.alpha**2 * 0.25 + first.sigma**2)
    x = first.alpha * 0.7 + spread * z
    out = sample(EveryNumberAlone(), x, lams, solver, seeds=[7]).x
    return out.mean().item(), out.var().item()


@pytest.mark.parametrize("name", ["ddpm", "sde_dpmpp_3m", "sa", "edm", "heun", "lms"])
def test_moments_are_those_of_real_walks(name):
    lams = [-3.0, -2.0, -0.5, 0.0, 1.5, 3.0]
    mean, var = moments(SOLVERS[name], lams)[-1]
    got_mean, got_var = drawn(SOLVERS[name], lams)
    assert got_mean == pytest.approx(mean, abs=4 * math.sqrt(var / 40_000))
    assert got_var == pytest.approx(var, rel=4 * math.sqrt(2 / 40_000))


def test_moments_start_where_they_are_told():
    (mean, var), *_ = moments(ddim(), [0.0, 1.0], start=(2.0, 3.0))
    (row,) = ddim().table([VP(0.0), VP(1.0)])
    a, s2 = VP(0.0).alpha, VP(0.0).sigma ** 2
    gain = a * 0.25 / (a * a * 0.25 + s2)
    slope = row.x[0] + row.d[0] * gain
    assert mean == pytest.approx(slope * 2.0 + row.d[0] * 0.7 * (1 - gain * a))
    assert var == pytest.approx(slope**2 * 3.0)
    assert weak_error(ddim(), levels(4000)) < 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("make", [sde, sde_dpmpp_2m, lambda eta: sa(2, eta)])
def test_one_parameter_from_ode_to_sde_keeps_the_distribution(make, eta):
    """Whatever the strength of the noise, the moments at the end are the data's."""
    solver = make(eta)
    assert solver.stochastic == (eta > 0)
    assert weak_error(solver, levels(1000)) < (0.02 if solver.order == 1 else 2e-3)
    first = [row.noise for row in solver.table([VP(lam) for lam in levels(8)]) if row.noise]
    assert bool(first) == (eta > 0)


def test_the_family_is_continuous_in_its_parameter():
    at = [VP(lam) for lam in levels(6)]
    for make in (sde, sde_dpmpp_2m, lambda eta: sa(2, eta)):
        for low, high in ((0.0, 1e-4), (0.5, 0.5001), (1.0, 1.0001)):
            for a, b in zip(make(low).table(at), make(high).table(at), strict=True):
                assert b.x == pytest.approx(a.x, abs=2e-3) and b.d == pytest.approx(a.d, abs=2e-3)
                assert b.noise == pytest.approx(a.noise, abs=1e-3)
