"""Likelihoods, densities, ladders, oracles and metrics on the device."""

import math

import pytest
import torch

import marginals
from marginals.ancestral import State, diffusion_rungs
from marginals.classifier import NoisyClassifier
from marginals.codec import autoencoder
from marginals.decoders import Bernoulli, DiscretisedLogistic, GaussianDecoder
from marginals.formulations import score_sde
from marginals.generative import DataStats
from marginals.io.latent_map import latent_map
from marginals.io.pictures import grid, to_uint8
from marginals.ladder import Ladder
from marginals.likelihood import immse
from marginals.metrics.by_level import by_level
from marginals.metrics.features import Extractor, extract
from marginals.metrics.routes import Effort, measure
from marginals.mixture import LogisticMixture
from marginals.nn import GridLatents, ImageCodec, VectorLatents
from marginals.nn.classifier import PictureClassifier
from marginals.oracle import Gaussian, Mixture, empirical
from marginals.proposal import learn
from marginals.text import encode_table
from marginals.text.draw import TextToImage

LAWS = [LogisticMixture(), DiscretisedLogistic(), GaussianDecoder(), Bernoulli()]


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def trained(model, device):
    generator = numbers()
    for weight in model.parameters():
        weight.data = weight.data + torch.randn(weight.shape, generator=generator) * 0.05
    return model.to(device).eval()


KINDS = {
    "flow": lambda s: marginals.rectified_flow(s.unet(), data=s.stats),
    "edm": lambda s: marginals.edm(s.unet(), data=s.stats),
    "vdm": lambda s: marginals.vdm(s.unet(), data=s.stats, learn_ends=True),
    "iddpm": lambda s: marginals.iddpm(s.unet(outputs=2), data=s.stats, steps=6),
    "score, ve": lambda s: score_sde(s.unet(), "ve", data=s.stats),
}


@pytest.fixture(params=KINDS)
def model(request, small, device):
    return trained(KINDS[request.param](small), device)


def fine(bound, device, count=3):
    assert bound.nats.device == device and bound.nats.shape == (count,)
    assert math.isfinite(bound.mean) and math.isfinite(bound.stderr)


@pytest.mark.parametrize("whole", [True, False])
def test_bounds(whole, model, small, device):
    pixels = small.pixels(3).to(device)
    x, told = pixels if whole else pixels / 128.0 - 1.0, {"cond": 1, "generator": numbers()}
    fine(model.elbo(x, samples=4, **told), device)
    fine(model.elbo(x, target=50.0, samples=4, **told), device)
    fine(model.discrete_elbo(x, steps=4, **told), device)
    ends = model.ends
    proposal = learn(model.net, pixels / 128.0 - 1.0, ends, bins=4, draws=2, generator=numbers())
    fine(model.elbo(x, samples=4, proposal=proposal, **told), device)
    if not whole:
        fine(immse(model.net, x, ends, samples=4, generator=numbers()), device)
    if hasattr(model.schedule, "lams"):
        fine(model.chain_elbo(x, **told), device)


@pytest.mark.parametrize("model", ["flow", "edm", "vdm"], indirect=True)
def test_densities(model, small, device):
    pixels = small.pixels(3).to(device)
    rough = {"cond": [0, 1, -1], "generator": numbers(), "tolerance": 3.0}
    fine(model.log_prob(pixels, probes=2, **rough), device)
    fine(model.log_prob(pixels, batch=2, gaussian=True, **rough), device)
    fine(model.log_prob(pixels, cond=1, steps=2, probes=2, generator=numbers()), device)
    fine(model.whole_number_log_prob(pixels, draws=2, **rough), device)
    noise = model.encode(pixels, cond=1, tolerance=3.0)
    assert model.decode(noise, cond=1, tolerance=3.0).device == device


def test_a_density_with_gradients_and_an_exact_trace(small, device):
    model = trained(KINDS["flow"](small), device)
    x = (small.pixels(2) / 128.0 - 1.0).to(device).requires_grad_()
    bound = model.log_prob(x, tolerance=0.5, grad=True, generator=numbers())
    assert torch.autograd.grad(bound.nats.sum(), x)[0].device == device
    exact = model.log_prob(x.detach(), steps=1, exact=True)
    fine(exact, device, 2)


# ---- ladders and latents -------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("kind", ["grids", "vectors"])
def test_ladders(kind, law, small, device):
    options = {"widths": [8], "blocks": 1, "num_classes": 2}
    network = (
        GridLatents(1, 8, law.params, top=4, latents=[2], rungs=[1], **options)
        if kind == "grids"
        else VectorLatents(1, 8, law.params, latents=[4, 2], **options)
    )
    model = trained(marginals.hvae(network, decoder=law, data=small.stats), device)
    x = small.pixels(3).to(device)
    fine(model.elbo(x, 1, samples=2, generator=numbers()), device)
    fine(model.log_prob(x, 1, samples=2, generator=numbers()), device)
    visits = model.encode(x, 1, generator=numbers())
    assert model.pictures([visits[0].posterior.mean], 1).device == device
    assert model.sample(3, cond=1, decoder_noise=True).x.device == device


@pytest.fixture
def latent(small, device):
    law = DiscretisedLogistic()
    network = ImageCodec(
        channels=1, size=8, latents=2, widths=(8, 8), blocks=(1, 1), params=law.params
    )
    inside = trained(autoencoder(network, data=DataStats((1, 8, 8), -0.3, 0.8)), device)
    inside.measure(small.pixels(32))
    shape = inside.latent_shape
    net = marginals.nn.UNet(shape[0], shape[-1], width=8, mults=(1,), blocks=1, patch=1)
    flow = trained(marginals.rectified_flow(net, data=DataStats(shape)), device)
    return marginals.Latent(inside.codec(), flow, DataStats((1, 8, 8), -0.3, 0.8)).to(device)


def test_latent_models(latent, small, device):
    x = small.pixels(3).to(device)
    assert latent.codec.ladder.reconstruct(x).device == device
    assert latent.decode(latent.encode(x)).device == device
    assert latent.sample(3, steps=2).x.device == device
    fine(latent.elbo(x, samples=2, generator=numbers()), device)
    fine(latent.log_prob(x, draws=2, tolerance=3.0, generator=numbers()), device)


# ---- oracles, metrics, texts ---------------------------------------------------------------------


def test_oracles(device):
    means = torch.randn(4, 2, generator=numbers()).to(device)
    labels = torch.tensor([0, 1, 0, 1]).to(device)
    cov = torch.tensor([[0.5, 0.3], [0.3, 0.4]]).to(device)
    x, lam = torch.randn(3, 2, generator=numbers()).to(device), torch.tensor([0.0, 1.0, 2.0])
    for oracle in (
        Mixture(means, 0.5, labels=labels), empirical(means, labels), Gaussian(means[0], cov)
    ):  # fmt: skip
        for level in (0.5, lam.to(device)):
            assert oracle(x, level).x0.device == device
        assert oracle.log_prob(x, 0.5).device == device
    mixture = Mixture(means, torch.tensor([0.1, 0.2, 0.3, 0.4]).to(device), labels=labels)
    assert mixture(x, 0.5, torch.tensor([0, 1, -1]).to(device)).x0.device == device
    assert mixture.class_posterior(x, 0.5).device == mixture.score(x, 0.5).device == device
    drawn, which = mixture.sample(5)
    assert drawn.device == which.device == device
    assert Gaussian(means[0], cov).sample(5).device == device
    assert Gaussian(means[0], cov).flow(x, -2.0, 2.0).device == device


def test_features_and_texts(small, device, tmp_path):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).to(device)
    assert extract(Extractor("linear", net), small.pixels(5)).shape == (5, 3)
    table = encode_table(["a crab", "", "two"], small.letters, tmp_path, progress=False).to(device)
    states = table(torch.tensor([2, 0, 1]))
    assert states.device == device
    assert torch.equal(states.cpu()[:2], small.letters(["two", "a crab"])[:, : states.shape[1]])


def test_arrays_are_made_of_copies_only(device):
    with pytest.raises(TypeError):
        torch.zeros(2, device=device).numpy()


def test_diffusion_as_a_ladder(small, device):
    net = trained(KINDS["edm"](small), device).double().net
    lams = (-6.0, -2.0, 2.0, 6.0)
    rungs, std = diffusion_rungs(net, lams), math.exp(-3.0)
    model = Ladder(
        rungs, lambda state: torch.cat([state.x, torch.full_like(state.x, math.log(std))], 1),
        GaussianDecoder(), data=small.stats,
        root=lambda n, cond: State(torch.empty(n, 1, 8, 8, device=device), cond),
    )  # fmt: skip
    x = small.pixels(3).to(device).double() / 128.0 - 1.0
    fine(model.elbo(x, generator=numbers()), device)


def test_what_commands_measure(small, device, tmp_path):
    """`marginals eval`: every route to a likelihood, a classifier's levels, a latent plane."""
    x, labels = small.pixels(3).to(device), torch.tensor([0, 1, 0]).to(device)
    model = trained(marginals.ddpm(small.unet(), data=small.stats, steps=6), device)
    effort = Effort(4, 2, 2, probes=1)
    assert all(math.isfinite(r.mean) for r in measure(model, x, labels, effort, progress=False))
    body = PictureClassifier(1, 8, num_classes=2, width=8, mults=(1,), blocks=1)
    judge = trained(NoisyClassifier(body, data=small.stats), device)
    assert all(math.isfinite(row.cross_entropy) for row in by_level(judge, x, labels))
    law = DiscretisedLogistic()
    network = VectorLatents(1, 8, law.params, latents=[2], widths=[8], blocks=1)
    vae = trained(marginals.vae(network, decoder=law, data=small.stats), device)
    latent_map(vae, tmp_path / "map.png", x, labels, side=3)
    assert (tmp_path / "map.png").stat().st_size > 1000


@pytest.mark.parametrize("inside", ["pixels", "latents"])
def test_texts_are_drawn_and_pictures_edited(inside, small, device, request):
    net = small.unet(num_classes=0, text_width=27, attention=(0,))
    model = trained(marginals.rectified_flow(net, data=small.told), device)
    if inside == "latents":
        codec = request.getfixturevalue("latent").codec
        net = marginals.nn.DiT(2, codec.shape[-1], 1, 16, 1, 2, text_width=27)
        data = DataStats(codec.shape, text="letters")
        model = marginals.Latent(
            codec, trained(marginals.rectified_flow(net, data=data), device), small.told
        )
    draw, mask = TextToImage(model, small.letters), torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :4] = True
    picture = (small.pixels(1)[0] / 128.0 - 1.0).float()
    for found in (
        draw(["a crab", ""], 2, steps=2),
        draw.edit(["a crab"], picture, 2, steps=2),
        draw.edit(["a crab"], picture, 2, steps=2, mask=mask),
    ):
        assert found.device == device and math.isfinite(float(found.sum()))
        assert grid(to_uint8(found)).width > 16
