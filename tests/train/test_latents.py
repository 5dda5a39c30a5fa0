"""An autoencoder and a model of its latents go through the trainer: statistics, pair, resume."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from marginals.codec import Autoencoder
from marginals.commands.sample import Sample
from marginals.commands.train import Train
from marginals.data import load
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_diffusion, load_model, read_header
from marginals.io.tensors import read_tensors
from marginals.latent import Latent
from marginals.metrics.efficientnet import available
from marginals.models import Model
from marginals.pixels import to_float
from marginals.train import Run, Stop, Stopped, TrainConfig, resume, train
from marginals.train.latents import Encoded, load_codec
from marginals.train.progress import Event

CODEC: dict[str, Any] = {
    "data": "digits", "model": "autoencoder", "images": 640, "batch": 32, "save_every": 320,
    "samples": 3, "threads": 1, "lr": 4e-3,
    "network_options": {"latents": 3, "widths": [8, 16], "blocks": [0, 1], "patch": 1},
}  # fmt: skip
INNER: dict[str, Any] = {
    "data": "digits", "model": "flow", "network": "dit-latent", "images": 320, "batch": 32,
    "save_every": 160, "samples": 3, "sample_steps": 2, "threads": 1,
    "network_options": {"width": 32, "depth": 1, "heads": 2},
}  # fmt: skip


def settings(**values: Any) -> TrainConfig:
    return TrainConfig(**values)


def silent(event: Event) -> None:
    pass


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> Run:
    folder, said = tmp_path_factory.mktemp("codec") / "run", []
    run = train(settings(**CODEC, out=str(folder)), on_event=lambda event: said.append(event.text))
    assert f"marginals train --codec {folder}" in said[-1]
    return run


@pytest.fixture(scope="module")
def whole(codec: Run, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("latent") / "run"
    return train(settings(**INNER, codec=str(codec.path), out=str(folder)), on_event=silent)


def test_the_file_of_an_autoencoder_knows_its_latents(codec: Run):
    model = load_model(codec.path)
    assert isinstance(model, Autoencoder) and model.data is not None and model.data.classes == ()
    assert read_header(codec.path)["model"]["stats"]["kind"] == "LatentStats"
    source = load("digits")[0]
    z = load_codec(codec.path).encode(source.batch(torch.arange(len(source)))[0])
    assert z.mean((0, 2, 3)).abs().max() < 1e-4
    assert (z.std((0, 2, 3), correction=0) - 1.0).abs().max() < 1e-4


def test_its_strip_shows_pictures_above_their_reconstructions(codec: Run):
    row = codec.path / "samples" / f"{640:012d}-average.png"
    with Image.open(row) as picture:
        width, height = picture.size
    assert width / height == pytest.approx(3 / 2, rel=0.1)


def test_an_autoencoder_resumes_exactly(codec: Run, tmp_path: Path):
    again = resumed(settings(**CODEC, out=str(tmp_path / "again")), 320)
    for name in ("model.safetensors", "state.safetensors"):
        first, second = (read_tensors(run.path / name) for run in (codec, again))
        assert (
            all(torch.equal(first[k], second[k]) for k in first) and first.keys() == second.keys()
        )
    assert read_header(again.path)["model"]["stats"] == read_header(codec.path)["model"]["stats"]


def resumed(config: TrainConfig, at: int) -> Run:
    """Stopped at so many images, then continued."""
    stop = Stop()

    def listen(event: Event) -> None:
        if event.images >= at:
            stop.request()

    with pytest.raises(Stopped):
        train(config, on_event=listen, stop=stop)
    return resume(str(config.out), on_event=silent)


def test_one_file_holds_the_pair_and_needs_no_other(whole: Run, codec: Run):
    model = load_model(whole.path)
    assert isinstance(model, Latent) and isinstance(model.inner, Model)
    assert model.data is not None and model.inner.data is not None
    assert model.data.shape == (1, 8, 8) and model.inner.data.shape == (3, 4, 4)
    assert model.data.classes == model.inner.data.classes and len(model.data.classes) == 10
    assert (model.inner.data.mean, model.inner.data.std) == (0.0, 1.0)
    own, given = read_tensors(whole.path / "model.safetensors"), load_model(codec.path).state_dict()
    inside = {k.removeprefix("codec.ladder."): v for k, v in own.items() if k.startswith("codec.")}
    assert inside.keys() == given.keys()
    assert all(torch.equal(inside[k], given[k]) for k in given)
    assert load_codec(whole.path).encode(pixels(4)).equal(load_codec(codec.path).encode(pixels(4)))


def pixels(n: int) -> torch.Tensor:
    return load("digits")[0].batch(torch.arange(n))[0]


def test_a_loaded_pair_does_what_it_did(whole: Run):
    model = load_model(whole.path)
    assert isinstance(model, Latent)
    x = model.sample(4, steps=3, cond=2, guidance=2.0).x
    assert x.shape == (4, 1, 8, 8)
    assert torch.equal(x, model.decode(model.inner.sample(4, steps=3, cond=2, guidance=2.0).x))
    terms = model.elbo(pixels(4), 1, samples=4)
    assert terms.of == "whole-number pixels" and terms.dims == 64
    assert torch.isfinite(model.log_prob(to_float(pixels(2)), draws=2).nats).all()


def test_a_latent_model_resumes_exactly(whole: Run, codec: Run, tmp_path: Path):
    config = settings(**INNER, codec=str(codec.path), out=str(tmp_path / "again"))
    again = resumed(config, 160)
    first, second = (read_tensors(r.path / "state.safetensors") for r in (whole, again))
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    moments = [k for k in first if k.startswith("optimizer.")]
    assert moments and not any("codec" in k for k in moments)


def test_a_run_goes_on_without_the_autoencoders_file(codec: Run, tmp_path: Path):
    place, out = tmp_path / "codec", tmp_path / "run"
    place.mkdir()
    shutil.copy(codec.path / "model.safetensors", place)
    changes = {"codec": str(place), "out": str(out), "images": 64, "save_every": 64}
    train(settings(**(INNER | changes)), on_event=silent)
    before = load_codec(out).encode(pixels(4))
    shutil.rmtree(place)
    assert resume(out, images=96, on_event=silent).images_seen == 96
    assert torch.equal(load_codec(out).encode(pixels(4)), before)


@pytest.mark.skipif(not available(), reason="EfficientNet-Lite0 is not installed")
def test_a_feature_loss_is_charged_and_leaves_no_trace_in_the_file(codec: Run, tmp_path: Path):
    short = CODEC | {"images": 64, "save_every": 64}
    plain = train(settings(**short, out=str(tmp_path / "plain")), on_event=silent)
    charged = settings(**short, feature_loss=2.0, out=str(tmp_path / "charged"))
    run = train(charged, on_event=silent)
    first, second = (read_tensors(r.path / "model.safetensors") for r in (plain, run))
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[k], second[k]) for k in first)
    assert resume(run.path, images=96, on_event=silent).images_seen == 96


def test_steps_see_the_latents_encoded_once(codec: Run):
    coder, source = load_codec(codec.path), load("digits")[0]
    z = coder.encode(source.batch(torch.arange(len(source)))[0])
    data = Encoded(source, z)
    chosen = torch.tensor([5, 0, 9])
    latents, labels = data.batch(chosen)
    assert torch.equal(latents, z[chosen]) and torch.equal(labels, source.batch(chosen)[1])
    assert data.shape == (3, 4, 4) and not data.flip and len(data) == len(source)
    part = data.subset(chosen)
    assert torch.equal(part.batch(torch.tensor([1]))[0], z[:1]) and data.report is source.report


def test_sampling_and_settings_from_the_command_line(whole: Run, codec: Run, tmp_path: Path):
    out = tmp_path / "pictures"
    walk: dict[str, Any] = {
        "count": 2,
        "steps": 2,
        "guidance": 1.5,
        "label": "3",
        "scaling": "vp",
    }
    assert Sample(model=whole.path / "model.safetensors", out=out, **walk).run() == 0
    with Image.open(out / "00000.png") as picture:
        assert picture.size == (8, 8)
    assert Train.defaults(["--codec", str(codec.path)]).network == "dit-latent"
    assert Train.defaults(["--minutes", "2"]).network == "demo"
    assert Train.defaults(["--model", "autoencoder"]).kl_warmup is None


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"model": "vae", "network": None, "sample_steps": None}, "codec is for diffusion"),
    ({"flips": True}, "mirrored"),
    ({"feature_loss": 1.0}, "feature_loss is for autoencoder"),
]


@pytest.mark.parametrize(("changes", "words"), UNFIT)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(MarginalsError, match=words):
        settings(**(INNER | {"codec": "x"} | changes))


def test_what_does_not_fit_is_refused(whole: Run, codec: Run, tmp_path: Path):
    out = str(tmp_path / "run")
    with pytest.raises(MarginalsError, match="shape"):
        other = settings(**INNER, codec=str(codec.path), size=16, out=out)
        train(other, on_event=silent)
    with pytest.raises(MarginalsError, match="no run folder"):
        train(settings(**INNER, codec=str(tmp_path / "none"), out=out), on_event=silent)
    plain = INNER | {"network": "mlp", "network_options": {"width": 16}, "images": 32}
    run = train(settings(**plain, out=out), on_event=silent)
    with pytest.raises(MarginalsError, match="no autoencoder"):
        load_codec(run.path)
    with pytest.raises(MarginalsError, match="in the latents"):
        load_diffusion(whole.path)
