"""How good samples are: distance to real pictures, labels recognised, copies of training pictures.

What cannot be measured is reported as {"missing": sentence}: one gap is no reason to lose the rest.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from marginals.compare.held_out import some
from marginals.data.pictures import PictureSource
from marginals.errors import MarginalsError
from marginals.io.atomic import safe_name
from marginals.metrics import classifier
from marginals.metrics.features import lite0
from marginals.metrics.frechet import frechet_report
from marginals.metrics.neighbours import memorisation
from marginals.train.setup import fingerprint

__all__ = ["quality"]

_COMPARED = 20_000  # real pictures that samples are compared with, at most


def quality(
    x: Tensor,
    labels: Tensor | None,
    train: PictureSource,
    held_out: PictureSource,
    classes: Sequence[str],
    folder: Path,
) -> dict[str, Any]:
    """{"frechet", "labels", "copies"} of samples x (N, C, H, W) in [-1, 1].

    `labels` (N,) are the classes that were asked for; the classifier that looks for them is trained
    once per data set and kept in `folder`.
    """
    real, unseen = some(train, _COMPARED), some(held_out, _COMPARED)
    judge = partial(_judge, folder / _judge_name(train, held_out), real, unseen, classes)
    return {
        "frechet": _frechet(x, real[0], unseen[0]),
        "labels": None if labels is None else _labels(x, labels, judge),
        "copies": _copies(x.cpu(), real[0], unseen[0]),
    }


def _frechet(x: Tensor, real: Tensor, unseen: Tensor) -> dict[str, Any]:
    """The distance and its floor, or why there is none."""
    try:
        report = frechet_report(x, real, unseen, lite0(), progress=True)
    except MarginalsError as error:
        return {"missing": str(error)}
    return {
        "features": report.name.removeprefix("FD-"),
        "pictures": report.n,
        "distance": report.fd,
        "floor": report.floor,
        "mmd": report.mmd,
        "mmd_stderr": report.mmd_se,
    }


def _copies(x: Tensor, real: Tensor, unseen: Tensor) -> dict[str, Any]:
    """How close the samples are to training pictures, or why nobody can tell."""
    try:
        copies = memorisation(x, unseen, real)
    except MarginalsError as error:
        return {"missing": str(error)}
    return {"share": copies.share, "distance_ratio": copies.ratio}


def _labels(
    x: Tensor, labels: Tensor, judge: Callable[[], classifier.Classifier]
) -> dict[str, Any]:
    """How often a classifier of real pictures sees the label that was asked for."""
    try:
        trained = judge()
        share = classifier.agreement(trained, x, labels)
    except MarginalsError as error:
        return {"missing": str(error)}
    return {
        "agreement": share.value,
        "stderr": share.stderr,
        "classifier_accuracy": trained.accuracy.value,
    }


def _judge_name(train: PictureSource, held_out: PictureSource) -> str:
    """A file name that other pictures, labels, shapes or classes do not share."""
    data = [fingerprint(train), fingerprint(held_out), list(train.shape), list(train.classes)]
    key = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:10]
    return f"classifier-{safe_name(train.name)}-{key}.safetensors"


def _judge(
    path: Path,
    real: tuple[Tensor, Tensor],
    unseen: tuple[Tensor, Tensor],
    classes: Sequence[str],
) -> classifier.Classifier:
    """A classifier trained on the real pictures, kept at `path` for the next time."""
    if path.is_file():
        return classifier.Classifier.load(path)
    judge = classifier.train_classifier(
        *real, *unseen, classes, images=min(60_000, 8 * len(real[0]))
    )
    judge.save(path)
    return judge
