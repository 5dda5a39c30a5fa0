"""Everything one demo found out, and the two plain forms of it: a dictionary and a table."""

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marginals.data.pictures import PictureSource
from marginals.demo.agreement import Check
from marginals.demo.config import DemoConfig
from marginals.demo.judge import Judged, Nearest, best, langevin_words
from marginals.demo.likelihoods import Likelihoods
from marginals.demo.plan import Plan
from marginals.demo.story import Story
from marginals.demo.views import Shown, labels_for
from marginals.demo.words import Gap
from marginals.metrics.classifier import Classifier
from marginals.models import Model

__all__ = ["Findings", "Subject", "Trained", "as_dict", "table"]


@dataclass(frozen=True)
class Trained:
    """How the checkpoint came to be."""

    images: int
    seconds: float
    parameters: int
    log: list[dict[str, Any]]
    remark: str = ""


@dataclass(frozen=True)
class Subject:
    """What is looked at: one trained model, its pictures, and how closely."""

    config: DemoConfig
    plan: Plan
    folder: Path
    train: PictureSource
    held_out: PictureSource
    model: Model
    trained: Trained

    @property
    def run(self) -> Path:
        """The training run with the checkpoint."""
        return self.folder / "run"

    @property
    def count(self) -> int:
        """Pictures on a contact sheet."""
        return self.plan.columns * self.plan.rows

    @property
    def labels(self) -> Tensor | None:
        """The class of every picture on a contact sheet, one class per column."""
        return labels_for(self.model, self.plan.columns, self.plan.rows)


@dataclass(frozen=True)
class Findings:
    """All results of a demo, ready to be shown. Pictures are in [-1, 1] unless they are uint8."""

    subject: Subject
    real: Tensor
    """Real training pictures, uint8, of the contact sheets' classes."""
    noise: Tensor
    """The noise that every view starts from, in VP units."""
    story: Story
    shown: list[Shown]
    likelihoods: Likelihoods
    order: str
    """Do the bounds lie above the exact value, and approach it? In words."""
    gaps: list[Gap]
    checks: list[Check]
    conversions: Tensor
    """(5, 5): the worst error of each conversion, see `agreement.prediction_table`."""
    classifier: Classifier | str
    """The judge, or the sentence that says why there is none."""
    judged: list[Judged]
    copies: Nearest
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> dict[str, str]:
        """Label agreement by view, in words."""
        return {each.view.key: f"{each.share} ({each.hits})" for each in self.judged}


def as_dict(found: Findings) -> dict[str, Any]:
    """Every number of the report as JSON values; the content of results.json."""
    subject = found.subject
    return {
        "settings": subject.config.model_dump(mode="json"),
        "data": {
            "name": subject.train.name,
            "note": subject.train.note,
            "train": len(subject.train),
            "held_out": len(subject.held_out),
            "shape": list(subject.train.shape),
            "classes": list(subject.train.classes),
        },
        "training": {
            "images": subject.trained.images,
            "parameters": subject.trained.parameters,
            "seconds": round(subject.trained.seconds, 1),
            "threads": torch.get_num_threads(),
        },
        "views": [_view(each, found) for each in found.shown],
        "likelihood": _likelihood(found),
        "agreement": [
            {
                "check": check.title,
                "float64": check.float64,
                "float32": check.float32,
                "unit": check.unit,
                "agrees": check.agrees,
            }
            for check in found.checks
        ],
        "classifier": _classifier(found),
        "memorisation": _copies(found.copies),
        "seconds": {name: round(value, 1) for name, value in found.seconds.items()},
    }


def _view(each: Shown, found: Findings) -> dict[str, Any]:
    view = each.view
    share = next((j.share for j in found.judged if j.view is view), None)
    count = next((len(j.x) for j in found.judged if j.view is view), 0)
    return {
        "view": view.key,
        "solver": view.solver.name,
        "steps": view.steps,
        "levels": view.grid_name,
        "guidance": view.guidance,
        "evaluations": each.nfe,
        "label_agreement": None if share is None else share.value,
        "stderr": None if share is None else share.stderr,
        "samples": count,
    }


def _likelihood(found: Findings) -> dict[str, Any]:
    like = found.likelihoods
    return {
        "pictures": like.pictures,
        "unit": "bits per pixel value",
        "routes": [
            {
                "route": route.key,
                "bits_per_dim": route.bound.mean,
                "stderr": finite(route.bound.stderr),
                "kind": route.kind,
                "evaluations": route.bound.nfe,
                "terms": route.terms(),
            }
            for route in like.routes.values()
        ],
        "order": found.order,
        "gaps": [
            {
                "between": gap.title,
                "mean": gap.gap.mean,
                "stderr": finite(gap.gap.stderr),
                "as_theory": gap.as_theory,
                "words": gap.words,
            }
            for gap in found.gaps
        ],
        "ode_half_the_steps": like.ode_error,
    }


def _classifier(found: Findings) -> dict[str, Any] | str:
    if isinstance(found.classifier, str):
        return found.classifier
    top = best(found.judged)
    accuracy = found.classifier.accuracy
    return {
        "held_out_accuracy": accuracy.value,
        "stderr": accuracy.stderr,
        "best_view": top.view.key,
        "best_agreement": top.share.value,
        "best_stderr": top.share.stderr,
    }


def _copies(copies: Nearest) -> dict[str, float] | None:
    if copies.memorisation is None:
        return None
    return {"share": copies.memorisation.share, "ratio": copies.memorisation.ratio}


def finite(value: float) -> float | None:
    """JSON has no infinity: the standard error of a single picture is unknown."""
    return value if abs(value) < float("inf") else None


def table(found: Findings) -> str:
    """The results for a terminal."""
    lines = [*_views_table(found), "", *_likelihood_table(found), "", *_agreement_table(found)]
    return "\n".join(lines)


def _views_table(found: Findings) -> list[str]:
    head = f"{'samples, all from the same noise':<44}{'evaluations':>12}"
    lines = [f"{head}{'label agreement (samples)':>34}"]
    for each in found.shown:
        share = found.share.get(each.view.key, "-")
        lines.append(f"  {each.view.title:<42}{each.nfe:>12}{share:>34}")
    if isinstance(found.classifier, str):
        return lines + textwrap.wrap(found.classifier, 96, initial_indent="  ")
    remark = langevin_words(found.judged)
    return [
        *lines,
        f"  {'the classifier itself, on real pictures':<54}{found.classifier.accuracy!s:>34}",
        *textwrap.wrap(remark, 96, initial_indent="  ", subsequent_indent="    "),
    ]


def _likelihood_table(found: Findings) -> list[str]:
    count = found.likelihoods.pictures
    unseen = "1 unseen picture" if count == 1 else f"{count} unseen pictures"
    title = f"bits per pixel value of {unseen} (less is better)"
    lines = [f"{title:<62}{'evaluations':>14}"]
    for route in found.likelihoods.routes.values():
        stderr = finite(route.bound.stderr)
        bits = f"{route.bound.mean:.3f} ± {'?' if stderr is None else f'{stderr:.3f}'}"
        lines.append(f"  {route.title:<42}{bits:>18}{route.bound.nfe:>14}   {route.kind}")
    lines += textwrap.wrap(found.order, 96, initial_indent="  ", subsequent_indent="  ")
    for gap in found.gaps:
        mark = "" if gap.as_theory else "(!) "
        lines += textwrap.wrap(mark + gap.words, 96, initial_indent="  ", subsequent_indent="    ")
    return lines


def _agreement_table(found: Findings) -> list[str]:
    lines = [f"{'what should be equal (largest difference found)':<92}{'float64':>9}{'float32':>9}"]
    for check in found.checks:
        mark = "" if check.agrees else "  (!) more than rounding"
        lines.append(f"  {check.title:<90}{check.float64:>9.1e}{check.float32:>9.1e}{mark}")
    return lines
