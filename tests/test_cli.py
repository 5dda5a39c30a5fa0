"""The command line, as a person meets it: what it makes, what it says, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from marginals.cli import COMMANDS, main
from marginals.commands.common import class_index, flag, to_json
from marginals.commands.train import Train
from marginals.errors import MarginalsError
from marginals.train.config import TrainConfig
from marginals.train.presets import PRESETS

pytestmark = pytest.mark.xdist_group("cli")  # one worker trains the model they share

HEAVY = {"torch", "numpy", "matplotlib", "lightning", "lightning_fabric", "PIL", "scipy"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: a small perceptron that has seen 2000 digits."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    settings = ["--data", "digits", "--network", "mlp", "--images", "2000", "--sample-every", "0"]
    assert main(["train", *settings, "--out", str(out)]) == 0
    return out


# --- help ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_immediate_because_nothing_heavy_is_imported(name: str):
    code = (
        "import sys\n"
        "from marginals.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(*sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)\n"
    )
    words = [sys.executable, "-c", code, *name.split(), "--help"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"usage: marginals {name}".rstrip() in done.stdout
    assert not HEAVY & set(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_shows_what_it_does(name: str, said):
    _, out, _ = said(*name.split(), "--help")
    assert "(required)" in out or "default" in out
    if name not in ("data list", "demo"):
        assert f"marginals {name} " in out.split("Examples:")[1]


def test_overview_names_every_command(said):
    code, out, _ = said()
    assert code == 0 and all(f"  {name}" in out for name in COMMANDS)
    code, out, _ = said("data")
    assert code == 0 and "data fetch" in out and "convert" not in out


def test_version(said):
    import marginals

    assert said("--version")[:2] == (0, f"marginals {marginals.__version__}\n")


# --- the main road ---------------------------------------------------------------------------


def test_train_leaves_a_run_that_info_describes(run: Path, said):
    code, out, _ = said("info", run, "--json")
    about = json.loads(out)
    assert code == 0
    assert about["config"]["data"] == "digits" and about["config"]["images"] == 2000
    assert about["model"]["images_seen"] >= 2000
    code, out, _ = said("info", run / "model.safetensors")
    assert code == 0 and "mlp(" in out and "LogLinear(" in out


def test_samples_carry_their_parameters_and_do_not_depend_on_the_batch(run: Path, tmp_path, said):
    options = ("--label", "3", "--steps", "4", "--seed", "7", "-n", "5")
    assert said("sample", run, *options, "--out", tmp_path / "a")[0] == 0
    assert said("sample", run, *options, "--out", tmp_path / "b", "--batch", "2")[0] == 0
    names = [f"{seed:05d}.png" for seed in range(7, 12)]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [*names, "grid.png"]
    for name in names:
        one, two = (np.asarray(Image.open(tmp_path / d / name), dtype=int) for d in "ab")
        assert one.shape == (8, 8) and abs(one - two).max() <= 1
    _, out, _ = said("info", tmp_path / "a" / "00009.png", "--json")
    made = json.loads(out)
    assert (made["seed"], made["label"], made["steps"], made["solver"]) == (9, "3", 4, "auto")

    again = ("--label", made["label"], "--steps", made["steps"], "--solver", made["solver"])
    assert (
        said("sample", run, *again, "--seed", made["seed"], "-n", 1, "--out", tmp_path / "c")[0]
        == 0
    )
    old, new = (np.asarray(Image.open(tmp_path / d / "00009.png"), dtype=int) for d in "ac")
    assert abs(old - new).max() <= 1


def test_without_a_label_every_class_has_its_turn(run: Path, tmp_path, said):
    assert said("sample", run, "-n", 11, "--steps", 2, "--out", tmp_path)[0] == 0
    labels = [
        json.loads(said("info", tmp_path / f"{i:05d}.png", "--json")[1])["label"] for i in range(11)
    ]
    assert labels == [*"0123456789", "0"]


def test_a_seed_is_one_picture_wherever_the_batch_starts(run: Path, tmp_path, said):
    few = ("--steps", 3, "--batch", 6)  # the same batches, so that the same numbers are computed
    assert said("sample", run, "-n", 12, "--seed", 0, *few, "--out", tmp_path / "a")[0] == 0
    assert said("sample", run, "-n", 6, "--seed", 6, *few, "--out", tmp_path / "b")[0] == 0
    for seed in range(6, 12):
        one, two = (np.asarray(Image.open(tmp_path / d / f"{seed:05d}.png")) for d in "ab")
        assert (one == two).all()


@pytest.mark.parametrize("units", ["ve", "flow", "sub_vp"])
def test_converted_models_draw_the_same_pictures(run: Path, tmp_path, said, units: str):
    other = tmp_path / f"{units}.safetensors"
    code, out, _ = said("convert", run, "--to", units, "--out", other)
    assert code == 0 and "differ by at most" in out
    for model, folder in ((run, "a"), (other, "b")):
        assert said("sample", model, "-n", 3, "--steps", 6, "--out", tmp_path / folder)[0] == 0
    assert (
        said("sample", run, "-n", 3, "--steps", 6, "--scaling", units, "--out", tmp_path / "c")[0]
        == 0
    )
    for name in ("00000.png", "00001.png", "00002.png"):
        a, b, c = (np.asarray(Image.open(tmp_path / d / name), dtype=int) for d in "abc")
        assert abs(a - b).max() <= 1 and abs(a - c).max() <= 1
        assert a.std() > 0


def test_convert_keeps_every_weight(run: Path, tmp_path, said):
    from safetensors.numpy import load_file

    out = tmp_path / "ve.safetensors"
    assert said("convert", run, "--to", "ve", "--out", out, "--no-check")[0] == 0
    before, after = load_file(run / "model.safetensors"), load_file(out)
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)


def test_eval_prints_one_json_object(run: Path, said):
    few = ("--pictures", 4, "--levels", 4, "--ode-steps", 2, "--samples", 0)
    code, out, _ = said("eval", run, *few, "--json")
    report = json.loads(out)
    rows = report["likelihood"]["routes"]
    assert code == 0 and report["data"] == "digits" and report["likelihood"]["pictures"] == 4
    costs = [("bound", 4), ("bound", 8), ("bound", 4), ("exact", 8), ("bound", 4)]
    assert [(row["kind"], row["evaluations"]) for row in rows] == costs
    for row in rows:
        assert sum(row["terms"].values()) == pytest.approx(row["bits_per_dim"], rel=1e-6)
        assert row["stderr"] > 0
    code, out, _ = said("eval", run, *few)
    assert code == 0 and all(f"{row['bits_per_dim']:.3f}" in out for row in rows)


def test_eval_with_its_own_steps_probes_and_a_target(run: Path, said):
    from marginals.commands.evaluate import Evaluate
    from marginals.density import TOLERANCE

    assert Evaluate.model_fields["tolerance"].default == TOLERANCE
    few = ("--pictures", 3, "--levels", 2, "--samples", 0, "--json")
    code, out, _ = said("eval", run, *few, "--probes", 2, "--target-stderr", 2)
    rows = {row["route"]: row for row in json.loads(out)["likelihood"]["routes"]}
    exact, bound = rows["probability-flow ODE"], rows["continuous-time ELBO (T → ∞)"]
    assert code == 0 and exact["noise"] > 0 and 0 < bound["noise"] <= 2
    assert bound["evaluations"] >= 128 and "noise" not in rows["discrete-time ELBO, T = 2"]
    _, out, _ = said("eval", run, *few, "--tolerance", 1e-5)
    finer = next(r for r in json.loads(out)["likelihood"]["routes"] if r["kind"] == "exact")
    assert finer["evaluations"] > exact["evaluations"] and "noise" not in finer
    _, out, _ = said("eval", run, *few[:-1], "--probes", 2)
    assert "of it by chance" in out
    for wrong in (("--tolerance", 0), ("--probes", 0), ("--target-stderr", -1)):
        assert said("eval", run, *wrong)[0] == 2


def test_a_route_over_batches_is_the_route_over_all_pictures():
    """Means and terms are over pictures, not over batches of different sizes."""
    import torch

    from marginals.likelihood import Bound
    from marginals.metrics.routes import Route, together

    def route(part: slice) -> Route:
        cut = {name: nats[part] for name, nats in terms.items()}
        bound = Bound(sum(cut.values()), "bound", True, 10, 4, cut)  # pyright: ignore
        return Route("key", "title", bound, "")

    terms = {
        "prior": torch.arange(5.0).double(),
        "denoising": torch.tensor([9.0, 1, 4, 1, 5]).double(),
    }
    whole, parts = together([route(slice(5))]), together([route(slice(3)), route(slice(3, 5))])
    assert parts.mean == pytest.approx(whole.mean, rel=1e-9)
    assert parts.stderr == pytest.approx(whole.stderr, rel=1e-9)
    assert parts.terms == pytest.approx(whole.terms, rel=1e-9)
    assert sum(whole.terms.values()) == pytest.approx(whole.mean, rel=1e-9)


def test_eval_measures_samples(run: Path, said, monkeypatch):
    from marginals.metrics import classifier

    def quick(*args: Any, images: int) -> classifier.Classifier:
        return train(*args, images=1500, progress=False)

    train = classifier.train_classifier
    monkeypatch.setattr(classifier, "train_classifier", quick)
    few = ("--pictures", 2, "--levels", 2, "--ode-steps", 1, "--samples", 20, "--steps", 2)
    code, out, err = said("eval", run, *few, "--json")
    assert code == 0, err
    samples = json.loads(out)["samples"]
    assert samples["count"] == 20 and samples["solver"] == "auto" and samples["steps"] == 2
    assert 0 <= samples["labels"]["agreement"] <= 1
    assert 0.5 < samples["labels"]["classifier_accuracy"] <= 1
    assert samples["frechet"]["distance"] > samples["frechet"]["floor"] > 0
    assert samples["frechet"]["features"] == "lite0" and samples["frechet"]["pictures"] == 20

    monkeypatch.setattr(classifier, "train_classifier", pytest.fail)  # now it is only read
    code, out, err = said("eval", run, *few)
    assert code == 0 and "lite0 features" in out, err
    assert f"{samples['labels']['agreement']:.1%}" in out

    [kept] = run.glob("classifier-*.safetensors")
    about = json.loads(said("info", kept, "--json")[1])
    assert about["is"] == "classifier of pictures" and about["classes"] == list("0123456789")
    assert about["accuracy"][0] == samples["labels"]["classifier_accuracy"]
    code, _, err = said("sample", kept)
    assert code == 2 and "holds a marginals classifier, not a model" in err


def test_a_kept_classifier_serves_only_its_own_pictures():
    import torch

    from marginals.compare.quality import _judge_name
    from marginals.data.pictures import Pictures

    def part(value: int, classes: tuple[str, ...] = ("a", "b")) -> Pictures:
        images = torch.full((4, 1, 8, 8), value, dtype=torch.uint8)
        return Pictures(images, torch.arange(4) % 2, classes, "../mine")

    pairs = [(part(0), part(1)), (part(2), part(1)), (part(0), part(2))]
    pairs.append((part(0, ("a", "c")), part(1, ("a", "c"))))
    names = [_judge_name(*pair) for pair in pairs]
    assert len(set(names)) == 4 and names[0] == _judge_name(part(0), part(1))
    assert not any(set("/.") & set(name.removesuffix(".safetensors")) for name in names)


def test_eval_reports_what_it_cannot_measure(run: Path, tmp_path, said, monkeypatch):
    """One held-out picture is too few for every comparison, and no reason to lose the rest."""
    import marginals.data
    from marginals.metrics import classifier

    def never(*_: object, **__: object) -> None:
        raise MarginalsError("there is no time")

    model = tmp_path / "model.safetensors"
    model.write_bytes((run / "model.safetensors").read_bytes())
    monkeypatch.setattr(classifier, "train_classifier", never)
    load = marginals.data.load
    monkeypatch.setattr(marginals.data, "load", lambda *a, **k: load(*a, **(k | {"held_out": 1})))
    monkeypatch.setattr("marginals.compare.held_out._unchanged", lambda *_: None)
    few = ("--pictures", 2, "--levels", 2, "--ode-steps", 1, "--samples", 3, "--steps", 1)
    code, out, err = said("eval", model, *few, "--json")
    assert code == 0, err
    assert "at least 2 held-out" in json.loads(out)["samples"]["copies"]["missing"]
    assert "close to training  not measured" in said("eval", model, *few)[1]


def test_eval_refuses_training_pictures_as_held_out_ones(tmp_path, said):
    """When the folder has changed, the cut between training and held-out pictures has moved."""
    from marginals.commands.common import find_model
    from marginals.data import load
    from marginals.io.checkpoint import read_header, rewrite_header
    from marginals.train.setup import fingerprint

    folder = _pictures(tmp_path / "pictures", per_class=30)
    few = ("--network", "mlp", "--images", 64, "--sample-every", 0)
    run = tmp_path / "run"
    assert said("train", "--data", folder, *few, "--out", run)[0] == 0
    data = fingerprint(load(folder)[0])
    path = find_model(run)
    rewrite_header(path, path, lambda h: h | {"extra": h["extra"] | {"data": data}})
    assert read_header(path)["extra"]["data"] == data
    few = ("--pictures", 2, "--levels", 2, "--ode-steps", 1, "--samples", 0)
    assert said("eval", run, *few)[0] == 0
    for name in ("cat", "dog"):
        (folder / name / "0.png").unlink()
    code, out, err = said("eval", run, *few)
    assert (code, out) == (2, "") and "no longer those the model was trained on" in err
    assert said("eval", run, "--data", folder, *few)[0] == 0


def test_eval_leaves_pictures_that_fit_as_they_are(tmp_path, said):
    """Pictures that are not square were trained on whole; cut to squares they would not fit."""
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 8), dtype=np.uint8)
    np.savez(tmp_path / "wide.npz", images=images)
    few = ("--network", "mlp", "--images", 64, "--sample-every", 0)
    assert said("train", "--data", tmp_path / "wide.npz", *few, "--out", tmp_path / "run")[0] == 0
    few = ("--pictures", 2, "--levels", 2, "--ode-steps", 1, "--samples", 0)
    code, _, err = said("eval", tmp_path / "run", *few)
    assert code == 0, err


def test_json_has_no_nan():
    with pytest.raises(MarginalsError, match="NaN or infinite"):
        to_json({"a": float("nan")})


def test_convert_replaces_models_only(run: Path, tmp_path, said):
    [state] = run.glob("*state*.safetensors")
    copy = tmp_path / "state.safetensors"
    foreign = tmp_path / "foreign.safetensors"
    copy.write_bytes(state.read_bytes())
    foreign.write_bytes(b"somebody's work")
    for path in (copy, foreign):
        before = path.read_bytes()
        code, out, err = said("convert", run, "--to", "ve", "--out", path, "--no-check")
        assert (code, out) == (2, "") and "will not be replaced" in err
        assert path.read_bytes() == before
    for units in ("ve", "flow"):
        out = tmp_path / "model.safetensors"
        assert said("convert", run, "--to", units, "--out", out, "--no-check")[0] == 0


def test_pictures_of_two_models_never_share_a_folder(run: Path, tmp_path, said):
    mine, other = tmp_path / "a" / "model.safetensors", tmp_path / "b.safetensors"
    mine.parent.mkdir()
    mine.write_bytes((run / "model.safetensors").read_bytes())
    few = ("-n", 2, "--steps", 1)
    assert said("sample", mine, *few)[0] == 0
    assert said("convert", run, "--to", "ve", "--out", other, "--no-check")[0] == 0
    mine.write_bytes(other.read_bytes())  # as training on would
    assert said("sample", mine, *few)[0] == 0
    folders = list((tmp_path / "a" / "pictures").iterdir())
    assert len(folders) == 2 and all((folder / "grid.png").is_file() for folder in folders)

    out = folders[0]
    before = _listing(out)
    for words in ((run, *few, "--solver", "heun"), (mine, "-n", 1, "--steps", 2)):
        code, said_out, err = said("sample", *words, "--out", out)
        assert (code, said_out) == (2, "") and "holds pictures that another model" in err
    assert _listing(out) == before


def test_pictures_of_two_requests_never_share_a_folder(run: Path, tmp_path, said):
    """Asked for are: one class, no class, every class in turn. What is asked again is welcome."""
    few = ("-n", 2, "--steps", 1)
    requests = (("--label", "3"), ("--label", "none"), ())
    for i, mine in enumerate(requests):
        out = tmp_path / str(i)
        assert said("sample", run, *few, *mine, "--out", out)[0] == 0
        before = _listing(out)
        for other in {*requests, ("--label", "4")} - {mine}:
            code, said_out, err = said("sample", run, *few, *other, "--out", out)
            assert (code, said_out) == (2, "") and "other settings made" in err
        assert _listing(out) == before
        assert said("sample", run, *few, *mine, "--seed", 2, "--out", out)[0] == 0


def test_a_file_in_the_way_is_found_before_the_walk(run: Path, tmp_path, said, monkeypatch):
    from marginals.models import Model

    monkeypatch.setattr(Model, "sample", pytest.fail)
    (tmp_path / "file").write_text("here")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        code, _, err = said("sample", run, "--out", out)
        assert code == 2 and "file is a file" in err


def test_a_class_name_cannot_leave_the_folder():
    from marginals.commands.sample import Sample

    classes = ("../../../esc", "a/b", "a-b", "été", "..")
    made = {"solver": "ddim", "steps": 5, "model_hash": "cafe"}
    names = [Sample(model=Path("run"), label=name)._name(classes, made) for name in classes]
    assert len(set(names)) == len(classes) and "été" in names[3]
    assert not any(set("/\\.") & set(name) for name in names)


def test_info_reads_a_header_that_makes_no_sense(run: Path, tmp_path, said):
    from marginals.commands.common import find_model
    from marginals.io.checkpoint import rewrite_header

    odd = tmp_path / "odd.safetensors"
    words = {"backbone": {"kind": "unet", "config": "large"}, "scaling": 3}
    rewrite_header(find_model(run), odd, lambda h: h | {"model": words})
    code, out, _ = said("info", odd)
    assert code == 0 and "unet()" in out


def test_the_example_path_of_info_exists(run: Path, said):
    assert said("sample", run, "-n", 1, "--steps", 1, "--seed", 77)[0] == 0
    [example] = [w for w in said("info", "--help")[1].split() if w.endswith("grid.png")]
    pattern = example.removeprefix("runs/fashion/").replace("SETTINGS", "*seed77*")
    assert len(list(run.glob(pattern))) == 1


def test_resume_continues_the_run(tmp_path, said):
    out = tmp_path / "run"
    few = ("--network", "mlp", "--sample-every", 0)
    assert said("train", "--data", "digits", "--images", 256, *few, "--out", out)[0] == 0
    assert said("train", "--resume", out, "--images", 512)[0] == 0
    _, text, _ = said("info", out, "--json")
    assert json.loads(text)["model"]["images_seen"] == 512
    code, _, err = said("train", "--resume", out, "--images", 1024, "--lr", "0.1")
    assert code == 2 and "lr" in err


def test_data_check_reports_and_previews(tmp_path, said):
    folder = _pictures(tmp_path / "pictures", per_class=6)
    (folder / "cat" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, out, _ = said("data", "check", folder, "--json", "--preview", tmp_path / "preview.png")
    report = json.loads(out)
    assert code == 0 and report["usable"] == 12 and report["classes"] == {"cat": 6, "dog": 6}
    assert [bad["name"] for bad in report["bad"]] == ["cat/torn.png"]
    assert Image.open(tmp_path / "preview.png").size[0] > 28


def test_data_list_names_what_can_be_had(said):
    code, out, _ = said("data", "list")
    assert code == 0 and all(name in out for name in ("fashion", "digits", "cifar10", "mnist"))


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], PRESETS["10min"]),
        (["--minutes", "1"], PRESETS["2min"] | {"minutes": 1}),
        (["--minutes=120"], PRESETS["1h"] | {"minutes": 120}),
        (["--preset", "1h", "--batch", "32"], PRESETS["1h"] | {"batch": 32}),
        (["--images", "77"], {"images": 77, "minutes": None}),
        (["--images", "77", "--preset", "2min"], PRESETS["2min"] | {"images": 77, "minutes": None}),
    ],
)
def test_flags_replace_single_settings_of_the_preset(words: list[str], expected: dict):
    settings = _settings(words).model_dump()
    assert {name: settings[name] for name in expected} == expected


def test_a_config_file_gives_the_defaults_and_flags_win(tmp_path):
    file = tmp_path / "mine.yaml"
    TrainConfig(data="digits", images=640, batch=16, lr=0.01).to_yaml(file)
    assert _settings(["--config", str(file)]) == TrainConfig.from_yaml(file)
    changed = _settings(["--config", str(file), "--lr", "0.02", "--minutes", "3"])
    assert (changed.lr, changed.batch, changed.images, changed.minutes) == (0.02, 16, None, 3)


def test_flag_reads_both_spellings():
    assert flag(["--a", "1"], "--a") == flag(["--a=1"], "--a") == "1"
    assert flag(["--ab", "1"], "--a") is None and flag(["--a"], "--a") is None


def test_a_class_is_an_index_or_a_name():
    classes = ("zero", "one", "two")
    assert [class_index(c, classes) for c in ("zero", "0", "1", "none")] == [0, 0, 1, -1]
    digits = ("0", "1", "2")
    assert [class_index(c, digits) for c in digits] == [0, 1, 2]
    with pytest.raises(MarginalsError, match="did you mean 'zero'"):
        class_index("zeroo", classes)
    with pytest.raises(MarginalsError, match="without classes"):
        class_index("0", ())


def test_where_classes_are_named_like_numbers_a_label_is_a_name():
    classes = ("3", "7", "one")
    assert [class_index(c, classes) for c in ("7", "one")] == [1, 2]
    with pytest.raises(MarginalsError, match="names only: 3, 7, one"):
        class_index("1", classes)


# --- bad input: one sentence, exit code 2, nothing written ------------------------------------


def bad_inputs(run: Path, tmp: Path) -> dict[str, tuple[list, str]]:
    """Case -> (command line, what the sentence must contain)."""
    empty = tmp / "empty"
    empty.mkdir()
    corrupt = tmp / "corrupt.safetensors"
    corrupt.write_bytes((run / "model.safetensors").read_bytes()[:1000])
    pickle = tmp / "model.pt"
    pickle.write_bytes(b"\x80\x04}q\x00.")
    (tmp / "bad.yaml").write_text("learning_rate: 1\n")
    (tmp / "text.png").write_text("not a picture")
    Image.new("L", (8, 8)).save(tmp / "plain.png")
    here = ["--out", tmp / "made"]
    return {
        "unknown command": (["smaple"], "did you mean `marginals sample`"),
        "unknown data command": (["data", "fecth"], "did you mean `marginals data fetch`"),
        "no such run": (["sample", tmp / "nothing", *here], "no run folder or model file"),
        "folder without model": (["sample", empty, *here], "no model.safetensors"),
        "corrupt checkpoint": (["sample", corrupt, *here], "corrupt.safetensors"),
        "a pickle": (["sample", pickle, *here], "model.pt"),
        "impossible steps": (["sample", run, "--steps", 0, *here], "--steps"),
        "negative steps": (["sample", run, "--steps", -5, *here], "--steps"),
        "no pictures": (["sample", run, "-n", 0, *here], "--count"),
        "unknown solver": (["sample", run, "--solver", "dpmp_2m", *here], "mean 'dpmpp_2m'"),
        "unknown label": (["sample", run, "--label", "cat", *here], "no class 'cat'"),
        "label out of range": (["sample", run, "--label", 10, *here], "no class '10'"),
        "infinite guidance": (["sample", run, "--guidance", "inf", *here], "--guidance"),
        "empty data folder": (["train", "--data", empty, "--images", 9, *here], "empty"),
        "no such data": (["train", "--data", "fashoin", "--images", 9, *here], "fashion"),
        "run is taken": (["train", "--data", "digits", "--images", 9, "--out", run], "--resume"),
        "no such config": (["train", "--config", tmp / "no.yaml", *here], "no.yaml"),
        "config with a typo": (["train", "--config", tmp / "bad.yaml", *here], "learning_rate"),
        "two beginnings": (["train", "--resume", run, "--preset", "1h"], "one of"),
        "nothing to resume": (["train", "--resume", empty], "config.yaml"),
        "no folder to resume": (
            ["train", "--resume", tmp / "nowhere"],
            f"there is no run folder {tmp / 'nowhere'}; give --resume",
        ),
        "two budgets": (["train", "--images", 9, "--minutes", 9, *here], "exactly one"),
        "unknown network": (
            ["train", "--network", "huge", "--images", 9, "--data", "digits", *here],
            "huge",
        ),
        "convert to a folder": (["convert", run, "--to", "ve", "--out", empty], ".safetensors"),
        "eval on other pictures": (["eval", run, "--data", "fashion"], "give --data"),
        "not a picture": (["info", tmp / "text.png"], "text.png"),
        "picture without parameters": (["info", tmp / "plain.png"], "carries no parameters"),
        "nothing to describe": (["info", tmp / "nothing"], "no file or folder"),
        "not a run": (["info", empty], "not a run"),
        "no such set": (["data", "fetch", "imagenet"], "imagenet"),
        "no such folder": (["data", "check", tmp / "nothing"], "no folder"),
        "preview is no PNG": (["data", "check", empty, "--preview", "p.jpg"], ".png"),
        "absurd threads": (["info", run, "--threads", 99999], "--threads"),
    }  # fmt: skip


def test_bad_input_gets_one_sentence_and_leaves_nothing_behind(run: Path, tmp_path, said, subtests):
    before = _listing(run)
    for case, (words, expected) in bad_inputs(run, tmp_path).items():
        with subtests.test(case):
            code, out, err = said(*words)
            assert code == 2 and out == ""
            sentence = err.strip().splitlines()[-1]
            assert sentence.startswith("marginals: ") and expected in sentence
            assert "Traceback" not in err
            assert not (tmp_path / "made").exists()
    assert _listing(run) == before


def test_guidance_needs_a_class_and_a_model_that_learned_without(run: Path, tmp_path, said):
    from marginals.commands.common import find_model
    from marginals.io.checkpoint import rewrite_header

    here = ("--steps", 1, "-n", 1, "--out", tmp_path / "made")
    code, _, err = said("sample", run, "--label", "none", "--guidance", 3, *here)
    assert code == 2 and "means nothing with --label none" in err
    strict = tmp_path / "strict.safetensors"
    rewrite_header(
        find_model(run), strict, lambda h: h | {"extra": h["extra"] | {"label_dropout": 0.0}}
    )
    for command in (
        ("sample", strict, "--guidance", 2, *here),
        ("sample", strict, "--label", "none", *here),
        ("eval", strict, "--guidance", 2),
    ):
        code, _, err = said(*command)
        assert code == 2 and "--label-dropout 0" in err
    assert not (tmp_path / "made").exists()
    assert said("sample", run, "--guidance", 2, *here)[0] == 0


def test_every_allowed_seed_serves(run: Path, said):
    few = ("--pictures", 1, "--levels", 1, "--ode-steps", 1, "--samples", 0)
    assert said("eval", run, *few, "--seed", 2**63 - 1)[0] == 0


def test_flags_that_do_not_exist_are_refused_with_a_hint(said):
    code, out, err = said("sample", "x", "--stepz", 5)
    assert code == 2 and "--steps" in out + err and "Traceback" not in err


def test_ctrl_c_stops_without_a_trace(run: Path, tmp_path, said, monkeypatch):
    from marginals.models import Model

    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "sample", interrupted)
    code, out, err = said("sample", run, "--out", tmp_path / "made")
    assert (code, out) == (130, "") and err.strip().splitlines()[-1] == "stopped"
    assert not (tmp_path / "made").exists()


def test_ctrl_c_while_numpy_is_imported_is_not_lost():
    """Torch imports numpy in C and drops what it raises, a KeyboardInterrupt too."""
    code = (
        "import os, signal, sys\n"
        # a suite that runs in the background of a shell inherits that Ctrl-C is ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Press:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy._core.numerictypes':\n"
        "            sys.meta_path.remove(self)\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Press())\n"
        "from marginals.cli import main\n"
        "sys.exit(main(['sample', 'nowhere']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (130, ["stopped"])


def test_debug_shows_the_traceback(said, monkeypatch):
    with pytest.raises(MarginalsError):
        said("info", "nothing", "--debug")
    monkeypatch.setenv("MARGINALS_DEBUG", "1")
    with pytest.raises(MarginalsError):
        said("info", "nothing")
    monkeypatch.setenv("MARGINALS_DEBUG", "0")
    assert said("info", "nothing")[0] == 2


def test_a_missing_extra_is_named(said, monkeypatch):
    import marginals.commands.info

    def missing(_path: Path) -> dict:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.figure")

    monkeypatch.setattr(marginals.commands.info, "describe", missing)
    code, _, err = said("info", "x")
    assert code == 2 and "pip install 'marginals[plots]'" in err


def test_our_own_mistakes_keep_their_traceback(said, monkeypatch):
    import marginals.commands.info

    def broken(_path: Path) -> dict:
        raise ModuleNotFoundError("No module named 'marginals.nope'", name="marginals.nope")

    monkeypatch.setattr(marginals.commands.info, "describe", broken)
    with pytest.raises(ModuleNotFoundError):
        said("info", "x")


def test_a_reader_that_leaves_is_no_error(run: Path):
    """`marginals info RUN | head -0` must not end in a traceback."""
    command = [sys.executable, "-c", "import sys; from marginals.cli import main; sys.exit(main())"]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([*command, "info", str(run)], stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr


def _settings(words: list[str]) -> TrainConfig:
    import tyro

    default = Train.defaults(words)
    return tyro.cli(Train, args=words, default=default).settings()


def _listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.rglob("*"))


def _pictures(folder: Path, per_class: int) -> Path:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder
