"""Files of VAEs: the recipe, the decoder and the objective come back, or a sentence says why."""

import pytest
import torch

import marginals
from marginals.decoders import Bernoulli, Categorical, DiscretisedLogistic, GaussianDecoder
from marginals.errors import MarginalsError
from marginals.generative import DataStats
from marginals.io.checkpoint import load_model, read_header, rewrite_header, save_model
from marginals.ladder import Ladder
from marginals.mixture import LogisticMixture
from marginals.nn import GridLatents, VectorLatents
from marginals.rung import KlObjective

STATS = DataStats((1, 8, 8), -0.3, 0.8, ("a", "b"), "pets")
NETWORKS = {
    "vectors": (VectorLatents, {"latents": [3, 2], "widths": [8], "blocks": 1, "patch": 4}),
    "grids": (GridLatents, {"top": 3, "latents": [2], "rungs": [1], "widths": [8], "patch": 4}),
}
DECODERS = [LogisticMixture(2), DiscretisedLogistic(), Categorical(), GaussianDecoder(),
            GaussianDecoder(0.3), Bernoulli()]  # fmt: skip


def ladder(kind: str = "vectors", decoder=DECODERS[0], **objective) -> Ladder:
    torch.manual_seed(0)
    network, options = NETWORKS[kind]
    made = network(1, 8, params=decoder.params, num_classes=2, **options)
    objective = KlObjective(**objective)
    return marginals.hvae(made, decoder=decoder, objective=objective, data=STATS).eval()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, ladder())
    return path


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_loaded_ladder_is_the_saved_one(tmp_path, kind, decoder):
    made = ladder(kind, decoder, beta=0.5, free_bits=0.25, warmup=128)
    save_model(tmp_path / "m.safetensors", made)
    back = load_model(tmp_path / "m.safetensors")
    assert isinstance(back, Ladder)
    assert (back.decoder, back.objective, back.data) == (decoder, made.objective, STATS)
    assert back.posterior == made.posterior and back.recipe == made.recipe
    x = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    cond = torch.tensor([0, 1, -1, 0])
    one, other = (
        m.elbo(x, cond, generator=torch.Generator().manual_seed(1)).nats for m in (made, back)
    )
    assert torch.equal(one, other)
    assert torch.equal(made.sample(3, seed=5).x, back.sample(3, seed=5).x)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ladder": {"kind": "staircase", "config": {}}}, "no network with latents 'staircase'"),
        ({"ladder": {"kind": "vectors", "config": {"depth": 3}}}, "settings this version does not"),
        ({"ladder": "tall"}, "does not name a ladder"),
        ({"decoder": {"kind": "KlObjective", "beta": 1.0, "free_bits": 0.0, "warmup": 0}},
         "no fitting 'decoder'"),
        ({"objective": 3}, "no fitting 'objective'"),
        ({"decoder": {"kind": "Bernoulli"}}, "reads 1 numbers per pixel value"),
        ({"colour": 1}, "unknown entry 'colour'"),
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused(saved, tmp_path, change, says):
    odd = tmp_path / "odd.safetensors"
    rewrite_header(saved, odd, lambda h: h | {"model": h["model"] | change})
    with pytest.raises(MarginalsError, match=says) as caught:
        load_model(odd)
    assert "\n" not in str(caught.value)


def test_a_missing_entry_is_named(saved, tmp_path):
    odd = tmp_path / "odd.safetensors"
    words = {k: v for k, v in read_header(saved)["model"].items() if k != "objective"}
    rewrite_header(saved, odd, lambda h: h | {"model": words})
    with pytest.raises(MarginalsError, match=r"damaged.*objective"):
        load_model(odd)


def test_a_ladder_of_ones_own_is_asked_for(saved, tmp_path):
    mine = ladder()
    mine.recipe = {}
    path = tmp_path / "mine.safetensors"
    save_model(path, mine)
    with pytest.raises(MarginalsError, match="build that ladder and pass it"):
        load_model(path)
    with pytest.raises(MarginalsError, match="build that ladder and pass it"):
        load_model(path, backbone=torch.nn.Linear(1, 1))
    back = load_model(path, backbone=ladder())
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), mine.parameters()))
    with pytest.raises(MarginalsError, match="brings its own"):
        load_model(saved, backbone=torch.nn.Linear(1, 1))
    with pytest.raises(MarginalsError, match="brings its own"):
        load_model(saved, backbone=ladder())
