"""The command line with a classifier of noisy pictures: trained, measured, used, refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from marginals.classifier import NoisyClassifier
from marginals.cli import main
from marginals.generative import DataStats
from marginals.io.checkpoint import load_model, save_model
from marginals.nn.classifier import PictureClassifier

pytestmark = pytest.mark.xdist_group("cli_classifier")  # one worker trains what they share

LITTLE = ("--data", "digits", "--images", "320", "--batch", "16", "--threads", "1")


def trained(folder: Path, *words: str) -> Path:
    assert main(["train", *LITTLE, *words, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ "judge", a classifier; "plain" and "told", diffusion models without and with classes."""
    out = tmp_path_factory.mktemp("runs")
    trained(out / "judge", "--model", "classifier")
    for name, words in (("plain", ["--no-conditional"]), ("told", ["--model", "edm"])):
        trained(out / name, *words, "--network", "mlp", "--sample-every", "0")
    return out


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(p), int) for p in sorted(folder.glob("0*.png"))]


def test_a_run_has_a_loss_by_level_and_no_samples(runs: Path, said):
    about = json.loads(said("info", runs / "judge", "--json")[1])
    assert about["config"]["label_dropout"] == 0.0 and about["config"]["sample_every"] == 0
    assert about["model"]["classifier"]["kind"] == "pictures"
    assert about["last"]["levels"] and "rungs" not in about["last"]
    assert not (runs / "judge" / "samples.png").exists()
    code, out, _ = said("info", runs / "judge")
    assert code == 0 and "pictures(channels=1, size=8, num_classes=10" in out


def test_it_guides_models_with_and_without_classes(runs: Path, tmp_path, said):
    walk = ("-n", 3, "--solver", "ddim", "--steps", 4)
    few = (*walk, "--label", "3", "--classifier", runs / "judge")
    for name in ("plain", "told"):
        for scale in (0, 4):
            out = tmp_path / f"{name}{scale}"
            assert said("sample", runs / name, *few, "--guidance", scale, "--out", out)[0] == 0
        off, on = pictures(tmp_path / f"{name}0"), pictures(tmp_path / f"{name}4")
        assert any((a != b).any() for a, b in zip(off, on, strict=True))
    made = json.loads(said("info", tmp_path / "plain4" / "00001.png", "--json")[1])
    assert (made["label"], made["guidance"]) == ("3", 4.0)
    assert made["classifier"] == "judge/model.safetensors" and made["classifier_hash"]
    # scale 0 is the model that is told no class
    none = ("--label", "none", "--out", tmp_path / "none")
    assert said("sample", runs / "told", *walk, *none)[0] == 0
    for a, b in zip(pictures(tmp_path / "told0"), pictures(tmp_path / "none"), strict=True):
        assert (a == b).all()
    code, _, err = said("sample", runs / "plain", *walk, "--out", tmp_path / "plain4")
    assert code == 2 and "other settings made" in err


def test_pictures_do_not_depend_on_the_batch_and_tolerance_walks_too(runs: Path, tmp_path, said):
    few = ("-n", 3, "--classifier", runs / "judge", "--guidance", 2, "--seed", 2)
    for folder, batch in (("a", 64), ("b", 2)):
        words = ("--steps", 4, "--batch", batch, "--out", tmp_path / folder)
        assert said("sample", runs / "plain", *few, *words)[0] == 0
    for a, b in zip(pictures(tmp_path / "a"), pictures(tmp_path / "b"), strict=True):
        assert abs(a - b).max() <= 1
    words = ("--tolerance", 0.1, "--scaling", "flow", "--out", tmp_path / "c")
    assert said("sample", runs / "plain", *few, *words)[0] == 0
    assert len(pictures(tmp_path / "c")) == 3
    made = said("sample", runs / "plain", *few, "--steps", 2)[1]
    assert "-guidance2-by-" in made  # the folder is named after both models


def test_eval_is_by_level(runs: Path, said):
    code, out, _ = said("eval", runs / "judge", "--pictures", 50, "--json")
    assert code == 0
    report = json.loads(out)
    assert [row["lam"] for row in report["levels"]] == [9, 6, 3, 0, -3, -6, -9]
    assert all(row["pictures"] == 50 for row in report["levels"])
    assert report["chance"] == pytest.approx(np.log(10)) and "likelihood" not in report
    code, out, _ = said("eval", runs / "judge", "--pictures", 50)
    assert code == 0 and "cross-entropy" in out and "chance is right on 10.0%" in out


def odd_judge(folder: Path, shape: tuple[int, ...], classes: tuple[str, ...]) -> Path:
    body = PictureClassifier(shape[0], shape[1], len(classes), width=8)
    model = NoisyClassifier(body, data=DataStats(shape, classes=classes))
    save_model(folder / "odd.safetensors", model)
    return folder / "odd.safetensors"


TEN = tuple("0123456789")


@pytest.mark.parametrize(
    ("shape", "classes", "says"),
    [
        ((1, 16, 16), TEN, "pictures of shape (1, 16, 16)"),
        ((1, 8, 8), ("odd", "even"), "other classes (odd, even and 0, 1, 2, ...)"),
    ],
)
def test_a_classifier_of_other_pictures_or_classes_is_refused(
    runs: Path, tmp_path, said, shape, classes, says
):
    judge = odd_judge(tmp_path, shape, classes)
    code, out, err = said("sample", runs / "told", "--classifier", judge, "--out", tmp_path / "x")
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sample", "{}/judge"), "is a classifier and draws no pictures"),
        (("sample", "{}/told", "--classifier", "{}/plain"), "is no classifier of noisy pictures"),
        (("sample", "{}/told", "--classifier", "{}/judge", "--label", "none"), "towards a class"),
        (("sample", "{}/told", "--classifier", "{}/judge", "--label", "14"), "no class '14'"),
        (("sample", "{}/vae", "--classifier", "{}/judge"), "this one does not walk"),
        (("sample", "{}/latent", "--classifier", "{}/judge"), "walks in the latents of a codec"),
        (("sample", "{}/ot", "--classifier", "{}/judge"), "a coupling (MinibatchOT)"),
        (("sample", "{}/always", "--classifier", "{}/judge"), "--label-dropout 0"),
        (("fit", "{}/judge"), "a classifier of noisy pictures"),
        (("convert", "{}/judge", "--to", "ve", "--out", "{}/x.safetensors"), "classifier"),
        (("distill", "{}/judge", "--out", "{}/x"), "classifier"),
        (("compare", "--models", "classifier", "--out", "{}/x"), "no model 'classifier'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(runs: Path, said, words, says: str):
    others = {
        "vae": ["--model", "vae"],
        "ot": ["--model", "flow", "--network", "mlp", "--coupling", "ot"],
        "always": ["--network", "mlp", "--label-dropout", "0"],
    }
    for name, how in others.items():
        if f"{{}}/{name}" in words and not (runs / name).exists():
            trained(runs / name, *how, "--images", "16", "--sample-every", "0")
    if "{}/latent" in words and not (runs / "latent").exists():
        small = ["--images", "16", "--sample-every", "0"]
        trained(runs / "codec", "--model", "autoencoder", *small)
        trained(runs / "latent", "--codec", str(runs / "codec"), "--network", "mlp", *small)
    code, out, err = said(*(word.replace("{}", str(runs)) for word in words))
    assert code == 2 and says in err, err
    assert len(err.strip().splitlines()) == 1 and not out


def test_a_fitted_solver_does_not_know_the_classifier(runs: Path, said):
    words = ("--classifier", runs / "judge", "--solver", "fitted")
    code, _, err = said("sample", runs / "plain", *words)
    assert code == 2 and "fitted" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--no-conditional",), "conditional cannot be false"),
        (("--label-dropout", "0.1"), "leave label_dropout out"),
        (("--sample-every", "64"), "leave sample_every out"),
        (("--beta", "2"), "beta is for vae, hvae and autoencoder"),
        (("--coupling", "ot"), "coupling is for diffusion models"),
        (("--codec", "x"), "codec is for diffusion models"),
        (("--network", "demo"), "no network preset 'demo'"),
        (("--data", "{}"), "needs pictures of two classes or more, and"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, said, words, says: str):
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / f"{i}.png")
    words = [word.replace("{}", str(tmp_path / "pictures")) for word in words]
    out = tmp_path / "run"
    code, _, err = said("train", "--model", "classifier", *LITTLE, *words, "--out", out)
    assert code == 2 and says in err.splitlines()[-1], err
    assert not out.exists()


def test_a_file_holds_all_of_it(runs: Path):
    one, other = (load_model(runs / "judge") for _ in range(2))
    assert isinstance(one, NoisyClassifier) and isinstance(other, NoisyClassifier)
    x, lam = torch.randn(3, 1, 8, 8), torch.tensor([-2.0, 0.0, 5.0])
    assert torch.equal(one(x, lam), other(x, lam))
    assert one.levels == other.levels and one.data == other.data and one.data is not None
    assert one.data.classes == TEN
