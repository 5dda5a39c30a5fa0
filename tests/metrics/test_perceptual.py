"""The feature loss: a distance, for pictures of every kind, that training can follow."""

import copy

import pytest
import torch
from torch.nn import functional as F

from marginals.codec import autoencoder
from marginals.data.builtin import fashion
from marginals.metrics.efficientnet import EfficientNetLite0, available
from marginals.metrics.perceptual import FeatureLoss, feature_distance
from marginals.nn import ImageCodec
from marginals.pixels import to_float


def network() -> EfficientNetLite0:
    torch.manual_seed(0)
    return EfficientNetLite0().eval().requires_grad_(False)


def pictures(n: int = 4, channels: int = 3) -> torch.Tensor:
    return torch.rand(n, channels, 32, 32) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_it_is_a_distance_of_every_picture_by_itself(channels: int):
    net, x, y = network(), pictures(4, channels), pictures(4, channels)
    d = feature_distance(net, x, y)
    assert d.shape == (4,) and bool((d > 0).all()) and bool((d <= 16).all())
    assert float(feature_distance(net, x, x).abs().max()) == 0.0
    assert torch.allclose(d, feature_distance(net, y, x), atol=1e-6)
    assert torch.allclose(d[1:2], feature_distance(net, x[1:2], y[1:2]), atol=1e-5)
    assert torch.allclose(FeatureLoss(0.5, net)(x, y), 0.5 * d)


def test_transparent_pictures_are_seen_on_white():
    net, x = network(), pictures(2, 4)
    clear = torch.cat([x[:, :3], torch.full_like(x[:, 3:], -1.0)], 1)
    solid = torch.cat([x[:, :3], torch.full_like(x[:, 3:], 1.0)], 1)
    white = torch.ones(2, 3, 32, 32)
    assert feature_distance(net, clear, white).abs().max() < 1e-9
    assert feature_distance(net, solid, x[:, :3]).abs().max() < 1e-9


def test_only_the_reconstruction_is_followed():
    x, y = pictures().requires_grad_(), pictures().requires_grad_()
    feature_distance(network(), x, y).sum().backward()
    assert x.grad is None and y.grad is not None and float(y.grad.abs().max()) > 0.0


def test_it_is_no_part_of_the_model_and_copies_share_it():
    model = autoencoder(ImageCodec(3, 16, 2, widths=[8, 8], blocks=[0, 0]))
    names = list(model.state_dict())
    model.perceptual = FeatureLoss(1.0, network())
    assert list(model.state_dict()) == names
    twin = copy.deepcopy(model)
    assert isinstance(twin.perceptual, FeatureLoss)
    assert twin.perceptual.network is model.perceptual.network
    x = (pictures(2)[:, :, :16, :16] * 127 + 128).to(torch.uint8)
    model.loss(x, generator=torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is not None for p in model.decode.parameters())


@pytest.mark.skipif(not available(), reason="EfficientNet-Lite0 is not installed")
def test_blur_is_further_away_than_a_change_of_brightness_of_the_same_size():
    net = EfficientNetLite0.pretrained()
    x = F.interpolate(to_float(fashion()[0].images[:16]), size=56, mode="nearest")
    blurred = F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    size = (blurred - x).square().mean((1, 2, 3), keepdim=True).sqrt()
    assert bool((feature_distance(net, x, blurred) > feature_distance(net, x, x + size)).all())
