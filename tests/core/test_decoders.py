"""The laws at the bottom of a ladder: they sum to one, are what they say, sample themselves."""

import math

import pytest
import torch

from marginals.decoders import (
    Bernoulli,
    Categorical,
    DiscretisedGaussian,
    DiscretisedLogistic,
    GaussianDecoder,
    discretised_gaussian,
)
from marginals.errors import MarginalsError
from marginals.gaussian import log_normal_bin
from marginals.pixels import to_float, to_uint8

GREY = [
    DiscretisedLogistic(),
    DiscretisedLogistic(0.05),
    DiscretisedGaussian(),
    DiscretisedGaussian(0.1),
    Categorical(),
]
ALL = [Bernoulli(), GaussianDecoder(), GaussianDecoder(0.3), *GREY]
VALUES = torch.arange(256, dtype=torch.uint8)


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(decoder, entries=(1,), batch=1, seed=1):
    """Something a network could say; spreads around e^-2, between a bin and the whole range."""
    parts = 0.7 * randn(batch, decoder.params, *entries, seed=seed)
    if decoder.params == 2:
        parts[:, 1] -= 2.0
    return parts.flatten(1, 2)


def every_value(decoder, out):
    """log P(k) of one entry for k = 0..255."""
    return decoder.log_prob(VALUES.reshape(256, 1), out.expand(256, -1))


@pytest.mark.parametrize("decoder", GREY, ids=repr)
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_all_256_probabilities_sum_to_one(decoder, shift):
    """For means inside and far outside [-1, 1]; the open end bins make it exact."""
    out = outputs(decoder)
    out[:, 0] += shift
    assert every_value(decoder, out).exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_black_and_white_sum_to_one():
    out = outputs(Bernoulli())
    black, white = every_value(Bernoulli(), out)[[127, 128]].exp()
    assert (black + white).item() == pytest.approx(1.0, abs=1e-14)
    assert white.item() == pytest.approx(out.sigmoid().item(), rel=1e-12)


@pytest.mark.parametrize("decoder", GREY, ids=repr)
@pytest.mark.parametrize("mean", [-1.3, -0.9, 0.1, 0.95, 2.0])
def test_the_mean_is_the_sum_of_values_times_probabilities(decoder, mean):
    """Within half a bin; also where much of the law is cut off at one end."""
    out = outputs(decoder)
    if decoder.params < 256:
        out[:, 0] = mean
        out[:, 1:] = math.log(0.4)
    wanted = (every_value(decoder, out).exp() * to_float(VALUES, torch.float64)).sum()
    assert decoder.mean(out).item() == pytest.approx(wanted.item(), abs=1 / 256)


class TestLogistic:
    def test_is_the_difference_of_the_distribution_function(self):
        out = torch.tensor([[0.11, math.log(0.07)]], dtype=torch.float64)
        edges = torch.linspace(-1.0, 1.0, 257, dtype=torch.float64)
        below = torch.sigmoid((edges - 0.11) / 0.07)
        below[0], below[-1] = 0.0, 1.0
        got = every_value(DiscretisedLogistic(), out).exp()
        assert torch.allclose(got, below.diff(), rtol=1e-9, atol=1e-14)

    @pytest.mark.parametrize("scale", [1e-4, 1e-2, 1e3])
    def test_is_stable_where_the_difference_is_not(self, scale):
        """Far from the mean log P falls linearly, −|c − m|/s; float32 must follow float64."""
        out = torch.tensor([[-0.9, math.log(scale)]])
        got = every_value(DiscretisedLogistic(), out)
        exact = every_value(DiscretisedLogistic(), out.double())
        assert bool(got.isfinite().all()) and torch.allclose(got, exact, rtol=1e-4, atol=1e-3)

    def test_fixed_scale_is_the_learned_one(self):
        mean, x = randn(4, 3), to_uint8(0.5 * randn(4, 3, seed=2))
        out = torch.cat([mean, torch.full_like(mean, math.log(0.05))], 1)
        wanted = DiscretisedLogistic().log_prob(x, out)
        assert torch.allclose(DiscretisedLogistic(0.05).log_prob(x, mean), wanted, rtol=1e-12)


class TestDiscretisedGaussian:
    @pytest.mark.parametrize("width", [1e-6, 1e-3, 0.1, 0.99, 1.01, 3.0, 200.0])
    @pytest.mark.parametrize("centre", [0.0, 0.3, -2.7, 4.1, -9.0, 60.0])
    def test_bins_anywhere_and_of_any_width_against_quadrature(self, width, centre):
        """log ∫ φ by Simpson on the log density, where plain differences of Φ are all rounding."""
        low, high = centre - 0.5 * width, centre + 0.5 * width
        # only the part of the bin where the density has not fallen by e^−50 from its highest
        top = min(max(0.0, low), high)
        reach = 50.0 / max(abs(top), 7.0)
        low, high = max(low, top - reach), min(high, top + reach)
        x = torch.linspace(low, high, 4001, dtype=torch.float64)
        log_density = -0.5 * x.square() - 0.5 * math.log(2.0 * math.pi)
        weights = torch.full((4001,), 4.0, dtype=torch.float64)
        weights[2::2], weights[0], weights[-1] = 2.0, 1.0, 1.0
        wanted = (log_density + (weights * (high - low) / 12000.0).log()).logsumexp(0)
        got = log_normal_bin(
            torch.tensor(centre, dtype=torch.float64), torch.tensor(width, dtype=torch.float64)
        )
        assert got.item() == pytest.approx(wanted.item(), rel=1e-10, abs=1e-9)

    def test_is_ddpms_equation_13(self):
        """∏ over entries of ∫ N(x; μ, σ²) between the ends of the bin, outer ends at ∓∞."""
        mean, std = 0.8 * randn(5, 3), 0.3
        pixels = to_uint8(mean + std * randn(5, 3, seed=2))
        pixels[0, 0], pixels[1, 0] = 0, 255
        k = pixels.double()
        low = torch.where(k == 0, -math.inf, 2.0 * k / 256.0 - 1.0)
        high = torch.where(k == 255, math.inf, 2.0 * (k + 1.0) / 256.0 - 1.0)
        cdf = torch.distributions.Normal(mean, std).cdf
        wanted = (cdf(high) - cdf(low)).log().sum(1)
        assert torch.allclose(discretised_gaussian(pixels, mean, std), wanted, rtol=1e-9)
        stds = torch.full_like(mean, std)
        assert torch.allclose(discretised_gaussian(pixels, mean, stds), wanted, rtol=1e-9)
        out = torch.cat([mean, stds.log()], 1)
        assert torch.allclose(DiscretisedGaussian().log_prob(pixels, out), wanted, rtol=1e-9)

    @pytest.mark.parametrize("std", [1e-5, 1e-3, 0.1, 1e3])
    def test_gradients_are_those_of_finite_differences(self, std):
        """Autograd through both forms of the bin, at every distance, is finite and right."""
        pixels = VALUES.reshape(256, 1)
        mean = torch.full((256, 1), -0.4003, dtype=torch.float64, requires_grad=True)
        log_std = torch.full((256, 1), math.log(std), dtype=torch.float64, requires_grad=True)

        def nats(shift, widen):
            return discretised_gaussian(pixels, mean + shift, (log_std + widen).exp())

        grads = torch.autograd.grad(nats(0.0, 0.0).sum(), [mean, log_std])
        h = 1e-6
        with torch.no_grad():
            by_mean = (nats(h * std, 0.0) - nats(-h * std, 0.0)) / (2.0 * h * std)
            by_width = (nats(0.0, h) - nats(0.0, -h)) / (2.0 * h)
        for grad, wanted in zip(grads, (by_mean, by_width), strict=True):
            assert torch.allclose(grad[:, 0], wanted, rtol=1e-4, atol=1e-3)

    def test_whole_numbers_only(self):
        with pytest.raises(MarginalsError, match="whole-number"):
            discretised_gaussian(torch.zeros(1, 1), torch.zeros(1, 1), 1.0)


def test_gaussian_density_against_torch():
    x, mean, log_std = randn(3, 4, seed=1), randn(3, 4, seed=2), 0.5 * randn(3, 4, seed=3)
    law = torch.distributions.Normal(mean, log_std.exp())
    got = GaussianDecoder().log_prob(x, torch.cat([mean, log_std], 1))
    assert torch.allclose(got, law.log_prob(x).sum(1), rtol=1e-12)
    law = torch.distributions.Normal(mean, 0.3)
    assert torch.allclose(GaussianDecoder(0.3).log_prob(x, mean), law.log_prob(x).sum(1))


def test_categorical_reads_its_logits_by_value():
    """The logit of value k of channel c is channel k·C + c of the output."""
    out = torch.zeros(1, 256 * 2, 1, 1, dtype=torch.float64)
    out[0, 7 * 2 + 0], out[0, 200 * 2 + 1] = 50.0, 50.0
    x = torch.tensor([7, 200], dtype=torch.uint8).reshape(1, 2, 1, 1)
    assert Categorical().log_prob(x, out).item() == pytest.approx(0.0, abs=1e-15)
    assert Categorical().log_prob(x.flip(1), out).item() == pytest.approx(-100.0, abs=1e-12)


@pytest.mark.parametrize("decoder", ALL, ids=repr)
class TestEveryDecoder:
    def drawn(self, decoder, count=20_000):
        """Many pictures of one 2x1x3 law, with u on a grid: quadrature, not luck."""
        out = outputs(decoder, entries=(2, 1, 3))
        u = ((torch.arange(count, dtype=torch.float64) + 0.5) / count).reshape(-1, 1, 1, 1)
        return decoder.sample(out.expand(count, *out.shape[1:]), u.expand(count, 2, 1, 3)), out

    def test_samples_follow_the_law(self, decoder):
        """The share of every value, or for densities of every 256th, is its probability."""
        x, out = self.drawn(decoder)
        first = x[:, 0, 0, 0]
        parts = out.unflatten(1, (decoder.params, 2))[:, :, 0, 0, 0]
        if decoder.density:
            scale = decoder.moments(parts)[1].exp()
            law = torch.distributions.Normal(parts[:, 0], scale)
            share = torch.histc(law.cdf(first), 256, 0.0, 1.0) / len(first)
            assert torch.allclose(share, torch.full_like(share, 1 / 256), atol=2e-4)
            return
        if decoder.binary:
            wanted = every_value(decoder, parts)[[0, 255]].exp()
            got = torch.stack([(first == -1.0).double().mean(), (first == 1.0).double().mean()])
        else:
            wanted = every_value(decoder, parts).exp()
            got = torch.bincount(to_uint8(first).long(), minlength=256) / len(first)
            assert torch.equal(first, to_float(to_uint8(first), first.dtype))
        assert torch.allclose(got.double(), wanted, atol=2e-4)

    def test_the_mean_picture_is_the_mean_of_samples(self, decoder):
        """Within half a bin where the mean is that of the law before it was cut into bins."""
        x, out = self.drawn(decoder)
        mean = decoder.mean(out)
        assert mean.shape == (1, 2, 1, 3)
        assert torch.allclose(mean[0], x.mean(0), atol=1 / 256 + 1e-4)

    def test_pictures_and_vectors_have_the_same_layout(self, decoder):
        out, u = outputs(decoder, (2, 3, 5), batch=4), torch.rand(4, 2, 3, 5, dtype=torch.float64)
        x = decoder.sample(out, u)
        x = x if decoder.density else to_uint8(x)
        flat = out.unflatten(1, (decoder.params, 2)).flatten(2).flatten(1)
        wanted = decoder.log_prob(x, out)
        assert wanted.shape == (4,) and wanted.dtype == torch.float64
        assert torch.allclose(decoder.log_prob(x.flatten(1), flat), wanted, rtol=1e-13)
        assert torch.equal(decoder.mean(flat), decoder.mean(out).flatten(1))

    def test_half_precision_outputs_are_read_in_single(self, decoder):
        """bfloat16 has 8 binary digits: whole grey values would fall together."""
        out = outputs(decoder, (2, 3), batch=2).bfloat16()
        u = torch.rand(2, 2, 3, dtype=torch.float64)
        x = decoder.sample(out.double(), u)
        x = x.float() if decoder.density else to_uint8(x)
        wanted = decoder.log_prob(x, out.float())
        assert torch.allclose(decoder.log_prob(x, out), wanted, rtol=1e-6)
        assert decoder.mean(out).dtype == torch.float32

    @pytest.mark.parametrize("huge", [-1e4, 1e4])
    def test_absurd_outputs_of_a_float32_network_have_finite_nats_and_gradients(
        self, decoder, huge
    ):
        x = torch.tensor([[0, 3, 128, 255]], dtype=torch.uint8)
        x = to_float(x) if decoder.density else x
        out = torch.full((1, 4 * decoder.params), huge)
        if decoder.params == 2:
            out[0, :4] = 0.3  # any mean, an absurd spread
        elif decoder.density or decoder in (DiscretisedLogistic(0.05), DiscretisedGaussian(0.1)):
            out = 0.01 * out
        out.requires_grad_()
        nats = decoder.log_prob(x, out)
        nats.sum().backward()
        assert bool(nats.isfinite()) and out.grad is not None and bool(out.grad.isfinite().all())

    def test_refuses_the_wrong_kind_of_data_and_of_output(self, decoder):
        whole, real = torch.zeros(1, 2, 3, 3, dtype=torch.uint8), torch.zeros(1, 2, 3, 3)
        right, wrong = (real, whole) if decoder.density else (whole, real)
        out = torch.zeros(1, 2 * decoder.params, 3, 3)
        assert bool(decoder.log_prob(right, out).isfinite())
        with pytest.raises(MarginalsError, match="dequantise" if decoder.density else "uint8"):
            decoder.log_prob(wrong, out)
        with pytest.raises(MarginalsError, match=r"output has shape|numbers per entry"):
            decoder.log_prob(right, torch.zeros(1, 3 * decoder.params, 3, 3))
        with pytest.raises(MarginalsError, match="output has shape"):
            decoder.log_prob(right, torch.zeros(1, 2 * decoder.params, 3, 2))
        if decoder.params > 1:
            with pytest.raises(MarginalsError, match=f"{decoder.params} numbers per entry"):
                decoder.mean(torch.zeros(1, 2 * decoder.params + 1, 3, 3))

    def test_what_the_encoder_is_shown_is_what_is_rated(self, decoder):
        """Pictures shown alike have the same probability under every output."""
        if decoder.density:
            x = randn(2, 3)
            assert torch.equal(decoder.shown(x, torch.float32), x.float())
            return
        shown = decoder.shown(VALUES.reshape(256, 1), torch.float32)
        assert shown.dtype == torch.float32 and float(shown.abs().max()) <= 1.0
        assert shown.unique().numel() == (2 if decoder.binary else 256)
        nats = every_value(decoder, outputs(decoder))
        for value in shown.unique():
            assert nats[shown[:, 0] == value].unique().numel() == 1


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_impossible_spreads_are_refused(std):
    with pytest.raises(MarginalsError, match="positive and finite"):
        GaussianDecoder(std)
