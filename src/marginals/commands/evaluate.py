"""`marginals eval`: how good is a model, in numbers that can be compared."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from tyro.conf import FlagCreatePairsOff, arg

from marginals.commands.common import (
    Command,
    Run,
    check_guidance,
    draw,
    find_model,
    load,
    safe_name,
    to_json,
)
from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from torch import Tensor

    from marginals.data.pictures import PictureSource
    from marginals.demo.likelihoods import Route
    from marginals.metrics.classifier import Classifier
    from marginals.models import Model

_BATCH = 64  # pictures at once in the likelihoods, where gradients need memory
_COMPARED = 20_000  # real pictures that samples are compared with, at most


class Evaluate(Command):
    """Likelihood of held-out pictures by three routes, and the quality of samples.

    Bits/dim say how many bits the model needs per pixel value of a picture it has never seen; less
    is better, and 8 is no model at all. The three routes must agree within their errors, the bounds
    lying above the exact value. The Fréchet distance compares samples with real pictures through a
    feature network; the floor beside it is what other real pictures get.

    Examples:
      marginals eval runs/fashion
      marginals eval runs/fashion --pictures 256 --samples 2000
      marginals eval runs/fashion --samples 0 --json
    """

    model: Run
    data: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Pictures to compare with; by default those the model was trained on."""
    pictures: Annotated[int, Field(ge=1)] = 64
    """Held-out pictures whose likelihood is measured."""
    levels: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Noise levels per picture in both bounds (T)."""
    ode_steps: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Runge-Kutta steps of the exact route, four evaluations each."""
    samples: Annotated[int, Field(ge=0)] = 500
    """Samples whose quality is measured; 0 leaves that out."""
    solver: Annotated[str, arg(metavar="NAME")] = "dpmpp_2m"
    """How the samples are drawn."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Solver steps of the samples."""
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    """Guidance of the samples; it does not enter the likelihoods."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the samples and of all noise."""
    as_json: Annotated[FlagCreatePairsOff[bool], arg(name="json")] = False
    """Print one JSON object instead of tables."""

    def run(self) -> int:
        from marginals.io.registry import solver

        solver(self.solver)  # a mistyped name should not wait for the likelihoods
        path = find_model(self.model)
        model = load(path)
        if self.samples:
            check_guidance(path, self.guidance, model.data.classes if model.data else (), None)
        train, held_out = _data(path, model, self.data)
        report: dict[str, Any] = {"model": str(path), "data": train.name, "seed": self.seed}
        report["likelihood"] = self._likelihood(model, held_out)
        if self.samples:
            report["samples"] = self._samples(model, path, train, held_out)
        print(to_json(report) if self.as_json else _text(report))
        return 0

    def _likelihood(self, model: "Model", held_out: "PictureSource") -> dict[str, Any]:
        """Bits/dim of the same held-out pictures by each route."""
        from tqdm import tqdm

        from marginals.demo.likelihoods import cost, measure

        x, labels = (t.to(model.device) for t in _some(held_out, self.pictures))
        cond = labels if model.data and model.data.classes else None
        parts = []
        total = sum(cost(len(part), self.levels, self.ode_steps) for part in x.split(_BATCH))
        with tqdm(desc="likelihood", total=total, unit=" evaluations") as bar:
            for i, part in enumerate(x.split(_BATCH)):
                classes = None if cond is None else cond[i * _BATCH : (i + 1) * _BATCH]
                options = {"levels": self.levels, "ode_steps": self.ode_steps, "tick": bar.update}
                parts.append(measure(model, part, classes, seed=self.seed + i, **options).routes)
        routes = [_row([part[key] for part in parts]) for key in parts[0]]
        return {"pictures": len(x), "conditional": cond is not None, "routes": routes}

    def _samples(
        self, model: "Model", path: Path, train: "PictureSource", held_out: "PictureSource"
    ) -> dict[str, Any]:
        """Distance to real pictures, labels recognised, and copies of training pictures."""
        import torch

        classes = model.data.classes if model.data else ()
        first = self.seed % max(len(classes), 1)  # sample i is the picture of seed SEED + i
        labels = (torch.arange(self.samples) + first) % len(classes) if classes else None
        x = draw(model, self.samples, self.solver, self.steps, self.seed, labels, self.guidance)
        real, unseen = _some(train, _COMPARED), _some(held_out, _COMPARED)
        about = {"count": self.samples, "solver": self.solver, "steps": self.steps}
        about |= {"guidance": self.guidance}
        judge = partial(_judge, path.with_name(_judge_name(train, held_out)), real, unseen, classes)
        return about | {
            "frechet": _frechet(x, real[0], unseen[0]),
            "labels": None if labels is None else _labels(x, labels, judge),
            "copies": _copies(x.cpu(), real[0], unseen[0]),
        }


def _data(path: Path, model: "Model", data: str | None) -> "tuple[PictureSource, PictureSource]":
    """(train, held out) pictures in the model's own shape."""
    import marginals.data
    from marginals.io.checkpoint import read_header

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


def _unchanged(train: "PictureSource", then: object) -> None:
    """Refuse other training pictures than at the time: the held-out ones may be among the old."""
    from marginals.train.setup import fingerprint

    if fingerprint(train) != then:
        raise MarginalsError(
            f"the pictures of {train.name} are no longer those the model was trained on, so "
            "held-out ones cannot be told from training ones; bring them back or give --data with "
            "other pictures"
        )


def _some(source: "PictureSource", count: int) -> "tuple[Tensor, Tensor]":
    """`count` pictures (or all), spread over the source: uint8 (n, C, H, W) and labels (n,)."""
    import torch

    n = min(count, len(source))
    return source.batch(torch.linspace(0, len(source) - 1, n).round().long())


def _row(parts: "Sequence[Route]") -> dict[str, Any]:
    """One route over all pictures: mean, its standard error, and the terms of the mean."""
    import torch

    route = parts[0]
    bits = torch.cat([part.bound.bits_per_dim() for part in parts])
    weights = [len(part.bound.nats) / len(bits) for part in parts]
    terms = {
        name: sum(w * part.terms()[name] for w, part in zip(weights, parts, strict=True))
        for name in route.terms()
    }
    return {
        "route": route.title,
        "bits_per_dim": bits.mean().item(),
        "stderr": (bits.std() / len(bits) ** 0.5).item() if len(bits) > 1 else None,
        "kind": route.bound.kind,
        "dequantised": route.bound.density,
        "evaluations": route.bound.nfe,
        "terms": terms,
    }


def _frechet(x: "Tensor", real: "Tensor", unseen: "Tensor") -> dict[str, Any]:
    """The distance and its floor, or why there is none."""
    from marginals.metrics.features import lite0
    from marginals.metrics.frechet import frechet_report

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


def _copies(x: "Tensor", real: "Tensor", unseen: "Tensor") -> dict[str, Any]:
    """How close the samples are to training pictures, or why nobody can tell."""
    from marginals.metrics.neighbours import memorisation

    try:
        copies = memorisation(x, unseen, real)
    except MarginalsError as error:
        return {"missing": str(error)}
    return {"share": copies.share, "distance_ratio": copies.ratio}


def _labels(x: "Tensor", labels: "Tensor", judge: "Callable[[], Classifier]") -> dict[str, Any]:
    """How often a classifier of real pictures sees the label that was asked for."""
    from marginals.metrics.classifier import agreement

    try:
        classifier = judge()
        share = agreement(classifier, x, labels)
    except MarginalsError as error:
        return {"missing": str(error)}
    return {
        "agreement": share.value,
        "stderr": share.stderr,
        "classifier_accuracy": classifier.accuracy.value,
    }


def _judge_name(train: "PictureSource", held_out: "PictureSource") -> str:
    """A file name that other pictures, labels, shapes or classes do not share."""
    from marginals.train.setup import fingerprint

    data = [fingerprint(train), fingerprint(held_out), list(train.shape), list(train.classes)]
    key = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:10]
    return f"classifier-{safe_name(train.name)}-{key}.safetensors"


def _judge(
    path: Path,
    real: "tuple[Tensor, Tensor]",
    unseen: "tuple[Tensor, Tensor]",
    classes: Sequence[str],
) -> "Classifier":
    """A classifier trained on the real pictures, kept at `path` for the next time."""
    from marginals.metrics.classifier import Classifier, train_classifier

    if path.is_file():
        return Classifier.load(path)
    classifier = train_classifier(*real, *unseen, classes, images=min(60_000, 8 * len(real[0])))
    classifier.save(path)
    return classifier


def _text(report: dict[str, Any]) -> str:
    """The report as tables for people."""
    likelihood = report["likelihood"]
    given = ", each given its class" if likelihood["conditional"] else ""
    lines = [
        f"{report['model']} on {report['data']}",
        "",
        f"likelihood of {likelihood['pictures']} held-out pictures{given}; less is better",
        f"  {'route':<40}{'bits/dim':>9}  {'error':>7}  {'evaluations':>11}  kind",
    ]
    for row in likelihood["routes"]:
        error = "" if row["stderr"] is None else f"±{row['stderr']:.3f}"
        kind = f"{row['kind']}, {'dequantised' if row['dequantised'] else 'whole numbers'}"
        lines.append(
            f"  {row['route']:<40}{row['bits_per_dim']:>9.3f}  {error:>7}  "
            f"{row['evaluations']:>11}  {kind}"
        )
    if "samples" in report:
        lines += ["", *_sample_lines(report["samples"])]
    return "\n".join(lines)


def _sample_lines(samples: dict[str, Any]) -> list[str]:
    how = f"{samples['solver']}, {samples['steps']} steps"
    guided = f", guidance {samples['guidance']:g}" if samples["guidance"] != 1 else ""
    lines = [f"{samples['count']} samples by {how}{guided}"]
    frechet, labels, copies = samples["frechet"], samples["labels"], samples["copies"]
    if "missing" in frechet:
        lines.append(f"  Fréchet distance   not measured: {frechet['missing']}")
    else:
        lines.append(
            f"  Fréchet distance   {frechet['distance']:.2f} with {frechet['features']} features, "
            f"{frechet['pictures']} pictures a side (other real pictures: {frechet['floor']:.2f})"
        )
    if labels is not None and "missing" in labels:
        lines.append(f"  label agreement    not measured: {labels['missing']}")
    elif labels is not None:
        lines.append(
            f"  label agreement    {labels['agreement']:.1%} ±{labels['stderr']:.1%} "
            f"(the classifier is right on {labels['classifier_accuracy']:.1%} of real pictures)"
        )
    if "missing" in copies:
        return [*lines, f"  close to training  not measured: {copies['missing']}"]
    lines.append(
        f"  close to training  {copies['share']:.1%} of the samples are nearer to a training "
        f"picture than 95 % of unseen real ones are (5 % is normal)"
    )
    return lines
