"""Students through the whole house: configuration, training, resume, the command line."""

import json

import pytest
import torch

from marginals.cli import main
from marginals.coupling import Independent, MinibatchOT
from marginals.distill import TeacherPaths
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_model
from marginals.io.pictures import read_parameters
from marginals.train import Run, Stop, Stopped, TrainConfig, resume, train

SMALL = {
    "data": "digits",
    "images": 192,
    "batch": 32,
    "network": "mlp",
    "network_options": {"width": 16, "depth": 1},
    "samples": 2,
    "threads": 1,
    "warmup": 0,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    return train(TrainConfig(**SMALL, out=str(folder)), on_event=lambda event: None).path


def quiet(config, **options):
    return train(config, on_event=lambda event: None, **options)


def few(teacher, folder, **changes):
    values = {"teacher": str(teacher), "student_steps": 2, "teacher_evaluations": 2}
    return TrainConfig(**(SMALL | values | changes), out=str(folder))


def weights(folder):
    return load_model(folder).state_dict()


def test_a_student_is_a_run_that_stops_and_continues_exactly(teacher, tmp_path):
    whole = quiet(few(teacher, tmp_path / "whole"))
    stop = Stop()

    def listen(event):
        if event.kind == "step" and event.images == 96:
            stop.request()

    with pytest.raises(Stopped):
        train(few(teacher, tmp_path / "parts"), on_event=listen, stop=stop)
    resume(tmp_path / "parts", on_event=lambda event: None)
    first, ours, theirs = weights(teacher), weights(whole.path), weights(tmp_path / "parts")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(not torch.equal(ours[name], first[name]) for name in ours)
    model = load_model(whole.path)
    assert model.sample(2).nfe == 2 == len(model.walk.lams)
    assert model.coupling == TeacherPaths(model.walk.levels, 2)
    log = [json.loads(line) for line in (whole.path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["images"] == 192
    rows = sorted((whole.path / "samples").glob("*.png"))
    assert "steps" not in read_parameters(rows[-1])


def test_a_student_begins_as_its_teacher(teacher, tmp_path):
    """Before its first step the weights are the teacher's."""
    stop = Stop()
    stop.request()
    with pytest.raises(Stopped):
        train(few(teacher, tmp_path / "r", lr=1e-12), on_event=lambda event: None, stop=stop)
    mine, theirs = weights(tmp_path / "r"), weights(teacher)
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-9) for name in theirs)


def test_reflow_and_ot_are_settings(teacher, tmp_path):
    again = quiet(few(teacher, tmp_path / "reflow", student_steps=None))
    model = load_model(again.path)
    assert model.walk is None and model.coupling.lams == (model.lam_min, float("inf"))
    assert model.sample(1).nfe == 20
    for name in ("flow", "v"):
        config = TrainConfig(**SMALL, model=name, coupling="ot", out=str(tmp_path / f"ot-{name}"))
        assert load_model(quiet(config).path).coupling == MinibatchOT()
    assert load_model(teacher).coupling == Independent()


def test_settings_that_mean_nothing_are_refused(teacher, tmp_path):
    for values, word in [
        ({"student_steps": 4}, "teacher"),
        ({"teacher_guidance": 2.0}, "teacher"),
        ({"teacher": "x", "coupling": "ot"}, "coupling"),
        ({"model": "ddpm", "coupling": "ot"}, "coupling"),
        ({"model": "vae", "network": None, "network_options": {}, "teacher": "x"}, "diffusion"),
    ]:
        with pytest.raises(MarginalsError, match=word):
            TrainConfig(**(SMALL | values))
    with pytest.raises(MarginalsError, match="other pictures"):
        quiet(few(teacher, tmp_path / "other", data="fashion"))


def test_from_the_command_line(teacher, tmp_path, capsys):
    out = tmp_path / "student"
    command = ["distill", str(teacher), "--steps", "3", "--evaluations", "2", "--images", "64"]
    assert main([*command, "--batch", "32", "--threads", "1", "--out", str(out)]) == 0
    pictures = tmp_path / "pictures"
    assert main(["sample", str(out), "-n", "2", "--out", str(pictures)]) == 0
    about = read_parameters(pictures / "00000.png")
    assert (about["solver"], about["steps"]) == ("own", 3)
    assert main(["sample", str(out), "-n", "2", "--steps", "5", "--out", str(tmp_path / "5")]) == 0
    assert read_parameters(tmp_path / "5" / "00000.png")["solver"] == "auto"
    capsys.readouterr()
    assert main(["distill", str(tmp_path / "none")]) == 2
    assert "there is no run folder" in capsys.readouterr().err


def test_the_folder_is_named_as_help_says(teacher, tmp_path, capsys):
    file = tmp_path / "mine.safetensors"
    file.write_bytes((teacher / "model.safetensors").read_bytes())
    for words, name in (([], "mine-4-steps"), (["--reflow"], "mine-reflow")):
        little = ["--evaluations", "4", "--images", "32", "--batch", "32", "--threads", "1"]
        assert main(["distill", str(file), *words, *little]) == 0
        assert Run(tmp_path / name).finished
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["distill", "--help"])
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "RUN-STEPS-steps, as in fashion-4-steps, or RUN-reflow" in told


def test_reflow_with_steps_is_refused(teacher, tmp_path, capsys):
    words = ["distill", str(teacher), "--reflow", "--steps", "2", "--out", str(tmp_path / "r")]
    assert main([*words, "--images", "32"]) == 2
    assert "--steps means nothing to it; leave one out" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_a_teacher_that_says_nothing_at_pure_noise_is_refused(tmp_path, capsys):
    config = TrainConfig(**(SMALL | {"images": 32}), model="ddpm", out=str(tmp_path / "ddpm"))
    quiet(config)
    with pytest.raises(MarginalsError, match="predicts v"):
        quiet(few(tmp_path / "ddpm", tmp_path / "r", model="ddpm"))
