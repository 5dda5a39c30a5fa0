"""Everything a run needs to go on as if it had never stopped, in one file.

`state.safetensors` holds the trained weights, their average and the optimiser's moments; its header
holds the images seen and the whole configuration. There is no random state to store: see `feed`.
The file is the truth; `model.safetensors` beside it is made from it, for use.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import marginals
from marginals.errors import MarginalsError
from marginals.generative import Generative
from marginals.io.tensors import read_contents, read_tensors, write_tensors
from marginals.train.config import TrainConfig
from marginals.train.ema import Ema

__all__ = ["STATE_VERSION", "TrainState", "read_state_header", "require_same_settings"]

STATE_VERSION = 2


@dataclass
class TrainState:
    """(model, average, optimiser, configuration, data, images seen, seconds spent)."""

    model: Generative
    ema: Ema[Generative]
    optimizer: Optimizer
    config: TrainConfig
    data: dict[str, int]
    """Count and checksum of the pictures; a resumed run must meet the same ones."""
    images_seen: int = 0
    seconds: float = 0.0
    """Time spent in steps, by the clock on the wall."""
    cpu_seconds: float = 0.0
    """The same in processor time, which other programs on the machine do not lengthen."""

    def at_progress(self) -> None:
        """Tell the model and its average how far the run is, for losses that change on the way."""
        for model in (self.model, self.ema.model):
            model.at_progress(self.images_seen)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as one file, atomically."""
        header = {
            "format": "marginals training state",
            "format_version": STATE_VERSION,
            "package_version": marginals.__version__,
            "torch_version": torch.__version__,
            "threads": torch.get_num_threads(),
            "images_seen": self.images_seen,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "config": self.config.model_dump(),
            "data": self.data,
        }
        write_tensors(path, self._tensors(), header)

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Fill this state in place from a file written by `save`; returns the file's header.

        Raises MarginalsError when the file is damaged, newer, of another network, or was made
        with settings that would change the arithmetic.
        """
        header = read_state_header(path)
        require_same_settings(_stored_config(header, path), self.config, path)
        if header["data"] != self.data:
            raise MarginalsError(
                f"{path} was trained on other pictures than these (now {self.data['count']}, then "
                f"{header['data']['count']}); bring the old ones back, or start a new run"
            )
        stored, mine = read_tensors(path), self._tensors(with_moments=False)
        moments = {k: stored.pop(k) for k in list(stored) if k.startswith("optimizer.")}
        _require_same(path, stored, mine)
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(stored[name])
        self._load_moments(moments)
        self.images_seen, self.seconds = int(header["images_seen"]), float(header["seconds"])
        self.cpu_seconds = float(header["cpu_seconds"])
        self.at_progress()
        return header

    def _tensors(self, with_moments: bool = True) -> dict[str, Tensor]:
        named = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        named |= {f"ema.{k}": v for k, v in self.ema.model.state_dict().items()}
        if with_moments:
            for name, parameter in self.model.named_parameters():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    named[f"optimizer.{name}/{key}"] = value
        return named

    def _load_moments(self, moments: dict[str, Tensor]) -> None:
        place = {p: i for i, p in enumerate(_in_order(self.optimizer))}
        named = dict(self.model.named_parameters())
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in moments.items():
            parameter, key = name.removeprefix("optimizer.").rsplit("/", 1)
            like = named[parameter]
            if value.shape == like.shape:  # the fused optimiser wants the memory layout of weights
                value = torch.empty_like(like).copy_(value)
            state.setdefault(place[like], {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def read_state_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header of a training state, without its tensors; clear errors for other files."""
    header = read_contents(path).header
    if header.get("format") != "marginals training state":
        raise MarginalsError(f"{path} is a model for use, not a training state; nothing to resume")
    version = header.get("format_version")
    if version != STATE_VERSION:
        older = isinstance(version, int) and version < STATE_VERSION
        remedy = "start a new run here (its model.safetensors works)" if older else "update it"
        raise MarginalsError(
            f"{path} was made by marginals {header.get('package_version')} (state format "
            f"{version}); this is marginals {marginals.__version__}, which reads state format "
            f"{STATE_VERSION}: continue it with the version that made it, or {remedy}"
        )
    return header


def require_same_settings(
    old: TrainConfig, new: TrainConfig, where: str | os.PathLike[str]
) -> None:
    """Raise MarginalsError, naming them, when settings differ that would change the arithmetic."""
    if changed := old.differences(new):
        old_values, new_values = old.model_dump(), new.model_dump()
        named = ", ".join(f"{k} ({old_values[k]}, now {new_values[k]})" for k in changed)
        raise MarginalsError(
            f"{where} was trained with other settings: {named}; continue with the old ones, or "
            "start a new run in another folder"
        )


def _stored_config(header: dict[str, Any], path: str | os.PathLike[str]) -> TrainConfig:
    try:
        return TrainConfig(**header["config"])
    except MarginalsError as error:
        raise MarginalsError(
            f"{Path(path)} holds a configuration of another version: {error}"
        ) from None


def _require_same(
    path: str | os.PathLike[str], stored: dict[str, Tensor], mine: dict[str, Tensor]
) -> None:
    same = stored.keys() == mine.keys() and all(stored[k].shape == mine[k].shape for k in mine)
    if not same:
        raise MarginalsError(
            f"{path} holds another network than the one given; resume with the network, data and "
            "version it was trained with"
        )


def _in_order(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
