"""Train once, save, and load the checkpoint back from disk: everything later sees only the file."""

from dataclasses import replace
from pathlib import Path

from marginals.data.pictures import PictureSource
from marginals.demo.config import DemoConfig
from marginals.demo.findings import Trained
from marginals.demo.plan import Plan, training_config
from marginals.demo.stages import TrainingBar
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_model
from marginals.models import Model
from marginals.train.config import TrainConfig
from marginals.train.engine import Engine
from marginals.train.run import Run, resume, train
from marginals.train.setup import make_feed, make_model
from marginals.train.stop import Diverged, Stopped
from marginals.train.trial import run_trial

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
    model = load_model(run.path / "model.safetensors")
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
    if (folder / "config.yaml").is_file():
        run = Run(folder)
        if run.finished:
            return run, "The training was found finished and was not repeated."
        try:
            return resume(folder, source=source, on_event=TrainingBar()), ""
        except (Stopped, Diverged):
            raise
        except MarginalsError as error:
            raise MarginalsError(f"{error}; or begin the demo anew with --fresh") from None
    wanted = training_config(config, plan, source, config.images or plan.images)
    remark = ""
    if config.images is None:
        images = _affordable(wanted, source, config.minutes or plan.minutes)
        if config.minutes is None and images < plan.images:
            remark = (
                f"This machine is slow or busy: {images:,} pictures fit into the time for "
                f"training, where {plan.images:,} were planned; --images {plan.images} takes the "
                "time it needs."
            )
        images = images if config.minutes is not None else min(images, plan.images)
        wanted = wanted.with_changes(images=images)
    return train(wanted, source=source, on_event=TrainingBar()), remark


def _affordable(config: TrainConfig, source: PictureSource, minutes: float) -> int:
    """How many pictures this machine can train on in that time, from a trial of two seconds."""
    engine = Engine(config.precision)
    model = engine.place(make_model(config, source, None))
    feed = make_feed(config, source, model, engine)
    return run_trial(config, model, feed, engine, 2.0).images_in(minutes, config.batch)
