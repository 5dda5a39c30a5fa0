"""Three routes to one number that is known, and sentences that follow the numbers."""

import math

import pytest
import torch

from marginals.demo.likelihoods import Likelihoods, Route, cost, difference, measure
from marginals.demo.words import explain, order_words
from marginals.likelihood import Bound
from marginals.pixels import dequantise

STD, MEANS = 0.25, (-0.4, 0.4)


def pictures(count):
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % 2
    means = torch.tensor(MEANS)[labels].reshape(-1, 1, 1, 1)
    x = means + STD * torch.randn(count, 1, 8, 8, generator=generator)
    return ((x + 1) * 128).floor().clamp(0, 255).to(torch.uint8), labels


@pytest.fixture
def measured(exact):
    pixels, labels = pictures(24)
    ticks = []
    found = measure(exact(), pixels, labels, levels=64, ode_steps=16, seed=0, tick=ticks.append)
    assert sum(ticks) == cost(24, 64, 16)
    return found


def test_every_route_finds_the_truth(measured):
    """Paired with log p of each picture; the grain of the bins moves that by about 1e-4 bits."""
    pixels, labels = pictures(24)
    x = dequantise(pixels, torch.full(pixels.shape, 0.5))
    mean = torch.tensor(MEANS)[labels].reshape(-1, 1, 1, 1)
    nats = -0.5 * (((x - mean) / STD) ** 2 + math.log(2 * math.pi * STD**2)).flatten(1).sum(1)
    truth = Bound(nats.double(), "exact", True, 64, 0)
    off = {key: difference(route.bound, truth) for key, route in measured.routes.items()}
    for key in ("continuous", "ode", "decoder"):
        assert abs(off[key].mean) < 4 * off[key].stderr < 0.3
    assert off["discrete"].mean > 10 * off["discrete"].stderr  # the price of 64 steps is seen
    assert 1.7 < off["discrete"].mean / off["discrete_2"].mean < 2.4


def test_terms_add_up(measured):
    for route in measured.routes.values():
        assert sum(route.terms().values()) == pytest.approx(route.bound.mean, abs=1e-6)


def test_the_exact_model_is_found_to_follow_theory(measured):
    assert [gap.as_theory for gap in explain(measured)[:3]] == [True] * 3
    assert 0 < abs(measured.ode_error) < 0.05  # half the steps: 15 times the error of all of them


def test_paired_differences_are_sharper_than_the_routes(measured):
    a, b = (measured.routes[key].bound for key in ("continuous", "ode"))
    gap = difference(a, b)
    assert gap.mean == pytest.approx(a.mean - b.mean)
    assert gap.stderr < 0.5 * (a.stderr**2 + b.stderr**2) ** 0.5


def made_up(**bits):
    """Likelihoods whose routes have these bits/dim, with a little spread between 50 pictures."""
    noise = 0.01 * torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def route(key, mean):
        each = torch.full((50,), mean, dtype=torch.float64) + noise.roll(len(key))
        return Route(key, key, Bound(-(each - 7) * 64 * math.log(2), "bound", True, 64, 1), "")

    return Likelihoods({key: route(key, mean) for key, mean in bits.items()}, 50, 64, 0.0)


THEORY = {"discrete": 3.4, "discrete_2": 3.2, "continuous": 3.0, "ode": 2.9, "decoder": 2.95}


@pytest.mark.parametrize(
    ("change", "verdicts"),
    [
        ({}, [True, True, True, True]),
        ({"discrete": 2.6, "discrete_2": 2.8}, [False, True, True, True]),
        ({"discrete_2": 3.35}, [True, False, True, True]),
        ({"ode": 3.2}, [True, True, False, True]),
        ({"decoder": 3.3}, [True, True, True, False]),
        ({"ode": 3.0}, [True, True, True, True]),
    ],
)
def test_sentences_follow_the_numbers(change, verdicts):
    assert [gap.as_theory for gap in explain(made_up(**(THEORY | change)))] == verdicts


def test_a_bound_better_than_the_exact_value_is_said_plainly():
    words = explain(made_up(**(THEORY | {"ode": 3.2})))[2].words
    assert "better than the exact value" in words and "−0.2" in words
    assert "on the side theory asks for" in explain(made_up(**THEORY))[2].words


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "Here they do: 3.4"),
        ({"ode": 3.1}, "Here one of them does not lie above"),
        ({"ode": 3.3}, "Here 2 of them do not lie above"),
        ({"discrete_2": 3.6}, "more steps do not bring them closer"),
        ({"ode": 3.0}, "one cannot be told from it"),
    ],
)
def test_the_plain_truth_comes_first(change, said):
    words = order_words(made_up(**(THEORY | change)))
    assert words.startswith("The bounds") and "must lie above the exact value" in words
    assert said in words


def test_a_single_picture_has_no_error_bar():
    bound = Bound(torch.tensor([-10.0]), "bound", True, 64, 1)
    assert math.isinf(difference(bound, bound).stderr)
