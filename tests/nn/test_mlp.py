"""MLP and the time and class vector it shares with the other backbones."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from marginals.errors import MarginalsError
from marginals.nn import MLP
from marginals.nn.embed import HIGHEST, LOWEST, fourier_features


def awake(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return net


def test_points_and_pictures_come_back_in_their_own_shape_and_start_as_zero() -> None:
    net, t = MLP(4, width=16, depth=2), torch.rand(3)
    x = torch.randn(3, 4)
    assert torch.equal(net(x, t), torch.zeros(3, 4))
    flat = awake(net)(x, t)
    assert torch.equal(net(x.reshape(3, 1, 2, 2), t), flat.reshape(3, 1, 2, 2))


def test_every_weight_gets_a_gradient_and_the_class_matters() -> None:
    net = awake(MLP(2, width=16, depth=2, num_classes=2))
    x, t = torch.randn(3, 2), torch.rand(3)
    net(x, t, torch.tensor([0, 1, -1])).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and torch.count_nonzero(p.grad) > 0, name
    same = x[:1].expand(3, 2), t[:1].expand(3)
    out = net(*same, torch.tensor([0, 1, -1]))
    assert (out[0] - out[1]).abs().max() > 1e-4 and (out[0] - out[2]).abs().max() > 1e-4
    assert torch.equal(net(*same)[2], out[2])


def test_it_fits_a_function_of_place_and_time() -> None:
    """v(x, t) = rotation of x by 2 t: squared error under a twentieth of the variance."""
    torch.manual_seed(0)
    net = MLP(2, width=32, depth=1)
    opt = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(120):
        x, t = torch.randn(128, 2), torch.rand(128)
        c, s = (2 * t).cos(), (2 * t).sin()
        target = torch.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]], 1)
        loss = (net(x, t) - target).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert loss < 0.05


def test_config_rebuilds_the_network() -> None:
    net = awake(MLP(3, width=8, depth=1, num_classes=2))
    twin = MLP(**json.loads(json.dumps(net.config)))
    twin.load_state_dict(net.state_dict())
    x, t = torch.randn(2, 3), torch.rand(2)
    assert torch.equal(twin(x, t), net(x, t))


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(MarginalsError, match="2 numbers per example"):
        MLP(2)(torch.zeros(1, 3), torch.zeros(1))
    with pytest.raises(MarginalsError, match="Times"):
        MLP(2)(torch.zeros(1, 2), torch.zeros(2))
    with pytest.raises(MarginalsError, match="width must be even"):
        MLP(2, width=7)
    with pytest.raises(MarginalsError, match="depth"):
        MLP(2, depth=0)


def test_time_features_are_the_stated_waves() -> None:
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    out = fourier_features(t, 6)
    for k in range(3):
        f = LOWEST * (HIGHEST / LOWEST) ** (k / 2)
        for row, time in zip(out, t.tolist(), strict=True):
            assert math.isclose(row[k], math.cos(f * time), abs_tol=1e-12)
            assert math.isclose(row[3 + k], math.sin(f * time), abs_tol=1e-12)


def test_time_features_keep_their_digits_in_half_precision() -> None:
    t = torch.tensor([0.75], dtype=torch.bfloat16)
    assert fourier_features(t, 32).dtype == torch.float32
    torch.testing.assert_close(fourier_features(t, 32), fourier_features(t.float(), 32))
