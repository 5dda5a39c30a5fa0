"""The exact density: closed forms, few evaluations, gradients, probes, chunks, there and back."""

import math

import pytest
import torch
from torch import nn

from marginals.denoiser import Net
from marginals.density import TICKS, decode, encode, ode_log_prob
from marginals.errors import MarginalsError
from marginals.gaussian import Ends, Prior
from marginals.oracle import Gaussian, Mixture
from marginals.scaling import FLOW, SUB_VP, VE, VP

MEANS = torch.tensor([[-0.6, 0.4], [0.5, -0.3], [0.2, 0.7]])
STDS, WEIGHTS, LABELS = [0.3, 0.2, 0.4], torch.tensor([1.0, 2.0, 1.0]), torch.tensor([0, 1, 0])
ENDS = Ends(-16.0, 16.0, Prior(0.12, 0.55))


def mixture(scaling=VP) -> Mixture:
    return Mixture(MEANS, STDS, WEIGHTS, LABELS, scaling)


def points(count=8):
    return mixture().sample(count, seed=2)[0]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
def test_closed_form_in_every_scaling(scaling):
    x = points()
    bound = ode_log_prob(mixture(scaling), x, ENDS, exact=True, tolerance=1e-6)
    assert (bound.nats - mixture().log_prob(x)).abs().max() < 5e-4
    assert torch.allclose(sum(bound.terms.values()), bound.nats)
    assert bound.calls.double().mean().item() == pytest.approx(bound.nfe, abs=0.5)


def test_few_evaluations_are_enough_in_many_dimensions():
    """32 dimensions, modes far apart: 1e-3 nats per dimension in 40 evaluations, by default."""
    means = 0.7 * torch.randn(50, 32, generator=generator(1), dtype=torch.float64).sign()
    oracle = Mixture(means, 0.15)
    x = oracle.sample(16, seed=3)[0]
    ends = Ends(-16.0, 14.0, Prior(means.mean().item(), math.hypot(0.7, 0.15)))
    bound = ode_log_prob(oracle, x, ends, exact=True)
    assert ((bound.nats - oracle.log_prob(x)).abs() / 32).max() < 1e-3
    assert int(bound.calls.max()) <= 40


def test_labels_have_their_own_densities():
    x, cond = points(4), torch.tensor([0, 1, -1, 1])
    bound = ode_log_prob(mixture(), x, ENDS, exact=True, tolerance=1e-6, cond=cond)
    # up to what the prior of all classes misses of one class at λ_min
    assert (bound.nats - mixture().log_prob(x, cond=cond)).abs().max() < 2e-3


@pytest.mark.parametrize("how", [{"tolerance": 1e-4}, {"steps": 20}], ids=repr)
def test_chunks_change_nothing(how):
    x, seen = points(7), []
    whole = ode_log_prob(mixture(), x, ENDS, probes=2, generator=generator(), **how)
    parts = ode_log_prob(
        mixture(), x, ENDS, probes=2, generator=generator(), batch=3,
        tick=lambda *now: seen.append(now), **how,
    )  # fmt: skip
    assert torch.allclose(parts.nats, whole.nats, rtol=1e-9, atol=1e-10)
    assert torch.allclose(parts.noise, whole.noise, rtol=1e-6, atol=1e-9)
    assert torch.equal(parts.calls, whole.calls) and parts.nfe == whole.nfe
    assert parts.pictures == whole.pictures
    total = 3 * (TICKS if "tolerance" in how else 80)
    assert seen == [(i, total) for i in range(1, total + 1)]


@pytest.mark.parametrize("gaussian", [False, True])
def test_probes_are_unbiased_and_their_error_is_told(gaussian):
    x = points(1).expand(1500, 2)
    exact = ode_log_prob(mixture(), x[:1], ENDS, exact=True, tolerance=1e-5).nats.item()
    options = {"gaussian": gaussian, "tolerance": 1e-3, "generator": generator(3)}
    bound = ode_log_prob(mixture(), x, ENDS, probes=4, **options)
    spread = bound.nats.std().item()
    assert bound.nats.mean().item() == pytest.approx(exact, abs=4 * spread / 1500**0.5 + 5e-3)
    assert bound.noise.square().mean().sqrt().item() == pytest.approx(spread, rel=0.1)
    one = ode_log_prob(mixture(), x, ENDS, probes=1, **options)
    assert one.noise is None and one.nats.std().item() == pytest.approx(2 * spread, rel=0.15)


def test_signs_have_less_noise_than_normal_numbers():
    x = points(1).expand(500, 2)
    spread = [
        ode_log_prob(mixture(), x, ENDS, gaussian=g, generator=generator()).nats.std().item()
        for g in (False, True)
    ]
    assert spread[0] < 0.7 * spread[1]


def test_the_gradient_is_the_score():
    x = points().requires_grad_()
    nats = ode_log_prob(mixture(), x, ENDS, exact=True, grad=True, tolerance=1e-6).nats
    (slope,) = torch.autograd.grad(nats.sum(), x)
    score = mixture().score(x.detach(), math.inf)
    assert (slope - score).abs().max() < 2e-3 * score.abs().max()


class Body(nn.Module):
    """A small smooth network of two numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.inner, self.outer = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x, t, cond=None):
        return self.outer(torch.tanh(self.inner(torch.cat([x, t.unsqueeze(1)], 1))))


@pytest.mark.parametrize("exact", [True, False])
def test_gradients_in_the_parameters_are_finite_differences(exact):
    net, x = Net(Body().double()), points(3)
    options = {"exact": exact, "tolerance": 1e-8}

    def nats(**more):
        draws = {"generator": generator(1)}
        return ode_log_prob(net, x, Ends(-8.0, 8.0), **options, **draws, **more).nats.sum()

    nats(grad=True).backward()
    for weight in (net.backbone.inner.weight, net.backbone.outer.bias):
        got, h = weight.grad.flatten()[1].item(), 1e-4
        sides = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                weight.view(-1)[1] += sign * h
                sides.append(nats().item())
                weight.view(-1)[1] -= sign * h
        assert got == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-4)


def test_without_grad_nothing_is_kept():
    x = points().requires_grad_()
    assert not ode_log_prob(mixture(), x, ENDS).nats.requires_grad


@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
def test_to_noise_and_back(scaling):
    oracle, x, errors = mixture(scaling), points(), []
    for tolerance in (1e-2, 1e-4, 1e-6):
        noise = encode(oracle, x, ENDS, tolerance=tolerance)
        again = decode(oracle, noise, ENDS, tolerance=tolerance)
        errors.append((again - x).abs().max().item())
        assert errors[-1] < 10 * tolerance
    assert errors[2] < errors[1] < errors[0]


def test_the_noise_of_a_gaussian_is_a_formula():
    cov = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
    oracle, x = Gaussian(torch.tensor([0.3, -0.2]), cov), points()
    ends = Ends(-12.0, 16.0, Prior(0.0, 0.6))
    noise = encode(oracle, x, ends, tolerance=1e-7)
    mean, var = ends.prior.moments(VP(-12.0))
    wanted = (oracle.flow(x * VP(16.0).alpha, 16.0, -12.0) - mean) / var**0.5
    assert torch.allclose(noise, wanted, atol=1e-5)
    decoded = decode(oracle, torch.zeros(1, 2).double(), ends, tolerance=1e-7)
    clean = oracle.flow(torch.zeros(1, 2).double() + mean, -12.0, 16.0) / VP(16.0).alpha
    assert torch.allclose(decoded, clean, atol=1e-5)


REFUSED = {
    "pixels": lambda: ode_log_prob(mixture(), torch.zeros(1, 2, dtype=torch.uint8), ENDS),
    "probes": lambda: ode_log_prob(mixture(), points(), ENDS, probes=0),
    "batch": lambda: ode_log_prob(mixture(), points(), ENDS, batch=0),
    "tolerance": lambda: ode_log_prob(mixture(), points(), ENDS, tolerance=0.0),
    "grad of steps": lambda: ode_log_prob(mixture(), points(), ENDS, steps=3, grad=True),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_impossible_requests_are_refused(make):
    with pytest.raises(MarginalsError):
        make()
