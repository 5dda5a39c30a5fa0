"""`Run`, a run folder, and what may be done with one: begin in it, go on in it, or nothing."""

import os
from pathlib import Path
from typing import Any

import torch

from marginals.errors import MarginalsError
from marginals.generative import Generative
from marginals.io.checkpoint import load_model, read_header
from marginals.train import records
from marginals.train.config import TrainConfig
from marginals.train.setup import absolute
from marginals.train.state import read_state_header, require_same_settings

__all__ = ["Run", "finished_already", "may_continue", "require_free"]


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

    def model(self, device: str | torch.device = "cpu") -> Generative:
        """The averaged model of the last checkpoint."""
        return load_model(self.path / "model.safetensors", device)

    def log(self) -> list[dict[str, Any]]:
        """The entries of log.jsonl: images, loss, levels, gradient, lr, speed, seconds."""
        return records.read(self.path / "log.jsonl")


def require_free(folder: Path) -> None:
    """Raise MarginalsError unless a new run may be made in this folder."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise MarginalsError(f"{folder} is a file; choose a folder for the run with out")
    if os.path.exists(folder / "config.yaml"):
        raise MarginalsError(
            f"{folder} already holds a run; continue it with `marginals train --resume "
            f"{folder}`, or choose another out folder"
        )
    if os.path.isdir(folder) and (other := _visible(folder)):
        raise MarginalsError(
            f"{folder} holds other things than a run ({other[0]}); choose a new or an empty folder "
            "with out"
        )


def _visible(folder: Path) -> list[str]:
    """What is in the folder, without what is hidden (a run's lock, a desktop's notes)."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def may_continue(run: Run, asked: TrainConfig) -> TrainConfig:
    """The settings to go on with; MarginalsError, in a sentence, for those that cannot be."""
    old = run.config
    if asked.data == absolute(old.data):
        asked = asked.with_changes(data=old.data)
    require_same_settings(old, asked, run.path)
    elsewhere = asked.out not in (None, old.out) and Path(asked.out or "").resolve()
    if elsewhere and elsewhere != run.path.resolve():
        raise MarginalsError(
            f"a continued run stays in its folder, {run.path}; leave out away, or copy the folder "
            "and resume the copy"
        )
    if asked.images is not None and asked.images != old.images and asked.images < run.images_seen:
        raise MarginalsError(
            f"{run.path} has already seen {run.images_seen} images; ask for more than that with "
            "--images N, or for more time with --minutes M"
        )
    return asked


def finished_already(run: Run, asked: TrainConfig) -> str:
    """What to say instead of training when nothing is left to do; "" when something is."""
    seen = run.images_seen
    if asked.images is None or seen < asked.images or asked.images != run.config.images:
        return ""
    try:
        whole = read_header(run.path / "model.safetensors")["extra"]["images_seen"] == seen
    except (MarginalsError, KeyError):
        whole = False  # killed between the last state and the model made from it
    if not whole:
        return ""
    return (
        f"{run.path} is finished: it has seen {seen} images; train it for longer with --images N "
        f"(more than {seen}) or --minutes M"
    )
