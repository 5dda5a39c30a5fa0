"""Noise that belongs to one picture."""

import math
from itertools import pairwise

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.noise import BrownianPath, Fresh, item_noise, stream_seed


def test_an_item_is_the_same_in_any_batch():
    whole = item_noise(range(10, 30), (3, 4, 4), draw=2)
    for k in range(20):
        assert torch.equal(item_noise([10 + k], (3, 4, 4), draw=2)[0], whole[k])
    assert torch.equal(item_noise([29, 10, 17], (3, 4, 4), draw=2), whole[[19, 0, 7]])


def test_shape_dtype_and_the_empty_batch():
    assert item_noise([1, 2], (5,), dtype=torch.float64).dtype == torch.float64
    assert item_noise([1, 2], (1, 2, 3)).shape == (2, 1, 2, 3)
    assert item_noise([], (1, 2, 3)).shape == (0, 1, 2, 3)


@pytest.mark.parametrize("axis", ["seeds", "draws"])
def test_neighbouring_streams_are_standard_normal_and_uncorrelated(axis):
    shape = (4000,)
    if axis == "seeds":
        z = item_noise(range(40), shape, draw=1)
    else:
        z = torch.stack([item_noise([7], shape, draw=k)[0] for k in range(40)])
    n = z.numel()
    assert abs(z.mean().item()) < 4 / n**0.5
    assert abs(z.var().item() - 1) < 4 * (2 / n) ** 0.5
    assert abs((z**4).mean().item() - 3) < 4 * (96 / n) ** 0.5
    correlation = (z @ z.T / shape[0]).fill_diagonal_(0.0)
    assert correlation.abs().max().item() < 5 / shape[0] ** 0.5  # 780 pairs, standard error 1/√n
    shifted = (z[1:, :-1] * z[:-1, 1:]).mean(1)  # no stream is its neighbour moved by one
    assert shifted.abs().max().item() < 5 / shape[0] ** 0.5


def test_seed_and_draw_are_not_interchangeable():
    a, b = item_noise([3], (50,), draw=5), item_noise([5], (50,), draw=3)
    assert not torch.allclose(a, b)
    sums = {tuple(item_noise([s], (2,), draw=8 - s)[0].tolist()) for s in range(9)}
    assert len(sums) == 9


def test_no_two_pictures_share_their_noise():
    """torch's CPU generator uses 32 bits of a seed: a million seeds must stay a million streams."""
    for draw in (0, 1):
        streams = {stream_seed(seed, draw) & 0xFFFFFFFF for seed in range(300_000)}
        assert len(streams) == 300_000
    assert len({stream_seed(9, draw) & 0xFFFFFFFF for draw in range(100_000)}) == 100_000


def test_large_and_negative_seeds_are_their_own_streams():
    seeds = [0, 1, -1, 2**32, 2**32 + 1, 2**63, -(2**31)]
    rows = item_noise(seeds, (20,))
    assert len({tuple(row.tolist()) for row in rows}) == len(seeds)


def test_fresh_noise_counts_its_draws():
    fresh = Fresh([4, 9], (3,), dtype=torch.float64)
    for draw in (1, 2, 3):
        assert torch.equal(fresh(), item_noise([4, 9], (3,), draw, dtype=torch.float64))
    assert torch.equal(Fresh([4, 9], (3,))((0.0, 1.0, 1.0)), item_noise([4, 9], (3,), 1))


def spans(lams, rate=1.0):
    return [(a, b, rate) for a, b in pairwise(lams)]


def increments(lams, rate=1.0, seeds=range(3), shape=(4,)):
    """B(τ_s) − B(τ_t) for each step, with their own sizes."""
    path = BrownianPath(seeds, shape, spans(lams, rate), dtype=torch.float64)
    sizes = [math.sqrt(math.exp(rate * b) - math.exp(rate * a)) for a, b in pairwise(lams)]
    return [size * path(span) for size, span in zip(sizes, spans(lams, rate), strict=True)]


@pytest.mark.parametrize("rate", [0.04, 1.0, 4.0])
def test_more_steps_follow_the_same_path(rate):
    """The sum of two increments is the increment over both, however the steps are cut."""
    coarse = [-math.inf, -4.0, -1.0, 0.5, 2.0]
    fine = [-math.inf, -8.0, -4.0, -3.5, -1.0, -0.25, 0.25, 0.5, 1.0, 1.5, 2.0]
    few, many = increments(coarse, rate), increments(fine, rate)
    at = [coarse.index(lam) if lam in coarse else None for lam in fine]
    for k in range(4):
        low, high = at.index(k), at.index(k + 1)
        total = sum(many[low:high])
        assert torch.allclose(total, few[k], rtol=1e-9, atol=1e-12 * math.exp(rate))


def test_levels_between_the_places_of_the_tree_are_rounded_and_refined():
    exact, near = increments([0.0, 1.0, 2.0]), increments([0.0, 1.0007, 2.0])
    size = math.exp(1.0) - 1.0
    assert torch.allclose(near[0], exact[0] * math.sqrt((math.exp(1.0007) - 1.0) / size))
    # two levels closer than the rounding: a finer tree, which begins with the same path
    steps = increments([0.0, 1.0, 1.0002, 2.0])
    assert torch.allclose(steps[0], exact[0]) and steps[1].abs().min() > 0.0
    assert (steps[1] + steps[2] - exact[1]).abs().max() < 0.1 < exact[1].abs().mean()


@pytest.mark.parametrize("rate", [0.1, 1.0, 3.0])
def test_increments_of_a_path_are_standard_normal_and_independent(rate):
    lams = [-math.inf, -9.0, -3.0, -1.0, -0.99, 0.3, 4.0, 20.0]
    path = BrownianPath([5], (20_000,), spans(lams, rate), dtype=torch.float64)
    z = torch.stack([path(span)[0] for span in spans(lams, rate)])
    n = z.shape[1]
    assert (z.mean(1).abs() < 5 / n**0.5).all()
    assert ((z.var(1) - 1).abs() < 5 * (2 / n) ** 0.5).all()
    assert (((z**4).mean(1) - 3).abs() < 5 * (96 / n) ** 0.5).all()
    correlation = (z @ z.T / n).fill_diagonal_(0.0)
    assert correlation.abs().max() < 5 / n**0.5


def test_a_path_belongs_to_its_seed():
    lams = [-2.0, 0.0, 1.0]
    whole = torch.stack(increments(lams, seeds=[3, 8, 11]))
    alone = torch.stack(increments(lams, seeds=[8]))
    assert torch.equal(whole[:, 1:2], alone)
    assert not torch.allclose(whole[:, 0], whole[:, 1])
    # the path shares nothing with the noise the walk starts from
    start = item_noise([8], (4,), 0, dtype=torch.float64)
    assert (alone[0] / start).std() > 0.01


def test_rows_without_a_span_draw_fresh_noise_from_a_path():
    path = BrownianPath([1], (5,), [(0.0, 1.0, 1.0)])
    path((0.0, 1.0, 1.0))
    assert torch.equal(path(), item_noise([1], (5,), 1))
    assert path((0.0, 1.0, 1.0)).dtype == torch.float32


def test_a_path_has_ends():
    with pytest.raises(MarginalsError, match="Brownian"):
        BrownianPath([1], (5,), [(0.0, 33.0, 1.0)])
    BrownianPath([1], (5,), [(-math.inf, 32.0, 1.0)])((-math.inf, 32.0, 1.0))
