"""Every model that `marginals train --model` knows: trained, stopped, resumed, loaded, sampled."""

from typing import get_args

import pytest
import torch

from marginals.classifier import NoisyClassifier
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_diffusion, load_model
from marginals.io.tensors import read_tensors, write_tensors
from marginals.ladder import Ladder
from marginals.models import Model
from marginals.train import Run, Stop, Stopped, TrainConfig, resume, train
from marginals.train.config import ModelName
from marginals.train.presets import LADDERS, fitting
from marginals.train.state import read_state_header

SMALL = {
    "vae": {"latents": [4], "widths": [8], "blocks": 1, "patch": 4},
    "hvae": {"top": 4, "latents": [2], "rungs": [1], "widths": [8], "patch": 4},
    "autoencoder": {"latents": 2, "widths": [8], "blocks": [1]},
    "classifier": {"width": 8, "mults": [1], "blocks": 1, "patch": 2},
}
TINY = {"width": 8, "mults": [1], "blocks": 1, "patch": 4}


def settings(model: str, folder, **changes) -> TrainConfig:
    values = {
        "data": "digits", "images": 96, "batch": 16, "save_every": 48, "sample_every": 0,
        "model": model, "network_options": SMALL.get(model, TINY), "threads": 1, "out": str(folder),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


def silent(event) -> None:
    pass


def stopped_at_48() -> dict:
    stop = Stop()

    def listen(event) -> None:
        if event.kind == "step" and event.images == 48:
            stop.request()

    return {"stop": stop, "on_event": listen}


@pytest.mark.parametrize("name", get_args(ModelName))
def test_every_model_trains_resumes_exactly_and_comes_back(tmp_path, name):
    changes = {"kl_warmup": 64, "free_bits": 0.5} if name in LADDERS else {}
    whole = train(settings(name, tmp_path / "whole", **changes), on_event=silent)
    with pytest.raises(Stopped):
        train(settings(name, tmp_path / "r", **changes), **stopped_at_48())
    run = resume(tmp_path / "r", on_event=silent)
    one, other = read_tensors(run.state_path), read_tensors(whole.state_path)
    assert one.keys() == other.keys()
    assert [k for k in one if not torch.equal(one[k], other[k])] == []
    model, again = run.model(), load_model(whole.path / "model.safetensors")
    if isinstance(model, NoisyClassifier) and isinstance(again, NoisyClassifier):
        x = torch.randn(2, 1, 8, 8)
        assert name == "classifier" and torch.equal(model(x, 0.5), again(x, 0.5))
    else:
        assert isinstance(model, Ladder if name in LADDERS else Model)
        cond = None if name == "autoencoder" else torch.tensor([1, -1])
        assert torch.equal(model.sample(2, cond=cond).x, again.sample(2, cond=cond).x)
    state = read_tensors(run.state_path)
    assert any(not torch.equal(v, state[f"model.{k}"]) for k, v in model.state_dict().items())


def test_the_objective_and_the_decoder_are_those_asked_for(tmp_path):
    asked = {"decoder": "bernoulli", "beta": 0.25, "free_bits": 1.5, "kl_warmup": 1000}
    run = train(settings("vae", tmp_path / "r", images=16, **asked), on_event=silent)
    model = run.model()
    assert isinstance(model, Ladder)
    assert (model.objective.beta, model.objective.free_bits, model.objective.warmup) == (
        0.25, 1.5, 1000,
    )  # fmt: skip
    assert model.decoder.binary
    assert all("rungs" in entry for entry in run.log())
    with pytest.raises(MarginalsError, match="no noise levels"):
        load_diffusion(run.path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"model": "v", "beta": 2.0},
            "beta is for vae, hvae and autoencoder and means nothing to v",
        ),
        ({"model": "edm", "kl_warmup": 0}, "kl_warmup is for vae, hvae and autoencoder"),
        ({"model": "vae", "sample_steps": 5}, "sample_steps is for diffusion models"),
        ({"model": "hvae", "compile": True}, "compile is for diffusion models"),
        ({"model": "vae", "decoder": "poisson"}, "decoder should be 'mixture'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values, says):
    with pytest.raises(MarginalsError, match=says):
        TrainConfig(images=10, **values)


def test_a_network_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(MarginalsError, match=r"no network preset 'demo' for this model; .* vae"):
        train(settings("vae", tmp_path / "a", network="demo"), on_event=silent)
    with pytest.raises(MarginalsError, match=r"no network preset 'vae' for this model; .* demo"):
        train(settings("v", tmp_path / "b", network="vae"), on_event=silent)
    with pytest.raises(MarginalsError, match="network_options do not fit"):
        train(settings("vae", tmp_path / "c", network_options={"depth": 3}), on_event=silent)


def test_budgets_suit_the_model():
    assert fitting("v", 10)["network"] == "demo" and "network" not in fitting("hvae", 10)
    assert fitting("v", 0.1)["minutes"] == fitting("vae", 0.1)["minutes"] == 2
    assert fitting("vae", 1e9)["minutes"] == 600


def test_processor_time_is_counted_across_a_stop(tmp_path):
    with pytest.raises(Stopped):
        train(settings("v", tmp_path / "r"), **stopped_at_48())
    before = Run(tmp_path / "r").log()[-1]["cpu_seconds"]
    after = resume(tmp_path / "r", on_event=silent).log()[-1]["cpu_seconds"]
    assert after > before > 0


@pytest.mark.parametrize(
    ("version", "says"),
    [(1, r"state format 1.*start a new run"), (9, r"state format 9.*update it")],
)
def test_a_state_of_another_version_says_what_can_be_done(tmp_path, version, says):
    path = tmp_path / "state.safetensors"
    header = {"format": "marginals training state", "format_version": version}
    write_tensors(path, {"model.w": torch.zeros(1)}, header)
    with pytest.raises(MarginalsError, match=says):
        read_state_header(path)
