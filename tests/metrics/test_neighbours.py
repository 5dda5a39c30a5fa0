"""Nearest pictures against a plain search, and the verdict on copies."""

import pytest
import torch
from torch import Tensor

from marginals.errors import MarginalsError
from marginals.metrics import neighbours
from marginals.metrics.neighbours import memorisation, nearest


def noise(n: int, *, seed: int, size: int = 5, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def plain(a: Tensor, b: Tensor) -> Tensor:
    """All distances, one difference at a time, with black and white 2 apart (256 levels)."""
    x, y = (p.double().flatten(1) / 128 for p in (a, b))
    return (x[:, None] - y[None]).square().mean(2).sqrt()


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("values", [2**24, 75 * 6])
def test_the_k_nearest_are_exact_in_any_blocks(
    k: int, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[int] = []
    original = neighbours._nearest_of

    def spy(rows: Tensor, training: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
        blocks.append(block)
        return original(rows, training, k, min(block, values // 75))

    monkeypatch.setattr(neighbours, "_nearest_of", spy)
    a, b = noise(7, seed=1), noise(20, seed=2)
    found = nearest(a, b, k)
    distance, index = plain(a, b).sort(dim=1)
    assert torch.equal(found.index, index[:, :k])
    assert torch.allclose(found.distance, distance[:, :k], rtol=1e-12)
    assert blocks


def test_a_copy_has_distance_exactly_zero() -> None:
    training = noise(50, seed=1, size=28)
    found = nearest(training[[17, 3]], training, 2)
    assert found.index[:, 0].tolist() == [17, 3]
    assert (found.distance[:, 0] == 0).all() and (found.distance[:, 1] > 0.5).all()


def test_one_level_of_one_pixel_is_seen() -> None:
    training = noise(50, seed=1, size=28) // 2
    sample = training[:1].clone()
    sample[0, 0, 0, 0] += 1
    found = nearest(sample, training)
    assert found.distance.item() == pytest.approx(1 / 128 / (3 * 28 * 28) ** 0.5, rel=1e-12)


def test_float_pictures_are_rounded_as_in_a_file() -> None:
    training = noise(30, seed=1)
    x = (training[:4].float() + 0.5) / 128 - 1
    assert (nearest(x, training).distance == 0).all()
    assert (nearest(x + 0.003, training).distance == 0).all()


def test_copies_and_new_pictures_are_told_apart() -> None:
    training, held_out = noise(200, seed=1), noise(2000, seed=2)
    honest = memorisation(noise(2000, seed=3), held_out, training)
    assert 0.03 < honest.share < 0.07 and 0.98 < honest.ratio < 1.02
    copies = memorisation(training[:50], held_out, training)
    assert copies.share == 1 and copies.ratio == 0
    mixed = torch.cat([training[:100], noise(300, seed=4)])
    assert 0.26 < memorisation(mixed, held_out, training).share < 0.34
    assert "100.0 % of the samples" in str(copies)


def test_what_cannot_be_compared_is_refused() -> None:
    a, b = noise(3, seed=1), noise(3, seed=2, size=6)
    with pytest.raises(MarginalsError, match="same channels and size"):
        nearest(a, b)
    with pytest.raises(MarginalsError, match="4 neighbours were asked for, of 3"):
        nearest(a, a, 4)
    with pytest.raises(MarginalsError, match="at least 2 held-out"):
        memorisation(a, a[:1], a)
