"""How much of everything the demo does, so that it takes at most four minutes on two CPU cores."""

from dataclasses import dataclass
from pathlib import Path

import marginals.data
from marginals.data.pictures import PictureSource
from marginals.demo.config import DemoConfig
from marginals.train.config import TrainConfig

__all__ = ["Plan", "load_pictures", "plan_for", "training_config"]

_OWN_SIZE = 32
"""Side to which a person's own pictures are scaled."""


@dataclass(frozen=True)
class Plan:
    """Sizes and counts of one demo."""

    network: str
    images: int
    """Pictures to train on by default; fewer where the machine is too slow for `minutes`."""
    minutes: float
    """The longest the training may take where neither images nor minutes were asked for."""
    batch: int = 32
    lr: float = 4e-3
    columns: int = 10
    """Columns of the contact sheets; one class each where there are classes."""
    rows: int = 3
    judged: int = 240
    """Samples of the fastest views that the classifier looks at."""
    judged_slow: int = 60
    """The same for the views of many evaluations."""
    compared: int = 8
    """Pictures on which the agreement of the views is measured."""
    measured: int = 64
    """Held-out pictures whose likelihood is measured."""
    levels: int = 64
    """T of the shorter discrete-time bound, and levels of the continuous-time one."""
    ode_steps: int = 24
    """Runge-Kutta steps of the exact likelihood, four evaluations each."""
    classifier_images: int = 50_000


_FASHION = Plan("demo", images=110_000, minutes=2.2)
_DIGITS = Plan("tiny", images=24_000, minutes=0.6, judged=200, classifier_images=20_000)
_OWN = Plan("demo", images=80_000, minutes=1.8)


def plan_for(source: PictureSource) -> Plan:
    """What suits these pictures: tiny ones need neither a large network nor much time."""
    if source.shape[-1] <= 8:
        return _DIGITS
    return _FASHION if source.name == "fashion" else _OWN


def load_pictures(data: str) -> tuple[PictureSource, PictureSource]:
    """(train, held out). Large or odd sizes become 32×32: the demo has minutes, not hours."""
    path = Path(data).expanduser()
    if path.exists() and path.suffix != ".npz":
        return marginals.data.load(data, size=_OWN_SIZE)
    train, held_out = marginals.data.load(data)
    _, height, width = train.shape
    if height == width <= _OWN_SIZE and width % 4 == 0:
        return train, held_out
    return marginals.data.load(data, size=_OWN_SIZE)


def training_config(config: DemoConfig, plan: Plan, source: PictureSource) -> TrainConfig:
    """The run that `marginals train --resume` can go on with."""
    return TrainConfig(
        data=config.data,
        size=source.shape[-1],
        conditional=len(source.classes) > 1,
        model="v",
        network=plan.network,
        images=config.images or plan.images,
        batch=plan.batch,
        lr=plan.lr,
        warmup=2_000,
        decay=0.6,
        seed=config.seed,
        threads=config.threads,
        out=str(config.folder / "run"),
    )
