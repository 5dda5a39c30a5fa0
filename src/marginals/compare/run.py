"""`compare`: several models at one budget, measured on the same held-out pictures.

folder/comparison.json   the budget; another one is refused here
folder/MODEL/            an ordinary run, with measured.json: every number of that model
folder/results.json      the table, with every picture's bits
folder/results.png, .md  the same for people
"""

import sys
from pathlib import Path
from typing import Any

import torch

import marginals.data
from marginals.compare.measuring import measure_one
from marginals.compare.plot import plot
from marginals.compare.settings import Comparison
from marginals.compare.table import markdown
from marginals.compare.training import claim_folder, clock, train_one
from marginals.compare.words import best_route, gap, order, spent, weakness
from marginals.io.atomic import write_bytes, write_json, write_text
from marginals.train.progress import Listener

__all__ = ["compare", "write_report"]


def compare(settings: Comparison, on_event: Listener | None = None) -> dict[str, Any]:
    """Train what is not trained, measure what is not measured, and write the results.

    Ctrl-C stops and saves; the same call goes on. Raises MarginalsError for a folder whose models
    had another budget.
    """
    train, held_out = marginals.data.load(settings.data)
    claim_folder(settings)
    runs = {}
    for model in settings.models:
        print(
            f"{model}: training for {settings.minutes:g} minutes of {_time()}",
            file=sys.stderr,
        )
        runs[model] = train_one(model, settings, train, on_event)
    rows = []
    for model, run in runs.items():
        print(f"{model}: measuring", file=sys.stderr)
        rows.append(measure_one(model, run, settings, train, held_out))
    report = _report(settings, rows)
    write_report(report, settings.folder / "results")
    return report


def _time() -> str:
    """What the minutes of the budget are."""
    if clock() == "wall":
        return "time on the clock"
    return "processor time, summed over threads, which is not the time on the clock"


def _report(settings: Comparison, rows: list[dict[str, Any]]) -> dict[str, Any]:
    best = min(rows, key=lambda row: best_route(row)["bits_per_dim"])
    for row in rows:
        row["gap"] = (0.0, 0.0) if row is best else gap(row, best)
        row["bad_at"] = weakness(row, rows)
    return {
        "data": settings.data,
        "minutes": settings.minutes,
        "clock": clock(),
        "threads": torch.get_num_threads(),
        "pictures": len(best_route(rows[0])["bits"]),
        "conditional": rows[0]["conditional"],
        "means": [
            *dict.fromkeys(line for row in rows for line in row["means"]),
            *spent(rows, settings.minutes),
        ],
        "order": order(rows),
        "models": rows,
    }


def write_report(report: dict[str, Any], stem: Path) -> None:
    """STEM.json, STEM.png and STEM.md."""
    write_json(stem.with_suffix(".json"), report)
    write_bytes(stem.with_suffix(".png"), plot(report))
    write_text(
        stem.with_suffix(".md"),
        f"![bits/dim, Fréchet distance, time]({stem.name}.png)\n\n{markdown(report)}",
    )
