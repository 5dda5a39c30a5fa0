"""A condition is one tensor of any kind, and knows how to say nothing."""

import pytest
import torch

from marginals.condition import hide, join, null_like, pad
from marginals.errors import MarginalsError


def test_nothing_is_minus_one_for_labels_and_zeros_for_words():
    assert null_like(torch.tensor([3, 0])).tolist() == [-1, -1]
    words = torch.randn(2, 3, 4)
    assert torch.equal(null_like(words), torch.zeros(2, 3, 4))


def test_hiding_rows():
    hidden = torch.tensor([True, False])
    assert hide(torch.tensor([3, 0]), hidden).tolist() == [-1, 0]
    words = torch.randn(2, 3, 4)
    told = hide(words, hidden)
    assert not told[0].any() and torch.equal(told[1], words[1])


def test_texts_of_different_lengths_are_joined_by_padding():
    long, short = torch.randn(1, 5, 4), torch.randn(2, 2, 4)
    both = join([long, short])
    assert both.shape == (3, 5, 4)
    assert torch.equal(both[0], long[0]) and torch.equal(both[1:, :2], short)
    assert not both[1:, 2:].any()
    assert join([torch.tensor([1]), torch.tensor([2, -1])]).tolist() == [1, 2, -1]
    with pytest.raises(MarginalsError, match="does not fit"):
        pad(long, 4)
