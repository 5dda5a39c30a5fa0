"""A comparison as one picture: bits/dim by every route, Fréchet distance, seconds per sample."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot"]

_LOOKS = {  # colour and marker of a route, by its key (Okabe–Ito colours)
    "elbo": ("#0072B2", "o", "ELBO"),
    "iwae": ("#56B4E9", "D", "importance-weighted bound"),
    "decoder": ("#0072B2", "s", "ELBO, 256-way decoder"),
    "chain": ("#CC79A7", "v", "own chain and decoder"),
    "discrete": ("#E69F00", "<", "discrete-time ELBO (dequantised)"),
    "discrete_2": ("#E69F00", ">", "discrete-time ELBO, 2T (dequantised)"),
    "continuous": ("#D55E00", "^", "continuous-time ELBO (dequantised)"),
    "ode": ("#009E73", "P", "probability-flow ODE (dequantised)"),
}


def plot(report: Mapping[str, Any]) -> bytes:
    """The PNG; matplotlib (extra `plots`) is imported here."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MarginalsError(
            "plots need matplotlib; install it with: pip install 'marginals[plots]'"
        ) from error
    rows = report["models"]
    figure = Figure(figsize=(11, 2.4 + 0.62 * len(rows)), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    bits, frechet, seconds = figure.subplots(1, 3, sharey=True, width_ratios=[2.2, 1, 1])
    for axes in (bits, frechet, seconds):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="x", color="#e4e4e4", lw=0.8)
        axes.set_axisbelow(True)
    _bits(bits, rows)
    _frechet(frechet, rows)
    _seconds(seconds, rows, report["clock"])
    names = [f"{row['model']}\n{row['parameters'] / 1e6:.2f} M" for row in rows]
    bits.set_yticks(range(len(rows)), names)
    bits.set_ylim(len(rows) - 0.5, -0.5)
    handles, labels = bits.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(
        f"{report['data']}, {report['minutes']:g} minutes of {report['clock']} time per model",
        fontsize=12,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _bits(axes: "Axes", rows: list[Mapping[str, Any]]) -> None:
    seen: set[str] = set()
    for place, row in enumerate(rows):
        routes = row["routes"]
        for i, route in enumerate(routes):
            colour, marker, label = _LOOKS[route["key"]]
            height = place + 0.62 * ((i + 0.5) / len(routes) - 0.5)
            axes.errorbar(
                route["bits_per_dim"], height, xerr=route["stderr"] or 0.0, color=colour,
                marker=marker, ms=6, lw=1.2, capsize=3, ls="none",
                label=None if route["key"] in seen else label,
            )  # fmt: skip
            seen.add(route["key"])
    axes.set_xlabel("bits per pixel value of held-out pictures\n(less is better; ± 1 std error)")


def _frechet(axes: "Axes", rows: list[Mapping[str, Any]]) -> None:
    known = [(i, row["frechet"]) for i, row in enumerate(rows) if "distance" in row["frechet"]]
    for place, frechet in known:
        axes.barh(place, frechet["distance"], 0.5, color="#0072B2", alpha=0.85)
        axes.text(
            frechet["distance"], place, f" {frechet['distance']:.0f}", va="center", fontsize=9
        )
    if known:
        floor = known[0][1]["floor"]
        axes.axvline(floor, color="#222222", lw=1.2, ls="--")
        axes.text(floor, -0.48, " other real pictures", fontsize=8, va="top")
        axes.set_xlim(0, 1.2 * max(frechet["distance"] for _, frechet in known))
    axes.set_xlabel("Fréchet distance of samples\n(less is better)")


def _seconds(axes: "Axes", rows: list[Mapping[str, Any]], clock: str) -> None:
    for place, row in enumerate(rows):
        time = 1000 * row["seconds_per_sample"]
        axes.plot(time, place, "o", color="#D55E00", ms=8)
        n = row["evaluations"]
        text = f"{time:.2g} ms\n{n} evaluation{'s' if n > 1 else ''}"
        axes.annotate(
            text, (time, place), (0, 9), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_xscale("log")
    axes.margins(x=0.35)
    axes.set_xlabel(f"{clock} time per sample, ms\n(less is better)")
