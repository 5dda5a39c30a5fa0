"""`marginals fit` and the solver it makes: what they do, say and refuse."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import marginals
from marginals.cli import main
from marginals.io.checkpoint import load_diffusion, save_model
from marginals.io.fitted import fitted_path, load_fitted
from marginals.io.pictures import read_parameters
from marginals.models import DataStats
from marginals.nn import MLP
from marginals.solvers import auto, grid, straight

pytestmark = pytest.mark.xdist_group("cli_fit")  # one worker fits the solver they share

FEW = ("--paths", 16, "--path-steps", 20, "--rounds", 6)
CLASSES = DataStats((1, 4, 4), 0.1, 0.5, ("cat", "dog"), "pets")
NO_CLASSES = DataStats((1, 4, 4), 0.1, 0.5, (), "pets")


def make(folder: Path, data: DataStats, extra: dict | None = None) -> Path:
    """A run folder with a model that nobody trained, whose every weight matters."""
    torch.manual_seed(0)
    model = marginals.v_diffusion(MLP(16, width=16, num_classes=len(data.classes)), data=data)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    folder.mkdir()
    save_model(folder / "model.safetensors", model, extra or {})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a solver of four evaluations."""
    run = make(tmp_path_factory.mktemp("runs") / "pets", CLASSES)
    assert main([str(word) for word in ("fit", run, "--nfe", 4, *FEW)]) == 0
    return run


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The same model without fits."""
    return make(tmp_path / "bare", CLASSES)


# --- fit -------------------------------------------------------------------------------------


def test_a_fit_is_kept_with_its_errors_and_says_how_to_use_it(bare: Path, said):
    code, out, _ = said("fit", bare, "--nfe", 3, *FEW, "--solver", "dpmpp_2m")
    assert code == 0 and "3 evaluations; distance from where 16 paths end" in out
    assert f"marginals sample {bare} --solver fitted --steps 3" in out
    assert all(len(line) <= 80 for line in out.splitlines() if str(bare) not in line)
    (kept,) = json.loads((bare / "model.fitted.json").read_text())["fits"]
    about = kept["about"]
    assert (kept["steps"], kept["guidance"], about["started_from"]) == (3, 1.0, "dpmpp_2m")
    assert about["rounds"] == 6 and "minutes" not in about and not about["levels_only"]
    rows = list(about["errors"])
    assert rows == ["fitted", "dpmpp_2m", "auto", "auto, 6", "the paths"]
    assert about["errors"]["fitted"]["mean"] < about["errors"]["auto"]["mean"]
    for name, numbers in about["errors"].items():
        shown = {"auto": "auto, the default", "the paths": "the paths' own error"}.get(name, name)
        (line,) = re.findall(rf"^  {shown} {{2,}}(.*)$", out, re.M)
        wanted = [numbers[key] for key in ("mean", "median", "p90", "rmse")]
        assert [float(word) for word in line.split()] == pytest.approx(wanted, abs=5.1e-5)


def test_what_is_measured_is_true(run: Path):
    """The errors in the file, measured again by hand from the held-out seeds."""
    model = load_diffusion(run / "model.safetensors")
    about = json.loads((run / "model.fitted.json").read_text())["fits"][0]["about"]
    table = load_fitted(run / "model.safetensors", 4)
    options = {"cond": torch.arange(16) % 2, "seed": 1 << 41}
    paths = model.sample(16, steps=20, **options).x
    for name, how in {
        "fitted": {"solver": table.solver, "levels": table.levels},
        "auto": {"steps": 4},
        "auto, 8": {"steps": 8},
        "the paths": {"steps": 10},
    }.items():
        ends = model.sample(16, **how, **options).x
        each = (ends - paths).flatten(1).square().mean(1).sqrt()
        assert about["errors"][name]["mean"] == pytest.approx(each.mean().item(), rel=1e-4)
    grid_of_auto = grid(straight(model.lam_min, model.lam_max), 4)
    assert table.lams[0] == pytest.approx(model.lam_min)
    assert table.lams != tuple(grid_of_auto[:-1])


def test_the_same_command_makes_the_same_table_and_replaces_it(run: Path, tmp_path, said):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(run / "model.safetensors", copy)
    model = copy / "model.safetensors"
    assert said("fit", copy, "--nfe", 4, *FEW)[0] == 0
    first = load_fitted(model, 4)
    assert first == load_fitted(run / "model.safetensors", 4)
    assert said("fit", copy, "--nfe", 4, *FEW, "--seed", 1)[0] == 0
    assert load_fitted(model, 4) != first
    assert len(json.loads(fitted_path(model).read_text())["fits"]) == 1


def test_levels_only_keeps_the_weights_of_the_solver(bare: Path, said):
    from marginals.solvers import FittedTable

    assert said("fit", bare, "--nfe", 4, *FEW, "--levels-only")[0] == 0
    table = load_fitted(bare / "model.safetensors", 4)
    assert table == FittedTable.of(auto(), table.levels)
    model = load_diffusion(bare / "model.safetensors")
    assert table.levels != tuple(grid(straight(model.lam_min, model.lam_max), 4))


def test_minutes_are_a_limit_too(bare: Path, said):
    words = ("fit", bare, "--nfe", 2, "--paths", 16, "--path-steps", 20, "--minutes", 0.002)
    assert said(*words)[0] == 0
    (kept,) = json.loads((bare / "model.fitted.json").read_text())["fits"]
    assert kept["about"]["minutes"] == 0.002 and "rounds" not in kept["about"]


def test_a_model_without_classes_is_fitted_and_sampled(tmp_path, said):
    run = make(tmp_path / "plain", NO_CLASSES)
    assert said("fit", run, "--nfe", 3, *FEW)[0] == 0
    assert said("sample", run, "--solver", "fitted", "-n", 2, "--out", tmp_path / "a")[0] == 0
    code, _, err = said("fit", run, "--guidance", 2, *FEW)
    assert code == 2 and "--guidance needs a model with classes" in err


def test_a_fit_that_is_no_better_is_not_kept(bare: Path, said, monkeypatch):
    monkeypatch.setattr("marginals.fitting.fit", lambda denoiser, paths, family, **_: (
        family.numbers(family.start).table()
    ))  # fmt: skip
    code, out, err = said("fit", bare, "--nfe", 3, *FEW, "--solver", "ddim")
    assert code == 2 and "auto, the default" in out
    assert "no better than the default" in err and "--minutes" in err
    assert not (bare / "model.fitted.json").exists()


REFUSED = {
    "heun": (["--solver", "heun"], "heun on these levels cannot be written as a fitted table"),
    "two a step": (["--solver", "dpm_2"], "asks the network 7 times in 4 steps"),
    "noise": (["--solver", "ddpm"], "it has to be deterministic"),
    "a wrong name": (["--solver", "autoo"], "did you mean 'auto'"),
    "fitted": (["--solver", "fitted"], "there is no solver 'fitted'"),
    "v frame": (["--solver", "adams:frame=v,coordinate=angle"], "constant picture"),
    "one evaluation": (["--nfe", 1], "--nfe should be greater than or equal to 2"),
    "few paths": (["--paths", 8], "--paths should be"),
    "no time": (["--minutes", 0], "--minutes should be"),
    "no rounds": (["--rounds", 0], "--rounds should be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_one_sentence_before_anything_slow(bare: Path, said, monkeypatch, case):
    words, sentence = REFUSED[case]
    monkeypatch.setattr("marginals.paths.follow", lambda *_, **__: pytest.fail("followed paths"))
    code, out, err = said("fit", bare, "--nfe", 4, *words)
    assert code == 2 and out == "" and sentence in err and len(err.splitlines()) == 1
    assert not (bare / "model.fitted.json").exists()


def test_guidance_needs_a_model_that_knows_no_class(tmp_path, said):
    run = make(tmp_path / "run", CLASSES, {"label_dropout": 0})
    code, _, err = said("fit", run, "--guidance", 2, *FEW)
    assert code == 2 and "--label-dropout 0" in err


def test_a_vae_has_nothing_to_fit(tmp_path, said):
    from marginals.io import registry
    from marginals.nn import VectorLatents

    vae = registry.ladder("vae")(
        VectorLatents(1, 4, 15, latents=(2,), network="mlp", widths=(8,)), data=NO_CLASSES
    )
    save_model(tmp_path / "vae.safetensors", vae, {})
    code, _, err = said("fit", tmp_path / "vae.safetensors", *FEW)
    assert code == 2 and "no noise levels" in err
    code, _, err = said("sample", tmp_path / "vae.safetensors", "--solver", "fitted")
    assert code == 2 and "--solver is for diffusion models" in err


# --- sample --------------------------------------------------------------------------------


def pixels(folder: Path) -> list:
    import numpy as np
    from PIL import Image

    return [np.asarray(Image.open(p), dtype=int) for p in sorted(folder.glob("0*.png"))]


def test_pictures_are_the_walk_of_the_table(run: Path, tmp_path, said):
    from marginals.io.pictures import to_uint8

    words = ("sample", run, "--solver", "fitted", "-n", 5, "--seed", 3)
    assert said(*words, "--steps", 4, "--out", tmp_path / "a")[0] == 0
    made = json.loads(said("info", tmp_path / "a" / "00005.png", "--json")[1])
    assert (made["solver"], made["steps"], made["label"]) == ("fitted", 4, "dog")
    table = load_fitted(run / "model.safetensors", 4)
    model = load_diffusion(run / "model.safetensors")
    x = model.sample(
        5, solver=table.solver, levels=table.levels, seed=3, cond=torch.tensor([1, 0, 1, 0, 1])
    )
    assert x.nfe == 4 and x.solver == "fitted" and x.lams == table.levels
    other = model.sample(5, steps=4, seed=3, cond=torch.tensor([1, 0, 1, 0, 1]))
    assert (other.x - x.x).abs().max() > 1e-3
    for picture, wanted in zip(pixels(tmp_path / "a"), to_uint8(x.x), strict=True):
        assert abs(picture - wanted[0].int().numpy()).max() <= 1

    assert said(*words, "--out", tmp_path / "b", "--batch", 2)[0] == 0  # there is only one
    assert said(*words, "--out", tmp_path / "c", "--scaling", "ve")[0] == 0
    for folder in "bc":
        for one, two in zip(pixels(tmp_path / "a"), pixels(tmp_path / folder), strict=True):
            assert abs(one - two).max() <= 1
    assert json.loads(said("info", tmp_path / "b" / "00003.png", "--json")[1])["steps"] == 4


WRONG_WALKS = {
    "steps": (["--steps", 5], "4 steps at guidance 1; fit one with `marginals fit"),
    "levels": (["--steps", 4, "--levels", "karras"], "leave --levels out"),
    "guidance": (["--steps", 4, "--guidance", 2], "--nfe 4 --guidance 2`"),
}


@pytest.mark.parametrize("case", WRONG_WALKS)
def test_only_what_was_fitted_can_be_walked(run: Path, tmp_path, said, case):
    words, sentence = WRONG_WALKS[case]
    code, out, err = said("sample", run, "--solver", "fitted", *words, "--out", tmp_path / "made")
    assert code == 2 and out == "" and sentence in err and len(err.splitlines()) == 1
    assert not (tmp_path / "made").exists()


def test_without_a_fit_sample_says_how_to_make_one(bare: Path, said):
    code, _, err = said("sample", bare, "--solver", "fitted")
    assert code == 2 and f"`marginals fit {bare} --nfe 8`" in err


def test_guidance_has_a_fit_of_its_own(bare: Path, tmp_path, said):
    assert said("fit", bare, "--nfe", 3, *FEW, "--guidance", 2)[0] == 0
    assert "--guidance 2" in said("fit", bare, "--nfe", 4, *FEW, "--guidance", 2)[1]
    words = ("sample", bare, "--solver", "fitted", "--guidance", 2, "-n", 2)
    code, _, err = said(*words, "--out", tmp_path / "a")
    assert code == 2 and "several" in err and "give --steps" in err
    assert said(*words, "--steps", 3, "--out", tmp_path / "a")[0] == 0
    made = json.loads(said("info", tmp_path / "a" / "00000.png", "--json")[1])
    assert (made["guidance"], made["steps"]) == (2.0, 3)


def test_another_state_of_the_model_needs_another_fit(run: Path, tmp_path, said):
    copy = shutil.copytree(run, tmp_path / "copy")
    model = load_diffusion(copy / "model.safetensors")
    save_model(copy / "model.safetensors", model, {"images_seen": 1})
    code, _, err = said("sample", copy, "--solver", "fitted", "--steps", 4)
    assert code == 2 and "another state of this model" in err


def test_levels_by_name_are_walked_and_recorded(run: Path, tmp_path, said):
    few = ("sample", run, "-n", 3, "--steps", 3, "--solver", "ddim")
    for name in ("auto", "karras", "flow:shift=3"):
        assert said(*few, "--levels", name, "--out", tmp_path / name)[0] == 0
        made = json.loads(said("info", tmp_path / name / "00001.png", "--json")[1])
        assert made["levels"] == name and made["solver"] == "ddim"
    assert said(*few, "--out", tmp_path / "none")[0] == 0
    assert "levels" not in json.loads(said("info", tmp_path / "none" / "00001.png", "--json")[1])
    every = {name: pixels(tmp_path / name) for name in ("auto", "karras", "flow:shift=3", "none")}
    assert all((a == b).all() for a, b in zip(every["auto"], every["none"], strict=True))
    assert any((a != b).any() for a, b in zip(every["auto"], every["karras"], strict=True))
    code, _, err = said(*few, "--levels", "karras", "--out", tmp_path / "auto")
    assert code == 2 and "other settings made" in err
    code, _, err = said(*few, "--levels", "karas")
    assert code == 2 and "did you mean 'karras'" in err


# --- eval ------------------------------------------------------------------------------------


def test_eval_measures_samples_of_the_fitted_solver_or_refuses_at_once(run: Path, said):
    code, out, err = said("eval", run, "--solver", "fitted", "--steps", 7)
    assert code == 2 and out == "" and "4 steps at guidance 1" in err


def test_a_tolerance_in_place_of_a_solver(run: Path, said, tmp_path: Path):
    out = tmp_path / "fine"
    code, printed, _ = said("sample", run, "--tolerance", "1e-2", "-n", 3, "--out", out)
    assert code == 0 and re.search(r"the slowest picture took \d+ evaluations", printed)
    made = read_parameters(out / "00000.png")
    assert made["solver"] == "dopri5" and made["tolerance"] == 0.01 and "steps" not in made
    for wrong in (("--solver", "heun"), ("--steps", 5), ("--levels", "karras")):
        code, _, error = said("sample", run, "--tolerance", "1e-2", *wrong)
        assert code == 2 and f"leave {wrong[0]} out" in error
    assert said("sample", run, "--tolerance", 0)[0] == 2
