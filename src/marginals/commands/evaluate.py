"""`marginals eval`: how good is a model, in numbers that can be compared."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field
from tyro.conf import FlagCreatePairsOff, arg

from marginals.commands.common import (
    Command,
    Run,
    check_guidance,
    check_walk_names,
    draw,
    find_model,
    load,
    to_json,
    walk_settings,
)

if TYPE_CHECKING:
    from marginals.classifier import NoisyClassifier
    from marginals.data.pictures import PictureSource
    from marginals.generative import Generative
    from marginals.ladder import Ladder

_PICTURES = 64  # whose likelihood is measured by default
_ON_MAP = 2000  # held-out pictures in the map of a latent plane


class Evaluate(Command):
    """Likelihood of held-out pictures by every route there is, and the quality of samples.

    Bits/dim say how many bits the model needs per pixel value of a picture it has never seen; less
    is better, and 8 is no model at all. The routes of a diffusion model must agree within their
    errors, the bounds lying above the exact value; a VAE has two bounds, the tighter one lower. The
    Fréchet distance compares samples with real pictures through a feature network; the floor beside
    it is what other real pictures get.

    Examples:
      marginals eval runs/fashion
      marginals eval runs/fashion --pictures 256 --samples 2000
      marginals eval runs/fashion --samples 0 --json
      marginals eval runs/judge                  a classifier: right answers by noise level
    """

    model: Run
    data: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Pictures to compare with; by default those the model was trained on."""
    pictures: Annotated[int | None, arg(metavar="INT"), Field(ge=1)] = None
    """Held-out pictures whose likelihood is measured, by default 64; a classifier of noisy
    pictures is measured on 1000, by noise level, and has no other numbers."""
    levels: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Noise levels per picture in the bounds of a diffusion model (T)."""
    tolerance: Annotated[float, Field(gt=0, le=1)] = 3e-3
    """Error that each step of the exact route may make, in nats per pixel value; each picture
    takes steps as small as that needs."""
    ode_steps: Annotated[int | None, arg(metavar="INT"), Field(ge=1, le=10_000)] = None
    """So many equal Runge-Kutta steps of the exact route instead, four evaluations each."""
    probes: Annotated[int, Field(ge=1, le=1000)] = 1
    """Random directions in which the exact route measures how much the flow spreads."""
    target_stderr: Annotated[float | None, arg(metavar="BITS"), Field(gt=0)] = None
    """Go on with the continuous-time bounds, beyond --levels, until random levels and noise blur
    them by less than this in bits/dim (at most 4096 evaluations per picture)."""
    importance: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Latents per picture in the importance-weighted bound of a VAE (k)."""
    samples: Annotated[int, Field(ge=0)] = 500
    """Samples whose quality is measured; 0 leaves that out."""
    solver: Annotated[str | None, arg(metavar="NAME")] = None
    """How the samples of a diffusion model are drawn: a name from `marginals solvers`, or
    `fitted`; by default auto."""
    steps: Annotated[int | None, arg(metavar="INT"), Field(ge=1, le=10_000)] = None
    """Solver steps of the samples; by default 20."""
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    """Guidance of the samples; it does not enter the likelihoods."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the samples and of all noise."""
    as_json: Annotated[FlagCreatePairsOff[bool], arg(name="json")] = False
    """Print one JSON object instead of tables."""

    def run(self) -> int:
        from marginals.compare.held_out import pictures_of
        from marginals.io.latent_map import has_map

        check_walk_names(self.solver)  # a mistyped name should not wait for the likelihoods
        path = find_model(self.model)
        model = load(path)
        if not model.draws:
            return self._classifier(cast("NoisyClassifier", model), path)
        walk = walk_settings(model, path, self.solver, self.steps, self.guidance)
        if self.samples:
            check_guidance(path, self.guidance, model.data.classes if model.data else (), None)
        train, held_out = pictures_of(path, model, self.data)
        report: dict[str, Any] = {"model": str(path), "data": train.name, "seed": self.seed}
        report["likelihood"] = self._likelihood(model, held_out)
        if self.samples:
            report["samples"] = self._samples(model, walk, path, train, held_out)
        if has_map(model):
            report["map"] = self._map(cast("Ladder", model), path, held_out)
        print(to_json(report) if self.as_json else _text(report))
        return 0

    def _classifier(self, model: "NoisyClassifier", path: Path) -> int:
        """What a classifier of noisy pictures has to show."""
        from marginals.commands import classified
        from marginals.compare.held_out import pictures_of

        train, held_out = pictures_of(path, model, self.data)
        classes = len(model.data.classes) if model.data else 0
        report = {"model": str(path), "data": train.name, "seed": self.seed, "classes": classes}
        report["chance"] = math.log(classes)
        report["levels"] = classified.measure(model, held_out, self.pictures, self.seed)
        print(to_json(report) if self.as_json else classified.text(report))
        return 0

    def _likelihood(self, model: "Generative", held_out: "PictureSource") -> dict[str, Any]:
        """Bits/dim of the same held-out pictures by each route."""
        from marginals.compare.held_out import some
        from marginals.metrics.routes import Effort, measure, statement

        x, labels = (t.to(model.device) for t in some(held_out, self.pictures or _PICTURES))
        cond = labels if model.data and model.data.classes else None
        effort = Effort(
            self.levels,
            self.ode_steps,
            self.importance,
            tolerance=self.tolerance,
            probes=self.probes,
            target=self.target_stderr,
        )
        routes = measure(model, x, cond, effort, seed=self.seed)
        about = {"pictures": len(x), "conditional": cond is not None}
        rows = [route.as_json() for route in routes]
        return about | {"routes": rows, "means": statement(model, routes)}

    def _map(self, ladder: "Ladder", path: Path, held_out: "PictureSource") -> str:
        """The latent plane of a VAE with two numbers, drawn beside the model."""
        from marginals.compare.held_out import some
        from marginals.io.latent_map import latent_map

        where = path.with_name("latent_map.png")
        latent_map(ladder, where, *some(held_out, _ON_MAP))
        return str(where)

    def _samples(
        self,
        model: "Generative",
        walk: dict[str, Any],
        path: Path,
        train: "PictureSource",
        held_out: "PictureSource",
    ) -> dict[str, Any]:
        """Distance to real pictures, labels recognised, and copies of training pictures."""
        import torch

        from marginals.compare.quality import quality

        classes = model.data.classes if model.data else ()
        first = self.seed % max(len(classes), 1)  # sample i is the picture of seed SEED + i
        labels = (torch.arange(self.samples) + first) % len(classes) if classes else None
        x = draw(model, path, self.samples, walk, self.seed, labels)
        found = quality(x, labels, train, held_out, classes, path.parent)
        return {"count": self.samples, **walk, **found}


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
        blur = f", ±{row['noise']:.4f} of it by chance" if "noise" in row else ""
        lines.append(
            f"  {row['route']:<40}{row['bits_per_dim']:>9.3f}  {error:>7}  "
            f"{row['evaluations']:>11}  {row['kind']} of {row['of']}{blur}"
        )
    lines += [f"  {line}" for line in likelihood["means"]]
    for row in likelihood["routes"]:
        lines += _rung_lines(row.get("rungs", {}))
    if "samples" in report:
        lines += ["", *_sample_lines(report["samples"])]
    if "map" in report:
        lines += ["", f"map of the latent plane: {report['map']}"]
    return "\n".join(lines)


def _rung_lines(rungs: dict[str, float]) -> list[str]:
    """What every rung of a ladder carries, as bars."""
    from marginals.train.rungs import SILENT

    if not rungs:
        return []
    most = max(max(rungs.values()), 1e-9)
    lines = ["", "what the latents say about a picture, in nats (rung 1 is beside the picture)"]
    for rung, nats in sorted(rungs.items(), key=lambda item: -int(item[0])):
        nothing = "  carries nothing: see --free-bits, --kl-warmup" if abs(nats) < SILENT else ""
        lines.append(f"  rung {rung:<3} {nats:>9.3f}  {'█' * round(30 * nats / most)}{nothing}")
    return lines


def _sample_lines(samples: dict[str, Any]) -> list[str]:
    if "solver" in samples:
        how = f"{samples['solver']}, {samples['steps']} steps"
        how += f", guidance {samples['guidance']:g}" if samples["guidance"] != 1 else ""
    else:
        how = "one draw of the latents each, shown as the decoder's mean"
    lines = [f"{samples['count']} samples by {how}"]
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
