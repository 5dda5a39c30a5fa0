"""Every route of every kind of model: what it costs, what it is a probability of, what it keeps."""

import pytest
import torch

import marginals
from marginals.decoders import Bernoulli, DiscretisedLogistic, GaussianDecoder
from marginals.density import TICKS
from marginals.generative import DataStats
from marginals.metrics.routes import Effort, cost, generator, measure, routes, statement
from marginals.nn import UNet, VectorLatents
from marginals.pixels import dequantise

STATS = DataStats((1, 8, 8), -0.3, 0.8, ("a", "b"))
FEW = Effort(levels=3, ode_steps=2, importance=4)


def net(**changes) -> UNet:
    torch.manual_seed(0)
    return UNet(1, 8, width=8, mults=(1,), blocks=1, patch=4, num_classes=2, **changes)


def ladder(decoder=None):
    torch.manual_seed(0)
    decoder = decoder or DiscretisedLogistic()
    options = {"latents": [3, 2], "widths": [8], "blocks": 1, "patch": 4, "num_classes": 2}
    network = VectorLatents(1, 8, params=decoder.params, **options)
    return marginals.hvae(network, decoder=decoder, data=STATS).eval()


def model(name: str):
    made = {
        "hvae": ladder,
        "cut": lambda: ladder(Bernoulli()),
        "v": lambda: marginals.v_diffusion(net(), data=STATS),
        "vdm": lambda: marginals.vdm(net(), data=STATS),
        "ddpm": lambda: marginals.ddpm(net(), data=STATS, steps=6),
        "iddpm": lambda: marginals.iddpm(net(outputs=2), data=STATS, steps=6),
    }
    return made[name]().eval()


def pixels(count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


ALL = ["discrete", "discrete_2", "continuous", "ode", "decoder"]
KEYS = {
    "hvae": ["elbo", "iwae"], "cut": ["elbo", "iwae"], "v": ALL, "vdm": ALL,
    "ddpm": [*ALL, "chain"], "iddpm": [*ALL, "chain"],
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_all_routes_are_taken_and_their_cost_is_the_one_announced(name):
    made, ticks = model(name), []
    x, cond = pixels(), torch.tensor([0, 1, -1, 0, 1])
    found = routes(made, x, cond, FEW, 0, ticks.append)
    assert [route.key for route in found] == KEYS[name]
    assert sum(ticks) == 5 * cost(made, FEW)
    for route in found:
        assert sum(route.terms().values()) == pytest.approx(route.bound.mean, rel=1e-6) or not (
            route.bound.terms
        )


@pytest.mark.parametrize("name", KEYS)
def test_numbers_of_a_kind_are_told_from_others(name):
    made = model(name)
    measured = measure(made, pixels(), None, FEW, progress=False)
    of = {each.key: each.of for each in measured}
    whole = {"decoder", "chain", "elbo", "iwae"}
    for key, what in of.items():
        if name == "cut":
            assert what == "black-and-white pixels"
        else:
            assert what == ("whole-number pixels" if key in whole else "dequantised pixels")
    said = statement(made, measured)
    assert [s.split(":")[0] for s in said[: len(set(of.values()))]] == list(
        dict.fromkeys(of.values())
    )
    assert ("never saw a value between" in said[-1]) == (name == "vdm")


def test_only_some_routes():
    made = model("ddpm")
    effort = Effort(levels=3, ode_steps=2, only=("decoder", "chain"))
    found = measure(made, pixels(), None, effort, progress=False)
    assert [each.key for each in found] == ["decoder", "chain"] and cost(made, effort) == 9


def test_batches_do_not_change_what_is_measured():
    """The pictures are the same; only their noise is that of another batch."""
    made = model("hvae")
    [elbo, iwae] = measure(made, pixels(70), None, FEW, progress=False)
    assert len(elbo.bits) == len(iwae.bits) == 70 and elbo.stderr is not None
    assert set(elbo.paid) == {"1", "2"} and iwae.paid == {}
    nats = made.elbo(pixels(70), None, samples=64, generator=torch.Generator().manual_seed(0))
    assert elbo.paid["2"] == pytest.approx(float(nats.prior.mean()), rel=0.2)
    assert elbo.mean == pytest.approx(nats.mean, rel=0.05)
    assert iwae.mean < elbo.mean


def test_a_ladder_of_densities_rates_the_pictures_that_all_other_routes_rate():
    """One dequantisation for every route of a seed, so that their numbers are of the same thing."""
    made, x = ladder(GaussianDecoder()), pixels()
    elbo, iwae = routes(made, x, None, FEW, 3, lambda n: None)
    u = torch.rand(x.shape, generator=generator(3, 0))
    same = dequantise(x, u)
    for route, bound, draw in ((elbo, made.elbo, 1), (iwae, made.log_prob, 2)):
        assert route.bound.of == "dequantised pixels"
        theirs = bound(same, None, samples=4, generator=generator(3, draw))
        torch.testing.assert_close(route.bound.nats, theirs.nats)


def test_the_exact_route_takes_its_own_steps_unless_told_how_many():
    made, ticks = model("v"), []
    own = Effort(levels=2, only=("ode",), probes=2)
    [route] = routes(made, pixels(), None, own, 0, ticks.append)
    assert sum(ticks) == 5 * cost(made, own) == 5 * TICKS
    assert route.bound.calls is not None and route.bound.noise is not None
    finer = Effort(levels=2, only=("ode",), probes=2, tolerance=1e-5)
    [same] = routes(made, pixels(), None, finer, 0, ticks.append)
    assert same.bound.nfe > route.bound.nfe
    assert same.bound.mean == pytest.approx(route.bound.mean, abs=0.01)
    [one] = measure(made, pixels(), None, own, progress=False)
    assert (
        one.noise == pytest.approx(route.bound.noise_bits) and one.as_json()["noise"] == one.noise
    )


def test_bounds_go_on_until_their_error_bar_is_small_enough():
    made, ticks = model("v"), []
    effort = Effort(levels=2, only=("continuous", "decoder"), target=0.5)
    found = routes(made, pixels(), None, effort, 0, ticks.append)
    assert sum(ticks) == 5 * cost(made, effort)
    for route in found:
        noise = route.bound.noise_bits
        assert noise is not None and noise <= 0.5 and 128 <= route.bound.nfe < 4096
    parts = measure(made, pixels(70), None, effort, progress=False)
    assert parts[0].noise is not None and parts[0].noise < found[0].bound.noise_bits
