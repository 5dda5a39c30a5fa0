"""Every model of a comparison trained with the same amount of computing.

The budget is processor time of this process, summed over its threads, so that a busy machine
favours nobody; with a GPU it is time on the wall. A timed trial turns it into a number of pictures
once; after that a run is an ordinary run, which stops, resumes and survives `kill -9` exactly.
"""

import json
import sys
from typing import Any

import torch

from marginals.compare.settings import Comparison
from marginals.data.pictures import PictureSource
from marginals.errors import MarginalsError
from marginals.io.atomic import write_json
from marginals.train.config import TrainConfig
from marginals.train.engine import Engine
from marginals.train.folder import finished_already
from marginals.train.presets import fitting
from marginals.train.progress import Listener
from marginals.train.run import Run, resume, train
from marginals.train.setup import make_feed, make_model
from marginals.train.trial import run_trial

__all__ = ["claim_folder", "clock", "pace", "train_one"]

_TRIAL = 15.0
"""Seconds of the trial, at most; a twentieth of the budget where that is less."""


def clock() -> str:
    """What the budget is measured in: "processor" time, or "wall" time where there is a GPU."""
    return "wall" if torch.cuda.is_available() else "processor"


def claim_folder(settings: Comparison) -> None:
    """Begin or continue in the folder; refuse one whose models had another budget."""
    path = settings.folder / "comparison.json"
    if path.is_file():
        then = json.loads(path.read_text(encoding="utf-8"))
        now = settings.budget()
        if changed := [key for key in now if then.get(key) != now[key]]:
            named = ", ".join(f"{key} {then.get(key)}, now {now[key]}" for key in changed)
            raise MarginalsError(
                f"{settings.folder} holds a comparison with other settings ({named}); repeat them, "
                "or give another --out"
            )
        return
    if settings.folder.is_dir() and any(settings.folder.iterdir()):
        raise MarginalsError(
            f"{settings.folder} holds other things than a comparison; give another --out"
        )
    settings.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings.budget())


def train_one(
    model: str, settings: Comparison, source: PictureSource, listener: Listener | None = None
) -> Run:
    """The finished run of one model: found, continued, or trained now."""
    folder = settings.folder / model
    if (folder / "config.yaml").is_file():
        run = Run(folder)
        if finished_already(run, run.config):  # and its model is that of the end
            return run
        print(f"{model}: continuing at {run.images_seen:,} images", file=sys.stderr)
        return resume(folder, source=source, on_event=listener)
    return train(_paced(model, settings, source), source=source, on_event=listener)


def _paced(model: str, settings: Comparison, source: PictureSource) -> TrainConfig:
    """The configuration that suits the model and the time, with the time turned into images."""
    values: dict[str, Any] = fitting(model, settings.minutes) | {"minutes": None, "images": 1}
    values |= {"model": model, "data": settings.data, "seed": settings.seed}
    values |= {"threads": settings.threads, "out": str(settings.folder / model)}
    return pace(TrainConfig(**values), settings.minutes, source)


def pace(config: TrainConfig, minutes: float, source: PictureSource) -> TrainConfig:
    """The same settings for as many images as `minutes` of :func:`clock` are good for."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with torch.random.fork_rng():
        engine = Engine(config.precision)
        net = engine.place(make_model(config, source, None))
        feed = make_feed(config, source, net, engine)
        trial = run_trial(config, net, feed, engine, min(_TRIAL, 3.0 * minutes))
    cpu = clock() == "processor"
    seconds = trial.cpu_seconds_per_image if cpu else trial.seconds_per_image
    images = max(int(60.0 * minutes / seconds / config.batch), 1) * config.batch
    return config.with_changes(images=images, minutes=None, sample_every=images)
