"""The convolutional encoder and decoder: shapes, sizes, reach, bfloat16."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from marginals.errors import MarginalsError
from marginals.nn import LATENT_PRESETS, ImageCodec
from marginals.nn.codec import start_linear


def codec(**changes: Any) -> Any:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "channels": 3,
        "size": 32,
        "latents": 5,
        "widths": [8, 16, 24],
        "blocks": [1, 1, 1],
    }
    return ImageCodec(**(options | changes))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("patch", "levels", "factor"), [(1, 2, 2), (2, 2, 4), (2, 3, 8), (4, 2, 8)]
)
def test_shapes(channels: int, patch: int, levels: int, factor: int):
    net = codec(channels=channels, patch=patch, widths=[8] * levels, blocks=[1] * levels)
    side = 32 // factor
    assert net.shape == (5, side, side)
    mean, log_std = net.rungs[0].posterior(net.evidence(torch.randn(2, channels, 32, 32)))
    assert mean.shape == log_std.shape == (2, 5, side, side)
    prior = net.rungs[0].prior(None)
    assert prior[0].shape == (1, 5, side, side) and float(prior[0].abs().max()) == 0.0
    assert net.decode(mean).shape == (2, 2 * channels, 32, 32)


def test_config_rebuilds_the_network():
    net = codec(decoder_blocks=[2, 0, 1])
    twin = ImageCodec(**net.config)
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in twin.state_dict().items()
    }
    assert twin.config == net.config


def test_the_spread_is_one_number_and_only_with_two_params():
    net = codec()
    out = net.decode(torch.randn(2, 5, 4, 4))
    assert len(out[:, 3:].unique()) == 1
    assert codec(params=1).decode(torch.randn(2, 5, 4, 4)).shape == (2, 3, 32, 32)
    out[:, 3:].sum().backward()
    assert net.decode.log_scale is not None and net.decode.log_scale.grad is not None


def test_a_fresh_posterior_is_narrow():
    mean, log_std = codec().rungs[0].posterior(codec().evidence(torch.randn(2, 3, 32, 32)))
    assert log_std.max() < -1.0 and mean.abs().max() < 10.0


def test_it_is_convolutional_everywhere():
    """A picture moved by f pixels has its latents moved by one place, away from the edges."""
    net = codec(size=64, blocks=[0, 0, 0])
    x = torch.zeros(1, 3, 64, 64)
    x[:, :, 24:32, 24:32] = torch.randn(1, 3, 8, 8)
    mean, _ = net.rungs[0].posterior(net.evidence(x))
    moved, _ = net.rungs[0].posterior(net.evidence(x.roll((8, 8), (2, 3))))
    assert torch.allclose(mean[:, :, 2:5, 2:5], moved[:, :, 3:6, 3:6], atol=1e-5)


def test_bfloat16_gives_nearly_the_same_in_full_precision():
    net, x = codec(), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out = net.evidence(x)
        back = net.decode(net.rungs[0].posterior(out)[0])
    assert out.dtype == back.dtype == torch.float32
    assert (out - net.evidence(x)).abs().max() < 0.1
    double = codec().double()
    assert double.decode(double.evidence(x.double())[:, :5]).dtype == torch.float64


def test_what_does_not_fit_is_refused():
    for changes, words in (
        ({"size": 36}, "divisible"),
        ({"blocks": [1, 1]}, "numbers of blocks"),
        ({"params": 15}, "1 or 2 numbers"),
        ({"latents": 0}, "latents"),
    ):
        with pytest.raises(MarginalsError, match=words):
            codec(**changes)
    with pytest.raises(MarginalsError, match="takes pictures"):
        codec().evidence(torch.zeros(1, 1, 32, 32))


def test_it_can_begin_as_the_best_linear_codec():
    """Principal components: the error left is the sum of the eigenvalues left out, no linear codec
    has less, and the latents are uncorrelated with variance 1."""
    net = codec(size=16, widths=[8, 8], blocks=[1, 1], latents=7).double()
    x = torch.randn(64, 3, 16, 16).double()
    x = (x + 2 * F.avg_pool2d(x, 5, 1, 2)).clamp(-1, 1) + 0.1
    start_linear(net.evidence, net.decode, x)
    for network in (net.evidence, net.decode):
        nn.init.zeros_(network.layers[-1].weight)
    z = net.evidence(x)[:, :7]
    rows = z.movedim(1, -1).flatten(0, 2)
    assert torch.allclose(torch.cov(rows.T), torch.eye(7).double(), atol=1e-9)
    assert rows.mean(0).abs().max() < 1e-9
    error = (net.decode(z)[:, :3] - x).square().mean()
    squares = F.pixel_unshuffle(x, 4).movedim(1, -1).flatten(0, 2)
    left = torch.linalg.eigvalsh(torch.cov(squares.T, correction=0))[:-7].sum() / 48
    assert torch.allclose(error, left, rtol=1e-6)


@pytest.mark.parametrize("name", ["autoencoder", "autoencoder8"])
def test_presets_are_small(name: str):
    options = {k: v for k, v in LATENT_PRESETS[name].items() if k != "kind"}
    net = ImageCodec(3, 64, 2, **options)
    assert sum(p.numel() for p in net.parameters()) <= 2.5e6
