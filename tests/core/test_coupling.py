"""Couplings: exact assignments, laws that stay what they were, and how straight a flow is."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import marginals
from marginals import DataStats
from marginals.coupling import Coupling, Independent, MinibatchOT, assignment, straightness
from marginals.denoiser import Estimate, Rescaled
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_model, read_header, save_model
from marginals.nn import MLP
from marginals.objective import spread_uniform
from marginals.oracle import Gaussian, Mixture
from marginals.predict import VELOCITY
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.solvers import FittedTable, ddim, ddpm, grid, straight

STATS = DataStats((2,), 0.0, 1.0)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- the assignment ----------------------------------------------------------------------------


def total(costs, order):
    assert sorted(order) == list(range(len(costs)))
    return costs[np.arange(len(costs)), order].sum()


@pytest.mark.parametrize("kind", ["random", "negative", "ties", "one column", "zero"])
def test_the_assignment_is_the_best_of_all_permutations(kind):
    rng = np.random.default_rng(1)
    for n in (1, 2, 3, 4, 5, 6):
        for _ in range(10):
            costs = {
                "random": rng.normal(size=(n, n)),
                "negative": -rng.random((n, n)) * 1e6,
                "ties": rng.integers(0, 3, (n, n)).astype(float),
                "one column": np.outer(rng.random(n), np.arange(n) == 0),
                "zero": np.zeros((n, n)),
            }[kind]
            best = min(total(costs, order) for order in itertools.permutations(range(n)))
            assert total(costs, assignment(costs)) == pytest.approx(best, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("n", [40, 130])
def test_the_assignment_agrees_with_scipy(n):
    rng = np.random.default_rng(n)
    for costs in (rng.normal(size=(n, n)), rng.integers(0, 9, (n, n)).astype(float)):
        rows, columns = linear_sum_assignment(costs)
        assert total(costs, assignment(costs)) == pytest.approx(costs[rows, columns].sum())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_costs_that_are_not_finite_are_refused_instead_of_searched_forever(value):
    some = np.zeros((4, 4))
    some[2, 1] = value
    for costs in (np.full((4, 4), value), some):
        with pytest.raises(MarginalsError, match="NaN or infinite, so none is the least"):
            assignment(costs)
    x0 = torch.full((4, 2), value)
    with pytest.raises(MarginalsError, match="look for such values in the data"):
        MinibatchOT()(x0, randn(4, 2).float(), torch.zeros(4))


# ---- laws --------------------------------------------------------------------------------------


def cost(x0, eps):
    return (x0 - eps).square().sum().item()


def test_minibatch_ot_permutes_the_noise_and_costs_the_least():
    x0, eps, lam = randn(6, 2, 2), randn(6, 2, 2, seed=1), torch.zeros(6)
    data, noise = MinibatchOT()(x0, eps, lam)
    assert data is x0
    order = [int(((eps - row).abs().flatten(1).sum(1) == 0).nonzero()) for row in noise]
    assert sorted(order) == list(range(6))
    every = (cost(x0, eps[list(order)]) for order in itertools.permutations(range(6)))
    assert cost(x0, noise) == pytest.approx(min(every), abs=1e-10)
    assert cost(x0, noise) < cost(x0, eps) - 1.0


def test_on_a_line_it_is_the_monotone_map():
    """Optimal transport in one dimension pairs the k-th smallest with the k-th smallest."""
    x0, eps = randn(200, 1), randn(200, 1, seed=1)
    _, noise = MinibatchOT()(x0, eps, torch.zeros(200))
    assert torch.equal(noise[x0[:, 0].argsort()], eps.sort(0).values)


def test_within_a_class_noise_stays_with_its_class():
    x0, eps, lam = randn(40, 3), randn(40, 3, seed=1), torch.zeros(40)
    cond = torch.arange(40) % 4 - 1  # −1: hidden labels are a group of their own
    _, noise = MinibatchOT()(x0, eps, lam, cond)
    assert not torch.equal(noise, eps)
    for label in range(-1, 3):
        mine = cond == label
        _, alone = MinibatchOT()(x0[mine], eps[mine], lam[mine])
        assert torch.equal(noise[mine], alone)
    _, free = MinibatchOT(within_class=False)(x0, eps, lam, cond)
    assert torch.equal(free, MinibatchOT()(x0, eps, lam)[1])
    assert cost(x0, free) < cost(x0, noise) < cost(x0, eps)


def test_a_text_is_a_class_of_its_own_and_silence_is_one_class():
    states = randn(12, 5, 4)
    states[::2] = 0.0
    x0, eps = randn(12, 3), randn(12, 3, seed=1)
    _, noise = MinibatchOT()(x0, eps, torch.zeros(12), states)
    assert torch.equal(noise[1::2], eps[1::2])
    assert torch.equal(noise[::2], MinibatchOT()(x0[::2], eps[::2], torch.zeros(6))[1])


def test_each_keeps_its_law():
    """Over batches: given its class, the noise is N(0, 1) if noise stays within the class. If not,
    each class meets the noise on its own side, which is why that is not the default."""
    count, batches = 8, 1500
    cond = torch.arange(count) % 2
    data = torch.where(cond == 0, -2.0, 2.0).double()[:, None]
    x0 = data + 0.3 * randn(batches, count, 1)
    eps = randn(batches, count, 1, seed=1)

    def met(coupling):
        noise = [coupling(x, e, torch.zeros(count), cond)[1] for x, e in zip(x0, eps)]
        return torch.stack(noise)[:, cond == 1].flatten()

    for coupling in (Independent(), MinibatchOT()):
        noise = met(coupling)
        error = 4.0 / math.sqrt(len(noise))
        assert abs(noise.mean().item()) < error
        assert abs(noise.var().item() - 1.0) < math.sqrt(2.0) * error
        assert abs((noise**3).mean().item()) < math.sqrt(15.0) * error
    assert met(MinibatchOT(within_class=False)).mean() > 0.5


# ---- in a model --------------------------------------------------------------------------------


class Turned(Coupling):
    """Pairs every picture with its neighbour's noise, negated, and remembers what it was told."""

    def __call__(self, x0, eps, lam, cond=None):
        self.told = lam, cond
        return x0, -eps.roll(1, 0)


def model(coupling=None, **options):
    torch.manual_seed(4)
    body = MLP(2, width=8, depth=1, num_classes=3)
    torch.nn.init.normal_(body.leave.weight)
    return marginals.rectified_flow(body, data=STATS, coupling=coupling, **options)


def test_the_loss_is_measured_on_the_pairs_of_the_coupling():
    coupled = model(Turned())
    x, cond = torch.randn(6, 2), torch.tensor([0, 1, 2, -1, 0, 1])
    losses, lam = coupled.losses(x, cond, generator(3))
    draws = generator(3)
    spread_uniform(6, draws)
    eps = -torch.randn(x.shape, generator=draws).roll(1, 0)
    wanted = coupled.objective(coupled.net, x, lam, eps, cond)
    assert torch.equal(losses, wanted)
    assert torch.equal(coupled.coupling.told[0], lam)
    assert torch.equal(coupled.coupling.told[1], cond)


def test_the_same_step_has_the_same_pairs():
    x = torch.randn(16, 2)
    for coupling in (None, MinibatchOT()):
        one, two, other = (model(coupling).losses(x, None, generator(s))[0] for s in (3, 3, 4))
        assert torch.equal(one, two) and not torch.equal(one, other)
    plain, paired = (model(c).losses(x, None, generator(3))[0] for c in (None, MinibatchOT()))
    assert not torch.allclose(plain, paired)


def test_a_model_of_dependent_pairs_has_no_score():
    paired = model(MinibatchOT())
    with pytest.raises(MarginalsError, match="deterministic"):
        paired.sample(1, solver=ddpm())
    with pytest.raises(MarginalsError, match="deterministic"):
        paired.convert(VP).sample(1, solver=ddim(0.5))
    assert paired.sample(1, steps=2, solver=ddim()).x.shape == (1, 2)
    assert model().sample(1, steps=2, solver=ddpm()).x.shape == (1, 2)


def test_a_file_holds_the_coupling_and_the_walk(tmp_path):
    path = tmp_path / "model.safetensors"
    walk = FittedTable.of(ddim(), grid(straight(-12.0, 13.3), 3))
    for coupling in (None, MinibatchOT(), MinibatchOT(within_class=False)):
        first = model(coupling)
        first.walk = walk if coupling else None
        save_model(path, first)
        again = load_model(path)
        assert again.coupling == (coupling or Independent()) and again.walk == first.walk
        words = read_header(path)["model"]
        assert ("coupling" in words) == ("walk" in words) == (coupling is not None)
        assert again.convert(VP).coupling == again.coupling and again.convert(VP).walk == again.walk


def test_a_model_with_a_walk_takes_it_unless_something_else_is_asked():
    own = model()
    own.walk = FittedTable.of(ddim(), grid(straight(-12.0, 9.0), 3))
    wanted = own.sample(2, solver=ddim(), levels=own.walk.levels).x
    result = own.sample(2)
    assert result.nfe == 3 and result.lams == own.walk.levels
    assert torch.allclose(result.x, wanted, atol=1e-5)
    assert own.sample(2, steps=20).nfe == own.sample(2, solver=ddim()).nfe == 20
    assert model().sample(2).nfe == 20
    with pytest.raises(MarginalsError, match="step"):
        model().sample(2, steps=0)


# ---- straightness ------------------------------------------------------------------------------


def start(oracle, count, lam, seed=5):
    level = oracle.scaling(lam)
    x0, eps = oracle.sample(count, seed=seed), randn(count, 2, seed=6)
    return level.alpha * x0 + level.sigma * eps


@pytest.mark.parametrize("scaling", [FLOW, VP, VE, SUB_VP], ids=repr)
def test_the_straightness_of_gaussians_is_their_integral(scaling):
    """Paths are x_t = z·√V_t with V_t = (1 − t)²s² + t² in every direction, so S is an integral of
    one variable times z²: here by 20,000 midpoints."""
    stds = torch.tensor([0.3, 1.4], dtype=torch.float64)
    oracle = Gaussian(torch.zeros(2), torch.diag(stds**2), scaling=scaling)
    lam_min, lam_max = -12.0, 14.0
    x = start(oracle, 64, lam_min)
    got = straightness(oracle, x, lam_min, lam_max, steps=400)
    end = FLOW(lam_min).sigma
    t = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000 * end
    v = (1 - t[:, None]) ** 2 * stds**2 + t[:, None] ** 2
    last = ((1 - end) ** 2 * stds**2 + end**2).sqrt()
    slope = (t[:, None] - (1 - t[:, None]) * stds**2) / v.sqrt()
    gap = ((last - stds) / end - slope).square().mean(0)
    z = x * (FLOW(lam_min).sigma / oracle.scaling(lam_min).sigma) / last
    wanted = (z**2 * gap).mean(1)
    assert wanted.mean() > 0.05
    assert torch.allclose(got, wanted, rtol=2e-3)


class Reflowed:
    """The exact denoiser of the pairs (s·z, z): what reflow makes of N(0, s²)."""

    scaling = FLOW

    def __init__(self, s):
        self.s = s

    def __call__(self, x, lam, cond=None):
        t = FLOW(float(lam)).sigma
        return Estimate(x, lam, FLOW, (1 - self.s) * x / ((1 - t) * self.s + t), VELOCITY)


def test_a_straight_flow_has_straightness_zero_and_needs_one_step():
    reflowed, x = Reflowed(0.3), randn(16, 2)
    for denoiser in (reflowed, Rescaled(reflowed, VP)):
        factor = denoiser.scaling(-12.0).sigma / FLOW(-12.0).sigma
        assert straightness(denoiser, factor * x, -12.0, 12.0).abs().max() < 1e-12
    few, many = (
        marginals.sample(reflowed, x, grid(straight(-12.0, 12.0), n), ddim()).x for n in (1, 50)
    )
    assert (few - many).abs().max() < 1e-12


def test_straightness_does_not_depend_on_the_units_or_the_steps():
    oracle = Mixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.3)
    x = randn(32, 2)
    values = [straightness(oracle, x, -10.0, 12.0, steps=200)]
    for scaling in (FLOW, VE):
        factor = scaling(-10.0).sigma / VP(-10.0).sigma
        values.append(straightness(Rescaled(oracle, scaling), factor * x, -10.0, 12.0, steps=200))
    assert values[0].mean() > 0.01
    for value in values[1:]:
        assert torch.allclose(value, values[0], rtol=1e-6)
    finer = straightness(oracle, x, -10.0, 12.0, steps=800).mean()
    assert values[0].mean().item() == pytest.approx(finer.item(), rel=1e-2)
