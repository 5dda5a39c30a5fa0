"""Pictures in memory: what is refused, splits, subsets, resizing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marginals.data.pictures import Pictures, PictureSource, class_counts, split_indices
from marginals.errors import MarginalsError


def some(n: int = 20, classes: int = 2) -> Pictures:
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 1, 4, 4).clone()
    return Pictures(images, torch.arange(n) % classes, tuple("abcdefgh"[:classes]))


def test_is_a_source() -> None:
    assert isinstance(some(), PictureSource)


def test_batch_and_subset_keep_pictures_with_their_labels() -> None:
    source = some()
    x, y = source.subset(torch.tensor([7, 3, 12])).batch(torch.tensor([2, 0]))
    assert x[:, 0, 0, 0].tolist() == [12, 7]
    assert y.tolist() == [0, 1]


def test_without_labels_every_label_is_minus_one() -> None:
    source = Pictures(torch.zeros(3, 3, 2, 2, dtype=torch.uint8))
    assert source.batch(torch.tensor([0, 2]))[1].tolist() == [-1, -1]
    assert class_counts(source) == {}


def test_counts_leave_out_pictures_without_a_label() -> None:
    images = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    source = Pictures(images, torch.tensor([0, -1, 2, 2, -1]), ("a", "b", "c"))
    assert class_counts(source) == {"a": 1, "b": 0, "c": 2}


@pytest.mark.parametrize(
    ("images", "labels", "classes", "says"),
    [
        (torch.zeros(2, 1, 4, 4), None, (), "uint8"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), None, (), "shape"),
        (torch.zeros(2, 2, 4, 4, dtype=torch.uint8), None, (), "channels"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0]), ("a",), "one integer"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ("a",), "from 0 to 1"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, -2]), ("a",), "from -2"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), None, ("a",), "no labels"),
    ],
)
def test_refusals(images, labels, classes, says) -> None:
    with pytest.raises(MarginalsError, match=says):
        Pictures(images, labels, classes)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**64 - 1),
)
def test_split_is_a_partition_that_keeps_the_shares(counts, share, seed) -> None:
    labels = torch.from_numpy(
        np.random.default_rng(0).permutation(np.repeat(range(len(counts)), counts))
    )
    n = len(labels)
    count = int(share * n)
    if not 0 < count < n:
        return
    train, held = split_indices(n, labels, count, seed)
    assert len(held) == count
    assert sorted(train.tolist() + held.tolist()) == list(range(n))
    for label, total in enumerate(counts):
        expected = total * count / n
        assert abs(int((labels[held] == label).sum()) - expected) < 1.0


def test_split_depends_on_the_seed_and_on_nothing_else() -> None:
    a, b, c = (split_indices(1000, None, 100, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("held_out", [0, 20, 21, -1, 1.0])
def test_split_refuses_to_leave_a_side_empty(held_out) -> None:
    with pytest.raises(MarginalsError, match="cannot be cut"):
        some(20).split(held_out)


def test_a_share_is_rounded_and_never_empty() -> None:
    assert len(some(20).split(0.25)[1]) == 5
    assert len(some(20).split(0.001)[1]) == 1


def test_resized_crops_the_centre_and_keeps_flat_colours() -> None:
    images = torch.zeros(2, 3, 8, 16, dtype=torch.uint8)
    images[:, 0, :, 4:12], images[:, 1, :, :4] = 200, 90
    small = Pictures(images).resized(4)
    assert small.shape == (3, 4, 4)
    assert small.images[:, 0].unique().tolist() == [200]  # the green edge was cropped away
    assert small.images[:, 1:].unique().tolist() == [0]
