"""Networks with latents: shapes, every size of picture, classes, and sentences for mistakes."""

from typing import Any

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.nn import GridLatents, VectorLatents
from marginals.nn.latent import posterior_law, prior_law
from marginals.nn.pictures import ConvDecoder, Pyramid

NETWORKS = {
    "conv": lambda c, s, **o: VectorLatents(c, s, 6, [8], widths=[8, 16], blocks=1, **o),
    "mlp": lambda c, s, **o: VectorLatents(c, s, 6, [8, 4, 2], "mlp", [16], **o),
    "grids": lambda c, s, **o: GridLatents(c, s, 6, 4, [2, 4], [2, 1], [8, 16], **o),
}


def walk(net: Any, x: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
    """Posterior means all the way: the decoder's numbers, and the shape of every latent."""
    above = None if net.root is None else net.root(len(x), cond)
    evidence, zs = net.evidence(x, cond), []
    if net.posterior == "bottom_up":
        for rung in reversed(net.rungs):
            evidence = rung.posterior(evidence, None)[0]
            zs.insert(0, evidence)
    for i, rung in enumerate(net.rungs):
        z = zs[i] if zs else rung.posterior(evidence, above)[0]
        assert rung.prior(above)[0].shape[1:] == z.shape[1:]
        above = rung.carry(z, above)
    return net.decode(above)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (1, 64)])
def test_every_size_of_picture_comes_back(name: str, channels: int, size: int):
    out = walk(NETWORKS[name](channels, size), torch.randn(2, channels, size, size))
    assert out.shape == (2, 6 * channels, size, size) and out.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_class_is_heard_and_none_means_no_class(name: str):
    net, x = NETWORKS[name](1, 8, num_classes=3), torch.randn(4, 1, 8, 8)
    x = x[:1].expand(4, -1, -1, -1)
    out = walk(net, x, torch.tensor([0, 1, -1, 1]))
    assert torch.equal(out[1], out[3])
    assert not torch.allclose(out[0], out[1]) and not torch.allclose(out[0], out[2])
    assert torch.allclose(walk(net, x)[2], out[2], atol=1e-6)
    with pytest.raises(MarginalsError, match="Label 3 is out of range"):
        walk(net, x, torch.tensor([0, 1, 3, 1]))


@pytest.mark.parametrize("name", NETWORKS)
def test_config_rebuilds_the_network(name: str):
    net = NETWORKS[name](1, 8, num_classes=2)
    twin = type(net)(**net.config)
    assert twin.config == net.config
    twin.load_state_dict(net.state_dict())
    x, cond = torch.randn(2, 1, 8, 8), torch.tensor([1, 0])
    assert torch.equal(walk(twin, x, cond), walk(net, x, cond))


def test_grids_go_from_one_vector_to_the_finest_grid():
    net: Any = GridLatents(1, 28, 3, top=5, latents=[2, 4], rungs=[1, 2], widths=[8, 16])
    evidence, above, shapes = net.evidence(torch.randn(2, 1, 28, 28)), None, []
    for rung in net.rungs:
        z = rung.posterior(evidence, above)[0]
        shapes.append(tuple(z.shape[1:]))
        above = rung.carry(z, above)
    assert shapes == [(5,), (4, 7, 7), (4, 7, 7), (2, 14, 14)]


def test_lower_rungs_hear_the_ones_above():
    """The prior of every rung changes with the z drawn above it, and the pixels with every z."""
    torch.manual_seed(0)
    net: Any = GridLatents(1, 8, 3, 4, [2, 4], [1, 1], [8, 16])
    evidence = net.evidence(torch.randn(1, 1, 8, 8))
    above, z = None, []
    for rung in net.rungs:
        z.append(rung.posterior(evidence, above)[0].detach().requires_grad_())
        above = rung.carry(z[-1], above)
    pixels = torch.autograd.grad(net.decode(above).square().sum(), z, retain_graph=True)
    assert all(g.abs().sum() > 0 for g in pixels)
    middle = net.rungs[0].carry(z[0], None)
    assert torch.autograd.grad(net.rungs[1].prior(middle)[0].square().sum(), z[0])[0].abs().sum()


@pytest.mark.parametrize("name", ["conv", "mlp", "grids"])
def test_every_weight_learns(name: str):
    net = NETWORKS[name](1, 8, num_classes=2)
    evidence = net.evidence(torch.randn(2, 1, 8, 8))
    above, total = net.root(2, torch.tensor([0, -1])), torch.zeros(())
    if net.posterior == "bottom_up":
        for rung in reversed(net.rungs):
            mean, log_std = rung.posterior(evidence)
            evidence, total = mean, total + mean.square().sum() + log_std.square().sum()
    for rung in net.rungs:
        law = rung.posterior(evidence, above) if net.posterior == "top_down" else None
        mean, log_std = rung.prior(above)
        total = total + mean.sum() + log_std.sum() + (0 if law is None else law[0].sum())
        total = total + (0 if law is None else law[1].sum())
        above = rung.carry(mean.expand(2, *mean.shape[1:]) + 0.1, above)
    (total + net.decode(above).square().sum()).backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None]


def test_laws_cannot_run_away():
    """However large a network's output: a prior has a sensible spread, and a posterior is at most
    e times as wide as its prior, so that sampling never overflows while β is still 0."""
    out = torch.tensor([[0.0, 0.0, 1e4, -1e4]])
    _, log_std = prior_law(out)
    assert log_std.abs().max() <= 4.0
    _, narrower = posterior_law(out, (torch.zeros(1, 2), torch.full((1, 2), 0.5)))
    assert narrower.max() <= 1.5 and narrower.min() < -9e3


def test_a_posterior_without_news_is_its_prior_but_narrower():
    prior = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.3, -0.7]])
    mean, log_std = posterior_law(torch.zeros(1, 4), prior)
    assert torch.equal(mean, prior[0]) and (log_std < prior[1]).all()


def test_mistakes_become_sentences():
    with pytest.raises(MarginalsError, match="divisible by 4, not 30"):
        VectorLatents(1, 30, 3, patch=2)
    with pytest.raises(MarginalsError, match="conv or mlp"):
        VectorLatents(1, 8, 3, network="transformer")
    with pytest.raises(MarginalsError, match="latents needs whole numbers of 1 or more"):
        VectorLatents(1, 8, 3, latents=[])
    with pytest.raises(MarginalsError, match="one number per grid"):
        GridLatents(1, 8, 3, rungs=[1])
    with pytest.raises(MarginalsError, match="takes pictures of shape"):
        Pyramid(1, 8, [4, 8])(torch.zeros(1, 3, 8, 8))


def test_patches_are_put_back_where_they_were():
    """A decoder whose features all live in one place changes only pixels near that place."""
    decoder = ConvDecoder(4, 2, 16, [4, 4], blocks=0, patch=2)
    h = torch.zeros(1, 4 * 16)
    spot = torch.zeros(4, 4, 4)
    spot[:, 0, 0] = 1.0
    with torch.no_grad():
        decoder.enter.weight.zero_()
        decoder.enter.bias.copy_(spot.flatten())
        near = decoder(torch.zeros(1, 4))
        decoder.enter.bias.zero_()
        change = (near - decoder(torch.zeros(1, 4))).abs().sum(1)[0]
    assert h.shape == (1, 64) and change[:4, :4].sum() > 0 and change[8:, 8:].sum() == 0
