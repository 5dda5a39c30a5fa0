"""What a classifier of noisy pictures does on the command line: guide, and be measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from marginals.commands.common import FITTED, find_model, load
from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from marginals.classifier import NoisyClassifier
    from marginals.data.pictures import PictureSource
    from marginals.generative import Generative

PICTURES = 1000
"""Held-out pictures on which a classifier is measured by default."""


def load_classifier(run: Path, model: "Generative", solver: str | None) -> "NoisyClassifier":
    """The classifier in RUN, if it can guide the model; MarginalsError says why it cannot."""
    from marginals.classifier import NoisyClassifier, require_pair

    found = load(run)
    if not isinstance(found, NoisyClassifier):
        raise MarginalsError(
            f"{run} is no classifier of noisy pictures; train one with `marginals train --model "
            "classifier`"
        )
    require_pair(model, found)
    if solver == FITTED:
        raise MarginalsError(
            "a fitted solver is made for a model without a classifier: leave --solver or "
            "--classifier out"
        )
    return found


def refuse_to_draw(model: "Generative", run: Path) -> None:
    """Say what a classifier is for to whoever asks it for pictures."""
    if not model.draws:
        raise MarginalsError(
            f"{run} is a classifier and draws no pictures; guide a diffusion model with it: "
            f"`marginals sample MODEL --classifier {run} --label NAME --guidance 2`"
        )


def check_scale(path: Path, classes: tuple[str, ...], index: int | None) -> None:
    """Refuse what a classifier's guidance cannot be: towards no class, or of a model that has
    never seen a picture without its class (it is told none)."""
    from marginals.io.checkpoint import read_header

    if index == -1:
        raise MarginalsError(
            "a classifier guides towards a class, so it means nothing with --label none; leave one "
            "out"
        )
    if classes and read_header(path)["extra"].get("label_dropout") == 0:
        raise MarginalsError(
            "a classifier guides a model that is not told the class, and this one was trained with "
            "--label-dropout 0 and knows no other way; leave --classifier out"
        )


def mark(run: Path) -> dict[str, str]:
    """What a picture says of the classifier that guided it."""
    from marginals.io.fitted import fingerprint

    path = find_model(run)
    name = f"{path.resolve().parent.name}/{path.name}"
    return {"classifier": name, "classifier_hash": fingerprint(path)}


def measure(
    classifier: "NoisyClassifier", held_out: "PictureSource", pictures: int | None, seed: int
) -> list[dict[str, Any]]:
    """Accuracy and cross-entropy on held-out pictures, level by level, as JSON values."""
    from marginals.compare.held_out import some
    from marginals.metrics.by_level import by_level

    x, labels = (t.to(classifier.device) for t in some(held_out, pictures or PICTURES))
    known = labels >= 0
    rows = by_level(classifier, x[known], labels[known], seed=seed)
    return [row.as_json() for row in rows]


def text(report: dict[str, Any]) -> str:
    """The report of a classifier as a table for people."""
    rows, classes = report["levels"], report["classes"]
    lines = [
        f"{report['model']} on {report['data']}",
        "",
        f"{rows[0]['pictures']} held-out pictures at every noise level, log SNR λ; chance is right "
        f"on {1 / classes:.1%}, with a cross-entropy of {report['chance']:.3f} nats",
        f"  {'λ':>4}  {'right':>7}  {'error':>6}  {'cross-entropy':>13}  error",
    ]
    lines += [
        f"  {row['lam']:>4g}  {row['accuracy']:>7.1%}  {'±' + format(row['stderr'], '.1%'):>6}  "
        f"{row['cross_entropy']:>13.3f}  ±{row['cross_entropy_stderr']:.3f}"
        for row in rows
    ]
    return "\n".join(lines)
