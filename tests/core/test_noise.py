"""Noise that belongs to one picture."""

import pytest
import torch

from marginals.noise import item_noise, stream_seed


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
