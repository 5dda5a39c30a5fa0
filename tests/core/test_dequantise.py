"""Probabilities of whole numbers from densities: against integrals over the bins."""

import math

import pytest
import torch

from marginals.bound import Bound
from marginals.dequantise import slopes, tilted, whole_number_log_prob
from marginals.errors import MarginalsError
from marginals.oracle import Mixture
from marginals.scaling import FLOW, VE, VP

MEANS = torch.tensor([[-0.31, 0.1], [0.2, 0.25]], dtype=torch.float64)
STDS, WEIGHTS = torch.tensor([0.006, 0.011], dtype=torch.float64), torch.tensor([0.4, 0.6])


def mixture(scaling=VP) -> Mixture:
    return Mixture(MEANS, STDS, WEIGHTS, scaling=scaling)


def pixels(count: int) -> torch.Tensor:
    x = mixture().sample(count, seed=4)[0]
    return (128 * (x + 1)).floor().to(torch.uint8)


def exact(k: torch.Tensor) -> torch.Tensor:
    """log P(k): the mixture's probability of the box, by error functions."""
    low = k.double().unsqueeze(1) / 128 - 1
    law = torch.distributions.Normal(MEANS, STDS.unsqueeze(1))
    box = (law.cdf(low + 1 / 128) - law.cdf(low)).prod(2)
    return (box @ WEIGHTS.double()).log()


def density(x: torch.Tensor) -> Bound:
    return Bound(mixture().log_prob(x), "exact", True, 2, 1)


def bound(k: torch.Tensor, draws: int, slope=None, seed=0) -> Bound:
    options = {"dtype": torch.float64, "generator": torch.Generator().manual_seed(seed)}
    return whole_number_log_prob(density, k, draws=draws, slope=slope, **options)


@pytest.mark.parametrize("scaling", [VP, VE, FLOW], ids=repr)
def test_more_draws_rise_to_the_truth_and_slopes_are_tighter(scaling):
    k = pixels(4000)
    truth, slope = exact(k), slopes(mixture(scaling), k, 15.0, dtype=torch.float64)
    gaps = {}
    for name, tilt in (("uniform", None), ("tilted", slope)):
        for draws in (1, 4, 16):
            gap = bound(k, draws, tilt).nats - truth
            gaps[name, draws] = gap.mean().item(), gap.std().item() / 4000**0.5
    for name in ("uniform", "tilted"):
        means = [gaps[name, draws][0] for draws in (1, 4, 16)]
        assert means[0] < means[1] < means[2] < 4 * gaps[name, 16][1]
    assert gaps["tilted", 1][0] > 0.3 * gaps["uniform", 1][0] and gaps["uniform", 1][0] < -0.03
    assert abs(gaps["tilted", 16][0]) < 0.01


def test_one_uniform_draw_is_the_usual_number():
    k = pixels(6)
    found = bound(k, 1, seed=3)
    u = torch.rand(k.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    from marginals.pixels import dequantise

    usual = density(dequantise(k, u))
    assert torch.allclose(found.bits_per_dim(), usual.bits_per_dim())
    assert (found.of, found.kind, found.nfe) == ("whole-number pixels", "bound", 1)
    assert bound(k, 5).nfe == 5


@pytest.mark.parametrize("g", [-900.0, -3.0, -1e-4, 0.0, 2e-4, 0.7, 40.0, 900.0])
def test_the_tilted_law_is_a_law(g):
    u = torch.linspace(0.0, 1.0, 200_001, dtype=torch.float64)
    slope = torch.full_like(u, g)
    z, log_r = tilted(u, slope)
    assert bool((z.diff() >= 0).all()) and z[0] >= 0.0 and z[-1] <= 1.0
    middle = slice(1000, -1000)
    rate = (1.0 / 200_000) / z.diff()[middle]  # du/dz is the density
    wanted = (0.5 * (log_r[1:] + log_r[:-1]))[middle].exp()
    assert torch.allclose(rate, wanted, rtol=1e-3 if abs(g) > 10 else 1e-7)


def test_slopes_are_differences_of_log_densities():
    k = pixels(5)
    found = slopes(mixture(), k, 25.0, dtype=torch.float64)
    x, h = (2 * k.double() + 1) / 256 - 1, 1e-6
    for d in range(2):
        step = torch.eye(2, dtype=torch.float64)[d] * h
        rise = (mixture().log_prob(x + step) - mixture().log_prob(x - step)) / (2 * h)
        assert torch.allclose(found[:, d], rise / 128, rtol=1e-3)


def test_slopes_at_a_noisy_level_are_of_the_picture_not_of_its_units():
    k, oracle, lam = pixels(5), mixture(FLOW), 9.0
    found, alpha = slopes(oracle, k, lam, dtype=torch.float64), FLOW(9.0).alpha
    x, step = (2 * k.double() + 1) / 256 - 1, torch.tensor([1e-6, 0.0]).double()
    sides = [oracle.log_prob(alpha * (x + sign * step), lam) for sign in (1, -1)]
    wanted = (sides[0] - sides[1]) / 2e-6 / 128
    assert torch.allclose(found[:, 0], wanted, rtol=1e-4) and alpha < 0.99


def test_refusals():
    def probability(x):
        return Bound(torch.zeros(len(x)), "exact", False, 2, 1)

    with pytest.raises(MarginalsError, match="uint8"):
        whole_number_log_prob(density, torch.zeros(2, 2))
    with pytest.raises(MarginalsError, match="draw"):
        bound(pixels(2), 0)
    with pytest.raises(MarginalsError, match="probability"):
        whole_number_log_prob(probability, pixels(2))
    assert math.isfinite(bound(pixels(1), 1).mean)
