"""The data order: a stream of permutations that can be entered anywhere, by any number of ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from marginals.data.order import batches, indices, permutation
from marginals.data.pictures import Pictures
from marginals.errors import MarginalsError

sizes, seeds = st.integers(1, 50), st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(n=sizes, seed=seeds, start=st.integers(0, 10**12), cut=st.integers(0, 120))
def test_restart_anywhere_gives_the_same_stream(n, seed, start, cut) -> None:
    whole = indices(n, seed, start, 120)
    parts = torch.cat([indices(n, seed, start, cut), indices(n, seed, start + cut, 120 - cut)])
    assert torch.equal(whole, parts)


@settings(deadline=None)
@given(n=sizes, seed=seeds, epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(n, seed, epoch) -> None:
    assert sorted(indices(n, seed, n * epoch, n).tolist()) == list(range(n))


@settings(deadline=None)
@given(n=sizes, seed=seeds, start=st.integers(0, 10**6), world=st.integers(1, 5))
def test_ranks_take_turns_and_together_see_what_one_process_sees(n, seed, start, world) -> None:
    alone = indices(n, seed, start, 12 * world)
    shared = [indices(n, seed, start, 12, rank=rank, world=world) for rank in range(world)]
    assert torch.equal(alone, torch.stack(shared, 1).flatten())


def test_epochs_and_seeds_differ() -> None:
    orders = {(s, e): tuple(permutation(100, s, e)) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    assert (permutation(100, 2**63, 0) != permutation(100, 0, 1)).any()  # no key is used twice


def test_positions_are_uniform() -> None:
    """Where picture 0 of 10 lands, over 5000 epochs: chi-square against the uniform law."""
    places = [int((permutation(10, 7, e) == 0).argmax()) for e in range(5000)]
    counts = torch.bincount(torch.tensor(places), minlength=10).tolist()
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_cached_order_cannot_be_spoiled() -> None:
    with pytest.raises(ValueError, match="read-only"):
        permutation(10, 0, 0)[0] = 3


@pytest.mark.parametrize(
    "bad",
    [{"n": 0}, {"start": -1}, {"count": -1}, {"rank": 2, "world": 2}, {"rank": -1}, {"seed": -1}],
)
def test_refusals(bad) -> None:
    with pytest.raises(MarginalsError):
        indices(**{"n": 5, "seed": 0, "start": 0, "count": 3} | bad)


class Watched(Pictures):
    """Notes what is announced and what is asked for."""

    def ahead(self, indices: torch.Tensor) -> None:
        events.append(("ahead", tuple(indices.tolist())))

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        events.append(("batch", tuple(indices.tolist())))
        return super().batch(indices)


events: list[tuple[str, tuple[int, ...]]] = []


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 1000), ahead=st.integers(0, 4), world=st.integers(1, 3))
def test_batches_follow_the_order_and_are_announced_first(start, ahead, world) -> None:
    events.clear()
    images = torch.arange(30, dtype=torch.uint8)[:, None, None, None]
    stream = batches(
        Watched(images), 4, seed=3, start=start, rank=world - 1, world=world, ahead=ahead
    )
    seen = torch.cat([next(stream)[0] for _ in range(6)]).flatten().long()
    assert torch.equal(seen, indices(30, 3, start, 24, rank=world - 1, world=world))
    announced = [i for kind, i in events if kind == "ahead"]
    asked = [i for kind, i in events if kind == "batch"]
    assert announced[: len(asked)] == asked
    assert len(announced) == 6 + ahead
    first_asked = events.index(("batch", asked[0]))
    assert [kind for kind, _ in events[:first_asked]] == ["ahead"] * (1 + ahead)
