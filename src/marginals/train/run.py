"""`train` and `resume`, and `Run`: a folder that holds everything about one training run.

run/config.yaml          what was asked for, with the time budget turned into images
run/state.safetensors    everything needed to go on (weights, average, optimiser, images seen)
run/model.safetensors    the averaged weights, for use
run/log.jsonl            loss, loss by noise level, speed; one line per entry
run/samples.png          the same noise at every snapshot, one row each
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from marginals.data.pictures import PictureSource
from marginals.errors import MarginalsError
from marginals.generative import Generative
from marginals.nn import DiT
from marginals.train import records
from marginals.train.build import look_at
from marginals.train.claim import Taken, claim
from marginals.train.config import TrainConfig
from marginals.train.ema import Ema
from marginals.train.engine import Engine
from marginals.train.folder import Run, finished_already, may_continue, require_free
from marginals.train.guess import SHOWINGS, fit_guess, guessing, is_fresh
from marginals.train.loop import Trainer, save_average
from marginals.train.optimizer import make_optimizer
from marginals.train.progress import Event, EventKind, Listener, ProgressBar
from marginals.train.setup import (
    absolute,
    compile_backbone,
    fingerprint,
    load_source,
    make_feed,
    make_model,
)
from marginals.train.snapshots import Snapshots
from marginals.train.start import take_over
from marginals.train.state import TrainState
from marginals.train.stop import Stop
from marginals.train.trial import Trial, run_trial

__all__ = ["Run", "resume", "train"]


def train(
    config: TrainConfig,
    *,
    resume: str | os.PathLike[str] | None = None,
    source: PictureSource | None = None,
    model: Generative | None = None,
    on_event: Listener | None = None,
    stop: Stop | None = None,
) -> Run:
    """Train as `config` says, in a new run folder, or continue the one at `resume`.

    `source` replaces the data that `config.data` names, `model` the one that is built (its
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
    model: Generative | None = None,
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
        model: Generative | None,
        listener: Listener,
    ) -> None:
        self.engine = Engine(config.precision)
        self.listener = listener
        models = {"codec": config.codec, "start": config.start, "teacher": config.teacher}
        places = {key: value and absolute(value) for key, value in models.items()}
        self.config = config.with_changes(data=absolute(config.data), **places)
        self.resumed = Run(resumed) if resumed is not None else None
        if self.resumed:
            self.config = may_continue(self.resumed, self.config)
        elif config.out is not None:
            require_free(Path(config.out))
        self._given = source, model

    def run(self, stop: Stop) -> Run:
        if self.resumed and (sentence := finished_already(self.resumed, self.config)):
            self.say("end", sentence)
            return self.resumed
        with self._claim():
            self._load()
            self._plan()
            state, optimizer = self._state()
            if self.engine.is_main:
                self.config.to_yaml(self.folder / "config.yaml")
            trainer = Trainer(state, optimizer, self.feed, self.engine, self.folder, self.listener)
            with stop:
                trainer.run(stop)
        return Run(self.folder)

    @contextmanager
    def _claim(self) -> Iterator[None]:
        """Settle on the folder and hold it, in process 0; what fails there fails everywhere."""
        with ExitStack() as held:
            found = problem = None
            if self.engine.is_main:
                try:
                    found = self._folder(held)
                except MarginalsError as error:
                    problem = str(error)
            if problem := self.engine.same(problem):
                raise MarginalsError(problem)
            self.folder = Path(self.engine.same(str(found)))
            yield

    def _folder(self, held: ExitStack) -> Path:
        """The run's own folder: `config.out`, or runs/DATA-MODEL with a number if taken."""
        if self.resumed:
            held.enter_context(claim(self.resumed.path))
            return self.resumed.path
        if self.config.out is not None:
            folder = Path(self.config.out)
            held.enter_context(claim(folder))
            require_free(folder)  # a run may have ended there while this one began
            return folder
        stem = f"runs/{Path(self.config.data).stem}-{self.config.model}"
        names = (stem if i == 1 else f"{stem}-{i}" for i in itertools.count(1))
        while True:
            folder = Path(next(name for name in names if not Path(name).exists()))
            with suppress(Taken):  # by a run that began just now
                held.enter_context(claim(folder))
                return folder

    def _load(self) -> None:
        source, model = self._given
        self.source = load_source(self.config) if source is None else source
        for sentence in look_at(self.source, self.config.batch, self.config.conditional):
            self.say("warning", f"warning: {sentence}")
        self.model = make_model(self.config, self.source, model)
        if self.config.start is not None and self.resumed is None:
            self.say("plan", take_over(self.model, self.config.start))
        self.feed = make_feed(self.config, self.source, self.model, self.engine)
        begun = self.resumed is not None and self.resumed.state_path.is_file()
        net = None if begun else guessing(self.model)
        if net is not None and (self.config.guess_images is not None or is_fresh(net)):
            self._guess(net)

    def _guess(self, net: DiT) -> None:
        """Before the first step: fit what a network guesses from texts."""
        if self.feed.captions is None:
            raise MarginalsError("a network with a guess needs captioned pictures to learn it from")
        images = self.config.guess_images or SHOWINGS * len(self.source)
        share = fit_guess(
            self.engine.place(net), self.feed, images,
            bf16=self.config.precision == "bf16", progress=self.engine.is_main,
        )  # fmt: skip
        self.say("plan", f"the first guess explains {share:.0%} of the pictures' variance")

    def say(self, kind: EventKind, text: str, values: dict[str, Any] | None = None) -> None:
        if self.engine.is_main:
            self.listener(Event(kind, 0, self.config.images or 0, text, values or {}))

    def _plan(self) -> None:
        """Turn minutes into images, and say what will happen."""
        config, minutes = self.config, self.config.minutes
        self.say("trial", "timing a few steps ...")
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
            save_average(state, run.path, self.source)  # it may be one checkpoint behind the state


def _trial_seconds(minutes: float | None) -> float:
    """A twentieth of the time, at most 5 seconds; without a time limit just a few steps."""
    return 0.0 if minutes is None else min(5.0, 3.0 * minutes)


def _describe(model: Generative, config: TrainConfig, trial: Trial) -> tuple[str, dict[str, Any]]:
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
        f"{config.model} on {config.data}: {parameters / 1e6:.2f} M parameters, "
        f"{config.images:,} images in batches of {config.batch}, about "
        f"{_duration(values['seconds'])} on the clock, {trial.memory / 1e9:.1f} GB of memory; "
        f"run folder {config.out}"
    )
    return text, values


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
