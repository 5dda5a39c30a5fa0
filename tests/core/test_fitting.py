"""Fitting: the differentiable walk is the walk, its gradient is right, and fitted tables are nearer
to the truth than the default on noise they were not fitted to."""

import math

import pytest
import torch

from marginals import fitting
from marginals.denoiser import Estimate, Rescaled
from marginals.errors import MarginalsError
from marginals.fitting import AllNumbers, LevelsOnly, first_table, fit, nearest_start
from marginals.oracle import Gaussian, Mixture
from marginals.paths import Errors, Paths, errors, follow, square_error
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP, units
from marginals.solvers import (
    FittedTable,
    auto,
    dpmpp_2m,
    dpmpp_2s,
    grid,
    heun,
    rk4,
    straight,
    unipc,
)
from marginals.solvers.grids import GRIDS

LOW, HIGH = -8.0, 8.0
GENERATOR = torch.Generator().manual_seed(3)
MIXTURE = Mixture(
    torch.randn(6, 2, generator=GENERATOR, dtype=torch.float64), 0.2, labels=torch.arange(6) % 2
)
GAUSSIAN = Gaussian(torch.tensor([0.5, -0.2]), torch.tensor([[1.0, 0.3], [0.3, 0.1]]))
SCALINGS = {"vp": VP, "ve": VE, "flow": FLOW, "sub_vp": SUB_VP}


def noise(count, seed, dims=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dims, generator=generator, dtype=torch.float64)
    return x * VP(LOW).sigma


def paths_of(denoiser, count, seed, **options):
    return follow(denoiser, noise(count, seed), LOW, HIGH, **options)


def moved(family, seed=5, size=0.1):
    """A vector away from where fitting starts."""
    generator = torch.Generator().manual_seed(seed)
    start = family.start
    return start + size * torch.randn(len(start), generator=generator, dtype=torch.float64)


def families(steps=4):
    table = first_table(LOW, HIGH, steps)
    return {
        "all": AllNumbers(table),
        "levels of auto": LevelsOnly(auto(), table.levels),
        "levels of unipc": LevelsOnly(unipc(), table.levels),
    }


each_family = pytest.mark.parametrize("name", families())


# --- paths and errors ------------------------------------------------------------------------


def test_paths_end_where_the_flow_of_a_gaussian_ends():
    """Up to 40 evaluations the default is of order 3, and beyond of order 4, whose last step is of
    order 3 and starts where next to no noise is left."""
    gaps = []
    for steps in (100, 200):
        found = follow(GAUSSIAN, noise(16, 0), LOW, 12.0, steps=steps)
        true = GAUSSIAN.flow(found.start, LOW, math.inf)
        gaps.append((found.end - true).abs().max().item())
    assert gaps[1] < 1e-6 and math.log2(gaps[0] / gaps[1]) == pytest.approx(3.0, abs=0.15)


def test_paths_end_where_a_fine_walk_of_another_solver_ends():
    found = paths_of(MIXTURE, 16, 0, steps=200)
    lams = torch.linspace(LOW, 30.0, 2001, dtype=torch.float64).tolist()
    assert (sample(MIXTURE, found.start, lams, rk4()).x - found.end).abs().max() < 1e-4


def test_paths_do_not_depend_on_the_batch_and_report_how_many_are_done():
    cond, ticks = torch.arange(11) % 3 - 1, []
    options = {"cond": cond, "steps": 12}
    whole = paths_of(MIXTURE, 11, 0, **options)
    parts = paths_of(MIXTURE, 11, 0, batch=4, tick=ticks.append, **options)
    assert (whole.end - parts.end).abs().max() < 1e-12 and ticks == [4, 8, 11]
    assert whole.cond is cond and len(whole) == 11
    free = paths_of(MIXTURE, 11, 0, steps=12)
    other = (free.end - whole.end).abs().amax(1) > 1e-6
    assert other[cond >= 0].any() and not other[cond < 0].any()


def test_parts_of_paths_keep_their_classes():
    every = Paths(noise(7, 0), noise(7, 1), torch.arange(7))
    parts = list(every.split(3))
    assert [len(p) for p in parts] == [3, 3, 1]
    for name in ("start", "end", "cond"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(every, name))
    assert Paths(every.start, every.end).part(slice(2, 4)).cond is None


def test_errors_are_per_picture():
    """Ends that are off by a known amount: √(mean over entries), then statistics of pictures."""
    start = noise(11, 0)
    table = first_table(LOW, HIGH, 3)
    end = sample(MIXTURE, start, table.levels, table.solver).x
    off = torch.arange(11.0, dtype=torch.float64)
    end = end + torch.stack([off, torch.zeros(11)], 1) * math.sqrt(2.0)
    found = errors(MIXTURE, Paths(start, end), table.solver, table.levels, batch=4)
    assert torch.allclose(found.each, off, atol=1e-12)
    assert found.mean == pytest.approx(5.0) and found.median == pytest.approx(5.0)
    assert found.p90 == pytest.approx(9.0) and found.rmse == pytest.approx(math.sqrt(35.0))
    assert str(Errors(off)) == "5.0000 mean, 5.0000 median, 9.0000 of the worst tenth"
    assert square_error(torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)).tolist() == [1.0, 1.0]


# --- the walk and its gradient ---------------------------------------------------------------


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
@each_family
def test_the_differentiable_walk_is_the_walk_of_its_table(name, scaling):
    family, denoiser = families()[name], Rescaled(MIXTURE, scaling)
    start = noise(9, 0) * units(LOW, VP, scaling)
    paths = Paths(start, start, torch.arange(9) % 3 - 1)
    for vector in (family.start, moved(family)):
        numbers = family.numbers(vector)
        table = numbers.table()
        wanted = sample(denoiser, start, table.levels, table.solver, cond=paths.cond).x
        assert (fitting.walk(denoiser, numbers, paths) - wanted).abs().max() < 1e-10


@each_family
def test_the_gradient_is_that_of_differences(name):
    family = families()[name]
    paths = paths_of(MIXTURE, 6, 1, steps=30)
    vector = moved(family).requires_grad_()

    def loss(v):
        return square_error(fitting.walk(MIXTURE, family.numbers(v), paths), paths.end).sum()

    exact = torch.autograd.grad(loss(vector), vector)[0]
    with torch.no_grad():
        moves = 1e-5 * torch.eye(len(vector), dtype=torch.float64)
        numeric = torch.stack([(loss(vector + m) - loss(vector - m)) / 2e-5 for m in moves])
    assert exact.abs().max() > 0.01
    assert torch.allclose(exact, numeric, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 4, 7])
@each_family
def test_the_batch_changes_neither_the_loss_nor_its_gradient(name, batch):
    family = families()[name]
    paths = paths_of(MIXTURE, 9, 1, cond=torch.arange(9) % 3 - 1, steps=30)

    def measure(size):
        stage = fitting._Stage(MIXTURE, paths, family, moved(family), 0.3, size)
        with torch.enable_grad():
            loss = stage._loss()
        assert stage.q.grad is not None
        return loss, stage.q.grad

    (loss, gradient), (loss_2, gradient_2) = measure(9), measure(batch)
    assert loss_2.item() == pytest.approx(loss.item(), rel=1e-12)
    assert torch.allclose(gradient, gradient_2, rtol=1e-9, atol=1e-13)


def test_the_loss_is_quadratic_for_small_errors_and_linear_for_large_ones():
    """√(e + c²) − c, averaged over the paths."""
    family = families()["all"]
    start = noise(2, 0)
    ends = fitting.walk(MIXTURE, family.numbers(family.start), Paths(start, start)).detach()
    off = torch.tensor([[0.3, -0.3], [4.0, 4.0]], dtype=torch.float64)  # RMS 0.3 and 4
    stage = fitting._Stage(MIXTURE, Paths(start, ends + off), family, family.start, 0.5, 8)
    with torch.enable_grad():
        loss = stage._loss().item()
    each = [math.sqrt(e**2 + 0.25) - 0.5 for e in (0.3, 4.0)]
    assert loss == pytest.approx(sum(each) / 2, rel=1e-12)


def test_whitened_variables_see_a_sphere():
    """Bᵀ·H·B ≈ I for H = Jᵀ·W·J, J by automatic differentiation, W = 1/(entries·√(e + c²))."""
    family, softness = families(3)["all"], 0.2
    paths = paths_of(MIXTURE, 20, 1, steps=30)
    vector = moved(family)
    stage = fitting._Stage(MIXTURE, paths, family, vector, softness, 8)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: fitting.walk(MIXTURE, family.numbers(v), paths), vector
    )
    ends = fitting.walk(MIXTURE, family.numbers(vector), paths)
    weight = 1.0 / (square_error(ends, paths.end) + softness**2).sqrt() / ends.numel()
    hessian = torch.einsum("bdp,b,bdq->pq", jacobian, weight, jacobian)
    size = hessian.diagonal().sqrt()
    damped = hessian + fitting._DAMPING * torch.diag(size**2)
    sphere = stage.basis.T @ damped @ stage.basis
    assert torch.allclose(sphere, torch.eye(len(vector), dtype=torch.float64), atol=2e-2)


# --- where it starts -------------------------------------------------------------------------


@pytest.mark.parametrize("name", fitting._STARTS)
def test_the_nearest_start_is_the_one_whose_ends_are_nearest(name):
    """Paths that end, but for a little, where one of the tables ends: it is that table."""
    solver, levels = fitting._STARTS[name]
    lams = grid(GRIDS[levels]()(LOW, HIGH), 5)
    start = noise(12, 4)
    end = sample(MIXTURE, start, lams, solver).x + 1e-6
    found, table = nearest_start(MIXTURE, Paths(start, end), LOW, HIGH, 5, batch=5)
    assert found == name and table == FittedTable.of(solver, lams)


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_every_start_is_a_table_of_as_many_evaluations(steps):
    for solver, levels in fitting._STARTS.values():
        table = FittedTable.of(solver, grid(GRIDS[levels]()(LOW, HIGH), steps))
        assert len(table.lams) == steps and table.lams[0] == pytest.approx(LOW)


def test_a_few_that_end_elsewhere_do_not_choose_the_start():
    """By the root mean square the other one would be nearer: one path of twelve is far off."""
    (solver, levels), (other, more) = (fitting._STARTS[n] for n in ("unipc, karras", "abm, flow"))
    start = noise(12, 4)
    end = sample(MIXTURE, start, grid(GRIDS[levels]()(LOW, HIGH), 5), solver).x
    far = sample(MIXTURE, start, grid(GRIDS[more]()(LOW, HIGH), 5), other).x
    end[0] = far[0] + 10.0 * (far[0] - end[0])
    assert nearest_start(MIXTURE, Paths(start, end), LOW, HIGH, 5)[0] == "unipc, karras"


# --- families --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_a_table_is_a_vector_and_back(steps):
    table = first_table(LOW, HIGH, steps, dpmpp_2m())
    back = AllNumbers(table)
    numbers = back.numbers(back.start).table()
    for a, b in [(numbers.lams, table.lams), (numbers.keep, table.keep)]:
        assert a == pytest.approx(b, abs=1e-12)
    for a, b in zip(numbers.shares, table.shares, strict=True):
        assert a == pytest.approx(b, abs=1e-12)
    levels, free = steps - 1, steps * (steps - 1) // 2 + steps - 1
    assert len(back.start) == levels + free


def test_every_number_that_is_free_moves_one_number_and_a_share():
    """Levels apart, a change of one entry changes one number and the last share of its row."""
    family = families(4)["all"]
    base = family.numbers(family.start).table()
    for place in range(3, len(family.start)):
        vector = family.start.clone()
        vector[place] += 0.5
        table = family.numbers(vector).table()
        changes = [(i, "keep") for i in range(4) if table.keep[i] != base.keep[i]]
        changes += [
            (i, j)
            for i in range(4)
            for j in range(i + 1)
            if abs(table.shares[i][j] - base.shares[i][j]) > 1e-9
        ]
        assert len(changes) == 2 and table.lams == base.lams
        (row, _), (row_2, last) = changes
        assert row == row_2 == last


@each_family
def test_every_vector_is_a_walk_that_carries_a_constant(name):
    family = families(5)[name]
    for seed in range(4):
        table = family.numbers(moved(family, seed, 1.0)).table()  # refuses what is none
        assert table.lams[0] == pytest.approx(LOW)


def test_levels_alone_keep_the_weights_of_their_solver():
    family = families(5)["levels of unipc"]
    table = family.numbers(moved(family)).table()
    wanted = FittedTable.of(unipc(), table.levels)
    assert table == wanted and table.lams != first_table(LOW, HIGH, 5).lams


def test_a_family_of_levels_needs_a_solver_that_is_a_table():
    with pytest.raises(MarginalsError, match="heun"):
        LevelsOnly(heun(), first_table(LOW, HIGH, 4).levels)


# --- fitting ---------------------------------------------------------------------------------


def held_out(denoiser, table, paths):
    return errors(denoiser, paths, table.solver, table.levels)


def test_a_fit_is_nearer_on_noise_it_has_not_seen():
    """At least three times for all numbers, and better for the levels alone."""
    fitted_on, unseen = (paths_of(MIXTURE, 64, seed, steps=60) for seed in (1, 2))
    first = first_table(LOW, HIGH, 4)
    before = held_out(MIXTURE, first, unseen)
    every = fit(MIXTURE, fitted_on, AllNumbers(first), rounds=60)
    levels = fit(MIXTURE, fitted_on, LevelsOnly(auto(), first.levels), rounds=60)
    best, some = (held_out(MIXTURE, table, unseen) for table in (every, levels))
    assert best.mean < before.mean / 3 and best.median < before.median / 3
    assert some.mean < before.mean / 1.5 and best.mean < some.mean
    assert every.lams[0] == pytest.approx(first.lams[0])
    assert levels.keep == FittedTable.of(auto(), levels.levels).keep


@pytest.mark.parametrize("scaling", [VP, FLOW])
def test_where_the_flow_is_linear_a_fit_is_nearly_exact(scaling):
    """N(m, Σ) in two dimensions: two numbers say where a path ends, and a table of three
    evaluations has more than that."""
    oracle = Rescaled(GAUSSIAN, scaling)
    first = first_table(LOW, HIGH, 3)

    def exact(seed):
        x = noise(32, seed)
        return Paths(x * units(LOW, VP, scaling), GAUSSIAN.flow(x, LOW, math.inf))

    before = held_out(oracle, first, exact(2)).rmse
    table = fit(oracle, exact(1), AllNumbers(first), rounds=60)
    assert before > 0.01 and held_out(oracle, table, exact(2)).rmse < 1e-5


def test_the_same_inputs_give_the_same_table_whatever_the_clock_says(monkeypatch):
    paths, family = paths_of(MIXTURE, 24, 1, steps=30), families(3)["all"]
    once = fit(MIXTURE, paths, family, rounds=4)
    monkeypatch.setattr(fitting.time, "monotonic", iter(range(0, 10**9, 1000)).__next__)
    assert fit(MIXTURE, paths, family, rounds=4) == once
    assert fit(MIXTURE, paths, family, rounds=8) != once


def test_time_is_shared_among_the_stages(monkeypatch):
    """Each look at the clock is a second later: nine seconds are three rounds a stage."""
    paths, family, told = paths_of(MIXTURE, 24, 1, steps=30), families(3)["all"], []
    monkeypatch.setattr(fitting.time, "monotonic", iter(range(10**6)).__next__)
    monkeypatch.setattr(fitting._Stage, "improve", lambda self: True)
    fit(MIXTURE, paths, family, seconds=9.0, report=lambda share, _: told.append(share))
    assert told == pytest.approx([i / 9 for i in range(1, 10)])
    told.clear()
    fit(MIXTURE, paths, family, rounds=6, report=lambda share, _: told.append(share))
    assert told == pytest.approx([i / 6 for i in range(1, 7)])
    told.clear()
    monkeypatch.setattr(fitting._Stage, "improve", lambda self: False)
    fit(MIXTURE, paths, family, seconds=9.0, report=lambda share, _: told.append(share))
    assert len(told) == 3  # a stage that gains nothing is the last of its kind


def test_a_fit_does_not_depend_on_the_batch():
    paths, family = paths_of(MIXTURE, 24, 1, steps=30), families(3)["all"]
    one, two = (fit(MIXTURE, paths, family, rounds=3, batch=size) for size in (24, 7))
    assert one.lams == pytest.approx(two.lams, rel=1e-6)


class Broken:
    """A denoiser that says NaN, from some level on."""

    scaling = VP

    def __init__(self, above=-math.inf):
        self.above = above

    def __call__(self, x, lam, cond=None):
        estimate = MIXTURE(x, lam, cond)
        lam = torch.as_tensor(lam, dtype=x.dtype).reshape(-1, 1)
        return Estimate(x, lam, VP, torch.where(lam > self.above, math.nan, estimate.x0))


def test_a_network_that_is_not_finite_is_a_sentence():
    with pytest.raises(MarginalsError, match="NaN or infinity: use an earlier checkpoint"):
        fit(Broken(), paths_of(MIXTURE, 16, 1, steps=20), families(3)["all"], rounds=3)


def test_one_walk_that_is_not_finite_is_enough():
    paths = paths_of(MIXTURE, 16, 1, steps=20)
    paths.start[3] = math.inf
    with pytest.raises(MarginalsError, match="NaN or infinity: use an earlier checkpoint"):
        fit(MIXTURE, paths, families(3)["all"], rounds=3)


def test_the_best_vector_is_kept_when_the_next_is_worse():
    paths, family = paths_of(MIXTURE, 16, 1, steps=30), families(3)["all"]
    stage = fitting._Stage(MIXTURE, paths, family, family.start, 0.1, 8)
    with torch.enable_grad():
        best = stage._loss().item()
        stage.q.data[0] = 5.0
        worse = stage._loss().item()
    assert worse > best and stage.best == best and torch.equal(stage.vector, family.start)


def test_the_shape_of_a_picture_does_not_matter():
    """(B, 2) as (B, 1, 2, 1)."""
    tall = Mixture(MIXTURE.means.reshape(-1, 1, 2, 1), MIXTURE.std)
    flat, family = paths_of(MIXTURE, 16, 1, steps=30), families(3)["all"]
    pictures = Paths(flat.start.reshape(-1, 1, 2, 1), flat.end.reshape(-1, 1, 2, 1))
    one, two = (fit(d, p, family, rounds=3) for d, p in ((MIXTURE, flat), (tall, pictures)))
    assert two.lams == pytest.approx(one.lams, rel=1e-6)


def test_a_step_into_nan_is_turned_back():
    """The denoiser breaks a little above the last level it is first asked at."""
    first = first_table(LOW, HIGH, 3)
    paths = paths_of(MIXTURE, 24, 1, steps=30)
    wall = Broken(first.lams[-1] + 0.3)
    table = fit(wall, paths, AllNumbers(first), rounds=12)
    assert table.lams[-1] <= wall.above
    assert held_out(wall, table, paths).mean < held_out(wall, first, paths).mean


@pytest.mark.parametrize("make", [AllNumbers, lambda t: LevelsOnly(auto(), t.levels)])
def test_one_evaluation_leaves_nothing_to_fit(make):
    first = first_table(LOW, HIGH, 1)
    assert fit(MIXTURE, paths_of(MIXTURE, 16, 1, steps=20), make(first), rounds=3) == first


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_where_all_walks_end_alike_there_is_nothing_to_gain(value):
    """A constant denoiser is carried exactly by every table of the family."""

    class Constant:
        scaling = VP

        def __call__(self, x, lam, cond=None):
            return Estimate(x, lam, VP, torch.full_like(x, value) + 0.0 * x)

    paths = paths_of(Constant(), 16, 1, steps=20)
    table = fit(Constant(), paths, families(3)["all"], rounds=3)
    assert held_out(Constant(), table, paths).rmse < 1e-9


def test_fitting_starts_from_the_default_or_another_solver():
    lams = grid(fitting.straight(LOW, HIGH), 6)
    assert first_table(LOW, HIGH, 6) == FittedTable.of(auto(), lams)
    assert first_table(LOW, HIGH, 6, unipc()) == FittedTable.of(unipc(), lams)


@pytest.mark.parametrize("far", [5.0, 7.0, -40.0])
def test_levels_without_a_table_are_a_wall_and_not_an_end(far, monkeypatch):
    """A line search that goes too far comes back; the best vector so far is kept."""
    lams = grid(straight(-8.0, 8.0), 4)
    family = LevelsOnly(auto(), lams)
    with pytest.raises((MarginalsError, ArithmeticError)):
        family.numbers(family.start + far)
    oracle = Gaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, 0.05])))
    start = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    paths = follow(oracle, start, -8.0, 8.0)
    honest, calls = family.numbers, []

    def sometimes(vector):
        if vector.requires_grad:  # only the line search tries what may be too far
            calls.append(vector)
        return honest(vector + far if vector.requires_grad and len(calls) % 9 == 8 else vector)

    monkeypatch.setattr(family, "numbers", sometimes)
    table = fit(oracle, paths, family, rounds=6)
    assert len(calls) >= 8
    before = errors(oracle, paths, auto(), lams).mean
    assert errors(oracle, paths, table.solver, table.levels).mean <= before


def test_the_levels_of_a_solver_that_asks_twice_are_refused():
    with pytest.raises(MarginalsError, match="more than once a step"):
        LevelsOnly(dpmpp_2s(), grid(straight(-8.0, 8.0), 4))
