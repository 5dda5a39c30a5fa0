"""Whole numbers, real numbers and bits."""

import math

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.pixels import BIN_WIDTH, BINS, bits_per_dim, dequantise, to_float, to_uint8

ALL = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_exact_for_every_value(dtype):
    x = to_float(ALL, dtype)
    assert x.dtype == dtype and torch.equal(to_uint8(x), ALL)
    assert torch.allclose(x.double(), (2 * ALL.double() + 1) / 256 - 1, rtol=0, atol=0)
    assert (x[0].item(), x[-1].item()) == (-255 / 256, 255 / 256)
    assert (BINS, BIN_WIDTH) == (256, 1 / 128)


def test_dequantised_pixels_fill_their_own_bin():
    u = torch.rand(256, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k = ALL[:, None].expand(256, 500)
    x = dequantise(k, u)
    low = 2 * k.double() / 256 - 1
    assert bool(((x >= low) & (x < low + BIN_WIDTH)).all())
    assert torch.equal(((x + 1) * 128).floor().to(torch.uint8), k)
    assert ((x - low) / BIN_WIDTH - u).abs().max() < 1e-12
    assert torch.allclose(dequantise(ALL, torch.full((256,), 0.5)), to_float(ALL))
    assert dequantise(ALL, torch.zeros(256)).min() == -1.0


def test_values_outside_are_clipped_and_nan_is_refused():
    x = torch.tensor([-7.0, -1.0, 1.0, 9.0, math.inf, -math.inf])
    assert to_uint8(x).tolist() == [0, 0, 255, 255, 255, 0]
    with pytest.raises(MarginalsError, match="NaN"):
        to_uint8(torch.tensor([0.0, math.nan]))
    for wrong in (torch.zeros(3), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(MarginalsError, match="uint8"):
            to_float(wrong)


def test_bits_per_dim_of_a_uniform_model():
    """Density ½ on [−1, 1] is probability 1/256 a pixel: 8 bits, by either route."""
    dims = 12
    density = torch.tensor([dims * math.log(0.5)], dtype=torch.float64)
    probability = torch.tensor([dims * math.log(1 / 256)], dtype=torch.float64)
    assert bits_per_dim(density, dims, density=True).item() == pytest.approx(8.0)
    assert bits_per_dim(probability, dims, density=False).item() == pytest.approx(8.0)


def test_bits_per_dim_offset_is_seven_bits():
    """−log2 p(x)/D + 7 for pictures in [−1, 1] cut into 256 bins (PAPER 4.2, 3)."""
    nats = torch.tensor([-3.0, 100.0], dtype=torch.float64)
    wanted = -nats / (5 * math.log(2.0)) + 7.0
    assert torch.allclose(bits_per_dim(nats, 5, density=True), wanted)
    assert torch.allclose(bits_per_dim(nats, 5, density=False), wanted - 7.0)


def test_dequantised_pixels_never_leave_their_bin() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        largest = torch.nextafter(torch.ones(256, dtype=dtype), torch.zeros(256, dtype=dtype))
        for u in (torch.zeros(256, dtype=dtype), largest):
            assert torch.equal(to_uint8(dequantise(pixels, u)), pixels)
