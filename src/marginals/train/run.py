"""`train` and `resume`, and `Run`: a folder that holds everything about one training run.

run/config.yaml          what was asked for, with the time budget turned into images
run/state.safetensors    everything needed to go on (weights, average, optimiser, images seen)
run/model.safetensors    the averaged weights, for use
run/log.jsonl            loss, loss by noise level, speed; one line per entry
run/samples.png          the same noise at every snapshot, one row each
"""

import itertools
import os
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from marginals.data.pictures import PictureSource
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_model
from marginals.models import Model
from marginals.train import records
from marginals.train.build import look_at
from marginals.train.config import TrainConfig
from marginals.train.ema import Ema
from marginals.train.engine import Engine
from marginals.train.loop import Trainer, save_average
from marginals.train.progress import Event, EventKind, Listener, ProgressBar
from marginals.train.setup import (
    compile_backbone,
    fingerprint,
    load_source,
    make_feed,
    make_model,
    make_optimizer,
)
from marginals.train.snapshots import Snapshots
from marginals.train.state import TrainState, read_state_header, require_same_settings
from marginals.train.stop import Stop
from marginals.train.trial import Trial, run_trial

__all__ = ["Run", "resume", "train"]


class Run:
    """A run folder, finished or not."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / "config.yaml").is_file():
            raise MarginalsError(f"{self.path} is not a run: it holds no config.yaml")

    @property
    def config(self) -> TrainConfig:
        """What the run was told, with its length in images."""
        return TrainConfig.from_yaml(self.path / "config.yaml")

    @property
    def state_path(self) -> Path:
        return self.path / "state.safetensors"

    @property
    def images_seen(self) -> int:
        """Images trained on up to the last checkpoint; 0 before the first."""
        if not self.state_path.is_file():
            return 0
        return int(read_state_header(self.state_path)["images_seen"])

    @property
    def finished(self) -> bool:
        """Whether the last checkpoint is that of the end."""
        return self.images_seen >= (self.config.images or 0)

    def model(self, device: str | torch.device = "cpu") -> Model:
        """The averaged model of the last checkpoint."""
        return load_model(self.path / "model.safetensors", device)

    def log(self) -> list[dict[str, Any]]:
        """The entries of log.jsonl: images, loss, levels, gradient, lr, speed, seconds."""
        return records.read(self.path / "log.jsonl")


def train(
    config: TrainConfig,
    *,
    resume: str | os.PathLike[str] | None = None,
    source: PictureSource | None = None,
    model: Model | None = None,
    on_event: Listener | None = None,
    stop: Stop | None = None,
) -> Run:
    """Train as `config` says, in a new run folder, or continue the one at `resume`.

    `source` replaces the data that `config.data` names, `model` the network and formulation (its
    present weights are where training starts). `on_event` receives every `Event` instead of the
    progress bar. `stop` can be requested from another thread; Ctrl-C and SIGTERM do the same.

    Raises Stopped (after a checkpoint), Diverged (the last good one kept) or MarginalsError.
    """
    listener = ProgressBar() if on_event is None else on_event
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return _Session(config, resume, source, model, listener).run(stop or Stop())


def resume(
    path: str | os.PathLike[str],
    *,
    source: PictureSource | None = None,
    model: Model | None = None,
    on_event: Listener | None = None,
    stop: Stop | None = None,
    **changes: Any,
) -> Run:
    """Continue a run exactly where its last checkpoint is.

    Only `changes` that do not touch the arithmetic of a step are allowed: `images` (train for
    longer), `save_every`, `sample_every`, `log_every`, `threads`, ...
    """
    config = Run(path).config.with_changes(**changes)
    return train(config, resume=path, source=source, model=model, on_event=on_event, stop=stop)


class _Session:
    """What happens between the call and the loop."""

    def __init__(
        self,
        config: TrainConfig,
        resumed: str | os.PathLike[str] | None,
        source: PictureSource | None,
        model: Model | None,
        listener: Listener,
    ) -> None:
        self.engine = Engine(config.precision)
        self.listener = listener
        self.config = config
        self.resumed = Run(resumed) if resumed is not None else None
        if self.resumed:
            require_same_settings(self.resumed.config, config, self.resumed.path)
        self.folder = self.resumed.path if self.resumed else self._new_folder()
        self.source = load_source(config) if source is None else source
        for sentence in look_at(self.source, config.batch, config.conditional):
            self.say("warning", f"warning: {sentence}")
        self.model = make_model(config, self.source, model)
        self.feed = make_feed(config, self.source, self.model, self.engine)

    def run(self, stop: Stop) -> Run:
        self._plan()
        state, optimizer = self._state()
        if self.engine.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.config.to_yaml(self.folder / "config.yaml")
        trainer = Trainer(state, optimizer, self.feed, self.engine, self.folder, self.listener)
        with stop:
            trainer.run(stop)
        return Run(self.folder)

    def say(self, kind: EventKind, text: str, values: dict[str, Any] | None = None) -> None:
        if self.engine.is_main:
            self.listener(Event(kind, 0, self.config.images or 0, text, values or {}))

    def _plan(self) -> None:
        """Turn minutes into images, and say what will happen."""
        config, minutes = self.config, self.config.minutes
        trial = run_trial(config, self.model, self.feed, self.engine, _trial_seconds(minutes))
        if minutes is not None:
            seen = self.resumed.images_seen if self.resumed else 0
            images = seen + self.engine.same(trial.images_in(minutes, config.batch))
            config = config.with_changes(images=images, minutes=None)
        self.config = config.with_changes(out=str(self.folder))
        self.say("plan", *_describe(self.model, self.config, trial))

    def _state(self) -> tuple[TrainState, Optimizer]:
        model = self.engine.place(self.model)
        ema = Ema(model, self.config.ema_half_life, self.config.ema_ramp)
        optimizer = make_optimizer(self.config, model)
        wrapped = self.engine.setup(model, optimizer)
        state = TrainState(model, ema, optimizer, self.config, fingerprint(self.source))
        if self.resumed:
            self._continue(state, self.resumed)
        if self.config.compile and (failed := compile_backbone(model, self.feed, self.engine)):
            self.say("warning", f"warning: {failed}")
        return state, wrapped

    def _continue(self, state: TrainState, run: Run) -> None:
        if not run.state_path.is_file():  # killed before its first checkpoint: begin again
            return
        header = state.load(run.state_path)
        if state.images_seen > (self.config.images or 0):
            raise MarginalsError(
                f"{run.path} has already seen {state.images_seen} images; ask for more than that"
            )
        if header["threads"] != torch.get_num_threads():
            self.say(
                "warning",
                f"warning: this run used {header['threads']} CPU threads and now uses "
                f"{torch.get_num_threads()}: sums are rounded differently, so the weights will not "
                f"be bit-identical (threads={header['threads']} keeps them so)",
            )
        if self.engine.is_main:
            records.truncate(run.path / "log.jsonl", state.images_seen)
            Snapshots(run.path, 1, 1, 0).truncate(state.images_seen)
            save_average(state, run.path)  # it may be one checkpoint behind the state

    def _new_folder(self) -> Path:
        """The run's own folder: `config.out`, or runs/DATA-FORMULATION with a number if taken."""
        if self.config.out is not None:
            folder = Path(self.config.out)
            if (folder / "config.yaml").exists():
                raise MarginalsError(
                    f"{folder} already holds a run; continue it with `marginals train --resume "
                    f"{folder}`, or choose another out folder"
                )
            return folder
        stem = f"runs/{Path(self.config.data).stem}-{self.config.formulation}"
        names = (stem if i == 1 else f"{stem}-{i}" for i in itertools.count(1))
        return Path(self.engine.same(next(n for n in names if not Path(n).exists())))


def _trial_seconds(minutes: float | None) -> float:
    """A twentieth of the time, at most 5 seconds; without a time limit just a few steps."""
    return 0.0 if minutes is None else min(5.0, 3.0 * minutes)


def _describe(model: Model, config: TrainConfig, trial: Trial) -> tuple[str, dict[str, Any]]:
    """What is about to happen, in a sentence and in numbers."""
    assert config.images is not None
    parameters = sum(p.numel() for p in model.parameters())
    values = {
        "parameters": parameters,
        "images": config.images,
        "seconds": config.images * trial.seconds_per_image,
        "memory": trial.memory,
        "folder": config.out,
    }
    text = (
        f"{config.formulation} on {config.data}: {parameters / 1e6:.2f} M parameters, "
        f"{config.images:,} images in batches of {config.batch}, about "
        f"{_duration(values['seconds'])}, {trial.memory / 1e9:.1f} GB of memory; run folder "
        f"{config.out}"
    )
    return text, values


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
