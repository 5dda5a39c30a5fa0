"""Noise that belongs to one picture: the same seed gives the same picture in any batch.

Every picture has its own seed, and each draw of noise for it comes from its own stream, keyed by
(seed, draw). Nothing depends on the size of the batch or on the picture's place in it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 32) - 1


def _mix(word: int) -> int:
    """Scramble 32 bits, one to one (the finaliser of MurmurHash3, Appleby 2011)."""
    word ^= word >> 16
    word = (word * 0x85EBCA6B) & _MASK
    word ^= word >> 13
    word = (word * 0xC2B2AE35) & _MASK
    return word ^ (word >> 16)


def stream_seed(*key: int) -> int:
    """Mix whole numbers into one well-spread 32-bit seed: all that torch's CPU generator reads.

    Every stage is one to one. So at the same draw, seeds that differ by less than 2³² are always
    different streams, where a hash would give two of a hundred thousand pictures the same noise.
    """
    state = 0
    for part in key:
        for word in (part & _MASK, (part >> 32) & _MASK):
            state = _mix((state + word + 0x9E3779B9) & _MASK)
    return state


def item_noise(
    seeds: Sequence[int],
    shape: Sequence[int],
    draw: int = 0,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise (len(seeds), *shape); row i depends on (seeds[i], draw) alone.

    Drawn on the CPU in float32, so that a seed gives the same picture on every device and in every
    precision.
    """
    generator = torch.Generator()
    rows = [
        torch.randn(*shape, generator=generator.manual_seed(stream_seed(seed, draw)))
        for seed in seeds
    ]
    stacked = torch.stack(rows) if rows else torch.empty(0, *shape)
    return stacked.to(device, dtype)
