"""The pictures a trained model is measured on: those it knows, and those it has never seen."""

from pathlib import Path

import torch
from torch import Tensor

import marginals.data
from marginals.data.pictures import PictureSource
from marginals.errors import MarginalsError
from marginals.generative import Generative
from marginals.io.checkpoint import read_header
from marginals.train.setup import fingerprint

__all__ = ["pictures_of", "some"]


def pictures_of(
    path: Path, model: Generative, data: str | None = None
) -> tuple[PictureSource, PictureSource]:
    """(train, held out) pictures in the model's own shape."""
    extra = read_header(path)["extra"]
    spec = data or extra.get("trained_on")
    if spec is None or model.data is None:
        raise MarginalsError(f"{path} does not say what it was trained on; give --data")
    shape = tuple(model.data.shape)
    square = len(set(shape[1:])) == 1  # only what was never resized can be anything else
    train, held_out = marginals.data.load(spec, size=shape[-1] if square else None)
    if tuple(train.shape) != shape:
        raise MarginalsError(
            f"the model makes pictures of shape {shape}, but those of {spec} are "
            f"{tuple(train.shape)}; give --data with pictures of the same kind"
        )
    if model.data.classes and tuple(train.classes) != tuple(model.data.classes):
        raise MarginalsError(
            f"the classes of {spec} are not those of the model; give --data with the same classes"
        )
    if data is None and "data" in extra:
        _unchanged(train, extra["data"])
    return train, held_out


def _unchanged(train: PictureSource, then: object) -> None:
    """Refuse other training pictures than at the time: the held-out ones may be among the old."""
    if fingerprint(train) != then:
        raise MarginalsError(
            f"the pictures of {train.name} are no longer those the model was trained on, so "
            "held-out ones cannot be told from training ones; bring them back or give --data with "
            "other pictures"
        )


def some(source: PictureSource, count: int) -> tuple[Tensor, Tensor]:
    """`count` pictures (or all), spread over the source: uint8 (n, C, H, W) and labels (n,)."""
    n = min(count, len(source))
    return source.batch(torch.linspace(0, len(source) - 1, n).round().long())
