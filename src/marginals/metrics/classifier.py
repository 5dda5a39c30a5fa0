"""A small classifier of the real pictures, to ask of samples: do they show what was asked for?

Trained in seconds on a CPU, so that every data set, a person's own folder included, can have one.
Its accuracy on held-out *real* pictures is stored with it and belongs beside every number it gives:
samples cannot agree with a classifier more often than real pictures do, except by being easier.

The network: four convolutions with batch norm, the picture halved until about 3 pixels are left,
then the maximum over the picture (128 features) and a linear layer. The recipe: AdamW with the
one-cycle learning rate (Smith and Topin 2017), label smoothing 0.1, shifts by at most one pixel.
"""

import math
from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from marginals.data.augment import Augment
from marginals.errors import MarginalsError
from marginals.io.tensors import read_contents, read_tensors, write_tensors
from marginals.pixels import to_float, to_uint8

__all__ = ["ClassRow", "Classifier", "Share", "agreement", "class_table", "train_classifier"]

FORMAT = "marginals classifier"
"""How a classifier's file names itself."""

_LONGEST_SIDE = 32  # larger pictures are averaged down: enough to tell classes apart, and fast
_BATCH = 64
_RATE = 0.01


class Share(NamedTuple):
    """A share of pictures and its standard error."""

    value: float
    stderr: float

    @classmethod
    def of(cls, hits: int, n: int) -> "Share":
        """hits / n. The error is that of a uniform prior, √(p(1−p)/(n+3)) with p = (hits+1)/(n+2),
        which does not claim certainty after n hits of n."""
        p = (hits + 1) / (n + 2)
        return cls(hits / n, math.sqrt(p * (1 - p) / (n + 3)))

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ± {100 * self.stderr:.1f} %"


class ClassRow(NamedTuple):
    """How the pictures that should show one class were recognised."""

    name: str
    n: int
    share: Share | None
    """Share recognised as this class; None without pictures."""
    taken_for: str
    """The class they were most often mistaken for; empty without mistakes."""


class Classifier(nn.Module):
    """Pictures (B, C, H, W) in [-1, 1] -> logits (B, classes). `accuracy`: on held-out pictures."""

    def __init__(self, shape: Sequence[int], classes: Sequence[str]) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < 8 or len(classes) < 2:
            raise MarginalsError(
                "a classifier needs pictures of at least 8x8 pixels and at least 2 classes, "
                f"not {height}x{width} and {len(classes)}"
            )
        self.shape = (channels, height, width)
        self.classes = tuple(classes)
        self.accuracy = Share(math.nan, math.nan)
        large = max(_inner_size(height, width)) >= 16
        self.body = nn.Sequential(
            *_layer(channels, 32, 4 if large else 3, 2 if large else 1),
            *_layer(32, 48),
            nn.MaxPool2d(2),
            *_layer(48, 64),
            nn.MaxPool2d(2),
            *_layer(64, 128),
        )
        self.head = nn.Linear(128, len(classes))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def features(self, x: Tensor) -> Tensor:
        """(B, 128): the maximum of every feature over the picture."""
        if x.shape[1:] != self.shape:
            raise MarginalsError(
                f"this classifier was trained on pictures of shape {self.shape}, "
                f"not {tuple(x.shape[1:])}"
            )
        return self.trunk(_reduced(x))

    def trunk(self, x: Tensor) -> Tensor:
        """The features of pictures that have the network's own size already."""
        return self.body(x.contiguous(memory_format=torch.channels_last)).amax((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    @torch.no_grad()
    def predict(self, pictures: Tensor, *, batch: int = 256) -> Tensor:
        """Class indices (N,) of pictures, uint8 or float in [-1, 1], in evaluation mode.

        Float pictures are rounded to 8 bits first, as in a file; NaN is refused.
        """
        mode, device = self.training, self.head.weight.device
        self.eval()
        chunks = (to_float(_stored(chunk)) for chunk in pictures.split(batch))
        parts = [self(chunk.to(device)).argmax(1).cpu() for chunk in chunks]
        self.train(mode)
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)

    def save(self, path: str | PathLike[str]) -> None:
        """One safetensors file with everything that `load` needs; written whole or not at all."""
        header = {
            "format": FORMAT,
            "shape": list(self.shape),
            "classes": list(self.classes),
            "accuracy": None if math.isnan(self.accuracy.value) else list(self.accuracy),
        }
        write_tensors(path, self.state_dict(), header)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Classifier":
        """Read what `save` wrote, in evaluation mode. Nothing is unpickled."""
        contents = read_contents(path)
        header: dict[str, Any] = contents.header
        if header.get("format") != FORMAT:
            held = header.get("format", "nameless thing")
            raise MarginalsError(f"{path} holds a {held}, not a classifier")
        try:
            classifier = cls(header["shape"], header["classes"])
            classifier.load_state_dict(read_tensors(path))
            if header["accuracy"] is not None:
                classifier.accuracy = Share(*header["accuracy"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise MarginalsError(f"the classifier in {path} is damaged: {error}") from error
        return classifier.eval()


def train_classifier(
    pictures: Tensor,
    labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    classes: Sequence[str],
    *,
    images: int = 100_000,
    seed: int = 0,
    progress: bool = True,
) -> Classifier:
    """Train a classifier on `pictures` (N, C, H, W), uint8 or float in [-1, 1], with `labels` (N,).

    held_out, held_out_labels   real pictures that measure `accuracy`; they are not trained on
    images                      pictures to look at in all, with repetition, at least 2 and at most
                                25 rounds; more is slower and, up to a point, better
    seed                        the same seed and thread count give the same weights

    Pictures labelled -1 are left out. Raises MarginalsError when fewer than two classes occur.
    """
    pictures, labels = _labelled(pictures, labels, len(classes))
    held_out, held_out_labels = _labelled(held_out, held_out_labels, len(classes))
    if len(labels.unique()) < 2 or not len(held_out_labels):
        raise MarginalsError(
            "a classifier needs labelled pictures of at least 2 classes, and labelled held-out "
            "pictures to measure it"
        )
    shape = pictures.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(shape, classes)
    if _inner_size(*shape[1:]) != tuple(shape[1:]):  # average down once, not in every round
        chunks = (to_float(_stored(chunk)) for chunk in pictures.split(256))
        pictures = torch.cat([to_uint8(_reduced(chunk)) for chunk in chunks])
    _fit(classifier, _stored(pictures), labels, images, seed, progress)
    classifier.eval()
    classifier.accuracy = agreement(classifier, held_out, held_out_labels)
    return classifier


def agreement(classifier: Classifier, pictures: Tensor, labels: Tensor) -> Share:
    """Share of `pictures` that the classifier takes for their `labels` (N,); -1 is left out."""
    pictures, labels = _labelled(pictures, labels, len(classifier.classes))
    if not len(labels):
        raise MarginalsError("label agreement needs at least one picture with a label")
    hits = int((classifier.predict(pictures) == labels).sum())
    return Share.of(hits, len(labels))


def class_table(classifier: Classifier, pictures: Tensor, labels: Tensor) -> list[ClassRow]:
    """One row per class: how many, how many recognised, and what the others were taken for."""
    pictures, labels = _labelled(pictures, labels, len(classifier.classes))
    predicted = classifier.predict(pictures)
    count = len(classifier.classes)
    pairs = torch.bincount(labels * count + predicted, minlength=count * count)
    rows = []
    for i, row in enumerate(pairs.reshape(count, count).tolist()):
        hits, n = row[i], sum(row)
        row[i] = 0
        mistaken = classifier.classes[row.index(max(row))] if max(row) else ""
        share = Share.of(hits, n) if n else None
        rows.append(ClassRow(classifier.classes[i], n, share, mistaken))
    return rows


def _fit(
    net: Classifier, pictures: Tensor, labels: Tensor, images: int, seed: int, progress: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch = min(_BATCH, len(pictures))
    rounds = min(25, max(2, round(images / len(pictures))))
    steps = len(pictures) // batch
    shift = Augment(shift=1)
    optimizer = torch.optim.AdamW(net.parameters(), _RATE, betas=(0.9, 0.99), weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=rounds * steps, pct_start=0.25, div_factor=10,
        final_div_factor=1000, anneal_strategy="linear", cycle_momentum=False,
    )  # fmt: skip
    net.train()
    with tqdm(
        total=rounds * steps * batch, desc="classifier", unit="img", disable=not progress
    ) as bar:
        for _ in range(rounds):
            order = torch.randperm(len(pictures), generator=generator)
            for chosen in order[: steps * batch].split(batch):
                x = to_float(shift(pictures[chosen], generator))
                logits = net.head(net.trunk(x))
                loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.1)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                rate.step()
                bar.update(batch)


def _layer(i: int, o: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(i, o, kernel, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(o), nn.ReLU(inplace=True)


def _inner_size(height: int, width: int) -> tuple[int, int]:
    """The size the network works at: the picture's own, or its longer side brought to 32."""
    factor = min(1.0, _LONGEST_SIDE / max(height, width))
    return max(8, round(height * factor)), max(8, round(width * factor))


def _reduced(x: Tensor) -> Tensor:
    """Float pictures at the size the network works at, by averaging."""
    size = _inner_size(*x.shape[2:])
    return x if size == tuple(x.shape[2:]) else F.interpolate(x, size, mode="area")


def _labelled(pictures: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    if pictures.ndim != 4 or labels.shape != pictures.shape[:1]:
        raise MarginalsError(
            "pictures (count, channels, height, width) need one label each, "
            f"not {tuple(pictures.shape)} and {tuple(labels.shape)}"
        )
    if len(labels) and int(labels.max()) >= classes:
        raise MarginalsError(f"label {int(labels.max())} is beyond the {classes} classes")
    known = labels >= 0
    if known.all():
        return pictures, labels.cpu().long()
    return pictures[known], labels[known].cpu().long()


def _stored(pictures: Tensor) -> Tensor:
    return pictures if pictures.dtype == torch.uint8 else to_uint8(pictures)
