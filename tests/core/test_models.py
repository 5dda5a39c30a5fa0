"""The model: training losses, samples keyed by seed, conversions, likelihoods, refusals."""

import math

import pytest
import torch
from torch import nn

import marginals
from marginals import DataStats
from marginals.errors import MarginalsError
from marginals.likelihood import discrete_elbo, elbo, ode_log_prob
from marginals.nn import MLP
from marginals.noise import item_noise
from marginals.objective import spread_uniform
from marginals.oracle import Mixture
from marginals.predict import V
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.solvers import SOLVERS, auto, ddim, ddpm, euler, grid, heun, uniform_lam

FACTORIES = [
    marginals.ddpm,
    marginals.vdm,
    marginals.v_diffusion,
    marginals.edm,
    marginals.rectified_flow,
    marginals.score_sde,
]
STATS = DataStats((1, 8, 8), mean=0.1, std=0.4, classes=("a", "b", "c"), name="rings")


class Body(nn.Module):
    """A small fixed convolution that uses time and label."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, t, cond=None):
        shift = 0.0 if cond is None else 0.3 * (cond + 1).to(x.dtype).reshape(-1, 1, 1, 1)
        return torch.tanh(self.conv(x) + t.reshape(-1, 1, 1, 1)) + shift


class Exact(nn.Module):
    """A backbone that is an oracle: the v of a mixture, at the level the label says."""

    def __init__(self, oracle, low=-12.0, high=12.0):
        super().__init__()
        self.oracle, self.low, self.high = oracle, low, high
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, cond=None):
        return self.oracle(x, self.high + (self.low - self.high) * t.double(), cond).v


def exact_model(labels=None):
    means = torch.tensor([-0.5, 0.5]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    oracle = Mixture(means, 0.2, labels=labels)
    data = DataStats((1, 2, 2), 0.0, math.hypot(0.5, 0.2), ("low", "high"))
    body = Exact(oracle)
    model = marginals.v_diffusion(body, data=data, lam_max=12.0, lam_min=-12.0)
    return model, oracle


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("make", FACTORIES)
def test_three_lines_work_with_nothing_but_a_network(make):
    model = make(Body())
    loss = model.loss(torch.randn(4, 1, 8, 8))
    loss.backward()
    assert loss.shape == () and model.net.backbone.conv.weight.grad.abs().sum() > 0
    result = model.sample(2, steps=3)
    assert result.x.shape == (2, 1, 8, 8) and bool(result.x.isfinite().all())
    assert result.nfe == 3 and result.solver == "auto" and len(result.lams) == 4


@pytest.mark.parametrize("make", FACTORIES)
def test_a_converted_model_shares_its_weights_and_draws_the_same_pictures(make):
    model = make(Body(), data=STATS)
    wanted = model.sample(3, steps=8, cond=1).x
    x = torch.rand(3, 1, 8, 8, generator=generator()) * 2 - 1
    bits = model.elbo(x, samples=3, generator=generator(2)).nats
    for scaling in (VP, VE, FLOW, SUB_VP):
        twin = model.convert(scaling)
        assert twin.scaling == scaling and twin.net.backbone is model.net.backbone
        assert torch.allclose(twin.sample(3, steps=8, cond=1).x, wanted, rtol=1e-4, atol=2e-4)
        assert torch.allclose(twin.losses(x, generator=generator(1))[0],
                              model.losses(x, generator=generator(1))[0], rtol=1e-3)  # fmt: skip
        got = twin.elbo(x, samples=3, generator=generator(2)).nats
        assert torch.allclose(got, bits, rtol=1e-3, atol=0.05)
    assert model.scaling == make(Body()).scaling  # the original is left alone


def test_conversion_is_exact_in_double_precision():
    model = marginals.edm(Body(), data=STATS).double()
    wanted = model.sample(3, steps=8, solver=heun()).x
    assert wanted.dtype == torch.float64
    for scaling in (VP, VE, FLOW, SUB_VP):
        got = model.convert(scaling).sample(3, steps=8, solver=heun()).x
        assert (got - wanted).abs().max() < 1e-10


@pytest.mark.parametrize("name", SOLVERS)
def test_a_picture_has_its_own_seed_whatever_the_batch(name):
    model, _ = exact_model()
    options = {"steps": 6, "solver": SOLVERS[name], "levels": uniform_lam}
    whole = model.sample(5, seed=10, **options).x
    for other in (
        model.sample(5, seed=10, batch=2, **options).x,
        torch.cat([model.sample(1, seed=10 + i, **options).x for i in range(5)]),
    ):
        assert torch.allclose(other, whole, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model.sample(5, seed=11, **options).x, whole)
    assert torch.equal(model.sample(5, seed=10, **options).x, whole)


def test_the_walk_starts_at_the_prior_and_uses_the_grid():
    model, _ = exact_model()
    start = model.start([4, 9])
    noise, level = item_noise([4, 9], (1, 2, 2)), VP(-12.0)
    assert torch.allclose(start, noise * math.sqrt(level.alpha**2 * 0.29 + level.sigma**2))
    twin = model.convert(VE)
    assert torch.allclose(twin.start([4]), start[:1] / level.alpha, rtol=1e-5)
    result = model.sample(2, steps=5, levels=uniform_lam, solver=ddim())
    assert result.lams == tuple(grid(uniform_lam(-12.0, 12.0), 5))
    assert model.sample(2, steps=5).lams[0] == pytest.approx(-12.0)
    shifted = marginals.vdm(Body(), data=STATS)
    level = VP(-5.0)
    wanted = noise.new_tensor(level.alpha * 0.1)
    rows = shifted.start(range(400))
    assert rows.mean().item() == pytest.approx(wanted.item(), abs=0.02)
    assert rows.var().item() == pytest.approx(level.alpha**2 * 0.16 + level.sigma**2, rel=0.03)


def test_samples_of_an_exact_model_follow_its_labels():
    model, _ = exact_model(labels=torch.tensor([0, 1]))
    cond = torch.tensor([0, 1, 1, 0, -1])
    x = model.sample(5, cond=cond, steps=12).x
    signs = x.mean((1, 2, 3)).sign()
    assert signs[:4].tolist() == [-1, 1, 1, -1]
    assert bool((model.sample(6, cond=1, steps=12).x.mean((1, 2, 3)) > 0).all())
    parts = torch.cat([model.sample(2, cond=cond[:2], steps=12).x,
                       model.sample(2, cond=cond[2:4], steps=12, seed=2).x])  # fmt: skip
    assert torch.allclose(parts, x[:4], rtol=1e-4, atol=1e-5)
    batched = model.sample(5, cond=cond, steps=12, batch=2).x
    assert torch.allclose(batched, x, rtol=1e-4, atol=1e-5)


def test_guidance_changes_samples_and_one_does_not():
    model = marginals.v_diffusion(Body(), data=STATS)
    plain = model.sample(2, cond=2, steps=4).x
    assert torch.equal(model.sample(2, cond=2, steps=4, guidance=1.0).x, plain)
    strong = model.sample(2, cond=2, steps=4, guidance=3.0)
    assert not torch.allclose(strong.x, plain) and strong.nfe == 4
    assert model.guided(1.0) is model.net and model.guided(2.0).weight == 2.0


def test_losses_are_a_function_of_the_generator():
    model, x = marginals.vdm(Body()), torch.randn(6, 1, 8, 8)
    (a, lam_a), (b, lam_b) = (model.losses(x, generator=generator(7)) for _ in range(2))
    assert torch.equal(a, b) and torch.equal(lam_a, lam_b)
    assert not torch.equal(model.losses(x, generator=generator(8))[0], a)
    assert model.loss(x, generator=generator(7)).item() == pytest.approx(a.mean().item())
    assert a.shape == lam_a.shape == (6,)
    assert torch.allclose(lam_a, 13.3 - 18.3 * spread_uniform(6, generator(7)))


def test_whole_number_pictures_are_spread_over_their_bins():
    model = marginals.v_diffusion(Body(), data=STATS)
    pixels = torch.randint(0, 256, (3, 1, 8, 8), generator=generator(1)).to(torch.uint8)
    got, _ = model.losses(pixels, generator=generator(4))
    draws = generator(4)
    u = spread_uniform(3, draws)
    x = 2 * (pixels + torch.rand(pixels.shape, generator=draws)) / 256 - 1
    eps, lam = torch.randn(x.shape, generator=draws), model.objective.levels.sample(u)
    assert torch.allclose(got, model.objective(model.net, x, lam, eps), rtol=1e-5)
    bound = model.log_prob(pixels, steps=2, generator=generator(5))
    draws = generator(5)
    x = 2 * (pixels + torch.rand(pixels.shape, generator=draws)) / 256 - 1
    wanted = ode_log_prob(model.net, x, model.ends, steps=2, generator=draws)
    assert torch.allclose(bound.nats, wanted.nats, rtol=1e-6) and bound.density


def test_labels_reach_the_network_in_training_and_measuring():
    model, x = marginals.v_diffusion(Body(), data=STATS), torch.randn(3, 1, 8, 8).clamp(-1, 1)
    cond = torch.tensor([0, 1, 2])
    for call in (
        lambda c: model.losses(x, c, generator(1))[0],
        lambda c: model.elbo(x, c, samples=2, generator=generator(1)).nats,
        lambda c: model.discrete_elbo(x, c, steps=2, generator=generator(1)).nats,
        lambda c: model.log_prob(x, c, steps=2, generator=generator(1)).nats,
    ):
        assert bool((call(cond) != call(None)).all())


def test_likelihoods_use_the_models_own_ends():
    model, _ = exact_model()
    x = torch.full((2, 1, 2, 2), 0.4)
    assert (model.ends.lam_min, model.ends.lam_max) == (-12.0, 12.0)
    assert (model.ends.prior.mean, model.ends.prior.std) == (0.0, math.hypot(0.5, 0.2))
    for method, function, options in (
        (model.elbo, elbo, {"samples": 2}),
        (model.discrete_elbo, discrete_elbo, {"steps": 3}),
        (model.log_prob, ode_log_prob, {"steps": 2}),
    ):
        a = method(x, generator=generator(1), **options)
        b = function(model.net, x, model.ends, generator=generator(1), **options)
        assert torch.equal(a.nats, b.nats) and a.nfe == b.nfe
    truth = Mixture(model.net.backbone.oracle.means.view(2, 1, 2, 2), 0.2).log_prob(x.double())
    got = model.double().log_prob(x.double(), steps=100, exact=True).nats
    assert torch.allclose(got, truth, atol=4e-3)


def test_the_shape_comes_from_the_data_or_the_first_batch():
    model = marginals.ddpm(Body())
    with pytest.raises(MarginalsError, match="shape"):
        model.sample(1)
    model.loss(torch.randn(2, 1, 8, 8))
    assert model.sample(1, steps=1).x.shape == (1, 1, 8, 8)
    assert model.data == DataStats((1, 8, 8), mean=0.0, std=1.0, classes=(), name="")
    assert model.sample(1, steps=1, cond=5).x.shape == (1, 1, 8, 8)  # no names, no limit


def body_model():
    return marginals.v_diffusion(Body(), data=STATS)


REFUSED = {
    "no pictures": lambda: body_model().sample(0),
    "no steps": lambda: body_model().sample(1, steps=0),
    "label too large": lambda: body_model().sample(2, cond=3),
    "label too small": lambda: body_model().sample(2, cond=-2),
    "labels for others": lambda: body_model().sample(2, cond=torch.tensor([0, 1, 2])),
    "one bad label": lambda: body_model().sample(2, cond=torch.tensor([0, 9])),
    "empty batches": lambda: body_model().sample(2, batch=0),
    "ends": lambda: marginals.vdm(Body(), lam_max=-5.0, lam_min=5.0),
    "infinite ends": lambda: marginals.rectified_flow(Body(), lam_min=-math.inf),
    "kind": lambda: marginals.score_sde(Body(), "xp"),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_bad_requests_are_refused(make):
    with pytest.raises(MarginalsError):
        make()


def test_the_default_solver_beats_the_first_order_ones():
    """DPM-Solver++ 2M in 40 steps is closer to the ODE's end than Euler or DDPM's chain."""
    model, _ = exact_model()
    fine = model.sample(4, steps=400, solver=heun()).x

    def error(**o):
        return (model.sample(4, steps=40, **o).x - fine).abs().max().item()

    assert error() < 0.5 * error(solver=euler()) and error() < 0.5 * error(solver=ddpm())


def test_prediction_and_objective_are_kept_by_conversion():
    model = marginals.v_diffusion(Body(), data=STATS)
    twin = model.convert(FLOW)
    assert (twin.net.prediction, twin.net.input_scaling, twin.net.label) == (
        V, VP, model.net.label,
    )  # fmt: skip
    assert twin.schedule is model.schedule and twin.objective is model.objective
    assert (twin.lam_min, twin.lam_max, twin.data) == (model.lam_min, model.lam_max, STATS)


class _Dropout(torch.nn.Module):
    """A network whose answer depends on its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 1)

    def forward(self, x, t):
        return torch.nn.functional.dropout(self.layer(x), 0.5, self.training)


def test_walks_and_likelihoods_run_without_dropout_and_give_the_mode_back() -> None:
    model = marginals.edm(_Dropout(), data=DataStats((1, 4, 4)))
    x = torch.zeros(2, 1, 4, 4)
    generator = torch.Generator()
    answers = []
    for mode in (True, False):
        model.train(mode)
        answers.append(
            [
                model.sample(2, steps=3).x,
                model.elbo(x, samples=2, generator=generator.manual_seed(1)).nats,
                model.discrete_elbo(x, steps=2, generator=generator.manual_seed(1)).nats,
                model.log_prob(x, steps=1, generator=generator.manual_seed(1)).nats,
            ]
        )
        assert model.training is mode and model.net.backbone.training is mode
    for trained, evaluated in zip(*answers, strict=True):
        assert torch.equal(trained, evaluated)


def test_the_default_solver_of_guided_pictures_is_the_guided_one() -> None:
    data = DataStats((2,), classes=("a", "b"))
    model = marginals.v_diffusion(MLP(2, width=8, depth=1, num_classes=2), data=data)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4, generator=torch.Generator().manual_seed(p.numel()))
    about = {"steps": 10, "cond": 1, "seed": 3}
    for guidance, guided in ((1.0, False), (3.0, True)):
        drawn = model.sample(4, guidance=guidance, **about).x
        same = model.sample(4, guidance=guidance, solver=auto(guided=guided), **about).x
        other = model.sample(4, guidance=guidance, solver=auto(guided=not guided), **about).x
        assert torch.equal(drawn, same) and not torch.allclose(drawn, other, atol=1e-4)


def test_guidance_without_a_class_is_refused() -> None:
    model = marginals.edm(_Dropout(), data=DataStats((1, 4, 4)))
    with pytest.raises(MarginalsError, match="give cond"):
        model.sample(1, guidance=2.0)


ROUTES = [
    lambda model, x, cond=None: model.losses(x, cond)[0],
    lambda model, x, cond=None: model.elbo(x, cond, samples=2).nats,
    lambda model, x, cond=None: model.discrete_elbo(x, cond, steps=2).nats,
    lambda model, x, cond=None: model.log_prob(x, cond, steps=1).nats,
]


class _Told(torch.nn.Module):
    """A network that is told labels, and notes them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 1)
        self.labels = None

    def forward(self, x, t, cond=None):
        self.labels = cond
        return self.layer(x)


def _told(**stats) -> marginals.Model:
    return marginals.edm(_Told(), data=DataStats((1, 4, 4), classes=("a", "b"), **stats))


@pytest.mark.parametrize("route", ROUTES)
def test_data_that_cannot_be_the_models_are_refused(route) -> None:
    model, x = _told(), torch.zeros(3, 1, 4, 4)
    with pytest.raises(MarginalsError, match="standard deviations"):
        route(model, x + 255.0)  # pixels 0..255 as floats
    with pytest.raises(MarginalsError, match="standard deviations"):
        route(model, x * math.nan)
    with pytest.raises(MarginalsError, match="of shape"):
        route(model, torch.zeros(3, 1, 8, 8))
    assert route(_told(mean=250.0, std=10.0), x + 255.0).shape == (3,)


@pytest.mark.parametrize("route", ROUTES)
def test_labels_are_one_per_picture_everywhere(route) -> None:
    model, x = _told(), torch.zeros(3, 1, 4, 4)
    for cond, wanted in ((1, [1, 1, 1]), ([0, 1, -1], [0, 1, -1])):
        route(model, x, cond)
        assert model.net.backbone.labels.tolist() == wanted
    for wrong in (torch.tensor([1]), [0, 1], [0, 1, 2]):
        with pytest.raises(MarginalsError, match=r"labels|Labels"):
            route(model, x, wrong)


@pytest.mark.parametrize("route", ROUTES)
def test_stored_pixels_meet_networks_in_double_precision(route) -> None:
    pixels = torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4)
    assert route(_told().double(), pixels).isfinite().all()


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m"])
def test_a_seed_gives_the_same_picture_in_double_precision(name) -> None:
    model = _told()
    single = model.sample(2, steps=4, solver=SOLVERS[name], cond=1).x
    double = model.double().sample(2, steps=4, solver=SOLVERS[name], cond=1).x
    assert (single - double).abs().max() < 1e-4 * double.abs().max()


def test_a_likelihood_that_is_no_number_is_refused() -> None:
    model = _told()
    torch.nn.init.constant_(model.net.backbone.layer.weight, math.nan)
    for route in ROUTES[1:]:
        with pytest.raises(MarginalsError, match="finite"):
            route(model, torch.zeros(3, 1, 4, 4))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_a_tolerance_chooses_the_steps_of_every_picture(tolerance):
    """The errors follow it, and a picture is the same in any batch."""
    model, _ = exact_model()
    model.double()
    fine = model.sample(6, steps=400, seed=3).x
    result = model.sample(6, tolerance=tolerance, seed=3)
    assert (result.x - fine).abs().max() < 10.0 * tolerance and result.solver == "dopri5"
    parts = model.sample(6, tolerance=tolerance, seed=3, batch=4)
    assert torch.allclose(parts.x, result.x, atol=1e-12) and parts.nfe == result.nfe
    assert model.sample(6, tolerance=1e-6, seed=3).nfe > result.nfe
    for other in ({"solver": ddim()}, {"steps": 8}, {"callback": print}, {"levels": uniform_lam}):
        with pytest.raises(MarginalsError, match="leave solver, steps and levels out"):
            model.sample(1, tolerance=1e-3, **other)


def test_levels_may_be_given_one_by_one():
    model, _ = exact_model()
    lams = [-12.0, -4.0, 0.5, 3.0, math.inf]
    result = model.sample(3, levels=lams, solver=ddim())
    assert result.lams == tuple(lams) and result.nfe == 4
    start = model.start(range(3), -12.0)
    assert torch.equal(result.x, sample(model.net, start, lams, ddim(), seeds=range(3)).x)
