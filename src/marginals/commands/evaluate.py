"""`marginals eval`: how good is a model, in numbers that can be compared."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from tyro.conf import FlagCreatePairsOff, arg

from marginals.commands.common import Command, Run, find_model, load
from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from torch import Tensor

    from marginals.data.pictures import PictureSource
    from marginals.likelihood import Bound
    from marginals.models import Model


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

        solver(self.solver)
        path = find_model(self.model)
        model = load(path)
        train, held_out = _data(path, model, self.data)
        report: dict[str, Any] = {"model": str(path), "data": train.name}
        report |= {"likelihood": self._likelihood(model, held_out)}
        if self.samples:
            report["samples"] = self._samples(model, train, held_out)
        print(json.dumps(report, indent=2) if self.as_json else _text(report))
        return 0

    def _likelihood(self, model: "Model", held_out: "PictureSource") -> dict[str, Any]:
        """Bits/dim of the same held-out pictures by each route."""
        x, labels = _some(held_out, self.pictures)
        cond = labels if model.data and model.data.classes else None
        routes = {
            "discrete ELBO": ("discrete_elbo", {"steps": self.levels}),
            "continuous ELBO": ("elbo", {"samples": self.levels}),
            "exact ODE": ("log_prob", {"steps": self.ode_steps}),
        }
        rows = []
        for name, (method, options) in routes.items():
            bound = _measured(model, method, x, cond, self.seed, name, options)
            rows.append({"route": name} | _row(bound))
        return {"pictures": len(x), "conditional": cond is not None, "routes": rows}

    def _samples(
        self, model: "Model", train: "PictureSource", held_out: "PictureSource"
    ) -> dict[str, Any]:
        ...


def _data(
    path: Path, model: "Model", data: str | None
) -> "tuple[PictureSource, PictureSource]":
    """(train, held out) pictures in the model's own shape."""
    import marginals.data
    from marginals.io.checkpoint import read_header

    spec = data or read_header(path)["extra"].get("trained_on")
    if spec is None or model.data is None:
        raise MarginalsError(f"{path} does not say what it was trained on; give --data")
    shape = tuple(model.data.shape)
    train, held_out = marginals.data.load(spec, size=shape[-1])
    if tuple(train.shape) != shape:
        raise MarginalsError(
            f"the model makes pictures of shape {shape}, but those of {spec} are "
            f"{tuple(train.shape)}; give --data with pictures of the same kind"
        )
    if model.data.classes and tuple(train.classes) != tuple(model.data.classes):
        raise MarginalsError(
            f"the classes of {spec} are not those of the model; give --data with the same classes"
        )
    return train, held_out


def _some(source: "PictureSource", count: int) -> "tuple[Tensor, Tensor]":
    """`count` pictures (or all), spread over the source: uint8 (n, C, H, W) and labels (n,)."""
    import torch

    n = min(count, len(source))
    return source.batch(torch.linspace(0, len(source) - 1, n).round().long())


def _measured(
    model: "Model",
    method: str,
    x: "Tensor",
    cond: "Tensor | None",
    seed: int,
    name: str,
    options: dict[str, Any],
    batch: int = 64,
) -> "Bound":
    """`model.method(x, cond, **options)` in batches, with a progress bar."""
    import torch
    from tqdm import tqdm

    generator = torch.Generator().manual_seed(seed)
    bounds = []
    with tqdm(desc=name, unit=" evaluations") as bar:

        def tick(done: int, total: int) -> None:
            bar.total = total * -(-len(x) // batch)
            bar.update()

        for first in range(0, len(x), batch):
            part = slice(first, first + batch)
            labels = None if cond is None else cond[part].to(model.device)
            pictures = x[part].to(model.device)
            measure = getattr(model, method)
            bounds.append(measure(pictures, labels, generator=generator, tick=tick, **options))
    return _joined(bounds)
