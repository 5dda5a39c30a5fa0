"""Divergences, priors and decoders against torch.distributions, quadrature and counting."""

import math

import pytest
import torch
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from marginals import gaussian
from marginals.gaussian import (
    Prior,
    discretised_reconstruction,
    gaussian_reconstruction,
    kl_normal,
    normal_log_prob,
    sum_dims,
)
from marginals.pixels import to_float
from marginals.scaling import FLOW, SUB_VP, VE, VP


def Normal(mean, std):
    """torch's own would round plain numbers to float32."""
    mean, std = (torch.as_tensor(v, dtype=torch.float64) for v in (mean, std))
    return TorchNormal(mean, std)


SCALINGS = [VP, VE, FLOW, SUB_VP]


def two(shape=(4, 2, 3)):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)).double()


def test_log_density_against_torch():
    x, mean = two()
    var = torch.rand(4, 2, 3, dtype=torch.float64) + 0.1
    wanted = Normal(mean, var.sqrt()).log_prob(x).sum((1, 2))
    assert torch.allclose(normal_log_prob(x, mean, var), wanted, rtol=1e-12)
    wanted = Normal(0.3, 0.5).log_prob(x).sum((1, 2))
    assert torch.allclose(normal_log_prob(x, 0.3, 0.25), wanted, rtol=1e-12)


def test_kl_against_torch_and_quadrature():
    """Luo Eq. 86; the first argument is the law the expectation is taken under."""
    mean1, mean2 = two()
    v1, v2 = torch.rand(2, 4, 2, 3, dtype=torch.float64) + 0.1
    wanted = kl_divergence(Normal(mean1, v1.sqrt()), Normal(mean2, v2.sqrt())).sum((1, 2))
    assert torch.allclose(kl_normal(mean1, v1, mean2, v2), wanted, rtol=1e-12)
    assert torch.allclose(kl_normal(mean1, v1, mean1, v1), torch.zeros(4).double(), atol=1e-14)
    grid = torch.linspace(-14, 14, 200_001, dtype=torch.float64)
    p, q = Normal(0.4, 0.7), Normal(-0.2, 1.3)
    integral = torch.trapezoid(p.log_prob(grid).exp() * (p.log_prob(grid) - q.log_prob(grid)), grid)
    got = kl_normal(torch.tensor([[0.4]], dtype=torch.float64), 0.49, -0.2, 1.69)
    assert got.item() == pytest.approx(integral.item(), rel=1e-9)


class TestWhatRungsSay:
    """gaussian.Normal: a mean and a log-std per entry."""

    mean, other = two()
    log_std, wider = 0.4 * mean.flip(0), -0.3 * other.flip(0)
    p, q = gaussian.Normal(mean, log_std), gaussian.Normal(other, wider)

    def test_samples_density_and_divergence_against_torch(self):
        p, q = Normal(self.mean, self.log_std.exp()), Normal(self.other, self.wider.exp())
        z = self.p.sample(self.other)
        assert torch.allclose((z - self.mean) / p.scale, self.other, rtol=1e-12)
        wanted = p.log_prob(z).sum((1, 2))
        assert torch.allclose(self.p.log_prob(z), wanted, rtol=1e-12)
        wanted = kl_divergence(p, q).sum((1, 2))
        assert torch.allclose(self.p.kl(self.q), wanted, rtol=1e-12)
        assert torch.equal(self.p.kl(self.p), torch.zeros(4).double())

    def test_a_prior_of_batch_one_and_one_std_broadcast(self):
        prior = gaussian.Normal(torch.zeros(1, 2, 3), torch.tensor(0.2))
        full = gaussian.Normal(torch.zeros(4, 2, 3), torch.full((4, 2, 3), 0.2))
        assert torch.equal(self.p.kl(prior), self.p.kl(full)) and self.p.kl(prior).shape == (4,)
        assert torch.equal(prior.log_prob(self.mean), full.log_prob(self.mean))

    @pytest.mark.parametrize("log_std", [-60.0, 60.0])
    def test_extreme_answers_of_a_float32_network_stay_finite(self, log_std):
        """exp(2·60) and exp(−2·60) are not float32 numbers; the nats are ordinary ones."""
        law = gaussian.Normal(torch.zeros(1, 1), torch.full((1, 1), log_std))
        near = gaussian.Normal(torch.zeros(1, 1), torch.full((1, 1), log_std + 0.5))
        wanted = -log_std - 0.5 * math.log(2.0 * math.pi)
        assert law.log_prob(torch.zeros(1, 1)).item() == pytest.approx(wanted, rel=1e-12)
        wanted = 0.5 + 0.5 * (math.exp(-1.0) - 1.0)
        assert law.kl(near).item() == pytest.approx(wanted, rel=1e-6)

    def test_a_point_costs_infinitely_much(self):
        point = gaussian.Normal(self.mean, torch.full_like(self.mean, -math.inf))
        assert torch.equal(point.sample(self.other), self.mean)
        assert bool((point.kl(self.q) == math.inf).all())


def test_sums_run_over_everything_but_the_batch_in_float64():
    values = torch.full((2, 100, 100), 0.1)
    assert sum_dims(values).shape == (2,) and sum_dims(values).dtype == torch.float64
    assert sum_dims(values)[0].item() == pytest.approx(1000.0, rel=1e-7)


@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_prior_has_the_moments_of_noisy_data(scaling):
    prior, level = Prior(0.3, 0.6), scaling(-1.0)
    generator = torch.Generator().manual_seed(2)
    x0, eps, z = torch.randn(3, 200_000, generator=generator, dtype=torch.float64)
    x = level.alpha * (0.3 + 0.6 * x0) + level.sigma * eps
    got = prior.start(z, level)
    assert got.mean().item() == pytest.approx(x.mean().item(), abs=0.02 * x.std().item())
    assert got.var().item() == pytest.approx(x.var().item(), rel=0.02)
    points = torch.randn(5, 3, dtype=torch.float64)
    law = Normal(level.alpha * 0.3, math.hypot(level.alpha * 0.6, level.sigma))
    assert torch.allclose(prior.log_prob(points, level), law.log_prob(points).sum(1), rtol=1e-12)
    exact = kl_divergence(Normal(level.alpha * points, level.sigma), law).sum(1)
    assert torch.allclose(prior.kl_from(points, level), exact, rtol=1e-12)


def test_the_usual_prior_is_a_standard_normal_in_vp():
    assert Prior().moments(VP(-3.0)) == pytest.approx((0.0, 1.0))
    noise = torch.randn(3, 4)
    assert torch.allclose(Prior().start(noise, VP(-3.0)), noise)


@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_gaussian_reconstruction_is_the_expected_log_decoder(scaling):
    """E over q(x|x0) of log N(x0; x/α, σ²/α²), by quadrature over ε."""
    level, x0 = scaling(5.0), torch.tensor([[0.3, -0.8]]).double()
    eps = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    decoder = Normal((level.alpha * x0[0, 0] + level.sigma * eps) / level.alpha,
                     level.sigma / level.alpha)  # fmt: skip
    one = torch.trapezoid(Normal(0.0, 1.0).log_prob(eps).exp() * decoder.log_prob(x0[0, 0]), eps)
    got = gaussian_reconstruction(x0, level)
    assert got.item() == pytest.approx(2 * one.item(), rel=1e-9)


@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
@pytest.mark.parametrize("lam", [-2.0, 5.0, 13.3])
def test_discretised_decoder_sums_to_one_and_is_bayes_rule(scaling, lam):
    """P(k | x) ∝ q(x | x0 = bin centre k): a posterior under equal prior weights."""
    level = scaling(lam)
    x = (level.alpha * 0.31 + 0.6 * level.sigma) * torch.ones(256, 1, 1, 1, dtype=torch.float64)
    every = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
    logs = discretised_reconstruction(every, x, level)
    assert logs.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    like = Normal(level.alpha * to_float(every, torch.float64), level.sigma).log_prob(x).flatten()
    assert torch.allclose(logs, like.log_softmax(0), rtol=1e-9, atol=1e-9)


def test_discretised_decoder_sums_over_pixels():
    level = VP(6.0)
    pixels = torch.randint(0, 256, (3, 2, 4, 4), generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(torch.uint8)
    x = level.alpha * to_float(pixels, torch.float64) + level.sigma * 0.3
    whole = discretised_reconstruction(pixels, x, level)
    parts = [
        discretised_reconstruction(pixels[:, c, i, j].view(3, 1), x[:, c, i, j].view(3, 1), level)
        for c in range(2) for i in range(4) for j in range(4)
    ]  # fmt: skip
    assert whole.shape == (3,) and torch.allclose(whole, torch.stack(parts).sum(0), rtol=1e-10)


def test_large_batches_are_cut_up_without_a_trace(monkeypatch):
    pixels = torch.randint(0, 256, (7, 1, 3, 3)).to(torch.uint8)
    x = to_float(pixels, torch.float64) + 0.01 * torch.randn(7, 1, 3, 3).double()
    whole = discretised_reconstruction(pixels, x, VP(8.0))
    monkeypatch.setattr("marginals.gaussian._CHUNK", 256 * 9 * 3)
    assert torch.equal(discretised_reconstruction(pixels, x, VP(8.0)), whole)


def test_clean_pixels_are_certain():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, -1)
    level = VP(18.0)  # σ/α = 1.2e-4, the bins are 7.8e-3 apart
    x = level.alpha * to_float(pixels, torch.float64)
    assert discretised_reconstruction(pixels, x, level).item() == pytest.approx(0.0, abs=1e-12)
