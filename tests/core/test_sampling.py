"""The loop: evaluations, callbacks, seeds, and what it refuses."""

import math

import pytest
import torch

from marginals.denoiser import Estimate, Rescaled
from marginals.errors import MarginalsError
from marginals.noise import item_noise
from marginals.oracle import Gaussian, Mixture
from marginals.sampling import _source, _walk, sample
from marginals.scaling import FLOW, VE, VP, units
from marginals.solvers import (
    SOLVERS,
    ddim,
    ddpm,
    dpm_2,
    dpmpp_2m,
    edm,
    euler_maruyama,
    heun,
    langevin,
    langevin_adaptive,
    predictor_corrector,
    sa,
    sde,
    sde_dpmpp_3m,
)
from marginals.solvers.table import Row, Solver, in_scaling

LAMS = [-6.0, -2.0, 0.0, 3.0, math.inf]
ORACLE = Mixture(torch.tensor([[-1.0, 0.5], [2.0, 1.0]]), 0.4, labels=torch.tensor([0, 1]))
X = item_noise(range(6), (2,), dtype=torch.float64)


class Watched:
    """A denoiser that writes down every call."""

    def __init__(self, inner=ORACLE):
        self.inner, self.scaling, self.calls = inner, inner.scaling, []

    def __call__(self, x, lam, cond=None):
        self.calls.append((lam, cond, x.clone()))
        return self.inner(x, lam, cond)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_cost_told_is_the_cost_paid(name):
    watched, seen = Watched(), []
    result = sample(watched, X, LAMS, SOLVERS[name], callback=seen.append)
    solver = SOLVERS[name]
    assert result.nfe == len(watched.calls) == len(seen)
    assert result.nfe == solver.evaluations([VP(lam) for lam in LAMS])
    assert [p.evaluation for p in seen] == list(range(1, result.nfe + 1))
    assert {p.total for p in seen} == {result.nfe}
    for progress, (lam, _, x) in zip(seen, watched.calls, strict=True):
        assert progress.estimate.lam == lam and torch.equal(progress.estimate.x, x)
    lams = [lam for lam, _, _ in watched.calls]
    if not (name.startswith(("dpm_", "dpmpp_", "rk")) and name.endswith(("s", "2", "3", "4"))):
        # singlestep solvers visit levels between, and EDM's churn goes up before it goes down
        assert name == "edm" or (lams == sorted(lams) and set(lams) == set(LAMS[:-1]))
    assert result.lams == tuple(LAMS) and result.solver == name


@pytest.mark.parametrize("solver", [ddim(), ddpm(), heun(), dpmpp_2m(), euler_maruyama()])
def test_every_solver_denoises_a_constant_denoiser_exactly(solver):
    c = torch.randn(6, 2, dtype=torch.float64)

    class Constant:
        scaling = FLOW

        def __call__(self, x, lam, cond=None):
            return Estimate(x, lam, FLOW, c)

    assert torch.allclose(sample(Constant(), X, LAMS, solver).x, c, rtol=1e-13, atol=1e-14)


STOCHASTIC = [
    *[ddpm(), ddim(0.5), euler_maruyama(), langevin(2), sde(1.3), sa(), sde_dpmpp_3m()],
    *[edm(), predictor_corrector(), langevin_adaptive(2)],
]


@pytest.mark.parametrize("solver", [*STOCHASTIC, dpmpp_2m()], ids=lambda s: s.name)
def test_a_picture_depends_on_its_seed_alone(solver):
    seeds = [11, 5, 8, 2, 90, 7]
    whole = sample(ORACLE, X, LAMS, solver, seeds=seeds).x
    parts = [
        sample(ORACLE, X[part], LAMS, solver, seeds=seeds[part]).x
        for part in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    # oracles sum in BLAS, whose rounding may depend on the number of rows
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-12, atol=1e-13)
    again = sample(ORACLE, X, LAMS, solver, seeds=seeds).x
    assert torch.equal(again, whole)


@pytest.mark.parametrize("solver", [s for s in STOCHASTIC if "_" not in s.name or "sde" in s.name])
def test_fresh_noise_is_keyed_by_seed_and_draw(solver):
    """Draw 0 made the starting noise, so the walk uses draws 1, 2, 3, …"""
    rows = solver.table([VP(lam) for lam in LAMS])
    seeds, states, draw = [3, 1, 4, 1, 5, 9], [X], 0
    for row in rows:
        at = [VP(LAMS[0]), *(r.at for r in rows)]
        new = sum(c * states[j] for j, c in row.x.items())
        new = new + sum(c * ORACLE(states[j], at[j].lam).x0 for j, c in row.d.items())
        if row.noise:
            draw += 1
            new = new + row.noise * item_noise(seeds, (2,), draw, dtype=torch.float64)
        states.append(new)
    got = sample(ORACLE, X, LAMS, solver, seeds=seeds).x
    assert torch.allclose(got, states[-1], rtol=1e-12, atol=1e-13)
    assert not torch.allclose(got[1], got[0])
    other = sample(ORACLE, X, LAMS, solver, seeds=range(6)).x
    assert torch.equal(sample(ORACLE, X, LAMS, solver).x, other)  # the default seeds
    assert not torch.allclose(other, got)


SDE = [ddpm(), ddim(0.5), euler_maruyama(), sde(1.4), sa()]


def names(solvers):
    return [f"{s.name}-{k}" for k, s in enumerate(solvers)]


@pytest.mark.parametrize("solver", SDE, ids=names(SDE))
def test_one_brownian_path_is_refined_by_more_steps(solver):
    """Strong convergence: the same seed at 8, 16, 32 … steps tends to one picture, at the rate of
    additive noise (order 1); with fresh noise it stays as far away as another seed."""
    oracle = Gaussian(torch.tensor([0.5, -1.0]), torch.tensor([[0.5, 0.3], [0.3, 0.4]]))
    x = item_noise(range(32), (2,), dtype=torch.float64)

    def walk(n, brownian=True):
        lams = [-4.0 + 8.0 * (i / n) for i in range(n + 1)]
        return sample(oracle, x, lams, solver, brownian=brownian).x

    def gap(a, b):
        return (a - b).square().mean().sqrt().item()

    finest = walk(512)
    errors = [gap(walk(n), finest) for n in (16, 32, 64)]
    slope = math.log2(errors[0] / errors[-1]) / 2
    assert slope == pytest.approx(1.0, abs=0.3), errors
    assert errors[-1] < 0.1 * gap(walk(64, False), walk(512, False))


def test_a_brownian_picture_depends_on_its_seed_alone():
    seeds = [11, 5, 8, 2, 90, 7]
    whole = sample(ORACLE, X, LAMS, sa(), seeds=seeds, brownian=True).x
    part = sample(ORACLE, X[2:4], LAMS, sa(), seeds=seeds[2:4], brownian=True).x
    assert torch.allclose(part, whole[2:4], rtol=1e-12, atol=1e-13)
    # a deterministic walk has no noise, and Langevin's moves have no path
    for solver in (dpmpp_2m(), langevin(2)):
        fresh = sample(ORACLE, X, LAMS, solver).x
        assert torch.equal(sample(ORACLE, X, LAMS, solver, brownian=True).x, fresh)


def test_a_walk_in_the_units_of_the_denoiser():
    """States between the levels are rewritten from VP units: the denoiser never sees others."""
    for scaling in (FLOW, VE):
        watched = Watched(Rescaled(ORACLE, scaling))
        x = X * units(LAMS[0], VP, scaling)
        sample(watched, x, LAMS, dpm_2())
        wanted = Watched()
        sample(wanted, X, LAMS, dpm_2())
        for (lam, _, got), (at, _, want) in zip(watched.calls, wanted.calls, strict=True):
            assert lam == at and torch.allclose(got * units(lam, scaling, VP), want, rtol=1e-11)


def test_conditions_reach_the_denoiser():
    watched, cond = Watched(), torch.tensor([0, 1, 0, 1, 0, 1])
    got = sample(watched, X, LAMS, dpmpp_2m(), cond=cond).x
    assert all(torch.equal(c, cond) for _, c, _ in watched.calls)
    nearest = torch.cdist(got, torch.tensor([[-1.0, 0.5], [2.0, 1.0]]).double()).argmin(1)
    assert torch.equal(nearest, cond)


def test_tables_may_look_back_as_far_as_they_like():
    """States and estimates stay for as long as some later row asks for them, and are reused."""
    at = [VP(lam) for lam in (-2.0, 0.0, 1.0, 2.0)]

    def rule(levels):
        return [
            Row(levels[1], {0: 0.5}, {0: 0.5}),
            Row(levels[2], {1: 0.3, 0: 0.2}, {0: 0.7}),
            Row(levels[3], {0: 0.1, 2: 0.6}, {0: 0.2, 1: -0.4, 2: 0.9}),
        ]

    watched = Watched()
    solver = Solver("look back", rule, None, False, "")
    result = sample(watched, X, [level.lam for level in at], solver)
    d0 = ORACLE(X, -2.0).x0
    x1 = 0.5 * X + 0.5 * d0
    x2 = 0.3 * x1 + 0.2 * X + 0.7 * d0
    d1, d2 = ORACLE(x1, 0.0).x0, ORACLE(x2, 1.0).x0
    wanted = 0.1 * X + 0.6 * x2 + 0.2 * d0 - 0.4 * d1 + 0.9 * d2
    assert torch.allclose(result.x, wanted, rtol=1e-12) and result.nfe == len(watched.calls) == 3


def test_no_gradients_are_kept_and_the_input_is_not_touched():
    x = X.clone().requires_grad_()
    out = sample(ORACLE, x, LAMS, ddpm()).x
    assert not out.requires_grad and torch.equal(x, X)
    assert sample(ORACLE, X.float(), LAMS, ddpm()).x.dtype == torch.float32


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_network_is_reported(bad):
    class Broken:
        scaling = VP

        def __call__(self, x, lam, cond=None):
            return Estimate(x, lam, VP, torch.full_like(x, bad))

    for lams in (LAMS, LAMS[:-1]):
        with pytest.raises(MarginalsError, match="not finite"):
            sample(Broken(), X, lams, ddim())


def test_bad_requests_are_refused():
    with pytest.raises(MarginalsError, match="seeds"):
        sample(ORACLE, X, LAMS, ddpm(), seeds=[1, 2])
    for lams in ([0.0], [], [1.0, 0.0], [math.inf, -1.0]):
        with pytest.raises(MarginalsError, match="rising"):
            sample(ORACLE, X, lams, ddim())


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_reads_nothing_from_the_device(name):
    """On the device "meta", which holds no numbers, reading one is an error: so nothing waits."""

    class Constant:
        scaling = FLOW

        def __call__(self, x, lam, cond=None):
            return Estimate(x, lam, FLOW, torch.zeros_like(x))

    x, start = torch.empty(2, 3, 4, device="meta"), FLOW(LAMS[0])
    rows = in_scaling(start, SOLVERS[name].table([FLOW(lam) for lam in LAMS]), FLOW)
    for brownian in (False, True):
        source = _source(x, rows, [0, 1], brownian)
        out = _walk(Constant(), x, start, rows, None, source, None)
        assert out.shape == x.shape and out.device.type == "meta" and out.dtype == x.dtype


@pytest.mark.parametrize("name", ["langevin_adaptive", "predictor_corrector", "abm", "sa"])
def test_half_precision_stays_half_precision(name):
    out = sample(ORACLE, X.to(torch.bfloat16), LAMS, SOLVERS[name], brownian=True).x
    full = sample(ORACLE, X.to(torch.bfloat16).double(), LAMS, SOLVERS[name], brownian=True).x
    assert out.dtype == torch.bfloat16 and (out - full).abs().median() < 0.1
