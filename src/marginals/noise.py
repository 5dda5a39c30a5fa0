"""Noise that belongs to one picture: the same seed gives the same picture in any batch.

Every picture has its own seed, and each draw of noise for it comes from its own stream, keyed by
(seed, draw). Nothing depends on the size of the batch or on the picture's place in it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def stream_seed(*key: int) -> int:
    """Mix whole numbers into one well-spread 63-bit seed (SplitMix64, Steele et al. 2014)."""
    state = 0
    for part in key:
        state = (state + (part & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def item_noise(
    seeds: Sequence[int],
    shape: Sequence[int],
    draw: int = 0,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise (len(seeds), *shape); row i depends on (seeds[i], draw) alone.

    Drawn on the CPU, so that a seed gives the same picture on every device.
    """
    generator = torch.Generator()
    rows = [
        torch.randn(*shape, generator=generator.manual_seed(stream_seed(seed, draw)), dtype=dtype)
        for seed in seeds
    ]
    stacked = torch.stack(rows) if rows else torch.empty(0, *shape, dtype=dtype)
    return stacked.to(device)
