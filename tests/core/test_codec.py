"""The autoencoder of pictures: a ladder with one grid of latents, whose statistics are measured."""

import math

import pytest
import torch

import marginals
from marginals.codec import Autoencoder, LatentStats, autoencoder
from marginals.data.builtin import digits
from marginals.decoders import DiscretisedLogistic, GaussianDecoder
from marginals.errors import MarginalsError
from marginals.gaussian import Normal
from marginals.nn import ImageCodec, VectorLatents
from marginals.pixels import to_float
from marginals.rung import KlObjective


def small(params: int = 2, **options) -> Autoencoder:
    torch.manual_seed(0)
    decoder = DiscretisedLogistic() if params == 2 else GaussianDecoder(0.1)
    network = ImageCodec(1, 8, params, 3, [8, 16], [1, 1], patch=1)
    return autoencoder(network, decoder=decoder, **options)


def pictures(n: int = 300) -> torch.Tensor:
    return digits()[0].images[:n]


def trained(steps: int = 150, **options) -> Autoencoder:
    model, x = small(objective=KlObjective(0.05), **options), pictures(1000)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(x), (32,), generator=generator)
        optimizer.zero_grad()
        model.loss(x[chosen], generator=generator).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    return trained()


def test_it_learns_to_reconstruct(model: Autoencoder):
    x = to_float(pictures())
    error = (model.reconstruct(pictures()) - x).square().mean()
    assert error < 0.25 * x.var() and model.reconstruct(x).shape == x.shape


def test_its_bound_is_that_of_a_vae(model: Autoencoder):
    """Reconstruction less KL(q ‖ N(0, I)); the spread of a pixel is one learned number."""
    x = pictures(16)
    terms = model.elbo(x, samples=3, generator=torch.Generator().manual_seed(0))
    q = model.inferred(x)
    zero = torch.zeros(())
    assert torch.allclose(terms.prior, q.kl(Normal(zero, zero)), atol=1e-4)
    assert terms.of == "whole-number pixels" and terms.matching.shape == (16, 0)
    out = model.decode(q.mean)
    assert out.shape == (16, 2, 8, 8) and bool((out[:, 1] == out[0, 1, 0, 0]).all())
    assert torch.isfinite(model.log_prob(x, samples=4).nats).all()


def test_the_statistics_are_measured(model: Autoencoder):
    """In their units the mean latents of the pictures measured on have mean 0 and variance 1."""
    x = pictures()
    stats = model.measure(x)
    raw = model.inferred(x)
    assert stats.mean == pytest.approx(raw.mean.double().mean((0, 2, 3)).tolist(), abs=1e-6)
    spread = raw.mean.double().std((0, 2, 3), correction=0)
    assert stats.std == pytest.approx(spread.tolist(), rel=1e-6)
    noise = (2 * raw.log_std.double()).exp().mean((0, 2, 3)).sqrt() / spread
    assert stats.noise == pytest.approx(noise.tolist(), rel=1e-6)
    z = model.codec().encode(x)
    assert z.shape == (300, 3, 4, 4) == (300, *model.codec().shape)
    assert z.mean((0, 2, 3)).abs().max() < 1e-5
    assert (z.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_the_codec_is_the_autoencoder_in_other_units(model: Autoencoder):
    x = pictures(8)
    model.measure(pictures())
    codec, raw = model.codec(), model.inferred(x)
    assert torch.allclose(codec.decode(codec.encode(x)), model.reconstruct(x), atol=1e-5)
    q, std, shift = codec.posterior(x), codec._of("std"), codec._of("mean")
    assert torch.allclose(q.mean * std + shift, raw.mean, atol=1e-6)
    assert torch.allclose(q.log_std + std.log(), raw.log_std, atol=1e-6)
    truth = model.decoder.log_prob(x, model.decode(raw.mean))
    assert torch.allclose(codec.log_prob(x, q.mean), truth, atol=1e-3)
    assert not codec.density


def test_the_bound_of_a_latent_model_falls_back_to_the_vaes(model: Autoencoder):
    """An inner model that is the prior the autoencoder was trained with, N(0, I) in raw units:
    the latent bound and the VAE's are the same number, up to the noise of log q/p at a sample."""
    model.measure(pictures())
    codec = model.codec()
    x = pictures(4).repeat(200, 1, 1, 1)
    q = codec.posterior(x)
    z = q.sample(torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(1)))
    std, mean = codec._of("std"), codec._of("mean")
    prior = Normal((-mean / std).expand_as(z), (-std.log()).expand_as(z))
    nats = codec.log_prob(x, z) + prior.log_prob(z) - q.log_prob(z)
    other = model.elbo(x, generator=torch.Generator().manual_seed(2)).nats
    gap = (nats - other).view(200, 4).mean(1)
    assert abs(float(gap.mean())) < 4.0 * float(gap.std()) / math.sqrt(200)


def test_a_gaussian_decoder_makes_a_codec_of_real_numbers():
    model = small(1)
    x = to_float(pictures(40))
    model.measure(x)
    codec = model.codec()
    assert codec.density and codec.log_prob(x, codec.encode(x)).shape == (40,)
    assert codec.posterior(pictures(40)).mean.equal(codec.posterior(pictures(40)).mean)


def test_something_else_can_be_charged_too():
    """`perceptual` adds to the loss what it says of the reconstruction of the very z drawn."""
    model, x = small(objective=KlObjective(0.3, warmup=100)), pictures(16)
    model.at_progress(40)
    plain, _ = model.losses(x, generator=torch.Generator().manual_seed(3))
    seen = {}

    def charge(a, b):
        seen["a"], seen["b"] = a, b
        return (a - b).square().flatten(1).mean(1)

    model.perceptual = charge
    both, _ = model.losses(x, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(both - plain, charge(seen["a"], seen["b"]).double(), atol=1e-6)
    assert torch.equal(seen["a"], to_float(x)) and seen["b"].requires_grad


def test_what_does_not_fit_is_refused():
    with pytest.raises(MarginalsError, match="not known"):
        small().codec()
    with pytest.raises(MarginalsError, match="one latent"):
        autoencoder(VectorLatents(1, 8, 2, [4, 2], "mlp", [16], 1))
    with pytest.raises(MarginalsError, match="params=2"):
        autoencoder(ImageCodec(1, 8, 1, patch=1))
    for mean, std in (((0.0,), (0.0,)), ((math.nan,), (1.0,)), ((0.0, 0.0), (1.0,))):
        with pytest.raises(MarginalsError, match="statistics"):
            LatentStats(mean, std)
    assert marginals.autoencoder is autoencoder
