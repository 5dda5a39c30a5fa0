"""Steps that choose their own size: order, tolerance, and every picture by itself."""

import itertools
import math

import numpy as np
import pytest
import torch

from marginals.adaptive import Arrival, integrate, sample_adaptive
from marginals.angle import AngleFlow
from marginals.denoiser import Estimate, Net
from marginals.errors import MarginalsError
from marginals.oracle import Gaussian, Mixture
from marginals.predict import EPS
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.steppers import Walker, adams, dopri5, polynomial_weights

COV = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.8]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 0.2])
METHODS = [dopri5(), adams()]
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def gaussian(scaling=VP) -> Gaussian:
    return Gaussian(MEAN, COV, scaling)


def mixture(scaling=VP) -> Mixture:
    means = torch.tensor([[-0.9, 0.6, 0.0], [0.8, -0.5, 0.4], [0.3, 0.9, -0.8]])
    return Mixture(means, 0.25, labels=torch.tensor([0, 1, 1]), scaling=scaling)


def walk(oracle, x, ends, method, atol, **options) -> tuple[Arrival, torch.Tensor]:
    flow = AngleFlow(oracle, 0.7, exact=True, **options)
    y, _ = flow.enter(x, ends[0])
    found = integrate(flow, y, flow.angle(ends[0]), flow.angle(ends[1]), method, atol=atol)
    return found, flow.leave(found.y, ends[1])


class TestAngle:
    @pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
    def test_the_slopes_are_those_of_the_exact_flow(self, scaling):
        """Differences of the closed form, with another level for every picture."""
        oracle, flow = gaussian(scaling), AngleFlow(gaussian(scaling), 0.7, exact=True)
        lams, h = [-5.0, -1.0, 0.0, 2.0, 7.0], 1e-5
        phi = torch.tensor([flow.angle(lam) for lam in lams], dtype=torch.float64)
        assert torch.allclose(0.7 * phi.tan(), torch.tensor(lams).double().mul(-0.5).exp())
        y = torch.stack([flow.enter(x, lam)[0] for x, lam in zip(X, lams, strict=True)])
        slope, log_slope = flow(y, phi, torch.arange(5))
        for i, lam in enumerate(lams):
            near = -2.0 * math.log(0.7 * math.tan(phi[i] + h))
            x = X[i : i + 1]
            moved = oracle.flow(x, lam, near)
            there, unit = flow.enter(moved, near)
            assert torch.allclose((there[0] - y[i]) / h, slope[i], rtol=1e-3, atol=1e-4)
            gain = (oracle.log_prob(moved, near) - 3 * unit) - (
                oracle.log_prob(x, lam) - 3 * flow.enter(x, lam)[1]
            )
            assert (gain / h).item() == pytest.approx(log_slope[i].item(), rel=1e-3, abs=1e-4)

    def test_nothing_moves_where_the_data_are_what_the_units_expect(self):
        oracle = Mixture(torch.zeros(1, 4), 0.7)
        slope, log_slope = AngleFlow(oracle, 0.7, exact=True)(
            torch.randn(3, 4).double(), torch.tensor([0.01, 0.8, 1.5]).double(), torch.arange(3)
        )
        assert slope.abs().max() < 1e-10 and log_slope.abs().max() < 1e-10

    def test_pure_noise_is_a_level(self):
        flow = AngleFlow(mixture(), 0.7)
        assert flow.angle(-math.inf) == 0.5 * math.pi and flow.angle(math.inf) == 0.0
        result = sample_adaptive(mixture(), X, -math.inf, 8.0, std=0.7)
        near = sample_adaptive(mixture(), X, -40.0, 8.0, std=0.7)
        assert torch.allclose(result.x, near.x, atol=2e-2)

        class Says(torch.nn.Module):
            def forward(self, x, t, cond=None):
                return x

        with pytest.raises(MarginalsError, match="v-prediction"):  # ε says nothing new there
            sample_adaptive(Net(Says(), prediction=EPS), X, -math.inf, 8.0)


def test_polynomials_are_integrated_exactly_over_any_nodes():
    nodes = torch.tensor([[0.0, 0.3, 0.7, 1.1], [2.0, 1.5, 1.4, -0.3]], dtype=torch.float64)
    start, end = nodes[:, 2], nodes[:, 3]
    for k, power in itertools.product((1, 2, 3, 4), (0, 1, 2, 3)):
        weights = polynomial_weights(nodes[:, 4 - k :], start, end)
        found = (weights * nodes[:, 4 - k :] ** power).sum(1)
        wanted = (end ** (power + 1) - start ** (power + 1)) / (power + 1)
        if power < k:
            assert torch.allclose(found, wanted, rtol=1e-12)
        else:
            assert not torch.allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
@pytest.mark.parametrize("ends", [(-5.0, 6.0), (6.0, -5.0)])
def test_the_exact_flow_and_log_density_of_a_gaussian(method, scaling, ends):
    oracle = gaussian(scaling)
    found, x = walk(oracle, X, ends, method, 1e-8)
    wanted = oracle.flow(X, *ends)
    assert torch.allclose(x, wanted, rtol=1e-6, atol=1e-6)
    flow = AngleFlow(oracle, 0.7)
    units = [3 * flow.enter(X, lam)[1] for lam in ends]
    change = oracle.log_prob(wanted, ends[1]) - units[1] - oracle.log_prob(X, ends[0]) + units[0]
    assert torch.allclose(found.log[:, 0], change, atol=1e-6)


def fixed(method, steps: int) -> Walker:
    """So many equal steps in the angle, taken whatever their error."""
    from marginals.adaptive import _accept, _begin

    flow = AngleFlow(gaussian(), 0.7)
    start, end = flow.angle(3.0), flow.angle(-3.0)
    at = _begin(flow, flow.enter(X, 3.0)[0], start, method.memory)
    for i in range(steps):
        target = torch.full((5,), start + (end - start) * (i + 1) / steps, dtype=torch.float64)
        at = _accept(at, method.propose(flow, at, target), target, torch.ones(5).bool())
    return at


def test_dormand_prince_has_order_five_and_its_estimate_order_five_per_step():
    flow, oracle = AngleFlow(gaussian(), 0.7), gaussian()
    wanted = flow.enter(oracle.flow(X, 3.0, -3.0), -3.0)[0]
    steps = [16, 32, 64]
    errors = [(fixed(dopri5(), n).y - wanted).abs().max().item() for n in steps]
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(5.0, abs=0.35)
    guesses = []
    for h in (0.2, 0.1, 0.05):
        at = fixed(dopri5(), 4)
        step = dopri5().propose(AngleFlow(gaussian(), 0.7), at, at.phi - h)
        guesses.append(step.y_error.abs().max().item())
    order = np.polyfit(np.log([0.2, 0.1, 0.05]), np.log(guesses), 1)[0]
    assert order == pytest.approx(5.0, abs=0.35)


def test_a_step_that_is_refused_leaves_everything_as_it_was():
    from marginals.adaptive import _accept

    flow, at = AngleFlow(gaussian(), 0.7), fixed(adams(), 1)
    target = at.phi + 0.1
    step = adams().propose(flow, at, target)
    refused, taken = (_accept(at, step, target, torch.full((5,), f)) for f in (False, True))
    for name in ("phi", "y", "log", "known"):
        assert torch.equal(getattr(refused, name), getattr(at, name))
    for name in ("angles", "slopes", "logs"):
        pairs = zip(getattr(refused, name), getattr(at, name), strict=True)
        assert all(torch.equal(new, old) for new, old in pairs)
    assert at.known.tolist() == [2] * 5 and taken.known.tolist() == [3] * 5
    assert torch.equal(taken.phi, target) and not torch.equal(taken.y, at.y)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_error_follows_the_tolerance(method):
    oracle, ends = mixture(), (7.0, -7.0)
    truth, _ = walk(oracle, X, ends, dopri5(), 1e-9)
    errors, calls, tolerances = [], [], [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    for tolerance in tolerances:
        found, _ = walk(oracle, X, ends, method, tolerance)
        errors.append((found.y - truth.y).square().mean(1).sqrt().max().item())
        calls.append(found.calls.double().mean().item())
        assert errors[-1] < 20 * tolerance and errors[-1] > 1e-4 * tolerance
        # the trace has bumps that steps of order 5 may pass over at first
        assert (found.log - truth.log).abs().max() < 300 * tolerance
    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.2)
    assert all(a < b for a, b in itertools.pairwise(calls))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_picture_is_the_same_in_any_batch(method):
    oracle, cond = mixture(), torch.tensor([0, 1, 1, 0, -1])
    whole, _ = walk(oracle, 2 * X, (9.0, -9.0), method, 1e-5, cond=cond)
    for i in range(5):
        options = {"cond": cond[i : i + 1]}
        alone, _ = walk(oracle, 2 * X[i : i + 1], (9.0, -9.0), method, 1e-5, **options)
        assert torch.allclose(alone.y, whole.y[i : i + 1], rtol=1e-9, atol=1e-11)
        assert torch.allclose(alone.log, whole.log[i : i + 1], rtol=1e-9, atol=1e-11)
        assert alone.calls == whole.calls[i]
    assert len(set(whole.calls.tolist())) > 1  # so each did take steps of its own


def test_evaluations_are_counted():
    class Counting:
        scaling, seen = VP, 0

        def __call__(self, x, lam, cond=None):
            self.seen += len(x)
            return mixture()(x, lam, cond)

    for method in METHODS:
        counting = Counting()
        found, _ = walk(counting, X, (9.0, -9.0), method, 1e-3)
        assert int(found.calls.sum()) == counting.seen


class TestSampling:
    @pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
    def test_samples_are_those_of_the_exact_flow_in_every_scaling(self, scaling):
        oracle = gaussian(scaling)
        start = AngleFlow(oracle, 1.0).leave(X, -6.0)
        result = sample_adaptive(oracle, start, -6.0, 7.0, rtol=1e-8, atol=1e-8, final=False)
        assert torch.allclose(result.x, oracle.flow(start, -6.0, 7.0), rtol=1e-6, atol=1e-6)
        assert result.lams == (-6.0, 7.0) and result.solver == "dopri5"
        final = sample_adaptive(oracle, start, -6.0, 7.0, rtol=1e-8, atol=1e-8)
        assert torch.allclose(final.x, oracle(result.x, 7.0).x0) and final.nfe == result.nfe + 1

    def test_progress_rises_to_one(self):
        ways = []
        sample_adaptive(mixture(), X, -6.0, 7.0, method=adams(), advance=ways.append)
        assert ways == sorted(ways) and ways[-1] == 1.0 and len(ways) > 5

    def test_single_precision_is_kept(self):
        result = sample_adaptive(mixture(), X.float(), -6.0, 7.0, std=0.7)
        exact = sample_adaptive(mixture(), X, -6.0, 7.0, std=0.7)
        assert result.x.dtype == torch.float32
        assert torch.allclose(result.x.double(), exact.x, atol=1e-3)

    def test_impossible_walks_are_refused(self):
        class Broken:
            scaling = VP

            def __call__(self, x, lam, cond=None):
                return Estimate(x, lam, VP, x * math.nan)

        with pytest.raises(MarginalsError, match="finite noise level"):
            sample_adaptive(mixture(), X, -6.0, math.inf)
        for bad in ({"atol": 0.0}, {"rtol": -1.0}, {"atol": math.nan}):
            with pytest.raises(MarginalsError, match="Tolerances"):
                sample_adaptive(mixture(), X, -6.0, 7.0, **bad)
        with pytest.raises(MarginalsError, match="headway"):
            sample_adaptive(Broken(), X, -6.0, 7.0)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_step_neither_reads_the_device_nor_mixes_devices(method):
    """On "meta", which holds no numbers: only whether to go on is asked, once per step."""
    from marginals.adaptive import _accept, _begin, _change, _error

    class Body(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(4, 3, device="meta")

        def forward(self, x, t, cond=None):
            return self.inner(torch.cat([x, t.unsqueeze(1)], 1))

    y, probes = torch.zeros(5, 3, device="meta"), torch.zeros(2, 5, 3, device="meta")
    flow = AngleFlow(Net(Body()), 0.7, probes=probes)
    at = _begin(flow, y, 0.3, method.memory)
    target = at.phi + 0.1
    step = method.propose(flow, at, target)
    error = _error(step, at, 3, 1e-3, 1e-3)
    at = _accept(at, step, target, error <= 1.0)
    change = _change(error, torch.ones_like(error), error, error <= 1.0, *method.control)
    assert at.y.dtype == torch.float32 and at.log.dtype == change.dtype == torch.float64
    assert at.log.shape == (5, 2) and change.device.type == "meta"
