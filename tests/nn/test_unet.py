"""UNet: a map of shapes, blank at first, that can use everything it is told."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from marginals.errors import MarginalsError
from marginals.nn import PRESETS, UNet
from marginals.nn.embed import picture_features
from marginals.nn.unet import Attention

SMALL = {"width": 16, "mults": [1, 2], "blocks": 1, "attention": [-1]}


def awake(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network after some training, as far as these tests care: no layer is zero any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.05)
    return net


def draw(channels: int, size: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, size, size, generator=generator)
    return x, torch.rand(batch, generator=generator)


@pytest.mark.parametrize(
    ("channels", "size", "patch", "mults"),
    [
        (1, 28, 1, [1, 2, 2]),
        (1, 28, 2, [1, 2]),
        (1, 28, 4, [1]),
        (1, 8, 1, [1, 2]),
        (3, 32, 2, [1, 2, 2]),
        (4, 12, 3, [1, 2, 1]),
        (3, 5, 1, [2]),
    ],
)
def test_the_output_has_the_shape_of_the_input_and_starts_as_zero(
    channels: int, size: int, patch: int, mults: list[int]
) -> None:
    net = UNet(channels, size, width=16, mults=mults, blocks=1, patch=patch)
    x, t = draw(channels, size)
    out = net(x, t)
    assert out.shape == x.shape
    assert out.is_contiguous()
    assert torch.count_nonzero(out) == 0
    assert torch.count_nonzero(awake(net)(x, t)) == x.numel()


def test_every_weight_gets_a_gradient() -> None:
    net = awake(UNet(1, 8, num_classes=4, patch=2, **SMALL))
    x, t = draw(1, 8, batch=5)
    net(x, t, torch.tensor([0, 1, 2, 3, -1])).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and torch.count_nonzero(p.grad) > 0, name


def test_each_example_is_computed_on_its_own() -> None:
    net = awake(UNet(1, 8, num_classes=3, **SMALL)).double()
    x, t = (v.double() for v in draw(1, 8))
    cond = torch.tensor([0, 2, -1])
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x, t, cond), alone, rtol=0, atol=1e-12)


def test_time_and_class_change_the_answer_and_no_class_is_a_class_of_its_own() -> None:
    net = awake(UNet(1, 8, num_classes=3, **SMALL))
    x, t = draw(1, 8, batch=1)
    answers = [net(x, t, torch.tensor([c])) for c in (-1, 0, 1, 2)]
    answers.append(net(x, t + 0.1, torch.tensor([0])))
    for i, a in enumerate(answers):
        for b in answers[:i]:
            assert (a - b).abs().max() > 1e-4
    assert torch.equal(net(x, t), answers[0])


def test_attention_is_softmax_of_scaled_products_place_by_place() -> None:
    """x + P softmax(q k / sqrt(d)) v written out one head and one place at a time."""
    layer = awake(Attention(8, head=4)).double()
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64)
    tokens = layer.qkv(layer.norm(x)).flatten(2)[0]
    mixed = torch.zeros(8, 6, dtype=torch.float64)
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        q, k, v = tokens[:8][rows], tokens[8:16][rows], tokens[16:][rows]
        for place in range(6):
            mixed[rows, place] = v @ torch.softmax(q[:, place] @ k / 2, dim=0)
    truth = x + layer.proj(mixed.reshape(1, 8, 2, 3))
    torch.testing.assert_close(layer(x), truth, rtol=0, atol=1e-12)


def test_the_gradient_is_the_finite_difference() -> None:
    net = awake(UNet(1, 4, width=16, mults=[1, 2], blocks=1, num_classes=2)).double()
    x, t = (v.double() for v in draw(1, 4, batch=2))
    cond = torch.tensor([1, -1])
    x.requires_grad_(), t.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: net(a, b, cond), (x, t), fast_mode=True)


def test_config_rebuilds_the_network_after_a_trip_through_json() -> None:
    net = awake(UNet(3, 8, num_classes=5, patch=2, **SMALL))
    twin = UNet(**json.loads(json.dumps(net.config)))
    twin.load_state_dict(net.state_dict())
    x, t = draw(3, 8)
    assert torch.equal(twin(x, t, torch.tensor([0, 4, -1])), net(x, t, torch.tensor([0, 4, -1])))


def test_types_and_memory_layouts_agree() -> None:
    net = awake(UNet(3, 8, **SMALL)).double()
    x, t = (v.double() for v in draw(3, 8))
    exact = net(x, t)
    assert exact.dtype == torch.float64
    nhwc = net(x.contiguous(memory_format=torch.channels_last), t)
    torch.testing.assert_close(nhwc, exact, rtol=0, atol=1e-12)
    single = net.float()(x.float(), t.float())
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x.float(), t.float())
    assert (half.double() - exact).norm() < 0.05 * exact.norm()


def test_a_few_steps_learn_to_copy_the_input() -> None:
    """The skip route works: the identity is learnt to a tenth of the variance in 60 steps."""
    torch.manual_seed(0)
    net = UNet(1, 8, patch=2, **SMALL)
    opt = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        x, t = torch.randn(32, 1, 8, 8), torch.rand(32)
        loss = (net(x, t) - x).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert loss < 0.1


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_build_and_describe_themselves(name: str) -> None:
    size = 8 if name == "tiny" else 32
    net = UNet(1, size, num_classes=10, **PRESETS[name])
    options = {"channels": 1, "size": size, "num_classes": 10, "text_width": 0}
    options |= {"fourier": [], "outputs": 1}
    assert net.config == {**options, **PRESETS[name]}
    assert net(*draw(1, size, batch=1)).shape == (1, 1, size, size)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"size": 30, "mults": [1, 2, 2]}, "divisible by 4"),
        ({"size": 28, "patch": 8}, "divisible by 16"),
        ({"width": 0}, "1 or more"),
        ({"mults": []}, "at least one mult"),
        ({"attention": [2]}, "-2 to 1"),
        ({"num_classes": -1}, "num_classes"),
        ({"outputs": 0}, "outputs"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(change: dict, word: str) -> None:
    with pytest.raises(MarginalsError, match=word):
        UNet(**{"channels": 1, "size": 28, **SMALL, **change})


@pytest.mark.parametrize(
    ("shape", "times", "labels", "word"),
    [
        ((2, 3, 8, 8), 2, None, r"\(1, 8, 8\)"),
        ((2, 1, 8, 4), 2, None, r"\(1, 8, 8\)"),
        ((2, 1, 8, 8), 3, None, "Times"),
        ((2, 1, 8, 8), 2, torch.tensor([0, 3]), "Label 3"),
        ((2, 1, 8, 8), 2, torch.tensor([-2, 0]), "Label -2"),
        ((2, 1, 8, 8), 2, torch.tensor([0.0, 1.0]), "integers"),
    ],
)
def test_wrong_inputs_are_refused_with_a_sentence(shape, times, labels, word: str) -> None:
    net = UNet(1, 8, num_classes=3, **SMALL)
    with pytest.raises(MarginalsError, match=word):
        net(torch.zeros(shape), torch.zeros(times), labels)


def test_a_network_without_classes_refuses_one() -> None:
    net = UNet(1, 8, **SMALL)
    x, t = draw(1, 8, batch=1)
    assert torch.equal(net(x, t, torch.tensor([-1])), net(x, t))
    with pytest.raises(MarginalsError, match="without classes"):
        net(x, t, torch.tensor([0]))


def test_nothing_waits_for_the_device() -> None:
    """On the meta device there are no numbers to look at: any look would raise."""
    net = UNet(1, 8, num_classes=3, patch=2, **SMALL).to("meta")
    x = torch.empty(2, 1, 8, 8, device="meta")
    out = net(x, x[:, 0, 0, 0], torch.empty(2, dtype=torch.long, device="meta"))
    assert out.shape == x.shape and out.device.type == "meta"


def test_it_is_one_graph_for_the_compiler() -> None:
    net = awake(UNet(1, 8, num_classes=3, patch=2, **SMALL))
    x, t = draw(1, 8)
    cond = torch.tensor([0, 2, -1])
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, cond), net(x, t, cond))


def test_pixel_values_next_to_each_other_look_different_to_fourier_features() -> None:
    """n = 8 turns once from one stored value to the next; n = 7 by half a turn."""
    pixels = ((2 * torch.arange(256.0) + 1) / 256 - 1).view(1, 1, 16, 16)
    waves = picture_features(pixels, (7, 8)).flatten(2)[0]
    assert waves.shape == (4, 256)  # sine and cosine of 7, sine and cosine of 8
    assert torch.allclose(waves[2:, 1:], waves[2:, :-1], atol=1e-3)
    assert torch.allclose(waves[:2, 1:], -waves[:2, :-1], atol=1e-3)
    between = picture_features(pixels + 1 / 256, (8,)).flatten(2)[0]
    assert torch.allclose(between, -waves[2:], atol=1e-3)
    assert picture_features(pixels.bfloat16(), (8,)).dtype == torch.bfloat16


def test_fourier_features_let_a_network_hear_the_last_bit() -> None:
    """Even or odd? Without the features the answer hardly moves from one value to the next."""
    moves = {}
    for fourier in ((), (7, 8)):
        torch.manual_seed(0)
        net = awake(UNet(1, 8, fourier=fourier, **SMALL))
        x, t = draw(1, 8, batch=2)
        moves[fourier] = (net(x + 2 / 256, t) - net(x, t)).square().mean().sqrt().item()
    assert moves[(7, 8)] > 10 * moves[()]


def test_two_outputs_are_twice_the_channels() -> None:
    net = awake(UNet(2, 8, outputs=2, **SMALL))
    x, t = draw(2, 8, batch=3)
    assert net(x, t).shape == (3, 4, 8, 8)


@pytest.mark.parametrize("patch", [1, 2])
def test_an_open_gate_lets_a_pixels_own_feature_through(patch: int) -> None:
    """Everything else is zero in a fresh network, so the answer is the feature itself."""
    net = UNet(2, 8, fourier=(3, 7), patch=patch, outputs=2, **SMALL)
    x, t = draw(2, 8)
    assert net.gates is not None
    with torch.no_grad():
        # features in order: x, sin 3, cos 3, sin 7, cos 7, each for both channels
        net.gates.bias.view(5, 2, patch**2)[3].fill_(1.0)
    out = net(x, t)
    assert torch.allclose(out[:, :2], (2**7 * torch.pi * x).sin(), atol=1e-5)
    assert torch.count_nonzero(out[:, 2:]) == 0


def told(cond: torch.Tensor | None, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    net = UNet(1, 8, width=16, mults=(1, 2), blocks=1, attention=(1,), text_width=6).double()
    torch.manual_seed(1)
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.3)
    return net(x, t, cond)


def test_words_are_heard_and_padding_is_not() -> None:
    x, t = torch.randn(2, 1, 8, 8).double(), torch.rand(2).double()
    words = torch.randn(2, 3, 6).double()
    out = told(words, x, t)
    padded = torch.cat([words, torch.zeros(2, 2, 6).double()], 1)
    assert torch.allclose(told(padded, x, t), out, rtol=0, atol=1e-12)
    words[0, 1, 0] += 1.0
    changed = told(words, x, t)
    assert not torch.allclose(changed[0], out[0]) and torch.equal(changed[1], out[1])
    silent = told(None, x, t)
    assert torch.allclose(told(torch.zeros(2, 4, 6).double(), x, t), silent, rtol=0, atol=1e-12)


def test_attention_to_words_knows_where_it_is() -> None:
    """Of one flat input, convolutions see the border only; words can mean a place."""
    x = torch.zeros(1, 8, 8, 8)
    torch.manual_seed(0)
    plain, placed = Attention(8, head=4), Attention(8, head=4, words=6)
    for attention in (plain, placed):
        torch.nn.init.normal_(attention.proj.weight)
        torch.nn.init.normal_(attention.norm.bias)
    words = torch.randn(1, 2, 6), torch.ones(1, 2, dtype=torch.bool)
    assert plain(x).flatten(2).std(2).max() < 1e-6
    assert placed(x, words).flatten(2).std(2).min() > 1e-3
