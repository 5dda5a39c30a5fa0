"""The probability-flow ODE: the exact flow of a Gaussian, its order, and its divergence."""

import math

import numpy as np
import pytest
import torch

from marginals.denoiser import Estimate
from marginals.errors import MarginalsError
from marginals.ode import exact_trace, hutchinson, solve
from marginals.oracle import Gaussian, Mixture
from marginals.scaling import FLOW, SUB_VP, VE, VP

COV = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.8]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 0.2])
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def line(low, high, steps):
    return torch.linspace(low, high, steps + 1, dtype=torch.float64).tolist()


@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
@pytest.mark.parametrize("ends", [(-5.0, 6.0), (6.0, -5.0)])
def test_the_exact_flow_and_log_density_of_a_gaussian(scaling, ends):
    """In either direction and whatever units the denoiser uses; x itself is in VP units."""
    oracle, plain = Gaussian(MEAN, COV, scaling), Gaussian(MEAN, COV)
    x, change, nfe = solve(oracle, X, line(*ends, 200), divergence=exact_trace)
    assert nfe == 800
    assert torch.allclose(x, plain.flow(X, *ends), rtol=1e-7, atol=1e-7)
    wanted = plain.log_prob(x, ends[1]) - plain.log_prob(X, ends[0])
    assert torch.allclose(change, wanted, rtol=1e-7, atol=1e-7)


def test_runge_kutta_has_order_four():
    oracle, steps = Gaussian(MEAN, COV), [16, 32, 64]
    wanted = oracle.flow(X, -4.0, 4.0)
    truth = oracle.log_prob(wanted, 4.0) - oracle.log_prob(X, -4.0)
    states, changes = [], []
    for n in steps:
        x, change, _ = solve(oracle, X, line(-4.0, 4.0, n), divergence=exact_trace)
        states.append((x - wanted).abs().max().item())
        changes.append((change - truth).abs().max().item())
    for errors in (states, changes):
        order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
        assert order == pytest.approx(4.0, abs=0.25)


def test_encoding_and_decoding_undo_each_other():
    oracle = Mixture(torch.tensor([[-1.0, 0.5, 0.0], [1.0, 1.0, -1.0]]), 0.5)
    lams = line(-6.0, 6.0, 200)
    clean, _, _ = solve(oracle, X, lams)
    back, _, _ = solve(oracle, clean, lams[::-1])
    assert torch.allclose(back, X, atol=2e-6)
    assert not torch.allclose(clean, X, atol=0.1)


def test_without_divergence_nothing_changes_but_the_state():
    oracle = Gaussian(MEAN, COV)
    x, change, _ = solve(oracle, X, line(-2.0, 2.0, 10))
    with_it, _, _ = solve(oracle, X, line(-2.0, 2.0, 10), divergence=exact_trace)
    assert torch.equal(change, torch.zeros(5, dtype=torch.float64))
    assert torch.allclose(x, with_it, rtol=1e-13) and not x.requires_grad


def curved(x):
    return torch.sin(x) * x.roll(1, -1) + x**2 * 0.3


def test_traces_against_the_jacobian():
    x = X.clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(curved, X)
    truth = torch.stack([jacobian[b, :, b].trace() for b in range(5)])
    assert torch.allclose(exact_trace(curved(x), x), truth, rtol=1e-12)
    # Hutchinson is unbiased: averaged over all 2³ sign patterns it is exact
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)
    guesses = torch.stack([hutchinson(s.expand(5, 3))(curved(x), x) for s in signs])
    assert torch.allclose(guesses.mean(0), truth, rtol=1e-12)
    assert (guesses - truth).abs().max() > 1e-3  # and one alone is not


def test_traces_of_pictures():
    x = torch.randn(2, 2, 1, 3, dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(curved, x.detach()).reshape(2, 6, 2, 6)
    truth = torch.stack([jacobian[b, :, b].trace() for b in range(2)])
    assert torch.allclose(exact_trace(curved(x), x), truth, rtol=1e-12)
    probe = torch.randn_like(x)
    wanted = [probe[b].flatten() @ jacobian[b, :, b] @ probe[b].flatten() for b in range(2)]
    assert torch.allclose(hutchinson(probe.detach())(curved(x), x), torch.stack(wanted).detach())


def test_one_probe_is_one_quadratic_form():
    x, probe = X.clone().requires_grad_(), torch.tensor([1.0, -2.0, 0.5]).double()
    jacobian = torch.autograd.functional.jacobian(curved, X)
    wanted = torch.stack([probe @ jacobian[b, :, b] @ probe for b in range(5)])
    assert torch.allclose(hutchinson(probe.expand(5, 3))(curved(x), x), wanted, rtol=1e-12)


def test_ticks_and_conditions():
    oracle = Mixture(torch.tensor([[-1.0] * 3, [1.0] * 3]), 0.5, labels=torch.tensor([0, 1]))
    seen = []
    cond = torch.tensor([0, 1, 1, 0, -1])
    x, _, nfe = solve(
        oracle, X, line(-6, 6, 30), cond=cond, tick=lambda *counts: seen.append(counts)
    )
    assert nfe == 120 and seen == [(i, 120) for i in range(1, 121)]
    assert bool((x[[0, 3]].mean(1) < 0).all()) and bool((x[[1, 2]].mean(1) > 0).all())


def test_the_velocity_is_v_in_the_angle():
    """dx/dφ = v̂ with φ = atan(σ/α): one small step against the definition."""
    out = torch.tensor([[0.7, -0.2, 1.0]]).double()

    class Fixed:
        scaling = VP

        def __call__(self, x, lam, cond=None):
            return Estimate(x, lam, VP, out)

    lam, h = 0.4, 1e-5
    x, _, _ = solve(Fixed(), X[:1], [lam, lam + h])
    level = VP(lam)
    v = level.alpha * (X[:1] - level.alpha * out) / level.sigma - level.sigma * out
    turn = math.atan(math.exp(-0.5 * (lam + h))) - math.atan(math.exp(-0.5 * lam))
    assert torch.allclose((x - X[:1]) / turn, v, rtol=1e-4)


def test_no_step_is_refused():
    for lams in ([], [1.0]):
        with pytest.raises(MarginalsError, match="step"):
            solve(Gaussian(MEAN, COV), X, lams)
