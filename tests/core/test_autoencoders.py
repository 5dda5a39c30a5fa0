"""VAE and hierarchical VAE: the ladders made of the networks, and the remedies against silence."""

import pytest
import torch

import marginals
from marginals.data.builtin import digits
from marginals.decoders import Bernoulli, Categorical, DiscretisedLogistic, GaussianDecoder
from marginals.errors import MarginalsError
from marginals.ladder import Ladder
from marginals.mixture import LogisticMixture
from marginals.nn import LATENT_PRESETS, GridLatents, VectorLatents
from marginals.rung import KlObjective

ONE = LogisticMixture(1)
SMALL = {
    "vae": lambda **o: VectorLatents(1, 8, 3, [4], "mlp", [16], 1, **o),
    "markov": lambda **o: VectorLatents(1, 8, 3, [6, 4, 2], "conv", [8, 16], 1, **o),
    "top_down": lambda **o: GridLatents(1, 8, 3, 4, [2, 4], [2, 1], [8, 16], **o),
}


def pictures(n: int = 8) -> torch.Tensor:
    return digits()[0].images[:n]


def train(model: Ladder, steps: int, lr: float = 3e-3, batch: int = 64) -> Ladder:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    generator, x = torch.Generator().manual_seed(0), digits()[0].images
    for step in range(steps):
        model.at_progress(step * batch)
        chosen = torch.randint(len(x), (batch,), generator=generator)
        optimizer.zero_grad()
        model.loss(x[chosen], generator=generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def held_out(model: Ladder):
    return model.elbo(digits()[1].images, samples=4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SMALL)
def test_terms_have_one_column_per_rung(name: str):
    model, x = marginals.hvae(SMALL[name](), decoder=ONE), pictures()
    terms = model.elbo(x)
    rungs = len(model.rungs)
    assert terms.matching.shape == (8, rungs - 1) and terms.at.tolist() == [
        *range(rungs - 1, 0, -1)
    ]
    parts = terms.reconstruction - terms.prior - terms.matching.sum(1)
    assert torch.allclose(terms.nats, parts)
    assert terms.of == "whole-number pixels" and terms.kind == "bound"


@pytest.mark.parametrize("name", SMALL)
def test_a_vae_top_prior_is_the_standard_normal(name: str):
    """The closed-form KL of the top rung is Luo's ½Σ(μ² + σ² − 1 − log σ²)."""
    model, x = marginals.hvae(SMALL[name](), decoder=ONE), pictures()
    prior = model.rungs[0].prior(None)
    assert not prior.mean.any() and not prior.log_std.any()
    if name == "vae":
        evidence = model.evidence(marginals.pixels.to_float(x), None)
        mean, log_std = (v.double() for v in model.rungs[0].posterior(evidence, None))
        expected = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)
        assert torch.allclose(model.elbo(x).prior, expected, atol=1e-6)


@pytest.mark.parametrize(
    "decoder", [ONE, DiscretisedLogistic(), Categorical(), GaussianDecoder(), Bernoulli()], ids=repr
)
def test_every_decoder_trains_and_samples(decoder):
    net = VectorLatents(1, 8, decoder.params, [4], "mlp", [16], 1)
    model = marginals.vae(net, decoder=decoder)
    model.loss(pictures()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.sample(3).x.shape == (3, 1, 8, 8)


@pytest.mark.parametrize("name", SMALL)
def test_classes_reach_both_sides_and_the_seed_decides(name: str):
    data, net = marginals.DataStats((1, 8, 8)), SMALL[name](num_classes=10)
    model, x = marginals.hvae(net, decoder=ONE, data=data), pictures(2)
    first, second = model.sample(2, cond=3).x, model.sample(2, cond=7).x
    assert not torch.allclose(first, second)
    assert torch.allclose(model.sample(2, cond=3, batch=1).x, first, atol=1e-5)
    assert model.elbo(x, [1, -1]).nats.isfinite().all()


def test_more_samples_tighten_the_bound_of_a_trained_vae():
    model, x = train(marginals.vae(SMALL["vae"](), decoder=ONE), 60), pictures(64)
    one, many = (
        model.log_prob(x, samples=k, generator=torch.Generator().manual_seed(0)).nats.mean()
        for k in (1, 32)
    )
    assert many > one + 0.05


@pytest.fixture(scope="module")
def silent() -> Ladder:
    """Four rungs trained by the plain ELBO from the start: the upper two never learn to speak."""
    return _four_rungs(KlObjective())


def _four_rungs(objective: KlObjective, latents: tuple[int, ...] = (8, 4, 2, 2)) -> Ladder:
    torch.manual_seed(0)
    net = VectorLatents(1, 8, 3, latents, "mlp", [32], 1)
    return train(marginals.hvae(net, decoder=ONE, objective=objective), 300)


def test_free_bits_keep_the_top_of_a_ladder_alive(silent: Ladder):
    """Rungs that carry nothing are visible as nats near 0, and the remedy works: the nats flow, and
    the ELBO itself, in which free bits have no part, is better for it."""
    alive, dead = held_out(_four_rungs(KlObjective(free_bits=2.0))), held_out(silent)
    assert dead.prior.mean() < 0.2 and dead.matching[:, 0].mean() < 0.2
    assert alive.prior.mean() > 1.0 and alive.matching[:, 0].mean() > 1.0
    assert alive.mean < dead.mean


def test_a_warm_up_lets_the_top_speak_before_it_is_charged():
    cold = held_out(_four_rungs(KlObjective(), (16, 16)))
    warm = held_out(_four_rungs(KlObjective(warmup=15_000), (16, 16)))
    assert warm.prior.mean() > 2.0 * cold.prior.mean()
    assert warm.mean < cold.mean


def test_a_large_beta_empties_the_latent():
    torch.manual_seed(0)
    usual = train(marginals.vae(SMALL["vae"](), decoder=ONE), 100)
    torch.manual_seed(0)
    strict = marginals.vae(SMALL["vae"](), decoder=ONE, objective=KlObjective(beta=50.0))
    assert held_out(train(strict, 100)).prior.mean() < 0.2 * held_out(usual).prior.mean()


def test_presets_make_ladders():
    kinds = {"vectors": VectorLatents, "grids": GridLatents}
    ladders = {n: p for n, p in LATENT_PRESETS.items() if p["kind"] in kinds}
    assert {"vae", "hvae", "markov", "map"} <= ladders.keys()  # the others are autoencoders
    for name, preset in ladders.items():
        options = {k: v for k, v in preset.items() if k != "kind"}
        net = kinds[preset["kind"]](1, 28, 15, num_classes=10, **options)
        model = (marginals.vae if name in ("vae", "map") else marginals.hvae)(net)
        assert model.recipe == {"kind": preset["kind"], **net.config}
        assert model.elbo(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).nats.isfinite().all()


def test_a_warm_up_from_nothing_stays_finite():
    """At β = 0 nothing pays for wide posteriors; with a large learning rate they try."""
    torch.manual_seed(0)
    objective = KlObjective(warmup=10**9)
    model = train(marginals.hvae(SMALL["top_down"](), decoder=ONE, objective=objective), 40, 0.02)
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.loss(pictures()).isfinite()


def test_mistakes_become_sentences():
    with pytest.raises(MarginalsError, match="use hvae"):
        marginals.vae(SMALL["markov"](), decoder=ONE)
    with pytest.raises(MarginalsError, match="build it with params=15"):
        marginals.vae(SMALL["vae"]())
