"""The order of the data as a pure function of (seed, images seen).

The training stream is infinite: epoch after epoch, each a permutation of all n pictures,

    picture at position k  =  perm_{seed, k // n} [ k % n ].

Nothing is stored: a run that stops after k pictures resumes at position k and meets exactly the
pictures it would have met. Several processes share one stream by taking turns, so the union of
their batches does not depend on how many they are.

The permutation sorts the raw 64-bit output of the counter-based generator Philox (Salmon et al.
2011), whose bits are fixed by its publication: an upgrade of a library changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import MarginalsError
from .pictures import PictureSource


def indices(n: int, seed: int, start: int, count: int, *, rank: int = 0, world: int = 1) -> Tensor:
    """LongTensor (count,): the pictures at positions start + rank + world * (0, 1, ... count - 1).

    With world = 1 these are `count` consecutive positions of the stream. With several processes
    each passes the same global `start` and its own `rank`; together they take the
    count * world positions from `start` on.
    """
    if n < 1 or start < 0 or count < 0 or not 0 <= rank < world:
        raise MarginalsError(
            f"no order for n={n}, start={start}, count={count}, rank {rank} of {world}: n must be "
            "at least 1, the others not negative, and the rank below the number of processes."
        )
    positions = start + rank + world * np.arange(count, dtype=np.int64)
    epochs = positions // n
    out = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        out[here] = permutation(n, seed, epoch)[positions[here] % n]
    return torch.from_numpy(out)


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of one epoch: a permutation of 0..n-1, keyed (seed, epoch); read-only."""
    if not 0 <= seed < 1 << 64:
        raise MarginalsError(f"the seed must lie between 0 and 2^64 - 1, but it is {seed}.")
    raw = np.random.Philox(key=seed + (epoch << 64)).random_raw(n)
    order = np.argsort(raw, kind="stable")
    order.setflags(write=False)
    return order


def batches(
    source: PictureSource,
    size: int,
    *,
    seed: int = 0,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    ahead: int = 2,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The endless stream of batches (uint8 (size, C, H, W), labels (size,)) from position `start`.

    `size` is per process; every batch moves the global position on by size * world. `ahead`
    batches are announced to the source before they are needed, so a source that reads from a
    disk decodes while the network computes.
    """
    step = size * world
    announced = start

    def at(position: int) -> Tensor:
        return indices(len(source), seed, position, size, rank=rank, world=world)

    while True:
        while announced <= start + ahead * step:
            source.ahead(at(announced))
            announced += step
        yield source.batch(at(start))
        start += step
