"""How well a classifier of noisy pictures knows the class, noise level by noise level."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from marginals.classifier import NoisyClassifier
from marginals.denoiser import expand
from marginals.errors import MarginalsError
from marginals.metrics.classifier import Share
from marginals.noise import item_noise
from marginals.pixels import to_float

__all__ = ["LEVELS", "LevelRow", "by_level"]

LEVELS = (9.0, 6.0, 3.0, 0.0, -3.0, -6.0, -9.0)
"""λ from nearly clean pictures to nearly noise."""


class LevelRow(NamedTuple):
    """One noise level: the share of pictures recognised, and −log p(y | x, λ) in nats."""

    lam: float
    pictures: int
    accuracy: Share
    cross_entropy: float
    stderr: float
    """Of the cross-entropy."""

    def as_json(self) -> dict[str, Any]:
        return {
            "lam": self.lam, "pictures": self.pictures, "accuracy": self.accuracy.value,
            "stderr": self.accuracy.stderr, "cross_entropy": self.cross_entropy,
            "cross_entropy_stderr": self.stderr,
        }  # fmt: skip


@torch.no_grad()
def by_level(
    classifier: NoisyClassifier,
    x: Tensor,
    labels: Tensor,
    lams: Sequence[float] = LEVELS,
    *,
    seed: int = 0,
    batch: int = 256,
) -> list[LevelRow]:
    """Each of ``lams`` for pictures (n, ...), uint8 or real, with their classes (n,).

    Picture i has noise of its own, keyed (seed + i, level): the same in any batch. Raises
    MarginalsError without labelled pictures.
    """
    if not len(x):
        raise MarginalsError("there are no held-out pictures with a class to measure on")
    x0 = to_float(x, classifier.dtype) if x.dtype == torch.uint8 else x.to(classifier.dtype)
    rows = []
    with classifier._evaluating():
        for draw, lam in enumerate(lams):
            parts = [
                _judged(classifier, x0[i : i + batch], labels[i : i + batch], lam, seed + i, draw)
                for i in range(0, len(x), batch)
            ]
            nats, right = (torch.cat(column) for column in zip(*parts, strict=True))
            spread = float(nats.std()) if len(nats) > 1 else math.inf
            share = Share.of(int(right.sum()), len(x))
            error = spread / math.sqrt(len(x))
            rows.append(LevelRow(float(lam), len(x), share, float(nats.mean()), error))
    return rows


def _judged(
    classifier: NoisyClassifier,
    x0: Tensor,
    labels: Tensor,
    lam: float,
    first: int,
    draw: int,
) -> tuple[Tensor, Tensor]:
    """−log p(y | x, λ) of every picture, and whether its class is the likeliest; the first picture
    has the seed ``first``."""
    noise = item_noise(range(first, first + len(x0)), x0.shape[1:], draw).to(x0)
    _, alpha, sigma = (expand(value, x0) for value in classifier.scaling(lam))
    log_probs = classifier(alpha * x0 + sigma * noise, lam).double().log_softmax(1)
    return -log_probs.gather(1, labels[:, None])[:, 0], log_probs.argmax(1) == labels
