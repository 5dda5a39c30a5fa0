"""ADM, DDPM++ and NCSN++ against the published sizes, and what their parts promise."""

import json

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.nn import ADM
from marginals.nn.residual import KINDS, resample

SMALL = {"width": 32, "mults": (1, 2), "blocks": 1, "attention": (-1,), "head": 16}
SONG = {"size": 32, "width": 128, "mults": (2, 2, 2), "blocks": 4, "attention": (1,), "heads": 1}

# Millions as Dhariwal & Nichol (2021) list them, and the parameters as their code counts them.
ADMS = {
    "ImageNet 64": (296, 295_904_454, {"size": 64, "num_classes": 1000}),
    "ImageNet 128": (
        422, 421_529_606,
        {"size": 128, "width": 256, "mults": (1, 1, 2, 3, 4), "blocks": 2, "attention": (2, 3, 4),
         "heads": 4, "num_classes": 1000},
    ),
    "ImageNet 256": (
        554, 553_838_086,
        {"size": 256, "width": 256, "mults": (1, 1, 2, 2, 4, 4), "blocks": 2,
         "attention": (3, 4, 5), "num_classes": 1000},
    ),
    "LSUN": (
        552, 552_814_086,
        {"size": 256, "width": 256, "mults": (1, 1, 2, 2, 4, 4), "blocks": 2,
         "attention": (3, 4, 5)},
    ),
    "ImageNet 512": (
        559, 558_997_638,
        {"size": 512, "width": 256, "mults": (0.5, 1, 1, 2, 2, 4, 4), "blocks": 2,
         "attention": (4, 5, 6), "num_classes": 1000},
    ),
}  # fmt: skip


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def awake(net: torch.nn.Module) -> torch.nn.Module:
    """No layer answers 0 any more."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.05)
    return net


@pytest.mark.parametrize("name", ADMS)
def test_adm_has_the_published_parameters(name):
    millions, exact, config = ADMS[name]
    with torch.device("meta"):
        count = parameters(ADM(3, outputs=2, null=False, **config))
    assert count == exact and abs(count / 1e6 - millions) < 1


@pytest.mark.parametrize(
    ("exact", "augmented", "config"),
    [
        (295_899_267, 0, {"size": 64, "num_classes": 1000, "least": 4}),
        (55_733_891, 9 * 128, {**SONG, "kind": "ddpmpp"}),
        (56_397_827, 9 * 256, {**SONG, "kind": "ncsnpp"}),
        (61_805_571, 9 * 128, {**SONG, "size": 64, "mults": (1, 2, 2, 2), "attention": (2,),
                               "kind": "ddpmpp"}),
    ],
)  # fmt: skip
def test_edms_networks_have_the_published_parameters(exact, augmented, config):
    """As their code counts, but for the layer that is told how pictures were augmented."""
    with torch.device("meta"):
        assert parameters(ADM(3, null=False, **config)) == exact - augmented


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_fresh_network_answers_zero_and_then_every_weight_is_used(kind, outputs):
    net = ADM(3, 8, kind=kind, outputs=outputs, num_classes=4, **SMALL)
    x, t, cond = torch.randn(5, 3, 8, 8), torch.rand(5), torch.tensor([0, 1, 2, 3, -1])
    out = net(x, t, cond)
    assert out.shape == (5, 3 * outputs, 8, 8) and torch.count_nonzero(out) == 0
    awake(net)(x, t, cond).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_rebuilt_from_its_settings(kind):
    net = awake(ADM(1, 8, kind=kind, num_classes=2, **SMALL))
    again = ADM(**json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    assert torch.equal(again(x, t), net(x, t))
    assert not torch.allclose(net(x, t), net(x, t, torch.tensor([0, 1])))


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_doubling_is_the_adjoint_of_halving_times_four(taps):
    """<up x, y> = 4·<x, down y>: border included; and both keep a constant inside the picture."""
    x, y = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 8, 8).double()
    up, down = resample(x, taps, up=True), resample(y, taps, up=False)
    assert torch.allclose((up * y).sum(), 4.0 * (x * down).sum(), atol=1e-12)
    ones = torch.ones(1, 1, 8, 8).double()
    for up in (True, False):
        inside = resample(ones, taps, up)[:, :, 1:-1, 1:-1]
        assert torch.allclose(inside, torch.ones_like(inside))


def test_taps_of_one_repeat_pixels_and_average_four():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(resample(x, (1, 1), up=True)[0, 0, :2, :2], torch.zeros(2, 2))
    assert resample(x, (1, 1), up=False)[0, 0, 0, 0] == (0 + 1 + 4 + 5) / 4


def test_without_a_null_a_picture_without_a_class_is_refused():
    net = ADM(1, 8, num_classes=2, null=False, **SMALL)
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    net(x, t, torch.tensor([0, 1]))
    for cond in (None, torch.tensor([0, -1])):
        with pytest.raises(MarginalsError, match="with a class for every picture"):
            net(x, t, cond)
    assert ADM(1, 8, null=False, **SMALL)(x, t, torch.tensor([-1, -1])).shape == x.shape


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"kind": "sgm"}, "There is no kind 'sgm' of ADM: choose one of adm, ddpmpp, ncsnpp"),
        ({"size": 9}, "size divisible by 2, not 9"),
        ({"attention": (2,)}, "attention names levels from -2 to 1"),
        ({"heads": 5}, "32 channels cannot be shared by 5 heads|64 channels cannot be shared by 5"),
        ({"width": 34}, "34 channels cannot be normalised"),
        ({"width": 33}, "even width"),
        ({"blocks": 0}, "of 1 or more"),
    ],
)
def test_what_does_not_fit_is_said(config, says):
    with pytest.raises(MarginalsError, match=says):
        ADM(**{"channels": 3, "size": 8, **SMALL, **config})


def test_wrong_inputs_are_refused():
    net = ADM(3, 8, **SMALL)
    with pytest.raises(MarginalsError, match="pictures of shape"):
        net(torch.randn(1, 3, 16, 16), torch.rand(1))
    with pytest.raises(MarginalsError, match="Times"):
        net(torch.randn(2, 3, 8, 8), torch.rand(1))
    with pytest.raises(MarginalsError, match="without classes"):
        net(torch.randn(1, 3, 8, 8), torch.rand(1), torch.tensor([3]))
