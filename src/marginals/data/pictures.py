"""Pictures in memory, and the one protocol every source of pictures satisfies.

A picture is stored as uint8 (C, H, W) with C = 1 (gray), 3 (RGB) or 4 (RGBA). Networks see
floats in [-1, 1] (`marginals.pixels.to_float`). A label is a class index, or -1 for
"no label"; a source without classes gives -1 for every picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..device import send
from ..errors import MarginalsError
from .report import FolderReport

CHANNELS = (1, 3, 4)


@runtime_checkable
class PictureSource(Protocol):
    """N pictures of one shape. Whether they lie in memory or on a disk is nobody's concern.

    `flip` says whether a mirrored picture is as plausible as the original (not so for digits
    and text): the default of the horizontal-flip augmentation.
    """

    @property
    def name(self) -> str: ...
    @property
    def note(self) -> str:
        """Where the pictures come from, and their licence, in a sentence."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label; empty when the pictures carry no labels."""
        ...

    @property
    def labels(self) -> Tensor | None:
        """LongTensor (N,), or None when there are no classes."""
        ...

    @property
    def flip(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every picture."""
        ...

    @property
    def report(self) -> FolderReport | None:
        """What was found in a person's folder, bad files included; None for other sources."""
        ...

    def __len__(self) -> int: ...
    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures uint8 (B, C, H, W) and labels LongTensor (B,) at LongTensor `indices` (B,)."""
        ...

    def ahead(self, indices: Tensor) -> None:
        """A hint: `batch(indices)` comes soon. Returns at once."""
        ...

    def subset(self, indices: Tensor) -> PictureSource:
        """The same kind of source with only these pictures, in this order."""
        ...


@dataclass(frozen=True, eq=False)
class Pictures:
    """A data set held in memory: `images` uint8 (N, C, H, W), `labels` LongTensor (N,) or None."""

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    name: str = "pictures"
    note: str = ""
    flip: bool = False
    report: FolderReport | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in CHANNELS:
            raise MarginalsError(
                "pictures must be uint8 of shape (N, C, H, W) with 1, 3 or 4 channels, but these "
                f"are {images.dtype} of shape {tuple(images.shape)}."
            )
        if labels is None:
            if self.classes:
                raise MarginalsError(f"{self.name} names classes but has no labels; give both.")
            return
        if labels.dtype != torch.long or labels.shape != images.shape[:1]:
            raise MarginalsError(
                f"{self.name} needs one integer label per picture: {len(images)} pictures, labels "
                f"{labels.dtype} of shape {tuple(labels.shape)}."
            )
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
        if low < -1 or high >= len(self.classes):
            raise MarginalsError(
                f"{self.name} has labels from {low} to {high}, but {len(self.classes)} classes; "
                "labels run from 0 to classes - 1, and -1 means no label."
            )

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        _, c, h, w = self.images.shape
        return c, h, w

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return pick(self.images, indices), pick_labels(self.labels, indices)

    def ahead(self, indices: Tensor) -> None:
        """Nothing to prepare: the pictures are in memory."""

    def near(self, device: torch.device, limit: int) -> Pictures:
        """The same with the pictures on the device, if they take at most `limit` bytes."""
        if device.type == "cpu" or self.images.nbytes > limit:
            return self
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, images=self.images.to(device), labels=labels)

    def subset(self, indices: Tensor) -> Pictures:
        labels = None if self.labels is None else pick(self.labels, indices)
        return replace(self, images=pick(self.images, indices), labels=labels)

    def split(self, held_out: int | float = 0.1, seed: int = 0) -> tuple[Pictures, Pictures]:
        """(train, held out); see `split`."""
        train, held = split_indices(len(self), self.labels, held_out, seed)
        return self.subset(train), self.subset(held)

    def resized(self, size: int) -> Pictures:
        """Every picture centre-cropped to a square and scaled to (size, size), as folders are."""
        check_size(size)
        if self.shape[1:] == (size, size):
            return self
        return replace(self, images=torch.stack([_resize(x, size) for x in self.images]))


def split(
    source: PictureSource, held_out: int | float = 0.1, seed: int = 0
) -> tuple[PictureSource, PictureSource]:
    """Cut a source in two: (train, held out); see `split_indices`."""
    train, held = split_indices(len(source), source.labels, held_out, seed)
    return source.subset(train), source.subset(held)


def split_indices(
    n: int, labels: Tensor | None, held_out: int | float = 0.1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Indices (train, held out), each ascending. The same seed gives the same cut, for ever.

    `held_out` is a number of pictures (int) or a share of them (float below 1). Every class
    keeps its share on both sides, to the rounding of one picture.
    """
    count = max(1, round(held_out * n)) if isinstance(held_out, float) else held_out
    if not 0 < count < n:
        raise MarginalsError(
            f"{held_out} held-out pictures cannot be cut from {n}; ask for at least 1 and fewer "
            "than there are."
        )
    # Philox's raw bits are fixed by its publication, so the cut survives upgrades of libraries.
    key = np.random.Philox(key=seed + (1 << 127)).random_raw(n)
    strata = np.full(n, -1) if labels is None else labels.numpy()
    order = np.lexsort((key, strata))  # class by class, in random order inside each
    totals = np.unique(strata, return_counts=True)[1]
    # Every class gives its share rounded down; the largest remainders give one picture more.
    take, remainder = totals * count // n, totals * count % n
    take[np.argsort(-remainder, kind="stable")[: count - take.sum()]] += 1
    rank_in_class = np.arange(n) - np.repeat(np.cumsum(totals) - totals, totals)
    is_held = rank_in_class < np.repeat(take, totals)
    train, held = np.sort(order[~is_held]), np.sort(order[is_held])
    return torch.from_numpy(train), torch.from_numpy(held)


def pick(values: Tensor, indices: Tensor) -> Tensor:
    """values[indices], also where `values` live on a GPU and the indices do not."""
    return values.index_select(0, send(indices, values.device))


def pick_labels(labels: Tensor | None, indices: Tensor) -> Tensor:
    """labels[indices], or -1 for each when there are no labels."""
    if labels is None:
        return torch.full(indices.shape, -1, dtype=torch.long)
    return pick(labels, indices)


def check_size(size: int) -> None:
    """MarginalsError for a side that no picture should be scaled to."""
    if not 4 <= size <= 1024:
        raise MarginalsError(f"a picture size of {size} is not between 4 and 1024 pixels.")


def class_counts(source: PictureSource) -> dict[str, int]:
    """How many pictures each class has, by name, in label order."""
    if source.labels is None:
        return {}
    counts = torch.bincount(source.labels[source.labels >= 0], minlength=len(source.classes))
    return dict(zip(source.classes, counts.tolist(), strict=True))


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """Centre crop to a square, then an antialiased LANCZOS resize to (size, size)."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if side != width or side != height:
        image = image.crop((left, top, left + side, top + side))
    if side == size:
        return image
    return image.resize((size, size), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """A Pillow picture of mode L, RGB or RGBA as uint8 (C, H, W)."""
    pixels = np.array(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels))


def _resize(image: Tensor, size: int) -> Tensor:
    pixels = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return to_tensor(fit_square(picture, size))
