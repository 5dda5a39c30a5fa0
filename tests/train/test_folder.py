"""Which folder a run may have: never two runs in one, never somewhere else on resume."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import marginals
from marginals.errors import MarginalsError
from marginals.io.checkpoint import read_header
from marginals.train import Run, Stopped, TrainConfig, resume, train
from marginals.train.claim import Taken, claim
from marginals.train.stop import Stop

SETTINGS = {
    "data": "digits", "network": "mlp", "network_options": {"width": 8, "depth": 1}, "images": 64,
    "batch": 32, "sample_every": 0, "threads": 1,
}  # fmt: skip


def settings(folder: Path, **changes) -> TrainConfig:
    return TrainConfig(**(SETTINGS | {"out": str(folder)} | changes))


def silent(event) -> None:
    pass


def never(event) -> None:
    assert event.kind not in ("trial", "plan", "start"), "it went as far as the trial"


@pytest.fixture
def run(tmp_path) -> Run:
    return train(settings(tmp_path / "r"), on_event=silent)


# ------------------------------------------------------------------------------- one at a time


def test_a_second_run_in_the_same_folder_is_refused_before_its_trial(tmp_path):
    refused = []

    def listen(event) -> None:
        if event.kind == "plan":  # the trial is over, no file of the run is written yet
            with pytest.raises(MarginalsError, match=r"another run is training in .*; wait") as it:
                train(settings(tmp_path / "r", seed=1), on_event=never)
            refused.append(it)
        if event.kind == "step" and event.images == 32:
            with pytest.raises(MarginalsError, match="another run is training in"):
                resume(tmp_path / "r", on_event=never)
            refused.append(event)

    assert train(settings(tmp_path / "r"), on_event=listen).config.seed == 0
    assert len(refused) == 2
    assert not (tmp_path / "r" / ".lock").exists()
    assert resume(tmp_path / "r", images=96, on_event=silent).finished


def test_two_unnamed_runs_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unnamed = settings(tmp_path, out=None, model="edm")
    inner = []

    def listen(event) -> None:
        if event.kind == "plan":
            inner.append(train(unnamed, on_event=silent).path)

    outer = train(unnamed, on_event=listen).path
    assert {outer.name, inner[0].name} == {"digits-edm", "digits-edm-2"}


def hold(folder: Path, held) -> None:
    with claim(folder):
        held.set()
        signal.pause()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
def test_kill_9_gives_the_folder_back(tmp_path):
    processes = multiprocessing.get_context("fork")
    held = processes.Event()
    holder = processes.Process(target=hold, args=(tmp_path / "r", held))
    holder.start()
    try:
        assert held.wait(60)
        with pytest.raises(Taken), claim(tmp_path / "r"):
            pass
    finally:
        holder.kill()
        holder.join()
    assert (tmp_path / "r" / ".lock").exists(), "nobody could tidy up"
    with claim(tmp_path / "r"):
        pass
    assert list((tmp_path / "r").iterdir()) == []


def test_a_run_that_fails_early_leaves_no_folder(tmp_path):
    with pytest.raises(MarginalsError, match="no network preset"):
        train(settings(tmp_path / "new" / "r", network="enormous"), on_event=silent)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------- where it is


@pytest.mark.parametrize("below", ["", "r"])
def test_a_file_is_no_folder(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MarginalsError, match=r"file.*choose (a|another) folder") as caught:
        train(settings(tmp_path / "file" / below), on_event=never)
    assert "\n" not in str(caught.value) and (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(MarginalsError, match=r"other things than a run \(mine.txt\); choose a new"):
        train(settings(tmp_path), on_event=never)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".hidden").write_text("a desktop's")
    assert train(settings(tmp_path / "r"), on_event=silent).finished


def test_a_continued_run_stays_in_its_folder(tmp_path, run, monkeypatch):
    before = run.state_path.read_bytes()
    with pytest.raises(MarginalsError, match="stays in its folder"):
        resume(run.path, images=96, out=str(tmp_path / "other"), on_event=never)
    assert run.state_path.read_bytes() == before and not (tmp_path / "other").exists()
    monkeypatch.chdir(tmp_path)
    assert resume(run.path, images=96, out="./r", on_event=silent).images_seen == 96
    (tmp_path / "r").rename(tmp_path / "moved")
    assert resume("moved", images=128, on_event=silent).path == Path("moved")


def test_data_in_a_folder_is_found_from_another_working_directory(tmp_path, monkeypatch):
    digits = marginals.data.load("digits")[0]
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    np.savez(tmp_path / "here" / "mine.npz", images=digits.images[:100].numpy())
    monkeypatch.chdir(tmp_path / "here")
    stop = Stop()
    stop.request()
    with pytest.raises(Stopped):
        train(settings(tmp_path / "r", data="mine.npz"), stop=stop, on_event=silent)
    resume(tmp_path / "r", data="mine.npz", images=96, stop=None, on_event=silent)
    monkeypatch.chdir(tmp_path / "there")
    run = resume("../r", images=128, on_event=silent)
    assert run.finished
    named = Path(read_header(run.path / "model.safetensors")["extra"]["trained_on"])
    assert named.is_absolute() and named.samefile(tmp_path / "here" / "mine.npz")


# ------------------------------------------------------------------------------ when it is done


@pytest.mark.parametrize("images", [64, 50])
def test_a_finished_run_says_so_at_once_and_how_to_go_on(tmp_path, images):
    folder = tmp_path / "r"
    train(settings(folder, images=images), on_event=silent)
    heard = []
    assert resume(folder, on_event=heard.append).finished
    (event,) = heard
    assert "finished" in event.text and "--images N" in event.text and "--minutes M" in event.text
    with pytest.raises(MarginalsError, match=r"already seen 64 images; .*--images N.*--minutes M"):
        resume(folder, images=32, on_event=never)
    (folder / "model.safetensors").unlink()  # killed just before it was written
    resume(folder, on_event=silent)
    assert (folder / "model.safetensors").is_file()
