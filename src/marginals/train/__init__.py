"""Training: `train(config)`, `resume(folder)`, and `Run`, a folder with everything about one run.

`TrainConfig` can be imported without torch; the rest is loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from marginals.train.config import TrainConfig
from marginals.train.presets import PRESETS

if TYPE_CHECKING:
    from marginals.train.progress import Event as Event
    from marginals.train.run import Run as Run
    from marginals.train.run import resume as resume
    from marginals.train.run import train as train
    from marginals.train.stop import Diverged as Diverged
    from marginals.train.stop import Stop as Stop
    from marginals.train.stop import Stopped as Stopped

_HOME = {
    "Diverged": "stop",
    "Event": "progress",
    "Run": "run",
    "Stop": "stop",
    "Stopped": "stop",
    "resume": "run",
    "train": "run",
}

__all__ = [
    "PRESETS",
    "Diverged",
    "Event",
    "Run",
    "Stop",
    "Stopped",
    "TrainConfig",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'marginals.train' has no attribute {name!r}")
    value = getattr(import_module(f"marginals.train.{_HOME[name]}"), name)
    globals()[name] = value
    return value
