"""A look at the pictures of a source before anything is learned from them."""

from __future__ import annotations

import torch
from PIL import Image

from ..io.pictures import grid
from .pictures import PictureSource


def preview(source: PictureSource, columns: int = 10, rows: int = 10) -> Image.Image:
    """A contact sheet: the first pictures of each class in a row of its own, or simply the first.

    With more classes than `rows`, evenly spaced ones are shown.
    """
    labels = source.labels
    if labels is None:
        return grid(source.batch(torch.arange(min(len(source), columns * rows)))[0], columns)
    present = labels.unique()
    present = present[present >= 0]
    spaced = torch.linspace(0, len(present) - 1, min(rows, len(present))).round().long()
    pictures, captions = [], []
    for label in present[spaced].tolist():
        first = torch.nonzero(labels == label).flatten()[:columns]
        row = torch.full((columns, *source.shape), 255, dtype=torch.uint8)
        row[: len(first)] = source.batch(first)[0]
        pictures.append(row)
        captions.append(source.classes[label])
    return grid(torch.cat(pictures), columns, labels=captions)
