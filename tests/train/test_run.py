"""Whole runs, small ones: stopping, resuming, failing, and what is left on the disk."""

import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

import marginals
from marginals.errors import MarginalsError
from marginals.io.checkpoint import read_header
from marginals.io.pictures import read_parameters
from marginals.io.tensors import read_tensors
from marginals.models import DataStats
from marginals.nn import MLP
from marginals.train import Diverged, Event, Run, Stop, Stopped, TrainConfig, resume, train
from marginals.train.progress import ProgressBar
from marginals.train.setup import fingerprint
from marginals.train.snapshots import probe_loss

SETTINGS = {
    "data": "digits", "network": "mlp", "network_options": {"width": 24, "depth": 1}, "images": 640,
    "batch": 32, "save_every": 160, "samples": 3, "sample_steps": 2, "threads": 1,
}  # fmt: skip


def settings(folder: Path, **changes) -> TrainConfig:
    return TrainConfig(**(SETTINGS | {"out": str(folder)} | changes))


def silent(event) -> None:
    pass


def stop_at(images: int):
    """A stop and a listener that asks for it after the step that ends at `images`."""
    stop = Stop()

    def listen(event) -> None:
        if event.kind == "step" and event.images == images:
            stop.request()

    return {"stop": stop, "on_event": listen}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(settings(folder), on_event=silent)


def same_state(a: Run, b: Run) -> bool:
    one, other = read_tensors(a.state_path), read_tensors(b.state_path)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def timeless(run: Run) -> list[dict]:
    return [{k: e[k] for k in ("images", "loss", "levels", "gradient", "lr")} for e in run.log()]


# -------------------------------------------------------------------------------- a whole run


def test_a_run_leaves_everything_behind(finished):
    assert finished.finished and finished.images_seen == 640
    assert finished.config.images == 640 and finished.config.minutes is None
    assert finished.model().sample(2, steps=2).x.shape == (2, 1, 8, 8)
    log = finished.log()
    assert [e["images"] for e in log] == list(range(32, 641, 32))
    assert {"loss", "levels", "gradient", "lr", "images_per_second", "seconds"} <= log[0].keys()
    assert finished.model().data.classes == tuple("0123456789")


def test_it_learns(tmp_path):
    config = settings(tmp_path / "r", model="flow", images=3200, lr=5e-3, save_every=3200)
    losses = [e["loss"] for e in train(config, on_event=silent).log()]
    assert sum(losses[-10:]) / 10 < 0.8 * losses[0]


def test_the_strip_starts_before_the_first_step_and_says_how_it_was_made(finished):
    rows = sorted((finished.path / "samples").iterdir())
    assert rows[0].name == "000000000000-average.png" and rows[-1].name.startswith("000000000640")
    assert read_parameters(rows[0])["images_seen"] == 0
    strip = Image.open(finished.path / "samples.png")
    assert strip.height == len(rows) * Image.open(rows[0]).height


def test_the_model_file_holds_the_average_and_the_state_both(finished):
    state = read_tensors(finished.state_path)
    for name, tensor in finished.model().state_dict().items():
        assert torch.equal(tensor, state[f"ema.{name}"])
    assert any(not torch.equal(state[f"model.{n}"], state[f"ema.{n}"]) for n in
               finished.model().state_dict())  # fmt: skip


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(settings(tmp_path / "r", images=32), on_event=silent)
    assert torch.equal(torch.rand(3), expected)


# ------------------------------------------------------------------------- stopping, resuming


@pytest.mark.parametrize("at", [32, 320, 416])
def test_stopped_and_resumed_is_never_stopped(tmp_path, finished, at):
    folder = tmp_path / "r"
    with pytest.raises(Stopped, match=f"after {at} of 640.*--resume {folder}") as caught:
        train(settings(folder), **stop_at(at))
    assert caught.value.exit_code == 130
    assert Run(folder).images_seen == at and not Run(folder).finished
    run = resume(folder, on_event=silent)
    assert same_state(run, finished)
    assert (folder / "model.safetensors").read_bytes() == (
        finished.path / "model.safetensors"
    ).read_bytes()
    assert [e["images"] for e in run.log()] == [e["images"] for e in finished.log()]
    assert timeless(run) == timeless(finished)
    strips = [(r.path / "samples").iterdir() for r in (run, finished)]
    assert len({frozenset((p.name, p.read_bytes()) for p in strip) for strip in strips}) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tmp_path, number):
    def listen(event) -> None:
        if event.kind == "step" and event.images == 64:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped):
        train(settings(tmp_path / "r"), on_event=listen)
    assert Run(tmp_path / "r").images_seen == 64
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path, finished):
    folder = tmp_path / "r"
    folder.mkdir()
    settings(folder).to_yaml(folder / "config.yaml")
    assert same_state(resume(folder, on_event=silent), finished)


def test_a_model_file_behind_the_state_is_made_anew(tmp_path, finished):
    folder = tmp_path / "r"
    with pytest.raises(Stopped):
        train(settings(folder), **stop_at(320))
    newest = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(MarginalsError, match="ask for more"):
        resume(folder, images=32, on_event=silent)
    resume(folder, images=320, on_event=silent)
    assert (folder / "model.safetensors").read_bytes() == newest


def test_a_finished_run_can_be_trained_for_longer(tmp_path):
    train(settings(tmp_path / "r", images=64), on_event=silent)
    run = resume(tmp_path / "r", images=128, on_event=silent)
    assert run.images_seen == 128 and run.config.images == 128
    run = resume(tmp_path / "r", images=None, minutes=1e-6, on_event=silent)
    assert run.images_seen == 160 and run.finished, "the shortest time is one batch more"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"lr": 0.5}, r"lr \(0.001, now 0.5\)"),
        ({"seed": 3, "batch": 16}, r"batch \(32, now 16\), seed"),
    ],
)
def test_other_settings_on_resume_are_named(finished, changes, names):
    with pytest.raises(MarginalsError, match=f"other settings: .*{names}"):
        resume(finished.path, on_event=silent, **changes)


def test_an_edited_configuration_is_caught_by_the_checkpoint(tmp_path):
    folder = tmp_path / "r"
    with pytest.raises(Stopped):
        train(settings(folder), **stop_at(64))
    settings(folder, weight_decay=0.1).to_yaml(folder / "config.yaml")
    with pytest.raises(MarginalsError, match=r"weight_decay \(0.0, now 0.1\)"):
        resume(folder, on_event=silent)


def test_other_pictures_on_resume_are_noticed(tmp_path):
    folder = tmp_path / "r"
    with pytest.raises(Stopped):
        train(settings(folder), **stop_at(64))
    fewer = marginals.data.load("digits")[0].subset(torch.arange(500))
    with pytest.raises(MarginalsError, match=r"other pictures.*now 500, then 1500"):
        resume(folder, source=fewer, on_event=silent)


def test_other_peoples_files_in_a_run_are_left_alone(tmp_path):
    folder = tmp_path / "r"
    with pytest.raises(Stopped):
        train(settings(folder), **stop_at(64))
    theirs = [
        folder / "samples" / name for name in ("my-favourite.png", "9-a-b.png", "1e3-raw.png")
    ]
    for path in theirs:
        path.write_bytes(b"mine")
    with (folder / "log.jsonl").open("ab") as log:
        log.write(b"\xff\xff\n")
    run = resume(folder, on_event=silent)
    assert [path.read_bytes() for path in theirs] == [b"mine"] * 3
    assert [e["images"] for e in run.log()] == list(range(32, 641, 32))


def test_drawing_and_measuring_leave_dropout_as_it_was():
    class Dropping(MLP):
        def forward(self, x, t, cond=None):
            out = super().forward(x, t, cond) + x  # which is not 0 even before training
            return torch.nn.functional.dropout(out, 0.5, self.training)

    model = marginals.vdm(Dropping(64, width=8, depth=1), data=DataStats((1, 8, 8))).train()
    x = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    assert probe_loss(model, x, None, 0) == probe_loss(model, x, None, 0)
    assert model.training and model.net.backbone.training


def test_one_picture_that_changed_is_noticed_on_resume(tmp_path):
    source = marginals.data.load("digits")[0]
    with pytest.raises(Stopped):
        train(settings(tmp_path / "r"), source=source, **stop_at(64))
    images = source.images.clone()
    images[1, 0, 0, 0] ^= 1
    with pytest.raises(MarginalsError, match="other pictures"):
        resume(tmp_path / "r", source=replace(source, images=images), on_event=silent)


def test_the_model_file_says_which_pictures_it_saw(finished):
    source = marginals.data.load("digits")[0]
    extra = read_header(finished.path / "model.safetensors")["extra"]
    assert extra["data"] == fingerprint(source) and extra["trained_on"] == "digits"
    assert extra["label_dropout"] == finished.config.label_dropout


def test_a_folder_that_holds_a_run_is_not_overwritten(finished):
    before = finished.state_path.read_bytes()
    with pytest.raises(MarginalsError, match=r"already holds a run.*--resume"):
        train(settings(finished.path), on_event=silent)
    assert finished.state_path.read_bytes() == before


def test_what_cannot_be_resumed(tmp_path, finished):
    with pytest.raises(MarginalsError, match=r"not a run: it holds no config\.yaml"):
        resume(tmp_path)
    model = (finished.path / "model.safetensors").read_bytes()
    settings(tmp_path).to_yaml(tmp_path / "config.yaml")
    for content, says in ((model, "not a training state"), (model[:5000], "truncated")):
        (tmp_path / "state.safetensors").write_bytes(content)
        with pytest.raises(MarginalsError, match=says):
            resume(tmp_path, on_event=silent)


# ---------------------------------------------------------------------------- what goes wrong


class Poisoned(MLP):
    """Answers NaN at noisy levels (label t above 0.75) once it has been trained `healthy` times."""

    healthy = 12

    def forward(self, x, t, cond=None):
        out = super().forward(x, t, cond)
        if self.training and torch.is_grad_enabled():
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls > self.healthy:
                out = torch.where((t > 0.75)[:, None, None, None], torch.nan, out)
        return out


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    stats = DataStats((1, 8, 8), -0.4, 0.75)
    model = marginals.vdm(Poisoned(64, width=16, depth=1), data=stats)
    level = model.schedule.lam(0.75)
    with pytest.raises(Diverged) as caught:
        train(settings(tmp_path / "r", save_every=96), model=model, on_event=silent)
    words = str(caught.value)
    named = float(words.split("λ = ")[1].split(",")[0])
    assert named < level, "the level named is not one of those that were poisoned"
    checkpoint = Run(tmp_path / "r").images_seen
    assert 0 < checkpoint < 640 and f"the checkpoint of {checkpoint} images" in words
    tensors = read_tensors(tmp_path / "r" / "state.safetensors")
    assert all(bool(torch.isfinite(t).all()) for t in tensors.values())


def test_a_full_disk_says_so_and_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    folder, real = tmp_path / "r", safetensors.torch.save_file

    def full(tensors, path, metadata=None):
        if json.loads(metadata["marginals"]).get("images_seen") == 320:
            Path(path).write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(MarginalsError, match=r"disk is full.*checkpoint of 160 images.*whole"):
        train(settings(folder), on_event=silent)
    assert Run(folder).images_seen == 160
    assert Run(folder).model().sample(1, steps=1).x.isfinite().all()
    assert not list(folder.glob(".*tmp*"))
    monkeypatch.undo()
    assert resume(folder, on_event=silent).finished


def test_warnings_reach_the_listener(tmp_path):
    few = marginals.data.load("digits")[0].subset(torch.arange(8))
    heard = []
    train(settings(tmp_path / "r", images=32), source=few, on_event=heard.append)
    assert any(e.kind == "warning" and "fewer than a batch" in e.text for e in heard)
    kinds = [e.kind for e in heard]
    assert kinds.index("plan") < kinds.index("start") < kinds.index("step") < kinds.index("end")


def test_the_wait_for_the_trial_is_announced(tmp_path, monkeypatch):
    order = []

    def timed(*args):
        order.append("timed")
        return real(*args)

    real = marginals.train.run.run_trial
    monkeypatch.setattr(marginals.train.run, "run_trial", timed)
    train(settings(tmp_path / "r", images=32), on_event=lambda event: order.append(event.kind))
    assert order[:3] == ["trial", "timed", "plan"]


def test_without_a_compiler_training_goes_on(tmp_path, finished, monkeypatch):
    def refuse(*args):
        raise RuntimeError("no working C++ compiler found\nand a long traceback")

    monkeypatch.setattr(torch, "compile", lambda function, **options: refuse)
    heard = []
    run = train(settings(tmp_path / "r", compile=True), on_event=heard.append)
    (sentence,) = [e.text for e in heard if e.kind == "warning"]
    assert "no working C++ compiler found); training goes on without it" in sentence
    assert same_state(run, finished)


def test_the_bar_shows_sentences_and_the_loss_by_level(capsys):
    bar = ProgressBar()
    levels = {"..-9": 0.25, "0..3": 1.5}
    for event in (
        Event("trial", 0, 640, "timing a few steps"),
        Event("plan", 0, 640, "what will happen"),
        Event("start", 0, 640),
        Event("step", 320, 640),
        Event("log", 320, 640, values={"loss": 0.875, "levels": levels}),
        Event("snapshot", 320, 640),
        Event("warning", 320, 640, "warning: watch out"),
        Event("step", 640, 640),
        Event("end", 640, 640, "next: marginals sample"),
    ):
        bar(event)
    shown = capsys.readouterr().err
    for words in ("timing a few", "what will happen",
                  "320 images, loss by noise level λ: ..-9 0.2500  0..3 1.5000",
                  "watch out", "640/640", "loss=0.8750", "next: marginals sample"):  # fmt: skip
        assert words in shown


def test_minutes_become_images_that_are_written_down(tmp_path):
    stop = Stop()
    stop.request()
    config = settings(tmp_path / "r", images=None, minutes=0.05)
    with pytest.raises(Stopped):
        train(config, stop=stop, on_event=silent)
    recorded = Run(tmp_path / "r").config
    assert recorded.minutes is None and recorded.images is not None
    assert recorded.images % recorded.batch == 0 and recorded.images > 0
    assert not recorded.differences(settings(tmp_path / "r"))


def test_a_model_for_other_pictures_is_refused(tmp_path):
    model = marginals.vdm(MLP(16, width=8, depth=1), data=DataStats((1, 4, 4)))
    with pytest.raises(MarginalsError, match=r"shape \(1, 4, 4\).*\(1, 8, 8\)"):
        train(settings(tmp_path / "r"), model=model, on_event=silent)
