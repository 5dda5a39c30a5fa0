"""Augmentation: each picture its own draw, nothing invented, the right frequencies."""

import numpy as np
import pytest
import torch

from marginals.data.augment import Augment
from marginals.errors import MarginalsError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(9))


def test_off_by_default() -> None:
    x = noise(5, 3, 8, 8)
    assert torch.equal(Augment()(x, generator()), x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flip_mirrors_half_of_the_pictures(dtype) -> None:
    x = noise(2000, 1, 3, 5).to(dtype)
    y = Augment(flip=True)(x, generator())
    same = (y == x).flatten(1).all(1)
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 1000) < 5 * 2000**0.5 / 2  # five standard deviations
    assert y.dtype == dtype


def test_shift_is_a_reflected_padding_and_a_crop() -> None:
    x = noise(300, 3, 6, 9)
    y = Augment(shift=3)(x, generator())
    seen = set()
    for before, after in zip(x.numpy(), y.numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (3, 3), (3, 3)), mode="reflect")
        fits = [
            (3 - i, 3 - j)
            for i in range(7)
            for j in range(7)
            if np.array_equal(padded[:, i : i + 6, j : j + 9], after)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 40  # of the 49 offsets
    assert {i for i, _ in seen} == {j for _, j in seen} == set(range(-3, 4))


def test_the_generator_decides() -> None:
    x = noise(50, 1, 8, 8)
    both = Augment(flip=True, shift=2)
    assert torch.equal(both(x, generator(1)), both(x, generator(1)))
    assert not torch.equal(both(x, generator(1)), both(x, generator(2)))


def test_the_input_is_left_alone() -> None:
    x = noise(20, 1, 8, 8)
    before = x.clone()
    Augment(flip=True, shift=2)(x, generator())
    assert torch.equal(x, before)


@pytest.mark.parametrize("shift", [-1, 6, 100])
def test_impossible_shifts(shift) -> None:
    with pytest.raises(MarginalsError, match="shift"):
        Augment(shift=shift)(noise(2, 1, 6, 9), generator())
