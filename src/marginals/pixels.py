"""Pixels and bits: the only place where whole numbers 0..255 become real numbers and back.

A stored picture holds whole numbers k = 0..255. The models work on real numbers in [-1, 1]. We
cut [-1, 1] into 256 bins of width 2/256 and put pixel k into the middle of bin k:

    x = (2k + 1)/256 − 1                         (``to_float``)
    k = floor(128·(x + 1))                       (``to_uint8``; the exact inverse)
    x = 2(k + u)/256 − 1,  u ~ U[0, 1)           (``dequantise``; uniform inside the bin)

With one bin width everywhere, a density over real pictures turns into a probability over stored
pictures by one factor per pixel, log P(k) ≥ E_u[log p(x)] + D·log(2/256) (Theis et al. 2016), and
"bits per dimension" means the same thing for every model in this package.
"""

import math

import torch
from torch import Tensor

from .errors import MarginalsError

BINS = 256
"""Number of values a stored pixel can take."""

BIN_WIDTH = 2.0 / BINS
"""Width of one bin of [-1, 1]."""


def to_float(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Stored pixels (uint8, any shape) to real numbers in [-1, 1]: the bin centres."""
    if pixels.dtype != torch.uint8:
        raise MarginalsError(
            f"Stored pixels must be uint8 (whole numbers 0..255), not {pixels.dtype}; "
            "pictures that are real numbers already need no conversion."
        )
    return pixels.to(dtype).mul_(BIN_WIDTH).add_(0.5 * BIN_WIDTH - 1.0)


def to_uint8(pictures: Tensor) -> Tensor:
    """Real pictures in [-1, 1] to stored pixels; values outside are clipped, NaN is refused."""
    if torch.isnan(pictures).any():
        raise MarginalsError(
            "The pictures contain NaN (not-a-number) values, so they cannot be saved; "
            "the model that made them has diverged: go back to an earlier checkpoint."
        )
    return ((pictures.double() + 1.0) / BIN_WIDTH).floor().clamp_(0, BINS - 1).to(torch.uint8)


def dequantise(pixels: Tensor, u: Tensor) -> Tensor:
    """Spread stored pixels uniformly over their bins: x = 2(k + u)/256 − 1 with u ~ U[0, 1).

    A density has no meaning on whole numbers: a model could put infinite density on them. Uniform
    dequantisation (Uria et al. 2013) makes the density's expectation a lower bound on log P(k).

    u is cut to the digits that k + u can keep (16 binary ones in float32), so that rounding never
    lifts a pixel into the next bin. Half precision has no digits for this.
    """
    grain = 0.5 * BINS * torch.finfo(u.dtype).eps
    u = (u / grain).floor() * grain
    return (pixels.to(u.dtype) + u) * BIN_WIDTH - 1.0


def bits_per_dim(nats: Tensor, dims: int, *, density: bool) -> Tensor:
    """Log-likelihood in nats (natural logs) to bits per dimension (smaller is better).

    ``density=False``: ``nats`` is log P(k), a probability of whole numbers: −nats/(D·ln 2).
    ``density=True``: ``nats`` is log p(x) of a density on [-1, 1]: the D bin widths are paid for
    first, −(nats + D·ln(2/256))/(D·ln 2) = −nats/(D·ln 2) + 7.
    """
    probability = nats + dims * math.log(BIN_WIDTH) if density else nats
    return -probability / (dims * math.log(2.0))
