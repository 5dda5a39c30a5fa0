"""A model's own likelihood methods: encoding, whole numbers, targets, gradients."""

import math

import pytest
import torch
from torch import nn

import marginals
from marginals import DataStats
from marginals.density import encode
from marginals.oracle import Mixture
from marginals.pixels import to_float


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Exact(nn.Module):
    """A backbone that is an oracle: the v of a mixture, at the level the label says."""

    def __init__(self, oracle: Mixture):
        super().__init__()
        self.oracle, self.anchor = oracle, nn.Parameter(torch.zeros(()).double())

    def forward(self, x, t, cond=None):
        return self.oracle(x, 16.0 - 32.0 * t.double(), cond).v


def mixture() -> Mixture:
    means = torch.tensor([-0.5, 0.5]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    return Mixture(means, 0.2)


def exact_model(oracle: Mixture | None = None, std: float = math.hypot(0.5, 0.2)):
    oracle = oracle or mixture()
    net = marginals.Net(Exact(oracle), label=marginals.schedule.LogLinear(16.0, -16.0))
    template = marginals.v_diffusion(nn.Identity())
    data = DataStats(tuple(oracle.shape), 0.0, std)
    options = {"lam_min": -16.0, "lam_max": 16.0, "data": data}
    return marginals.Model(net, template.schedule, template.objective, **options)


def test_encoding_whole_numbers_and_targets_are_those_of_the_functions():
    model = exact_model()
    pixels = torch.randint(170, 215, (3, 1, 2, 2), generator=generator(2)).to(torch.uint8)
    x = to_float(pixels, torch.float64)
    noise = model.encode(pixels)
    assert torch.equal(noise, encode(model.net, x, model.ends))
    assert (model.decode(noise) - x).abs().max() < 5e-3
    found = model.whole_number_log_prob(pixels, draws=3, exact=True, generator=generator(1))
    truth = mixture().log_prob(x)
    assert found.of == "whole-number pixels"
    assert torch.allclose(found.nats, truth + 4 * math.log(2 / 256), atol=0.05)
    until = model.elbo(x, target=0.5, samples=4, generator=generator(1))
    assert until.noise_bits is not None and until.noise_bits <= 0.5
    leaf = x.clone().requires_grad_()
    model.log_prob(leaf, exact=True, grad=True).nats.sum().backward()
    score = mixture().score(x, math.inf)
    assert (leaf.grad - score).abs().max() < 0.03 * score.abs().max()


def test_draws_of_a_picture_share_their_probes():
    """With fresh probes inside the logarithm of a mean, the "bound" would rise above log P."""
    torch.manual_seed(0)
    means = torch.randn(3, 1, 3, 3) * 0.3
    exact = Mixture(means, 0.2)
    model = exact_model(exact, 0.36)
    pixels = torch.randint(100, 150, (200, 1, 3, 3), generator=generator(2)).to(torch.uint8)
    truth = exact.log_prob(to_float(pixels, torch.float64)) + 9 * math.log(2 / 256)
    found = model.whole_number_log_prob(pixels, draws=8, generator=generator(1))
    gap = found.nats - truth
    assert gap.std() > 0.1
    assert gap.mean().item() == pytest.approx(0.0, abs=4 * gap.std().item() / 200**0.5 + 0.02)
