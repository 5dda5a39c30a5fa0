"""The Diffusion Transformer against the published sizes, and what its blocks promise."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from marginals.errors import MarginalsError
from marginals.nn import DIT_SIZES, DiT
from marginals.nn.attention import Attention, grid_positions, rotate, rotations
from marginals.nn.dit import Block, from_patches, to_patches

MODERN = {
    "shared": True, "qk_norm": True, "rope": True, "swiglu": True, "registers": 2, "skip": True,
}  # fmt: skip


def paper(name: str, patch: int) -> DiT:
    with torch.device("meta"):
        return DiT(4, 32, patch=patch, num_classes=1000, outputs=2, **DIT_SIZES[name])


# Peebles & Xie 2023, Table 4: millions of parameters and Gflops (they count multiply-adds). The
# parameters of XL/2 are known to the last one from the published code, fixed positions included.
PUBLISHED = [
    ("S", 8, 33, 0.36), ("S", 4, 33, 1.41), ("S", 2, 33, 6.06),
    ("B", 8, 131, 1.42), ("B", 4, 130, 5.56), ("B", 2, 130, 23.01),
    ("L", 8, 459, 5.01), ("L", 4, 458, 19.70), ("L", 2, 458, 80.71),
    ("XL", 8, 676, 7.39), ("XL", 4, 675, 29.05), ("XL", 2, 675, 118.64),
]  # fmt: skip


@pytest.mark.parametrize(("name", "patch", "millions", "gflops"), PUBLISHED)
def test_published_sizes(name, patch, millions, gflops):
    net = paper(name, patch)
    count = sum(p.numel() for p in net.parameters()) + net.position.numel()
    assert round(count / 1e6) == pytest.approx(millions, abs=1)
    counter = FlopCounterMode(display=False)
    with counter, torch.device("meta"):
        net(torch.empty(1, 4, 32, 32), torch.empty(1), torch.empty(1, dtype=torch.long))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gflops, rel=0.015)


def test_xl_2_has_exactly_the_published_parameters():
    net = paper("XL", 2)
    assert sum(p.numel() for p in net.parameters()) + net.position.numel() == 675_129_632


def open_gates(net: torch.nn.Module) -> None:
    """Random weights where a fresh network has zeros, so that everything is heard."""
    torch.manual_seed(1)
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.3)


@pytest.mark.parametrize("options", [{}, MODERN])
def test_fresh_blocks_are_the_identity_and_a_fresh_network_says_nothing(options):
    torch.manual_seed(0)
    net = DiT(3, 8, width=32, depth=2, heads=2, num_classes=3, **options)
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    assert torch.equal(net(x, t, torch.tensor([0, -1])), torch.zeros_like(x))
    tokens = torch.randn(2, 5, 32)
    told = torch.randn(2, 6 * 32 if options else 32)
    told = torch.zeros_like(told) if options else told
    assert torch.equal(net.blocks[0](tokens, told, None, None), tokens)
    open_gates(net)
    assert not torch.equal(net.blocks[0](tokens, told, None, None), tokens)


def test_patches_come_back_where_they_were():
    x = torch.arange(2 * 3 * 6 * 6.0).reshape(2, 3, 6, 6)
    tokens = to_patches(x, 2)
    assert torch.equal(from_patches(tokens, 2, 6), x)
    assert torch.equal(tokens[0, 4], x[0, :, 2:4, 2:4].flatten())  # row by row, 3 patches each


def test_no_label_is_minus_one_and_differs_from_every_class():
    net = DiT(1, 4, width=16, depth=1, heads=2, num_classes=2).double()
    open_gates(net)
    x, t = torch.randn(1, 1, 4, 4).double().repeat(3, 1, 1, 1), torch.full((3,), 0.4).double()
    none = net(x, t)
    assert torch.equal(none, net(x, t, torch.tensor([-1, -1, -1])))
    told = net(x, t, torch.tensor([0, 1, -1]))
    assert torch.allclose(told[2], none[0], rtol=0, atol=1e-12)
    assert not torch.allclose(told[0], told[1]) and not torch.allclose(told[0], none[0])
    with pytest.raises(MarginalsError, match="Label 2"):
        net(x, t, torch.tensor([0, 1, 2]))


def text_net(**options) -> DiT:
    torch.manual_seed(0)
    net = DiT(2, 4, width=24, depth=2, heads=2, text_width=6, **options).double().eval()
    open_gates(net)
    return net


@pytest.mark.parametrize("options", [{}, MODERN, {"guess": 5}, {"guess": 5, "registers": 2}])
def test_padding_is_not_heard_and_words_are(options):
    net = text_net(**options)
    x, t, words = torch.randn(2, 2, 4, 4), torch.rand(2), torch.randn(2, 3, 6)
    x, t, words = x.double(), t.double(), words.double()
    out = net(x, t, words)
    padded = torch.cat([words, torch.zeros(2, 4, 6, dtype=torch.float64)], 1)
    assert torch.allclose(net(x, t, padded), out, rtol=0, atol=1e-12)
    words[0, 1, 0] += 1.0  # a word of one number more in all places would be the same to its norm
    other = net(x, t, words)
    assert not torch.allclose(other[0], out[0]) and torch.equal(other[1], out[1])


@pytest.mark.parametrize("options", [{}, MODERN, {"guess": 5}])
def test_silence_is_a_learned_token_whatever_its_length(options):
    net = text_net(**options)
    x, t = torch.randn(2, 2, 4, 4).double(), torch.rand(2).double()
    none = net(x, t)
    assert torch.allclose(net(x, t, torch.zeros(2, 5, 6).double()), none, rtol=0, atol=1e-12)
    none.sum().backward()
    assert net.text.null.grad.abs().sum() > 0


def test_a_text_network_refuses_labels_and_other_widths():
    net = text_net()
    x, t = torch.randn(2, 2, 4, 4).double(), torch.rand(2).double()
    for wrong in (torch.tensor([0, 1]), torch.randn(2, 3, 5).double(), torch.randn(3, 3, 6)):
        with pytest.raises(MarginalsError, match="states of shape"):
            net(x, t, wrong)


def test_rotations_keep_lengths_and_depend_on_the_way_between_places_only():
    turn = rotations(3, 4, 8).double()
    q, k = torch.randn(8).double(), torch.randn(8).double()
    turned_q = rotate(q.expand(1, 1, 12, 8), turn)[0, 0]
    turned_k = rotate(k.expand(1, 1, 12, 8), turn)[0, 0]
    assert torch.allclose(turned_q.norm(dim=-1), q.norm().expand(12), atol=1e-6)
    dots = turned_q @ turned_k.T

    def at(row: int, column: int) -> int:
        return 4 * row + column

    assert dots[at(0, 0), at(1, 2)] == pytest.approx(float(dots[at(1, 1), at(2, 3)]), abs=1e-5)
    assert dots[at(0, 0), at(1, 2)] != pytest.approx(float(dots[at(0, 0), at(2, 1)]), abs=1e-3)


def test_fixed_positions_are_the_published_ones():
    table = grid_positions(2, 3, 8)
    # column first: sin and cos of column at two frequencies, then of the row
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    expected += [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    assert table[1 * 3 + 2].tolist() == pytest.approx(expected, abs=1e-6)


def test_unit_queries_and_keys_bound_the_logits():
    attention = Attention(16, 2, qk_norm=True)
    torch.nn.init.zeros_(attention.qkv.bias), torch.nn.init.zeros_(attention.proj.bias)
    x = torch.randn(1, 6, 16)
    small, large = attention(x), attention(1000 * x) / 1000
    assert torch.allclose(
        small, large, rtol=0, atol=1e-4
    )  # sharper logits would change the mixture


def test_the_time_told_is_the_one_asked_for():
    torch.manual_seed(0)
    step = DiT(1, 4, width=16, depth=1, heads=2, time=(-1.0, 1000.0))
    torch.manual_seed(0)
    plain = DiT(1, 4, width=16, depth=1, heads=2)
    for net in (step, plain):
        open_gates(net)
    x = torch.randn(1, 1, 4, 4)
    out = step(x, torch.tensor([0.251]))
    assert torch.allclose(out, plain(x, torch.tensor([0.25])), atol=1e-5)
    assert not torch.allclose(out, plain(x, torch.tensor([0.251])), atol=1e-5)


def test_the_skip_multiplies_the_picture_channel_by_channel():
    net = DiT(2, 4, width=16, depth=1, heads=2, outputs=2, skip=True)
    torch.nn.init.zeros_(net.leave.weight)
    with torch.no_grad():
        net.skip.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    x = torch.randn(1, 2, 4, 4)
    out = net(x, torch.rand(1))
    times = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None]
    assert torch.allclose(out, torch.cat([x * times[0], x * times[1]], 1), atol=1e-6)


def test_config_rebuilds_the_network():
    net = DiT(2, 4, width=24, depth=1, heads=2, text_width=6, **MODERN)
    twin = DiT(**net.config)
    twin.load_state_dict(net.state_dict())
    x, t = torch.randn(1, 2, 4, 4), torch.rand(1)
    open_gates(net), open_gates(twin)
    assert torch.equal(net(x, t), twin(x, t)) and twin.config == net.config


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"patch": 3}, "tile"),
        ({"heads": 3}, "heads"),
        ({"num_classes": 2, "text_width": 3}, "not both"),
        ({"num_classes": -1}, "num_classes and text_width of 0 or more"),
        ({"depth": 0}, "1 or more"),
        ({"guess": 4}, "from text"),
        ({"width": 18, "heads": 1}, "divisible by 4"),
        ({"width": 36, "heads": 6, "rope": True}, "4k"),
    ],
)
def test_impossible_networks_are_refused(options, says):
    with pytest.raises(MarginalsError, match=says):
        DiT(**({"channels": 1, "size": 4, "width": 16, "depth": 1, "heads": 2} | options))


def test_it_runs_in_bf16_autocast_like_in_float32():
    net = text_net(**MODERN).float()
    x, t, words = torch.randn(2, 2, 4, 4), torch.rand(2), torch.randn(2, 3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, t, words)
    low, full = low.detach().float(), net(x, t, words).detach()
    assert torch.isfinite(low).all()
    assert float((low - full).norm() / full.norm()) < 0.05


def test_blocks_differ_from_mere_sums():
    """The gates multiply what the block found: twice the gate, twice the change."""
    block = Block(16, 2, 4.0, shared=True, qk_norm=False, swiglu=False)
    x, told = torch.randn(1, 3, 16), torch.zeros(1, 96)
    told[:, 32:48] = 0.5
    once = block(x, told, None, None) - x
    told[:, 32:48] = 1.0
    assert torch.allclose(block(x, told, None, None) - x, 2 * once, atol=1e-5)
    assert once.abs().sum() > 0
