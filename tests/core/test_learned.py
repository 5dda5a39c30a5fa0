"""The learned schedule: exact ends and inverse; a mean that its interior cannot move, and a
variance that it lowers, on a denoiser known in closed form."""

import copy
import math

import pytest
import torch

import marginals
from marginals import VP, MarginalsError
from marginals.gaussian import Prior
from marginals.learned import LearnedSchedule, LearnedTime, StepTime, Variational, end_losses
from marginals.nn import MLP
from marginals.objective import Elbo, Objective, UniformTime, spread_uniform
from marginals.oracle import Mixture
from marginals.schedule import Cosine, LogLinear

F64 = torch.float64


def bent(knots=7, spread=1.5, **options):
    """A schedule that has learned something."""
    schedule = LearnedSchedule(9.0, -6.0, knots, **options)
    schedule.assign((torch.randn(knots) * spread).exp())
    return schedule


def test_a_fresh_one_is_the_straight_line():
    t = torch.rand(50, dtype=F64)
    fresh, line = LearnedSchedule(9.0, -6.0, 5), LogLinear(9.0, -6.0)
    assert torch.allclose(fresh.lam(t), line.lam(t), atol=1e-12)
    assert torch.allclose(fresh.density(line.lam(t)), line.density(line.lam(t)), atol=1e-12)


@pytest.mark.parametrize("learn_ends", [False, True])
def test_the_ends_are_exact_and_the_inverse_is_the_inverse(learn_ends):
    schedule = bent(learn_ends=learn_ends)
    assert schedule.lam(0.0) == schedule.lam_max == 9.0
    assert schedule.lam(1.0) == schedule.lam_min == -6.0
    assert (schedule.t(9.0), schedule.t(-6.0)) == (0.0, 1.0)
    t = torch.linspace(0, 1, 1001, dtype=F64)
    lam = schedule.lam(t)
    assert (lam.diff() < 0).all()
    assert torch.allclose(schedule.t(lam), t, atol=1e-12)
    inside = torch.rand(200, dtype=F64)
    slope = (schedule.lam(inside + 1e-9) - schedule.lam(inside - 1e-9)) / 2e-9
    assert torch.allclose(schedule.dlam(inside), slope, rtol=1e-5)
    assert torch.allclose(schedule.density(schedule.lam(inside)), -1 / slope, rtol=1e-5)


def test_the_density_integrates_to_one_and_never_vanishes():
    schedule = bent(spread=30.0)
    middle = torch.linspace(-6, 9, 70_001, dtype=F64)[:-1] + 7.5 / 70_000
    density = schedule.density(middle)
    assert density.mean().item() * 15 == pytest.approx(1.0, abs=1e-9)
    assert density.min().item() >= 0.05 / 15 * 0.999


def test_gradients_reach_the_interior_through_levels_and_density():
    schedule = bent().double()
    t = torch.tensor([0.13, 0.5, 0.77], dtype=F64)

    def levels(logits):
        return torch.func.functional_call(Caller(schedule), {"inner.logits": logits}, (t,))

    logits = schedule.logits.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(levels, (logits,))


class Caller(torch.nn.Module):
    """Levels and densities of a schedule, as a function of its logits."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, t):
        lam = self.inner.lam(t)
        return torch.cat([lam, self.inner.density(lam.detach())])


def oracle():
    means = torch.tensor([[-0.9, 0.4], [0.5, 0.7], [0.1, -1.1]], dtype=F64)
    return Mixture(means, [0.01, 0.1, 0.02])


def moments(count=40, draws=8_000):
    """E[e | λ] and E[e² | λ] of the oracle's error e = ½‖ε − ε̂‖² on a grid within [−6, 9]."""
    exact = oracle()
    generator = torch.Generator().manual_seed(1)
    grid = -6 + 15 * (torch.arange(count, dtype=F64) + 0.5) / count
    x0, _ = exact.sample(draws, seed=1)
    eps = torch.randn(draws, 2, dtype=F64, generator=generator)
    errors = []
    for lam in grid.tolist():
        level = VP(lam)
        estimate = exact(level.alpha * x0 + level.sigma * eps, lam)
        errors.append(0.5 * (estimate.eps - eps).square().sum(1))
    errors = torch.stack(errors)
    return grid, errors.mean(1), errors.square().mean(1)


def estimate_of(schedule, grid, first, second):
    """Mean and variance of e/p(λ) for λ ~ p, by quadrature on a grid that respects the bins."""
    density = schedule.density(grid).detach()
    cell = 15 / len(grid)
    # ∫ p·(e/p)  and  ∫ p·(e/p)²
    mean = (density * (first / density) * cell).sum()
    return mean.item(), ((second / density) * cell).sum().item() - mean.item() ** 2


def trained(steps=250, batch=128):
    """A schedule that saw the oracle's losses, through the objective of a VDM and nothing else."""
    exact, schedule = oracle(), LearnedSchedule(9.0, -6.0, 8)
    objective = Variational(Elbo(), LearnedTime(schedule))
    optimizer = torch.optim.Adam(schedule.parameters(), lr=2e-2)
    generator = torch.Generator().manual_seed(0)
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - i / steps)
        x0, _ = exact.sample(batch, seed=i)
        eps = torch.randn(batch, 2, dtype=F64, generator=generator)
        lam = objective.levels.sample(spread_uniform(batch, generator))
        optimizer.zero_grad()
        objective(exact, x0, lam, eps).mean().backward()
        optimizer.step()
    return schedule


def test_the_interior_lowers_the_variance_and_leaves_the_mean():
    grid, first, second = moments()
    before, after = LearnedSchedule(9.0, -6.0, 8), trained()
    mean, scatter = estimate_of(before, grid, first, second)
    same, less = estimate_of(after, grid, first, second)
    assert same == pytest.approx(mean, rel=1e-12)
    # the best histogram there is: w ∝ √(second moment of the bin)
    best = second.view(8, 5).mean(1).sqrt().flip(0)
    target = LearnedSchedule(9.0, -6.0, 8, floor=1e-9)
    target.assign(best)
    assert torch.allclose(target.widths(), best / best.sum(), rtol=1e-5)
    _, least = estimate_of(target, grid, first, second)
    assert least < less < scatter
    assert less - least < 0.15 * (scatter - least)


def test_the_losses_are_those_without_learning_to_the_last_bit():
    exact, schedule = oracle(), bent()
    x0, _ = exact.sample(32)
    eps = torch.randn(32, 2, dtype=F64)
    lam = schedule.lam(torch.rand(32, dtype=F64)).detach()
    plain = Objective(Elbo(), UniformTime(schedule))(exact, x0, lam, eps)
    learning = Variational(Elbo(), LearnedTime(schedule))(exact, x0, lam, eps)
    assert torch.equal(plain, learning)


def test_the_scatters_gradient_is_that_of_the_second_moment():
    """E_{λ~p_old}[(e/p_old)²·p_old/p] = ∫ E[e²]/p: its gradient, by quadrature with e = 1 + λ²."""
    schedule = bent(knots=4, floor=0.2).double()
    u = (torch.arange(40_000, dtype=F64) + 0.5) / 40_000
    lam = schedule.lam(u).detach()
    losses = (1 + lam.square()) / schedule.density(lam).detach()
    schedule.scatter(lam, losses).backward()
    found = schedule.logits.grad.clone()
    schedule.logits.grad = None
    grid = -6 + 15 * (torch.arange(40_000, dtype=F64) + 0.5) / 40_000
    ((1 + grid.square()).square() / schedule.density(grid)).mean().log().backward()
    assert torch.allclose(found, schedule.logits.grad, atol=1e-3)
    assert found.abs().max() > 0.05


def test_the_bound_of_t_steps_is_the_sum_over_its_steps():
    """StepTime's estimate, averaged over the T levels, is Σ ½·expm1(λ_s − λ_t)·‖ε − ε̂‖²."""
    exact, schedule, steps = oracle(), bent(), 6
    x0, _ = exact.sample(1)
    eps = torch.randn(1, 2, dtype=F64)
    levels = StepTime(schedule, steps)
    lam = levels.sample((torch.arange(steps, dtype=F64) + 0.4) / steps)
    times = [i / steps for i in range(steps + 1)]
    assert lam.tolist() == pytest.approx([schedule.lam(t) for t in times[1:]], abs=1e-12)
    losses = Objective(Elbo(), levels)(exact, x0.expand(steps, 2), lam, eps.expand(steps, 2))
    total = 0.0
    for t, s in zip(times[1:], times, strict=False):
        level = VP(schedule.lam(t))
        error = (exact(level.alpha * x0 + level.sigma * eps, level.lam).eps - eps).square().mean()
        total += 0.5 * math.expm1(schedule.lam(s) - level.lam) * error.item()
    assert losses.mean().item() == pytest.approx(total, rel=1e-10)


def test_the_interior_moves_the_bound_of_t_steps_but_not_the_continuous_one():
    """For one picture and one noise, every u in turn: quadrature over time, no sampling error."""
    exact = oracle()
    x0, _ = exact.sample(1, seed=3)
    eps = torch.randn(1, 2, dtype=F64)
    u = (torch.arange(8000, dtype=F64) + 0.5) / 8000

    def bound(levels):
        pictures = x0.expand(8000, 2), levels.sample(u), eps.expand(8000, 2)
        return Objective(Elbo(), levels)(exact, *pictures).mean().item()

    line, curve = LogLinear(9.0, -6.0), bent(spread=2.0)
    with torch.no_grad():
        few = [bound(StepTime(s, 8)) for s in (line, curve)]
        many = [bound(UniformTime(s)) for s in (line, curve)]
    assert abs(few[1] - few[0]) > 0.1 * few[0]
    assert abs(many[1] - many[0]) < 5e-3 * many[0]


def test_many_steps_become_continuous_time():
    lam = torch.linspace(-5, 5, 11, dtype=F64)
    time = Cosine()
    grid = time.lam((time.t(lam) * 1e6).round() / 1e6)
    assert torch.allclose(StepTime(time, 1_000_000).density(grid), time.density(grid), rtol=1e-4)


def test_impossible_schedules_are_refused():
    with pytest.raises(MarginalsError, match="lam_min below lam_max"):
        LearnedSchedule(-5.0, 13.0)
    with pytest.raises(MarginalsError, match="knots >= 1"):
        LearnedSchedule(knots=0)
    with pytest.raises(MarginalsError, match="at least 1 step"):
        StepTime(Cosine(), 0)


def tiny_vdm(**options):
    net = MLP(16, width=32, depth=2)
    return marginals.vdm(net, data=marginals.DataStats((1, 4, 4), 0.0, 0.6), **options)


@pytest.mark.parametrize("options", [{}, {"steps": 16}, {"learned": False}], ids=str)
def test_every_vdm_trains_samples_and_survives_a_copy(options):
    model = tiny_vdm(**options)
    x = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
    losses, lam = model.losses(x, generator=torch.Generator().manual_seed(0))
    losses.mean().backward()
    assert losses.shape == lam.shape == (8,)
    assert not lam.requires_grad
    twin = copy.deepcopy(model)
    if isinstance(model.schedule, LearnedSchedule):
        assert model.schedule.logits.grad.abs().max() > 0
        assert twin.objective.levels.schedule is twin.schedule is not model.schedule
    assert model.sample(2, steps=3).x.shape == (2, 1, 4, 4)
    assert model.elbo(x, samples=2).density is False


def test_whole_numbers_stay_on_the_grid_in_training():
    """With a blank network the loss is a function of x0 only through x; the noise is the same."""
    seen = []
    model = tiny_vdm()
    model.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
    x = torch.full((4, 1, 4, 4), 200, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    _, lam = model.losses(x, generator=generator)
    generator.manual_seed(0)
    spread_uniform(4, generator)
    eps = torch.randn(4, 1, 4, 4, generator=generator)
    level = VP(lam.view(-1, 1, 1, 1))
    centre = (2 * 200 + 1) / 256 - 1
    assert torch.allclose(seen[0][0].double(), level.alpha * centre + level.sigma * eps, atol=1e-6)


def whole_bound(ends, exact, x0, eps, u):
    """−ELBO/D for one picture and one noise with the ends at ``ends``: quadrature over time."""
    time = LearnedSchedule(*ends, knots=6, learn_ends=True).double()
    losses = Variational(Elbo(), LearnedTime(time))
    lam = LearnedTime(time).sample(u)
    between = losses(exact, x0.expand(len(u), 2), lam, eps.expand(len(u), 2)).mean()
    return time, between + end_losses(time, VP, Prior(0.0, 0.8), x0, None, eps).mean()


def test_the_gradient_of_the_ends_is_that_of_the_bound():
    """Autograd through levels, weights and both end terms = finite differences of their sum."""
    exact, ends, h = oracle(), [6.0, -3.0], 1e-4
    x0, eps = exact.sample(1, seed=2)[0], torch.randn(1, 2, dtype=F64)
    u = (torch.arange(6000, dtype=F64) + 0.5) / 6000
    time, bound = whole_bound(ends, exact, x0, eps, u)
    bound.backward()
    for i in (0, 1):
        moved = [[e + d * (i == j) for j, e in enumerate(ends)] for d in (h, -h)]
        with torch.no_grad():
            up, down = (whole_bound(m, exact, x0, eps, u)[1].item() for m in moved)
        assert time.ends.grad[i].item() == pytest.approx((up - down) / (2 * h), rel=2e-3)


def test_the_ends_move_to_where_the_bound_is_better():
    """A chain that stops far too early on both sides, with the exact denoiser."""
    exact = oracle()
    x0, eps = exact.sample(1, seed=2)[0], torch.randn(1, 2, dtype=F64)
    u = (torch.arange(500, dtype=F64) + 0.5) / 500
    ends, bounds = [3.0, 1.0], []
    for _ in range(30):
        time, bound = whole_bound(ends, exact, x0, eps, u)
        bound.backward()
        ends = [e - 2.0 * g for e, g in zip(ends, time.ends.grad.tolist(), strict=True)]
        bounds.append(bound.item())
    assert ends[0] > 3.5 and ends[1] < 0.0
    assert bounds[-1] < bounds[0] - 0.3


def test_a_model_whose_ends_learn():
    model = tiny_vdm(learn_ends=True)
    x = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
    model.loss(x).backward()
    assert (model.schedule.ends.grad.abs() > 0).all()
    # a blank network is paid for every level it does not have to denoise
    assert model.schedule.ends.grad[0] > 0 > model.schedule.ends.grad[1]
    with torch.no_grad():
        model.schedule.ends.copy_(torch.tensor([2.0, 5.0]))
    assert (model.lam_max, model.lam_min) == (2.0, 1.0)
    assert model.schedule.lam(1.0) == 1.0
    assert model.elbo(x, samples=2).nats.isfinite().all()
