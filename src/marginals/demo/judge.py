"""Are the samples any good? A classifier of real pictures is asked, the training set is searched.

A classifier that has only seen real pictures says which class a sample shows; where that is the
class that was asked for, the two agree. It makes mistakes on real pictures too, so its accuracy on
unseen real pictures stands beside every number. The nearest training pictures show whether the
model invents or copies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from marginals.data.pictures import PictureSource, class_counts
from marginals.demo.plan import Plan
from marginals.demo.views import View, walk
from marginals.errors import MarginalsError
from marginals.metrics.classifier import Classifier, Share, agreement, train_classifier
from marginals.metrics.neighbours import Memorisation, memorisation, nearest
from marginals.models import Model

__all__ = ["Judged", "Nearest", "best", "judge_views", "langevin_words", "look_for_copies", "teach"]

Tick = Callable[[int], None]

SEED_STEP = 10_000
"""Judged samples use other starting noise than the contact sheets."""


@dataclass(frozen=True)
class Judged:
    """Label agreement of one view's samples, and the samples."""

    view: View
    share: Share
    x: Tensor

    @property
    def hits(self) -> str:
        """'230 of 240': samples recognised as what was asked for."""
        return f"{round(self.share.value * len(self.x))} of {len(self.x)}"

    @property
    def range(self) -> tuple[float, float]:
        """Between which shares more samples would end, in 95 of 100 such judgements (Wilson)."""
        n, p, z2 = len(self.x), self.share.value, 1.96**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        reach = (z2 * (p * (1 - p) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
        return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True)
class Nearest:
    """Samples (n, C, H, W), for each its k nearest training pictures (n, k, C, H, W) uint8 and
    their distances (n, k); and how the distances compare with those of unseen real pictures."""

    samples: Tensor
    pictures: Tensor
    distances: Tensor
    memorisation: Memorisation | None


def teach(
    train: PictureSource, held_out: PictureSource, images: int, seed: int
) -> Classifier | str:
    """A classifier of the real pictures, or the sentence that says why there is none."""
    if len(train.classes) < 2:
        return (
            "These pictures have no classes (or only one), so there is no label a sample could "
            "agree with: the label check is left out."
        )
    try:
        return train_classifier(
            *_everything(train), *_everything(held_out), train.classes, images=images, seed=seed
        )
    except MarginalsError as error:
        return f"The label check is left out: {error}."


def judge_views(
    model: Model,
    classifier: Classifier,
    views: Sequence[tuple[View, int]],
    seed: int,
    tick: Tick,
) -> list[Judged]:
    """Label agreement of (view, number of samples), classes in turn."""
    done = []
    for view, count in views:
        cond = torch.arange(count) % len(classifier.classes)
        x = walk(model, view, count, seed + SEED_STEP, cond, tick).x
        done.append(Judged(view, agreement(classifier, x, cond), x))
    return done


def langevin_words(judged: Sequence[Judged]) -> str:
    """Why Langevin's samples are recognised less often than those of the other walks, where they
    clearly are; measured by how much neighbouring pixels differ. Else nothing."""
    plain = [each for each in judged if each.view.guidance == 1.0]
    own = next((each for each in plain if each.view.key == "langevin"), None)
    heun = next((each for each in plain if each.view.key == "heun"), None)
    if own is None or heun is None:
        return ""
    away = heun.share.value - own.share.value
    if away <= 2.0 * (heun.share.stderr**2 + own.share.stderr**2) ** 0.5:
        return ""
    rough, smooth = _roughness(own.x), _roughness(heun.x)
    words = f"Langevin dynamics scores lower than Heun ({own.share} against {heun.share})"
    if rough > smooth:
        return (
            f"{words}: one move per noise level is too few for the noise to settle, and its "
            f"pictures stay noisier (neighbouring pixels differ by {rough:.2f} on average, "
            f"Heun's by {smooth:.2f}); more steps help."
        )
    return (
        f"{words}, though its pictures are not noisier: one move per noise level is too few to "
        "follow the likely pictures from level to level; more steps help."
    )


def _roughness(x: Tensor) -> float:
    """Mean absolute difference of pixels beside each other, black to white being 2."""
    return float(x.diff(dim=-1).abs().mean())


def judged_counts(model: Model, views: Sequence[View], plan: Plan) -> list[tuple[View, int]]:
    """How many samples of each view: many where a sample is cheap."""
    return [
        (view, plan.judged if view.evaluations(model) <= 40 else plan.judged_slow) for view in views
    ]


def best(judged: Sequence[Judged]) -> Judged:
    """The view with the highest agreement; of equals the one with more samples."""
    return max(judged, key=lambda each: (each.share.value, -each.share.stderr))


def look_for_copies(
    samples: Tensor, train: PictureSource, held_out: PictureSource, shown: int, k: int = 3
) -> Nearest:
    """The k nearest training pictures of the first ``shown`` samples, and the comparison of all
    samples with unseen real pictures (left out where fewer than two of those exist)."""
    training, _ = _everything(train)
    k = min(k, len(training))
    few = samples[:shown]
    found = nearest(few, training, k)
    unseen, _ = _everything(held_out)
    compared = memorisation(samples, unseen, training) if len(unseen) > 1 else None
    return Nearest(few, training[found.index], found.distance, compared)


def class_share(source: PictureSource) -> float:
    """Agreement of a guess that always names the largest class."""
    counts = class_counts(source).values()
    return max(counts) / max(sum(counts), 1) if counts else 0.0


def _everything(source: PictureSource) -> tuple[Tensor, Tensor]:
    """All pictures of a source (at most 20 000, spread evenly) and their labels."""
    count = min(len(source), 20_000)
    return source.batch(torch.linspace(0, len(source) - 1, count).round().long())
