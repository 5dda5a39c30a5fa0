"""The few plots the reports need. Each function returns the bytes of a PNG.

matplotlib (the extra `plots`) is imported when the first plot is drawn and only through its Agg
canvas: no window, no pyplot, no state shared with a notebook's own plots. Colours are from the
Okabe–Ito palette, which colour-blind readers can tell apart. Labels are written for people who have
never met λ: every axis of noise levels says at which end there is mostly noise.
"""

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "LikelihoodBar",
    "convergence",
    "data_uri",
    "elbo_terms",
    "likelihood_bars",
    "loss_by_level",
    "loss_curve",
]

BLUE, ORANGE, GREEN, RED, GRAY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
_KINDS = {"bound": BLUE, "exact": GREEN, "dequantised": ORANGE}
_LEVEL_AXIS = "noise level λ = log(signal² / noise²)\n← mostly noise          almost clean →"


class LikelihoodBar(NamedTuple):
    """One route to the likelihood: bits per dimension, its standard error, and what it is."""

    name: str
    bits: float
    stderr: float = 0.0
    kind: str = "bound"


def data_uri(png: bytes) -> str:
    """The text that puts a PNG inside an HTML page: <img src="data:image/png;base64,...">."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def loss_curve(images_seen: ArrayLike, loss: ArrayLike) -> bytes:
    """Training loss against the number of pictures seen, with its running mean over 1/30 of it."""
    x, y = _finite(images_seen, loss)
    figure, axes = _axes("training pictures seen", "loss")
    many = len(x) >= 30
    axes.plot(x, y, color=BLUE, alpha=0.3 if many else 1, lw=1, label="each measurement")
    if many:
        mean = _running_mean(y, len(y) // 30 + 1)
        axes.plot(x, mean, color=BLUE, lw=2, label="running mean")
        axes.legend(frameon=False)
        low, high = float(y.min()), float(mean.max())
        edge = 0.08 * (high - low) + 1e-12
        axes.set_ylim(low - edge, high + edge)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return _png(figure)


def loss_by_level(lam: ArrayLike, loss: ArrayLike, *, bins: int = 24) -> bytes:
    """How hard each noise level is: mean loss of `bins` groups of equal size, ± 2 standard errors.

    lam, loss  (N,) the level and the loss of single training pictures
    """
    x, y = _finite(lam, loss)
    order = np.argsort(x, kind="stable")
    groups = np.array_split(order, min(bins, max(1, len(x) // 2)))
    centre = np.array([x[g].mean() for g in groups])
    mean = np.array([y[g].mean() for g in groups])
    error = np.array([y[g].std(ddof=1) / len(g) ** 0.5 if len(g) > 1 else 0 for g in groups])
    figure, axes = _axes(_LEVEL_AXIS, "mean loss")
    axes.fill_between(centre, mean - 2 * error, mean + 2 * error, color=BLUE, alpha=0.2, lw=0)
    axes.plot(centre, mean, color=BLUE, lw=2, marker="o", ms=4)
    axes.set_ylim(bottom=min(0.0, float((mean - 2 * error).min())))
    return _png(figure)


def elbo_terms(lam: ArrayLike, nats: ArrayLike) -> bytes:
    """What each denoising step adds to the description length of a picture.

    lam   (T,) the cleaner level of each step
    nats  (T,) the cost of the step in nats per picture; the bars add up to the denoising cost
    """
    x, y = _finite(lam, nats)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    middle = (x[1:] + x[:-1]) / 2
    edges = np.concatenate([x[:1], middle, x[-1:]]) if len(x) > 1 else np.array([-0.5, 0.5]) + x
    if len(x) > 1:
        edges[0] -= middle[0] - x[0]
        edges[-1] += x[-1] - middle[-1]
    figure, axes = _axes(_LEVEL_AXIS, "cost of this step\n(nats per picture)")
    line = 0.5 if len(x) <= 120 else 0
    axes.bar(edges[:-1], y, np.diff(edges), align="edge", color=BLUE, edgecolor="white", lw=line)
    total = f"{len(x)} steps, together {y.sum():,.1f} nats"
    axes.set_title(total, loc="right", fontsize=10, color=GRAY)
    return _png(figure)


def convergence(name: str, steps: ArrayLike, errors: ArrayLike, order: int) -> bytes:
    """Error against the number of steps of a solver, both logarithmic, with the slope it should
    have: a line falling like steps^(−order)."""
    x, y = _finite(steps, errors)
    figure, axes = _axes("steps", "error", 4.0)
    axes.loglog(
        x, y[-1] * (x[-1] / x) ** order, color=GRAY, lw=1.5, ls="--", label=f"order {order}"
    )
    axes.loglog(x, y, color=BLUE, lw=2, marker="o", ms=6, label=name)
    axes.set_xticks(x, [f"{value:.0f}" for value in x])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return _png(figure)


def likelihood_bars(rows: Sequence[tuple[Any, ...]]) -> bytes:
    """Bits per dimension by each route, with error bars of one standard error; less is better.

    rows  LikelihoodBar or plain (name, bits, stderr, kind); kind is "bound" (the truth is at or
          below it), "exact" or "dequantised"
    """
    bars = [bar for bar in (LikelihoodBar(*row) for row in rows) if _is_finite(bar)]
    if not bars:
        raise MarginalsError("there is nothing to plot: no route gave a finite likelihood")
    figure, axes = _axes("bits per pixel value (less is better)", "", 0.55 * len(bars) + 1.3)
    shown = []
    for place, bar in enumerate(bars):
        colour = _KINDS.get(bar.kind, GRAY)
        label = None if bar.kind in shown else bar.kind
        shown.append(bar.kind)
        axes.barh(place, bar.bits, 0.62, color=colour, alpha=0.85, label=label)
        axes.errorbar(bar.bits, place, xerr=bar.stderr, color="#222222", capsize=4, lw=1.4)
        text = f"  {bar.bits:.3f} ± {bar.stderr:.3f}"
        axes.text(bar.bits + bar.stderr, place, text, va="center", fontsize=10)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.invert_yaxis()
    far = max(bar.bits + bar.stderr for bar in bars)
    axes.set_xlim(min(0.0, *(bar.bits for bar in bars)), far * 1.28)
    axes.grid(False, axis="y")
    if len(set(shown)) > 1:
        axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
    return _png(figure)


def _axes(xlabel: str, ylabel: str, height: float = 3.4) -> tuple["Figure", "Axes"]:
    """A new figure of the house style: 7.2 inches wide, no frame on the right and above."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MarginalsError(
            "plots need matplotlib; install it with: pip install 'marginals[plots]'"
        ) from error
    figure = Figure(figsize=(7.2, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e4e4e4", lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    axes.tick_params(labelsize=10)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _finite(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64 vectors, without the pairs in which something is NaN or infinite."""
    a, b = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    if len(a) != len(b):
        raise MarginalsError(f"a plot needs as many x as y values, not {len(a)} and {len(b)}")
    keep = np.isfinite(a) & np.isfinite(b)
    if not keep.any():
        raise MarginalsError("there is nothing to plot: no pair of finite numbers")
    return a[keep], b[keep]


def _is_finite(bar: LikelihoodBar) -> bool:
    return math.isfinite(bar.bits) and math.isfinite(bar.stderr)


def _running_mean(y: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred mean over `window` values, over fewer at both ends."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    place = np.arange(len(y))
    low = np.maximum(place - window // 2, 0)
    high = np.minimum(place + window // 2 + 1, len(y))
    return (total[high] - total[low]) / (high - low)
