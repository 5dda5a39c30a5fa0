"""The record of a contest as a table, JSON and a plot."""

import io
import platform
from dataclasses import dataclass

import torch

from .contest import Place, against, best
from .peers import all_peers, versions
from .problems import Problem

SIDES = {
    "peer": ("best peer", "#D55E00", "s"),
    "ours": ("best of ours, unfitted", "#0072B2", "o"),
    "default": ("our default", "#56B4E9", "^"),
    "fitted": ("fitted", "#009E73", "D"),
}
"""Words, colour and marker (Okabe–Ito colours)."""


WHAT = """\
All start from the same noise, σ = 80 in VE units, and ask the same denoiser; the evaluations are
counted, and a method that needs two a step gets the most steps that fit. The error is the distance
from the end of the probability-flow ODE at σ = 0, known from a Runge–Kutta solution with thousands
of steps in float64: RMSE = √(mean over all entries of (x − truth)²), ± one standard error
(bootstrap over samples). In brackets: RMSE over that of the best peer on the same samples. The best
of a side is the best of all its methods on all grids, chosen on the samples it is shown with, for
peers and for us alike."""

SPREAD = """\
The same ranked by the mean of the samples' errors, in which the few that end elsewhere count less:
mean (over that of the best peer by mean) / median / 90th percentile."""


@dataclass(frozen=True)
class Result:
    """One problem: the finalists of every budget, best first; ``entrants``: how many took part."""

    problem: Problem
    places: dict[int, list[Place]]
    entrants: dict[int, int]

    def sides(self) -> list[str]:
        return [s for s in SIDES if any(best(list(p), s) for p in self.places.values())]


def record(results: list[Result], command: str) -> dict:
    """Everything the tables and the plot are made of, and the ranking behind them."""
    problems = {}
    for result in results:
        budgets = {}
        for budget, places in result.places.items():
            peer = best(places, "peer")
            budgets[str(budget)] = {
                "entrants": result.entrants[budget],
                "finalists": [
                    {
                        "side": place.entrant.side,
                        "name": place.entrant.name,
                        "grid": place.entrant.grid,
                        **place.error.record(),
                        "of_best_peer": against(place, peer),
                    }
                    for place in places
                ],
            }
        problems[result.problem.name] = {
            "about": result.problem.about,
            "samples": len(result.problem.start),
            "truth_steps": result.problem.steps,
            "truth_accuracy": result.problem.accuracy,
            "budgets": budgets,
        }
    return {
        "command": command,
        "peers": versions(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "problems": problems,
    }


def _cell(place: Place | None, peer: Place | None, named: bool) -> str:
    if place is None:
        return "–"
    error = place.error
    text = f"{error.rmse:.3g} ± {error.rmse_se:.1g}"
    compared = against(place, peer)
    if place is not peer and compared is not None:
        text += f" (× {compared[0]:.2f} ± {compared[1]:.2f})"
    return text + (f"<br>{place.entrant}" if named else "")


def _spread(places: list[Place], side: str) -> str:
    """The finalist of a side with the least mean, its mean over that of the best peer by mean."""
    place, peer = best(places, side, "mean"), best(places, "peer", "mean")
    if place is None:
        return "–"
    error = place.error
    mean = f"{error.mean:.3g}"
    if peer is not None and place is not peer:
        mean += f" (× {error.mean / peer.error.mean:.2f})"
    text = f"{mean} / {error.median:.3g} / {error.p90:.3g}"
    return text + ("" if side in ("default", "fitted") else f"<br>{place.entrant}")


def tables(result: Result) -> list[str]:
    """RMSE of the best of each side by RMSE, then the spread over samples of the best by mean."""
    sides = result.sides()
    lines = [
        "| evaluations | " + " | ".join(SIDES[side][0] for side in sides) + " |",
        "|---" * (1 + len(sides)) + "|",
    ]
    for budget, places in result.places.items():
        peer = best(places, "peer")
        cells = [_cell(best(places, s), peer, s != "default") for s in sides]
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    lines += ["", SPREAD.replace("\n", " "), "", lines[0], lines[1]]
    for budget, places in result.places.items():
        lines.append(f"| {budget} | " + " | ".join(_spread(places, s) for s in sides) + " |")
    return lines


def markdown(results: list[Result], command: str) -> str:
    """The page: what was measured, then one section per problem."""
    peers = ", ".join(f"{name} {version}" for name, version in versions().items()) or "none"
    lines = [
        "# Solvers measured against the field",
        "",
        f"Written by `{command}` (torch {torch.__version__}; peers: {peers}).",
        "",
        "![error against evaluations](solvers.png)",
        "",
        WHAT.replace("\n", " "),
        "",
    ]
    for result in results:
        problem = result.problem
        lines += [
            f"## {problem.name}",
            "",
            f"{problem.about}. {len(problem.start)} held-out samples; truth from {problem.steps}"
            f" Runge–Kutta steps, and half as many move no entry by more than"
            f" {problem.accuracy:.0e}."
            f" {min(result.entrants.values())} to {max(result.entrants.values())} entrants a"
            f" budget ({len(all_peers()[0])} peer samplers on every grid they can take).",
            "",
            *tables(result),
            "",
        ]
    return "\n".join(lines)


def plot(results: list[Result]) -> bytes:
    """Error against evaluations, one panel a problem; needs matplotlib (extra `plots`)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide = min(3, len(results))
    high = -(-len(results) // wide)
    figure = Figure(figsize=(4.6 * wide + 0.4, 3.7 * high + 0.6), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(high, wide, squeeze=False).flatten()
    for axes, result in zip(panels, results):
        for side in result.sides():
            words, colour, marker = SIDES[side]
            found = {n: best(p, side) for n, p in result.places.items()}
            shown = [(n, p.error) for n, p in found.items() if p is not None]
            axes.errorbar(
                [n for n, _ in shown],
                [e.rmse for _, e in shown],
                yerr=[e.rmse_se for _, e in shown],
                color=colour, marker=marker, ms=5, lw=1.5, capsize=2, label=words,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks = list(result.places)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.set_title(result.problem.name)
        axes.set_xlabel("evaluations of the denoiser")
        axes.set_ylabel("RMSE to the end of the flow")
        axes.grid(True, color="#e4e4e4", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(results) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
