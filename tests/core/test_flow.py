"""Flow matching as one more way to look at diffusion: times, velocities, gradients, shifts."""

import itertools
import math

import pytest
import torch
from torch import nn

import marginals
from marginals import DataStats
from marginals.denoiser import Rescaled
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_model, save_model
from marginals.nn import MLP
from marginals.objective import (
    ModeTime,
    Mse,
    NormalLevels,
    Objective,
    ShiftedLevels,
    UniformTime,
    logit_normal,
    spread_uniform,
)
from marginals.oracle import Mixture, empirical
from marginals.predict import EPS, VELOCITY, V
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP, UnitVariance, units
from marginals.schedule import Cosine, LinearBeta, Logit, LogLinear, Tabulated
from marginals.shift import Shifted, resolution_shift
from marginals.solvers import ddim, grid, straight, uniform_lam, uniform_time
from marginals.solvers.grids import shifted_grid

SCALINGS = [VP, VE, FLOW, SUB_VP, UnitVariance(0.5)]
LAM = torch.linspace(-9.0, 9.0, 37, dtype=torch.float64)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(dims=3, scaling=VP):
    return Mixture(randn(4, dims, seed=1), [0.2, 0.4, 0.1, 0.3], scaling=scaling)


# ---- one process, walked in any time -----------------------------------------------------------


def euler_on_the_flow(oracle, x, lams):
    """x_t + (s − t)·(ε̂ − x̂0) in flow time and flow units, written out."""
    flow = Rescaled(oracle, FLOW)
    for a, b in itertools.pairwise(lams):
        t, s = FLOW(a).sigma, FLOW(b).sigma
        est = flow(x, a)
        x = x + (s - t) * (est.eps - est.x0)
    return x


@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
@pytest.mark.parametrize("levels", [straight, uniform_lam, uniform_time(Cosine())])
def test_ddim_is_euler_on_the_flow_in_a_stretched_time(scaling, levels):
    oracle, lams = mixture(scaling=scaling), grid(levels(-8.0, 9.0), 7)
    start = randn(5, 3, seed=2) * oracle.scaling(lams[0]).sigma
    got = sample(oracle, start, lams, ddim()).x / scaling(math.inf).alpha
    wanted = euler_on_the_flow(oracle, start * units(lams[0], scaling, FLOW), lams)
    assert (got - wanted).abs().max() < 1e-10


def test_the_marginal_velocity_is_the_same_from_eps_score_x0_and_the_posterior():
    """v(x) = E[ε − x0 | x_t = x] (Liu et al. 2022), from every reading of an exact denoiser and
    from the posterior over the components, written out."""
    oracle = mixture(scaling=FLOW)
    for t in (0.02, 0.4, 0.97):
        lam = Logit().lam(t)
        x = randn(6, 3, seed=3)
        est = oracle(x, lam)
        var = (1 - t) ** 2 * oracle.std**2 + t**2
        gap = x[:, None] - (1 - t) * oracle.means
        log = -0.5 * gap.square().sum(-1) / var - 1.5 * var.log()
        share = log.softmax(1)[..., None]
        mean = oracle.means + ((1 - t) * oracle.std**2 / var)[:, None] * gap  # E[x0 | x, k]
        posterior = (share * ((x[:, None] - (1 - t) * mean) / t - mean)).sum(1)
        score = oracle.score(x, lam)
        for velocity in (
            est.eps - est.x0,
            est.eps - (x - t * est.eps) / (1 - t),
            (x - (1 - t) * est.x0) / t - est.x0,
            -(x + t * score) / (1 - t),
            est.velocity(Logit()),
        ):
            assert (velocity - posterior).abs().max() < 1e-10 * posterior.abs().max()


def test_the_marginal_velocity_carries_the_marginals():
    """The continuity equation ∂p/∂t + ∂(p·v)/∂x = 0 on a line, by central differences."""
    oracle = Mixture(torch.tensor([[-1.0], [0.4], [2.0]]), [0.3, 0.2, 0.5], scaling=FLOW)
    x, h = torch.linspace(-4, 5, 181, dtype=torch.float64)[:, None], 1e-3

    def density(t, x):
        return oracle.log_prob(x, Logit().lam(t)).exp()

    def flux(x):
        return density(0.6, x) * oracle(x, Logit().lam(0.6)).velocity(Logit())[:, 0]

    def slope(f, at):  # fourth order
        return (8 * (f(at + h) - f(at - h)) - (f(at + 2 * h) - f(at - 2 * h))) / (12 * h)

    growth, outflow = slope(lambda t: density(t, x), 0.6), slope(flux, x)
    assert growth.abs().max() > 0.1
    assert (growth + outflow).abs().max() < 1e-8


def test_a_diffusion_checkpoint_is_a_flow_and_back(tmp_path):
    """No weight is touched: the same file, presented in flow units, walked along its velocity."""
    data = DataStats((3,), 0.1, 0.8)
    torch.manual_seed(1)
    body = MLP(3, width=16, depth=1)
    nn.init.normal_(body.leave.weight, std=0.3)
    model = marginals.v_diffusion(body, data=data)
    save_model(tmp_path / "diffusion.safetensors", model)
    model.double()
    save_model(
        tmp_path / "flow.safetensors",
        load_model(tmp_path / "diffusion.safetensors").convert(FLOW),
    )
    flow = load_model(tmp_path / "flow.safetensors")
    save_model(tmp_path / "back.safetensors", flow.convert(VP))
    flow, back = flow.double(), load_model(tmp_path / "back.safetensors").double()
    assert flow.scaling == FLOW and back.scaling == VP and flow.net.prediction == V
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)
    lams = grid(straight(model.lam_min, model.lam_max), 6)
    wanted = model.sample(4, steps=6, solver=ddim()).x
    start = flow.start(range(4))
    along = euler_on_the_flow(flow.net, start, lams)
    assert wanted.std() > 0.1
    others = (twin.sample(4, steps=6, solver=ddim()).x for twin in (flow, back))
    for got in (along, *others):
        assert (got - wanted).abs().max() < 1e-10


def test_the_gradient_of_conditional_flow_matching_is_that_of_the_marginal_one():
    """Lipman et al. 2023, Theorem 2: E‖v − u(x|x0)‖² and E‖v − u(x)‖² differ by a constant.

    Integrals over x on one grid for both, with the same network; the pairs' own velocities are
    written out, the mean one is the oracle's.
    """
    points = torch.tensor([[-1.1], [0.3], [0.8]], dtype=torch.float64)
    oracle, t = empirical(points, scaling=FLOW), 0.35
    x = torch.linspace(-4.0, 4.0, 400, dtype=torch.float64)[:, None]
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    gap = x - (1 - t) * points.T
    each = (-0.5 * gap**2 / t**2).exp() / 3  # p(x, x0_k) up to a constant
    own = gap / t - points.T
    marginal = oracle(x, Logit().lam(t)).velocity(Logit())
    conditional_loss = (each * (net(x) - own).square()).sum()
    marginal_loss = (each.sum(1, keepdim=True) * (net(x) - marginal).square()).sum()
    assert (conditional_loss - marginal_loss).item() > 1.0
    ours = torch.autograd.grad(conditional_loss, list(net.parameters()))
    theirs = torch.autograd.grad(marginal_loss, list(net.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        assert b.abs().max() > 1e-2
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


def test_the_minimiser_of_the_loss_is_the_marginal_velocity():
    """Regression on pairs: for Gaussian data the best linear velocity is the oracle's, exactly, if
    the pairs have exactly the moments of the law (a cubature)."""
    s, t = 0.6, 0.3
    points = math.sqrt(2.0) * torch.eye(2, dtype=torch.float64)
    points = torch.cat([points, -points])
    x0, eps = s * points[:, :1], points[:, 1:]
    x = (1 - t) * x0 + t * eps
    slope = (x * (eps - x0)).sum() / x.square().sum()
    oracle = Mixture(torch.zeros(1, 1), s, scaling=FLOW)
    wanted = oracle(torch.ones(1, 1).double(), Logit().lam(t)).velocity(Logit())
    assert slope.item() == pytest.approx(wanted.item(), abs=1e-12)


# ---- times of training -------------------------------------------------------------------------

TIMES = {
    "uniform": (UniformTime(Logit()), lambda t: torch.ones_like(t)),
    "cosine map": (
        UniformTime(Cosine()),
        lambda t: 2.0 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2),
    ),
    "logit-normal": (
        logit_normal(0.5, 0.8),
        lambda t: (
            (-0.5 * ((t.logit() - 0.5) / 0.8) ** 2).exp()
            / (0.8 * math.sqrt(2 * math.pi) * t * (1 - t))
        ),
    ),
}


@pytest.mark.parametrize("name", TIMES)
def test_densities_are_those_of_stable_diffusion_3(name):
    """Esser et al. 2024, Eqs. 19 and 21, of flow time, where 1 is noise."""
    levels, density = TIMES[name]
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    got = levels.density(Logit().lam(t)) * -Logit().dlam(t)
    assert torch.allclose(got, density(t), rtol=1e-10)


@pytest.mark.parametrize("scale", [-1.0, -0.4, 0.0, 0.81, 1.29, 1.75])
def test_mode_time_is_their_map_of_uniform_numbers(scale):
    """Esser et al. 2024, Eq. 20; its density is one over the slope of that map."""
    levels = ModeTime(scale)
    u = torch.linspace(0.001, 0.999, 201, dtype=torch.float64)
    t = 1 - u - scale * ((math.pi / 2 * u).cos() ** 2 - 1 + u)
    lam = levels.sample(u)
    assert torch.allclose(FLOW(lam).sigma, t, atol=1e-12)
    h = 1e-6
    slope = (levels.sample(u + h / 2) - levels.sample(u - h / 2)) / h
    assert torch.allclose(levels.density(lam) * slope.abs(), torch.ones_like(u), rtol=1e-5)


def test_mode_time_stays_exact_at_both_ends():
    u = torch.tensor([2.0**-53, 1e-12, 1 - 1e-12], dtype=torch.float64)
    for levels in (ModeTime(), ModeTime(-0.7)):
        lam = levels.sample(u)
        assert bool(lam.isfinite().all()) and bool((levels.density(lam) > 0).all())
        assert lam[1].item() == pytest.approx(-lam[2].item(), rel=1e-4)
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    assert torch.allclose(ModeTime(0.0).sample(u), Logit().lam(1 - u), atol=1e-12)
    for scale in (-1.01, 1.76, math.nan):
        with pytest.raises(MarginalsError, match="ModeTime"):
            ModeTime(scale)


LEVELS = [
    logit_normal(),
    logit_normal(-0.5, 0.7),
    ModeTime(),
    ModeTime(-0.5),
    UniformTime(Cosine()),
    ShiftedLevels(logit_normal(), 3.0),
]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_sample_is_the_inverse_distribution_function_of_density(levels):
    u = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    lam = levels.sample(u).sort().values
    for a, b, share in zip(lam, lam[1:], u.diff(), strict=False):
        points = torch.linspace(a.item(), b.item(), 401, dtype=torch.float64)
        mass = torch.trapezoid(levels.density(points), points).item()
        assert mass == pytest.approx(share.item(), rel=1e-5)


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_what_a_loss_counts_and_where_it_looks_are_two_things(levels):
    """Plain MSE at other times counts them by their density; with the weights of uniform time the
    expectation is that of uniform time: each squared error has weight p_uniform/p."""
    plain = Objective(Mse(VELOCITY, levels), levels)
    assert torch.allclose(plain.weight(VELOCITY, LAM), torch.full_like(LAM, 0.5), rtol=1e-12)
    uniform = Objective(Mse(VELOCITY, Logit()), levels)
    wanted = 0.5 * Logit().density(LAM) / levels.density(LAM)
    assert torch.allclose(uniform.weight(VELOCITY, LAM), wanted, rtol=1e-12)


def test_rectified_flow_at_other_times_is_plain_mse_there(tmp_path):
    data = DataStats((3,), 0.0, 1.0)
    body = MLP(3, width=8, depth=1)
    nn.init.normal_(body.leave.weight)
    x = torch.randn(16, 3)
    for levels in (None, logit_normal(0.0, 1.0), ModeTime()):
        model = marginals.rectified_flow(body, data=data, levels=levels)
        losses, lam = model.losses(x, generator=torch.Generator().manual_seed(5))
        generator = torch.Generator().manual_seed(5)
        u = spread_uniform(16, generator)
        eps = torch.randn(x.shape, generator=generator)
        wanted = (levels or UniformTime(Logit())).sample(u)
        assert torch.equal(lam, wanted)
        t = FLOW(wanted).sigma.float()[:, None]
        out = body((1 - t) * x + t * eps, t[:, 0])
        assert torch.allclose(losses, 0.5 * (out - (eps - x)).square().mean(1), rtol=1e-4)
        save_model(tmp_path / "model.safetensors", model)
        assert load_model(tmp_path / "model.safetensors").objective == model.objective


# ---- pictures of another size ------------------------------------------------------------------

SCHEDULES = [Logit(), Logit(2.0), Cosine(), LinearBeta(), LogLinear(), Tabulated.ddpm()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_shift_moves_lambda_and_nothing_else(schedule):
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    moved = Shifted(schedule, 3.0)
    assert torch.allclose(moved.lam(t), schedule.lam(t) - 2 * math.log(3.0), atol=1e-12)
    assert torch.allclose(moved.t(moved.lam(t)), t, atol=1e-9)
    assert torch.equal(moved.dlam(t), schedule.dlam(t))
    assert torch.allclose(
        Shifted(moved, 0.5).lam(t), Shifted(schedule, 1.5).lam(t), rtol=1e-12, atol=1e-12
    )
    lam = moved.lam(t)
    assert torch.allclose(
        ShiftedLevels(UniformTime(schedule), 3.0).density(lam), moved.density(lam), rtol=1e-10
    )
    assert torch.equal(ShiftedLevels(UniformTime(schedule), 3.0).sample(t), lam)


def test_the_shift_of_flow_time_is_stable_diffusion_3s():
    """Esser et al. 2024, Eq. 23: t' = s·t/(1 + (s − 1)·t); of a logit-normal it moves the mean."""
    t, s = torch.linspace(0.01, 0.99, 99, dtype=torch.float64), 3.0
    lam = Shifted(Logit(), s).lam(t)
    assert torch.allclose(FLOW(lam).sigma, s * t / (1 + (s - 1) * t), atol=1e-14)
    assert torch.allclose(lam, Logit(s).lam(t), atol=1e-12)
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    moved = ShiftedLevels(logit_normal(0.2, 0.9), s)
    assert torch.allclose(moved.sample(u), logit_normal(0.2 + math.log(s), 0.9).sample(u))
    assert logit_normal(0.2, 0.9) == NormalLevels(-0.4, 1.8)


def test_walks_shift_as_schedules_do():
    ends, s = (-9.0, 9.0), 2.5
    walk = grid(shifted_grid(uniform_time(Logit()), s)(*ends), 9)
    wanted = grid(uniform_time(Logit(s))(*ends), 9)
    assert walk == pytest.approx(wanted, abs=1e-9)


def test_the_shift_keeps_the_noise_of_an_averaged_picture():
    """A picture of 4 times the pixels at λ' looks, averaged 2 x 2, as the small one at λ."""
    s = resolution_shift((3, 64, 64), (1, 32, 32))
    assert s == 2.0 and resolution_shift((64, 32), (32, 32)) == pytest.approx(math.sqrt(2))
    lam = 0.7
    small, large = VP(lam), VP(lam - 2 * math.log(s))
    noise = large.sigma / math.sqrt(4)  # of the mean of four pixels
    assert large.alpha / noise == pytest.approx(small.alpha / small.sigma, rel=1e-12)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(MarginalsError, match="shift"):
            Shifted(Logit(), wrong)
        with pytest.raises(MarginalsError, match="shift"):
            ShiftedLevels(logit_normal(), wrong)
    with pytest.raises(MarginalsError, match="pixels"):
        resolution_shift((1, 0, 8), (1, 8, 8))


def test_mse_takes_a_schedule_or_levels_for_the_same_weights():
    assert torch.equal(Mse(EPS, UniformTime(Cosine()))(LAM), Mse(EPS, Cosine())(LAM))
