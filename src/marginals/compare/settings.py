"""What a comparison is told. This module does not import torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from marginals.errors import MarginalsError
from marginals.train.config import ModelName

__all__ = ["Comparison", "model_names"]


@dataclass(frozen=True)
class Comparison:
    """Several models, one data set, one budget; everything is kept in ``folder``."""

    models: tuple[str, ...]
    folder: Path
    data: str = "fashion"
    minutes: float = 5.0
    """Per model: minutes of processor time (of the clock on the wall where there is a GPU)."""
    pictures: int = 256
    """Held-out pictures whose likelihood is measured."""
    samples: int = 500
    seed: int = 0
    threads: int | None = None

    def budget(self) -> dict[str, Any]:
        """What a trained model of this folder depends on."""
        return {
            "data": self.data, "minutes": self.minutes, "seed": self.seed, "threads": self.threads,
        }  # fmt: skip

    def effort(self) -> dict[str, Any]:
        """What a measurement depends on, beside the model."""
        return {"pictures": self.pictures, "samples": self.samples, "seed": self.seed}


def model_names(text: str) -> tuple[str, ...]:
    """ "vae,hvae" → ("vae", "hvae"); MarginalsError for names that do not exist or come twice."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known: Sequence[str] = [name for name in get_args(ModelName) if name != "classifier"]
    if wrong := [name for name in names if name not in known]:
        raise MarginalsError(f"there is no model {wrong[0]!r}; choose among {', '.join(known)}")
    if not names:
        raise MarginalsError(f"name the models to compare, among {', '.join(known)}")
    if len(set(names)) < len(names):
        raise MarginalsError(f"each model can be compared once only, not {','.join(names)}")
    return names
