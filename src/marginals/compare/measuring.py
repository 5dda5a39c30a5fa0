"""What is measured of every model of a comparison, and kept beside it."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from marginals.compare.held_out import some
from marginals.compare.quality import quality
from marginals.compare.settings import Comparison
from marginals.compare.training import clock
from marginals.data.pictures import PictureSource
from marginals.generative import Generative
from marginals.io.atomic import write_json
from marginals.metrics.routes import Effort, measure, statement
from marginals.train.run import Run

__all__ = ["measure_one"]

_ROUTES = ("discrete", "continuous", "ode", "decoder", "chain", "elbo", "iwae")
"""All but the discrete-time ELBO with twice the steps, which says nothing new here."""


def measure_one(
    name: str, run: Run, settings: Comparison, train: PictureSource, held_out: PictureSource
) -> dict[str, Any]:
    """Likelihood by every route, sample quality and cost, as JSON; read back if it was done."""
    path = run.path / "measured.json"
    key = {**settings.effort(), "images_seen": run.images_seen}
    if (kept := _kept(path)) and kept["key"] == key:
        return kept
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = run.model(device)
    log = run.log()
    about = {
        "key": key,
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "images": run.images_seen,
        "seconds": log[-1]["cpu_seconds" if clock() == "processor" else "seconds"],
        **_likelihood(model, settings, held_out),
        **_samples(model, settings, train, held_out, run.path.parent),
    }
    write_json(path, about)
    return about


def _kept(path: Path) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and "key" in kept else None


def _likelihood(model: Generative, settings: Comparison, held_out: PictureSource) -> dict[str, Any]:
    x, labels = (t.to(model.device) for t in some(held_out, settings.pictures))
    cond = labels if model.data and model.data.classes else None
    routes = measure(model, x, cond, Effort(only=_ROUTES), seed=settings.seed)
    rows = [
        route.as_json() | {"key": route.key, "bits": route.bits.tolist(), "paid": route.paid}
        for route in routes
    ]
    return {
        "dims": x[0].numel(),
        "routes": rows,
        "means": statement(model, routes),
        "conditional": cond is not None,
    }


def _samples(
    model: Generative,
    settings: Comparison,
    train: PictureSource,
    held_out: PictureSource,
    folder: Path,
) -> dict[str, Any]:
    """Distance to real pictures, and what a sample costs."""
    classes = len(model.data.classes) if model.data else 0
    labels = torch.arange(settings.samples) % classes if classes else None
    cpu = clock() == "processor"
    now = time.process_time if cpu else time.monotonic
    model.sample(2, seed=settings.seed, cond=None if labels is None else labels[:2])  # warm-up
    began = now()
    result = model.sample(settings.samples, seed=settings.seed, cond=labels, batch=64)
    if not cpu:
        torch.cuda.synchronize()
    seconds = (now() - began) / settings.samples
    found = quality(result.x, None, train, held_out, (), folder)
    return {
        "samples": settings.samples,
        "solver": result.solver,
        "evaluations": result.nfe,
        "seconds_per_sample": seconds,
        "frechet": found["frechet"],
        "copies": found["copies"],
    }
