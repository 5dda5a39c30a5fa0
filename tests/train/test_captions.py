"""Captions in training: which one is drawn, what a model is told, a run of captioned pictures."""

from dataclasses import replace

import pytest
import torch

import marginals.text
from marginals.data.captioned import Captioned, captions_of
from marginals.errors import MarginalsError
from marginals.generative import DataStats
from marginals.io.checkpoint import load_model, read_header
from marginals.train import TrainConfig, resume, train
from marginals.train.captions import Captions


@pytest.fixture(autouse=True)
def encoder(monkeypatch, tmp_path, letters):
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(marginals.text, "encoder", lambda name, device="cpu": letters)


def said(states: torch.Tensor) -> list[str]:
    return [
        "".join(chr(96 + int(token.argmax())) for token in row if token.any()) for row in states
    ]


def test_every_caption_of_a_picture_is_as_likely_and_none_of_another(letters):
    captions = Captions([("a",), ("bc", "d", "e"), (), ("a", "fff")], letters)
    generator = torch.Generator().manual_seed(0)
    drawn = said(captions.draw(torch.tensor([1] * 3000), generator))
    for text in ("bc", "d", "e"):
        assert abs(drawn.count(text) - 1000) < 130  # five standard deviations
    assert said(captions.draw(torch.tensor([0, 2, 0]), generator)) == ["a", "", "a"]
    assert set(said(captions.draw(torch.tensor([3] * 50), generator))) == {"a", "fff"}
    assert said(captions.examples(3)) == ["a", "bc", "a"]


def pictures() -> Captioned:
    """Gray squares: "dark" and "light", by their captions only."""
    values = torch.tensor([40, 210]).repeat(8)
    images = values[:, None, None, None].expand(-1, 1, 8, 8).to(torch.uint8).contiguous()
    images[:, :, ::2] += 9
    return Captioned(images, tuple(("dark",) if v < 100 else ("light", "pale") for v in values))


OPTIONS = {
    "network": "dit-demo", "network_options": {"width": 32, "depth": 1, "heads": 2}, "model": "v",
    "batch": 16, "threads": 1, "lr": 4e-3, "warmup": 64, "sample_every": 0, "text": "letters",
}  # fmt: skip


def test_a_model_of_texts_keeps_the_names_of_their_styles(tmp_path):
    source = replace(pictures(), styles=("flat", *["3d"] * 15))
    for told, expected in ((True, ["3d", "flat"]), (False, None)):
        config = TrainConfig(**OPTIONS, images=16, conditional=told, out=str(tmp_path / str(told)))
        run = train(config, source=source, on_event=lambda event: None)
        assert read_header(run.path / "model.safetensors")["extra"].get("styles") == expected


def test_a_run_learns_what_captions_say_and_resumes_to_the_bit(tmp_path, letters):
    """After a minute's training the word decides how bright the picture is."""
    quiet = {"on_event": lambda event: None, "source": pictures()}
    config = TrainConfig(**OPTIONS, images=3200, out=str(tmp_path / "run"))
    run = train(config, **quiet)
    model = load_model(run.path)
    assert model.data == DataStats(
        (1, 8, 8), model.data.mean, model.data.std, (), model.data.name, "letters"
    )
    shades = {}
    for text in ("dark", "pale"):
        states = letters([text])[0]
        shades[text] = float(model.sample(8, cond=states, guidance=1.5, steps=10).x.mean())
    assert shades["dark"] < -0.35 and shades["pale"] > 0.35
    short = {**OPTIONS, "decay": 0.0, "images": 64}
    whole = train(TrainConfig(**short, out=str(tmp_path / "whole")), **quiet)
    train(TrainConfig(**{**short, "images": 32}, out=str(tmp_path / "part")), **quiet)
    part = resume(tmp_path / "part", images=64, **quiet)
    a, b = (load_model(r.path).state_dict() for r in (whole, part))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_model_of_texts_refuses_pictures_without_and_classes(tmp_path):
    config = TrainConfig(**OPTIONS, images=16, out=str(tmp_path / "run"))
    run = train(config, on_event=lambda event: None, source=pictures())
    model = load_model(run.path)
    with pytest.raises(MarginalsError, match="texts, not classes"):
        model.sample(2, cond=0)
    with pytest.raises(MarginalsError, match="token states"):
        model.sample(2, cond=torch.zeros(3, 1, 27))
    config = TrainConfig(**OPTIONS, images=16, data="digits", out=str(tmp_path / "no"))
    with pytest.raises(MarginalsError, match="have none"):
        train(config, on_event=lambda event: None, model=model)


def test_without_conditions_captions_are_left_alone(tmp_path):
    config = TrainConfig(**OPTIONS, images=16, conditional=False, out=str(tmp_path / "run"))
    run = train(config, on_event=lambda event: None, source=pictures())
    model = load_model(run.path)
    assert model.data.text == "" and model.net.backbone.text is None


def test_changed_captions_are_other_data(tmp_path):
    source = pictures()
    config = TrainConfig(**OPTIONS, images=16, out=str(tmp_path / "run"))
    run = train(config, on_event=lambda event: None, source=source)
    changed = Captioned(source.images, (("black",), *source.captions[1:]))
    with pytest.raises(MarginalsError, match="other pictures"):
        resume(run.path, images=32, source=changed, on_event=lambda event: None)


def test_pictures_of_which_none_has_a_text_are_pictures_without_captions(tmp_path):
    silent = Captioned(pictures().images, ((),) * 16)
    assert captions_of(silent) == () and captions_of(pictures()) == pictures().captions
    config = TrainConfig(**OPTIONS, images=16, out=str(tmp_path / "run"))
    run = train(config, on_event=lambda event: None, source=silent)
    assert load_model(run.path).data.text == ""
