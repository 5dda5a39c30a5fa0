"""Train once, save, and load the checkpoint back from disk: everything later sees only the file."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from marginals.data.pictures import PictureSource
from marginals.demo.config import DemoConfig
from marginals.demo.findings import Trained
from marginals.demo.plan import Plan, training_config
from marginals.demo.stages import TrainingBar
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_diffusion
from marginals.models import Model
from marginals.train.config import TrainConfig
from marginals.train.engine import Engine
from marginals.train.run import Run, resume, train
from marginals.train.setup import make_feed, make_model
from marginals.train.stop import Diverged, Stopped
from marginals.train.trial import Trial, run_trial

__all__ = ["train_once"]


def train_once(
    config: DemoConfig, plan: Plan, source: PictureSource
) -> tuple[Model, Trained, Plan]:
    """The model of FOLDER/run: trained now, continued, or found finished. Always read from disk."""
    folder = config.folder / "run"
    try:
        run, remark = _finished_run(config, plan, source, folder)
    except Stopped as stop:
        raise Stopped(
            f"Stopped while training; nothing is lost, and the same command goes on from there "
            f"({str(stop).split(';')[0].removeprefix('Stopped ')})"
        ) from None
    model = load_diffusion(run.path / "model.safetensors")
    log = run.log()
    trained = Trained(
        images=run.images_seen,
        seconds=float(log[-1]["seconds"]) if log else 0.0,
        parameters=sum(p.numel() for p in model.parameters()),
        log=log,
        remark=remark,
    )
    return model, trained, replace(plan, images=run.images_seen)


def _finished_run(
    config: DemoConfig, plan: Plan, source: PictureSource, folder: Path
) -> tuple[Run, str]:
    if not (folder / "config.yaml").is_file():
        wanted, remark = _pace(training_config(config, plan, source), config, plan, source)
        return train(wanted, source=source, on_event=TrainingBar()), remark
    run = Run(folder)
    if run.config.threads is not None:  # those that were the fastest when the run began
        torch.set_num_threads(run.config.threads)
    if run.finished:
        return run, "The training was found finished and was not repeated."
    print(_continuing(run), file=sys.stderr)
    try:
        return resume(folder, source=source, on_event=TrainingBar()), ""
    except (Stopped, Diverged):
        raise
    except MarginalsError as error:
        raise MarginalsError(f"{error}; or begin the demo anew with --fresh") from None


def _continuing(run: Run) -> str:
    """What goes on now, and about how long: said before the bar of an interrupted training."""
    done, wanted, log = run.images_seen, run.config.images or 0, run.log()
    words = f"continuing the training from {done:,} to {wanted:,} pictures"
    if not log or log[-1]["images_per_second"] <= 0:
        return words
    seconds = (wanted - done) / log[-1]["images_per_second"]
    return f"{words}, about {_duration(seconds)} (Ctrl-C stops and saves)"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _pace(
    wanted: TrainConfig, config: DemoConfig, plan: Plan, source: PictureSource
) -> tuple[TrainConfig, str]:
    """The number of threads and of pictures that suit this machine, and what to say about it.

    Small networks are often fastest on few threads, above all on a machine that has other work."""
    trials = {}
    for threads in [config.threads] if config.threads else _choices():
        torch.set_num_threads(threads)
        trials[threads] = _trial(wanted, source)
    threads = min(trials, key=lambda each: trials[each].seconds_per_image)
    torch.set_num_threads(threads)
    wanted = wanted.with_changes(threads=threads)
    if config.images is not None:
        return wanted, ""
    images = trials[threads].images_in(config.minutes or plan.minutes, plan.batch)
    if config.minutes is None and images < plan.images:
        return wanted.with_changes(images=images), (
            f"This machine is slow or busy: {images:,} pictures fit into the time for training, "
            f"where {plan.images:,} were planned; --images {plan.images} takes the time it needs."
        )
    return wanted.with_changes(images=images if config.minutes else plan.images), ""


def _choices() -> list[int]:
    """Numbers of threads worth trying."""
    cores = os.cpu_count() or 1
    return sorted({1, min(4, cores), cores})


def _trial(config: TrainConfig, source: PictureSource) -> Trial:
    """One second of training on a copy that is thrown away."""
    engine = Engine(config.precision)
    model = engine.place(make_model(config, source, None))
    return run_trial(config, model, make_feed(config, source, model, engine), engine, 1.0)
