"""A whole comparison, small: trained, measured, kept, and not repeated."""

import json
import shutil

import pytest
from PIL import Image

from marginals.cli import main
from marginals.compare import run as comparing
from marginals.compare import training
from marginals.compare.settings import Comparison, model_names
from marginals.errors import MarginalsError
from marginals.io.checkpoint import read_header, rewrite_header
from marginals.train import Run

pytestmark = pytest.mark.xdist_group("compare")  # one worker trains what the tests share

SMALL = {"batch": 16, "lr": 1e-3, "minutes": 2}
OPTIONS = {
    "vae": {"latents": [4], "widths": [8], "blocks": 1, "patch": 4},
    "ddpm": {"width": 8, "mults": [1], "blocks": 1, "patch": 4},
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Networks that are trained in a second, and few evaluations."""
    from marginals.compare import measuring
    from marginals.metrics.routes import Effort

    def fitting(model, minutes):
        return SMALL | {"network_options": OPTIONS[model]}

    monkeypatch.setattr(training, "fitting", fitting)
    monkeypatch.setattr(measuring, "Effort", lambda only: Effort(2, 1, 3, only))


def settings(folder, **changes) -> Comparison:
    values = {"models": ("vae", "ddpm"), "data": "digits", "minutes": 0.005, "pictures": 4}
    return Comparison(folder=folder, **(values | {"samples": 12, "threads": 1} | changes))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison") / "c"


@pytest.fixture
def folder(small, place):
    """A finished comparison, made by whichever test of this process comes first."""
    if not (place / "results.json").is_file():
        comparing.compare(settings(place))
    return place


def test_everything_is_trained_measured_and_written(folder):
    report = comparing.compare(settings(folder))
    kept = json.loads((folder / "results.json").read_text())
    assert [row["model"] for row in kept["models"]] == ["vae", "ddpm"]
    keys = {row["model"]: [route["key"] for route in row["routes"]] for row in kept["models"]}
    assert keys["vae"] == ["elbo", "iwae"]
    assert keys["ddpm"] == ["discrete", "continuous", "ode", "decoder", "chain"]
    for row in kept["models"]:
        assert Run(folder / row["model"]).finished and row["bad_at"]
        assert all(len(route["bits"]) == 4 for route in row["routes"])
        assert row["seconds_per_sample"] > 0 and row["frechet"]["distance"] > 0
        assert row["images"] % 16 == 0
    assert sum(row["gap"][0] == 0 for row in kept["models"]) == 1
    assert Image.open(folder / "results.png").width > 800
    assert "vae" in (folder / "results.md").read_text()
    assert report["pictures"] == 4


def test_nothing_is_repeated(folder, monkeypatch):
    before = json.loads((folder / "results.json").read_text())
    monkeypatch.setattr(training, "train", pytest.fail)
    monkeypatch.setattr("marginals.compare.measuring.measure", pytest.fail)
    comparing.compare(settings(folder))
    assert json.loads((folder / "results.json").read_text()) == before


def test_more_pictures_measure_again_but_train_nothing(folder, monkeypatch):
    monkeypatch.setattr(training, "train", pytest.fail)
    report = comparing.compare(settings(folder, pictures=5))
    assert all(len(r["bits"]) == 5 for row in report["models"] for r in row["routes"])


def test_an_interrupted_model_goes_on(folder, monkeypatch, tmp_path):
    """A run that was stopped is continued with its own length, not paced again."""
    from marginals.train import Stop, Stopped, train

    config = training._paced("vae", settings(tmp_path / "c"), _digits())
    stop = Stop()

    def listen(event):
        if event.kind == "step":
            stop.request()

    training.claim_folder(settings(tmp_path / "c"))
    with pytest.raises(Stopped):
        train(config.with_changes(images=160), source=_digits(), on_event=listen, stop=stop)
    monkeypatch.setattr(training, "_paced", pytest.fail)
    run = training.train_one("vae", settings(tmp_path / "c"), _digits(), lambda event: None)
    assert run.finished and run.images_seen == 160


def test_a_model_that_is_older_than_its_state_is_made_anew(folder, tmp_path):
    """Killed between the last state and the model made from it: the state is the truth."""
    shutil.copytree(folder / "vae", tmp_path / "c" / "vae")
    model = tmp_path / "c" / "vae" / "model.safetensors"
    seen = read_header(model)["extra"]["images_seen"]

    def older(header):
        return header | {"extra": header["extra"] | {"images_seen": seen - 16}}

    rewrite_header(model, model, older)
    training.train_one("vae", settings(tmp_path / "c"), _digits(), lambda event: None)
    assert read_header(model)["extra"]["images_seen"] == seen


def _digits():
    import marginals.data

    return marginals.data.load("digits")[0]


def test_other_budgets_and_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(MarginalsError, match=r"other settings .minutes 0.005, now 3"):
        comparing.compare(settings(folder, minutes=3.0))
    (tmp_path / "mine.txt").write_text("somebody's")
    with pytest.raises(MarginalsError, match="holds other things than a comparison"):
        comparing.compare(settings(tmp_path))


@pytest.mark.parametrize(
    ("kind", "words"), [("processor", "processor time, summed"), ("wall", "time on the clock")]
)
def test_it_says_what_its_minutes_are(tmp_path, capsys, monkeypatch, kind, words):
    def stop(*args):
        raise MarginalsError("far enough")

    monkeypatch.setattr(comparing, "clock", lambda: kind)
    monkeypatch.setattr(comparing, "train_one", stop)
    with pytest.raises(MarginalsError, match="far enough"):
        comparing.compare(settings(tmp_path / "c", minutes=0.3))
    assert f"vae: training for 0.3 minutes of {words}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "in minutes of processor time" in " ".join(capsys.readouterr().out.split())


def test_twice_the_time_is_twice_the_images(tmp_path, monkeypatch):
    """The trial is the same, so the number of images is in proportion."""
    trial = training.run_trial

    def fixed(*args):
        from dataclasses import replace

        return replace(trial(*args), cpu_seconds_per_image=0.001, seconds_per_image=9.0)

    monkeypatch.setattr(training, "run_trial", fixed)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # then processor time counts
    images = [
        training._paced("vae", settings(tmp_path, minutes=m), _digits()).images for m in (0.1, 0.2)
    ]
    assert images == [6000 // 16 * 16, 12000 // 16 * 16]


def test_names_are_checked_before_anything_is_made(tmp_path, capsys):
    assert model_names("vae, hvae") == ("vae", "hvae")
    for words, says in (("vae,gan", "no model 'gan'"), ("vae,vae", "once only"), (",", "name the")):
        code = main(["compare", "--models", words, "--out", str(tmp_path / "c")])
        assert code == 2 and says in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
