"""The network of a classifier: shapes, the time it is told, and what it refuses."""

import json

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.nn.classifier import PictureClassifier
from marginals.nn.presets import CLASSIFIER_PRESETS

SMALL = {"channels": 3, "size": 8, "num_classes": 4, "width": 8, "mults": [1, 2]}


def awake(**changes) -> PictureClassifier:
    """A network of which every weight matters: a fresh one answers 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = PictureClassifier(**(SMALL | changes))
        for p in net.parameters():
            p.data = p.data + 0.1 * torch.randn_like(p)
    return net


def test_a_fresh_network_finds_all_classes_alike():
    net = PictureClassifier(**SMALL)
    assert torch.equal(net(torch.randn(2, 3, 8, 8), torch.tensor([0.0, 1.0])), torch.zeros(2, 4))


@pytest.mark.parametrize("changes", [{}, {"patch": 2}, {"mults": [2], "blocks": 2}, {"size": 12}])
def test_every_weight_learns_and_picture_and_time_are_seen(changes):
    net = awake(**changes)
    size = net.size
    x = torch.randn(5, 3, size, size, requires_grad=True)
    t = torch.linspace(0.1, 0.9, 5).requires_grad_()
    out = net(x, t)
    assert out.shape == (5, 4)
    out.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and bool(p.grad.abs().sum() > 0), name
    assert x.grad is not None and t.grad is not None
    assert bool((x.grad.flatten(1).abs().amin(1) > 0).all()) and bool((t.grad != 0).all())


def test_pictures_of_a_batch_do_not_see_each_other():
    net, x, t = awake(), torch.randn(4, 3, 8, 8), torch.rand(4)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(4)])
    assert torch.allclose(net(x, t), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", CLASSIFIER_PRESETS)
def test_the_config_rebuilds_it(preset):
    net = PictureClassifier(1, 28, 10, **CLASSIFIER_PRESETS[preset])
    twin = PictureClassifier(**json.loads(json.dumps(net.config)))
    shapes = {name: p.shape for name, p in net.state_dict().items()}
    assert shapes == {name: p.shape for name, p in twin.state_dict().items()}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_classes": 1}, "at least two classes"),
        ({"mults": []}, "at least one mult"),
        ({"size": 9}, "divisible by 2, not 9"),
        ({"patch": 3}, "divisible by 6, not 8"),
        ({"width": 0}, "of 1 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, says):
    with pytest.raises(MarginalsError, match=says):
        PictureClassifier(**(SMALL | changes))


def test_other_pictures_and_times_are_refused():
    net = PictureClassifier(**SMALL)
    with pytest.raises(MarginalsError, match=r"takes pictures of shape \(3, 8, 8\)"):
        net(torch.zeros(2, 1, 8, 8), torch.zeros(2))
    with pytest.raises(MarginalsError, match=r"Times must have shape \(2,\)"):
        net(torch.zeros(2, 3, 8, 8), torch.zeros(3))
