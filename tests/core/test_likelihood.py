"""Likelihoods: with the exact denoiser every route must give the true log p."""

import math

import numpy as np
import pytest
import torch

from marginals.errors import MarginalsError
from marginals.gaussian import Prior
from marginals.likelihood import Bound, Ends, discrete_elbo, elbo, ode_log_prob
from marginals.oracle import Mixture, empirical
from marginals.scaling import FLOW, SUB_VP, VE, VP

SCALINGS = [VP, VE, FLOW, SUB_VP]
MEANS = torch.tensor([[-0.6, 0.4], [0.5, -0.3], [0.2, 0.7]])
STDS, WEIGHTS, LABELS = [0.3, 0.2, 0.4], torch.tensor([1.0, 2.0, 1.0]), torch.tensor([0, 1, 0])
ENDS = Ends(-16.0, 13.0)  # N(0, I) is exact to e^(−8) at the one end


def mixture(scaling=VP):
    return Mixture(MEANS, STDS, WEIGHTS, LABELS, scaling)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(count=6):
    return mixture().sample(count, seed=2)[0]


class TestGaussianInClosedForm:
    """Data N(m, s²): with every x0 = m ± s and ε = ±1 a batch average is the exact expectation."""

    m, s = 0.2, 0.7
    x0 = torch.tensor([[0.9], [0.9], [-0.5], [-0.5]], dtype=torch.float64)
    eps = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    ends = Ends(-6.0, 9.0, Prior(0.2, 0.7))

    @pytest.fixture(autouse=True)
    def exact_noise(self, monkeypatch):
        monkeypatch.setattr("marginals.likelihood._randn", lambda like, _: self.eps)

    def oracle(self, scaling=VP):
        return Mixture(torch.full((1, 1), self.m, dtype=torch.float64), self.s, scaling=scaling)

    def mmse(self, lam):
        """E(ε − ε̂)² = SNR·s²/(1 + SNR·s²)."""
        snr = np.exp(lam) * self.s**2
        return snr / (1.0 + snr)

    def infinite(self):
        """½∫ mmse dλ, the denoising term in continuous time."""
        top, bottom = (math.log1p(self.s**2 * math.exp(lam)) for lam in (9.0, -6.0))
        return 0.5 * (top - bottom)

    @pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
    @pytest.mark.parametrize("steps", [1, 7, 40])
    def test_discrete_terms(self, scaling, steps):
        """Luo Eqs. 58 and 130, with SNR at s and the error at t."""
        bound = discrete_elbo(self.oracle(scaling), self.x0, self.ends, steps=steps)
        lams = np.linspace(-6.0, 9.0, steps + 1)
        losses = 0.5 * np.expm1(np.diff(lams)) * self.mmse(lams[:-1])
        terms = {key: value.mean().item() for key, value in bound.terms.items()}
        assert terms["denoising"] == pytest.approx(-losses.sum(), rel=1e-10)
        assert terms["prior"] == pytest.approx(-0.5 * math.log1p(0.49 * math.exp(-6.0)), rel=1e-9)
        wanted = 0.5 * (9.0 - math.log(2.0 * math.pi * math.e))
        assert terms["reconstruction"] == pytest.approx(wanted, rel=1e-12)
        assert torch.allclose(bound.nats, sum(bound.terms.values()))
        assert np.allclose(bound.levels[0].numpy(), lams[:-1])
        assert np.allclose(bound.levels[1].numpy(), losses, rtol=1e-9)
        assert (bound.nfe, bound.kind, bound.density, bound.dims) == (steps, "bound", True, 1)

    def test_discrete_elbo_falls_to_the_continuous_one_at_rate_one_over_t(self):
        steps, gaps = [64, 128, 256, 512], []
        for n in steps:
            bound = discrete_elbo(self.oracle(), self.x0, self.ends, steps=n)
            gaps.append(-bound.terms["denoising"].mean().item() - self.infinite())
        assert min(gaps) > 0.0
        rate = np.polyfit(np.log(steps), np.log(gaps), 1)[0]
        assert rate == pytest.approx(-1.0, abs=0.1)
        # and −ELBO_∞ is the entropy of the data seen through the noise left at λ_max
        noisy = self.s**2 + math.exp(-9.0)
        entropy = 0.5 * math.log(2.0 * math.pi * math.e * noisy)
        total = -bound.nats.mean().item() - gaps[-1]
        assert total == pytest.approx(entropy, abs=1e-9)

    def test_continuous_denoising_term(self):
        bound = elbo(self.oracle(), self.x0, self.ends, samples=1500, generator=generator())
        assert -bound.terms["denoising"].mean().item() == pytest.approx(self.infinite(), abs=4e-3)
        lam, losses = bound.levels
        assert bool((lam.diff() > 0).all()) and lam[0] > -6.0 and lam[-1] < 9.0
        wanted = 0.5 * 15.0 / 1500 * self.mmse(lam.numpy())
        assert np.allclose(losses.numpy(), wanted, rtol=0.02)


@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_continuous_elbo_is_log_p_within_its_error(scaling):
    oracle = mixture(scaling)
    for x0 in points(3):
        copies = x0.expand(400, 2)
        bound = elbo(oracle, copies, ENDS, samples=100, generator=generator(5))
        error = (bound.nats.std() / 400**0.5).item()
        assert error < 0.04
        truth = mixture().log_prob(x0[None]).item()
        assert bound.nats.mean().item() == pytest.approx(truth, abs=4 * error + 1e-3)


def test_one_level_per_picture_is_unbiased_too():
    x0 = points(1).expand(20_000, 2)
    few = elbo(mixture(), x0, ENDS, samples=1, generator=generator(1))
    error = few.nats.std().item() / 20_000**0.5
    assert few.nats.mean().item() == pytest.approx(mixture().log_prob(x0[:1]).item(), abs=4 * error)


@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_ode_log_prob_is_the_closed_form(scaling):
    x = points()
    bound = ode_log_prob(mixture(scaling), x, ENDS, steps=100, exact=True)
    assert ((bound.nats - mixture().log_prob(x)).abs() / 2).max() < 1e-3
    # sharper: it is the density of the picture with the noise of λ_max on it, in picture units
    noisy = mixture(VE).log_prob(x, ENDS.lam_max)
    assert (bound.nats - noisy).abs().max() < 2e-4
    assert (bound.kind, bound.density, bound.nfe) == ("exact", True, 400)
    assert torch.allclose(sum(bound.terms.values()), bound.nats)


def test_ode_density_integrates_to_one_and_its_gradient_is_the_score():
    oracle = Mixture(torch.tensor([[-0.5], [0.6]]), [0.2, 0.3])
    x = torch.linspace(-2.5, 2.5, 1001, dtype=torch.float64)
    nats = ode_log_prob(oracle, x[:, None], Ends(-12.0, 12.0), steps=80, exact=True).nats
    assert torch.trapezoid(nats.exp(), x).item() == pytest.approx(1.0, abs=5e-4)
    slope = (nats[2:] - nats[:-2]) / (x[2:] - x[:-2])
    score = oracle.score(x[1:-1, None], math.inf).squeeze()
    middle = x[1:-1].abs() < 1.0
    assert (slope - score)[middle].abs().max() < 0.05  # of slopes up to 15


def test_hutchinson_is_unbiased():
    x = points(1).expand(3000, 2)
    exact = ode_log_prob(mixture(), x[:1], ENDS, steps=30, exact=True).nats.item()
    guess = ode_log_prob(mixture(), x, ENDS, steps=30, generator=generator(3)).nats
    assert guess.std() > 1e-3
    assert guess.mean().item() == pytest.approx(exact, abs=4 * guess.std().item() / 3000**0.5)


def test_every_route_is_the_same_in_every_scaling():
    x = points()
    for route, options in (
        (elbo, {"samples": 5}),
        (discrete_elbo, {"steps": 5}),
        (ode_log_prob, {"steps": 5}),
    ):
        wanted = route(mixture(), x, ENDS, generator=generator(7), **options).nats
        for scaling in SCALINGS[1:]:
            got = route(mixture(scaling), x, ENDS, generator=generator(7), **options).nats
            assert torch.allclose(got, wanted, rtol=0, atol=1e-8)


def test_labels_give_conditional_likelihoods():
    x, which = mixture().sample(4, seed=2)
    cond = LABELS[which]
    cond[2] = -1
    truth = mixture().log_prob(x, cond=cond)
    got = ode_log_prob(mixture(), x, ENDS, steps=100, exact=True, cond=cond).nats
    assert torch.allclose(got, truth, atol=2e-3)
    many = x.repeat_interleave(200, 0), cond.repeat_interleave(200)
    for route, options in ((elbo, {"samples": 150}), (discrete_elbo, {"steps": 1500})):
        if route is discrete_elbo:
            many = x.repeat_interleave(30, 0), cond.repeat_interleave(30)
        nats = route(mixture(), many[0], ENDS, cond=many[1], generator=generator(), **options).nats
        mean, spread = nats.view(4, -1).mean(1), nats.view(4, -1).std(1) / (len(nats) / 4) ** 0.5
        slack = 0.01 if route is elbo else 0.15  # ¼·(step in λ)·∫E‖ε − ε̂‖²dλ
        assert bool(((mean - truth).abs() < 5 * spread + slack).all())


def test_known_noise_is_taken_off():
    """At the mean of Gaussian data ε − ε̂ = c·ε, so the estimate is c² whatever ε was drawn."""
    oracle, ends = Mixture(torch.full((1, 3), 0.25), 0.6), Ends(-6.0, 9.0, Prior(0.25, 0.6))
    x0 = torch.full((50, 3), 0.25, dtype=torch.float64)
    bound = discrete_elbo(oracle, x0, ends, steps=9, generator=generator())
    lams = np.linspace(-6.0, 9.0, 10)
    c = 0.36 * np.exp(lams[:-1]) / (1 + 0.36 * np.exp(lams[:-1]))
    wanted = -3 * (0.5 * np.expm1(np.diff(lams)) * c**2).sum()
    assert torch.allclose(bound.terms["denoising"], torch.full((50,), wanted).double(), rtol=1e-6)


def test_data_without_any_spread():
    """Constant pictures: nothing is left to say, P = 1."""
    pixels = torch.full((6, 1, 2, 2), 37, dtype=torch.uint8)
    x = (2.0 * pixels[:1].double() + 1.0) / 256 - 1.0
    ends = Ends(-8.0, 14.0, Prior(x.mean().item(), 0.0))
    for route in (elbo, discrete_elbo):
        bits = route(empirical(x), pixels, ends, generator=generator()).bits_per_dim()
        assert bits.abs().max() < 1e-3


def test_whole_number_pictures_have_probabilities():
    """Two pictures with probability ½ each: log P = −log 2, not a density."""
    pictures = torch.tensor([[[[10, 200], [30, 77]]], [[[250, 3], [128, 90]]]], dtype=torch.uint8)
    data = (2.0 * pictures.double() + 1.0) / 256 - 1.0
    oracle, ends = empirical(data), Ends(-14.0, 14.0)
    copies = pictures.repeat(2000, 1, 1, 1)
    bound = elbo(oracle, copies, ends, samples=60, generator=generator(1))
    error = bound.nats.std().item() / 4000**0.5
    assert not bound.density and error < 0.07
    assert bound.nats.mean().item() == pytest.approx(-math.log(2), abs=4 * error)
    assert bound.mean == pytest.approx(-bound.nats.mean().item() / (4 * math.log(2)))
    loose = discrete_elbo(oracle, copies, ends, steps=20, generator=generator(2))
    assert loose.nats.mean() < bound.nats.mean() and not loose.density


def test_pixels_pay_only_for_the_other_decoder():
    """log P(k) by the 256-way decoder and log p(x) by the Gaussian one share every other term.

    For a smooth law the pixel bound is D/2·(λ_max − log 2πe) above the density, less what the
    bins' overlap costs; and it is below log P(k) ≈ log p(x) + D·log(bin width), as a bound must be.
    """
    oracle, ends = Mixture(torch.zeros(1, 1, 2, 2), 0.3), Ends(-16.0, 13.3)
    pixels = torch.tensor([[[[120, 140], [90, 170]]]], dtype=torch.uint8).repeat(400, 1, 1, 1)
    x = (2.0 * pixels.double() + 1.0) / 256 - 1.0
    truth = oracle.log_prob(x[:1]).item()
    by_density = elbo(oracle, x, ends, samples=80, generator=generator(4))
    error = by_density.nats.std().item() / 20
    assert by_density.nats.mean().item() == pytest.approx(truth, abs=5 * error)
    by_pixel = elbo(oracle, pixels, ends, samples=80, generator=generator(3))
    # the decoder, by quadrature over the noise of λ_max: bins are 6.04 standard deviations apart
    z = torch.linspace(-9, 9, 3001, dtype=torch.float64)
    gap = (z[:, None] - torch.arange(-4, 5) * (1 / 128) * math.exp(0.5 * 13.3)) ** 2
    decoder = torch.log_softmax(-0.5 * gap, 1)[:, 4]
    weight = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    one = torch.trapezoid(weight * decoder, z).item()
    wanted = truth - 2.0 * (13.3 - math.log(2 * math.pi * math.e)) + 4 * one
    assert by_pixel.nats.mean().item() == pytest.approx(wanted, abs=6 * error)
    assert by_pixel.nats.mean().item() < truth + 4 * math.log(1 / 128)


def test_means_errors_and_ticks():
    nats = torch.tensor([-2.0, -4.0, -9.0], dtype=torch.float64)
    bound = Bound(nats, "bound", False, 3, 1)
    bits = -nats / (3 * math.log(2))
    assert bound.mean == pytest.approx(bits.mean().item())
    assert bound.stderr == pytest.approx(bits.std().item() / 3**0.5)
    assert Bound(nats[:1], "bound", False, 3, 1).stderr == math.inf
    for route, options, total in (
        (elbo, {"samples": 3}, 3),
        (discrete_elbo, {"steps": 4}, 4),
        (ode_log_prob, {"steps": 2}, 8),
    ):
        seen = []
        result = route(mixture(), points(), ENDS, tick=lambda *c, s=seen: s.append(c), **options)
        assert seen == [(i, total) for i in range(1, total + 1)] and result.nfe == total


def test_a_single_picture_is_a_batch_too():
    pixels = torch.randint(0, 256, (1, 1, 2, 2)).to(torch.uint8)
    oracle = Mixture(torch.zeros(1, 1, 2, 2), 0.5)
    for route, x in ((elbo, pixels), (discrete_elbo, pixels), (ode_log_prob, pixels / 255.0)):
        bound = route(oracle, x, ENDS)
        assert bound.nats.shape == (1,) and bound.dims == 4 and bound.stderr == math.inf


def test_randomness_comes_from_the_generator_alone():
    for route in (elbo, discrete_elbo, ode_log_prob):
        a, b, c = (route(mixture(), points(), ENDS, generator=generator(s)).nats for s in (1, 1, 2))
        assert torch.equal(a, b) and not torch.allclose(a, c)


REFUSED = {
    "infinite": lambda: Ends(-math.inf, 5.0),
    "nan": lambda: Ends(-1.0, math.nan),
    "infinitely clean": lambda: Ends(-1.0, math.inf),
    "order": lambda: Ends(5.0, -5.0),
    "pixels": lambda: ode_log_prob(mixture(), torch.zeros(1, 2, dtype=torch.uint8), ENDS),
    "no steps": lambda: ode_log_prob(mixture(), points(), ENDS, steps=0),
    "no discrete steps": lambda: discrete_elbo(mixture(), points(), ENDS, steps=0),
    "no samples": lambda: elbo(mixture(), points(), ENDS, samples=0),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_impossible_requests_are_refused(make):
    with pytest.raises(MarginalsError):
        make()
