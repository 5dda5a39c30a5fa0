"""A comparison in words: one table, what its numbers mean, and what each model is bad at."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from marginals.compare.words import best_route

__all__ = ["markdown", "text"]

Report = Mapping[str, Any]

PUBLISHED = (
    "Not comparable with published numbers of other data: bits/dim depend on the pictures, so the "
    "2.65 of VDM, the ≤ 3.75 of DDPM and the 2.99 of Score SDE, on CIFAR-10, say nothing here.",
    "Comparable, in kind: a whole-number bound here is the same quantity as the bounds of those "
    "papers (−log2 P of the stored 8-bit values, per value, averaged over held-out pictures); a "
    "dequantised number is the quantity of flow papers with uniform dequantisation.",
    "Published networks have 10 to 1000 times the parameters and 1000 times the training or more.",
)
"""What may and what may not be set beside these numbers."""


def text(report: Report) -> str:
    """The comparison for a terminal."""
    lines = [headline(report), ""]
    lines.append(f"{'model':<10}{'route':<40}{'bits/dim':>9}  {'error':>7}  of")
    for row in report["models"]:
        best = best_route(row)
        for i, route in enumerate(row["routes"]):
            name = row["model"] if i == 0 else ""
            mark = "*" if route is best else " "
            bits = f"{route['bits_per_dim']:.3f}"
            lines.append(
                f"{name:<10}{route['route']:<40}{bits:>9}{mark} {_error(route):>7}  {_of(route)}"
            )
    lines += ["", "* the one to compare: the lowest limit for the whole-number pixels", ""]
    lines.append(
        f"{'model':<10}{'bits/dim*':>16}{'to the best':>17}{'Fréchet':>9}{'floor':>7}"
        f"{'evaluations':>13}{'ms a sample':>13}{'parameters':>12}{'images':>10}{'trained':>10}"
    )
    lines += [_summary(row) for row in report["models"]]
    lines += ["", "what each is bad at"]
    for row in report["models"]:
        lines += textwrap.wrap(
            f"{row['bad_at']}.",
            96,
            initial_indent=f"  {row['model']:<9}",
            subsequent_indent=" " * 11,
        )
    lines += ["", *_wrapped(report["order"])] if report["order"] else []
    lines += ["", *_wrapped(report["means"]), *_wrapped(PUBLISHED)]
    return "\n".join(lines)


def headline(report: Report) -> str:
    given = ", each given its class" if report["conditional"] else ""
    return (
        f"{report['data']}: {report['minutes']:g} minutes of {report['clock']} time per model; "
        f"{report['pictures']} held-out pictures{given}; less is better everywhere"
    )


def _summary(row: Report) -> str:
    best = best_route(row)
    bits = f"{best['bits_per_dim']:.3f} ±{best['stderr'] or 0:.3f}"
    mean, error = row["gap"]
    to_best = "best" if mean == 0 else f"+{mean:.3f} ±{error:.3f}"
    fd = row["frechet"]
    distance, floor = (
        (f"{fd['distance']:.0f}", f"{fd['floor']:.0f}") if "distance" in fd else ("-", "-")
    )
    return (
        f"{row['model']:<10}{bits:>16}{to_best:>17}{distance:>9}{floor:>7}{row['evaluations']:>13}"
        f"{1000 * row['seconds_per_sample']:>13.2f}{row['parameters'] / 1e6:>10.2f} M"
        f"{row['images']:>10,}{row['seconds']:>8.0f} s"
    )


def markdown(report: Report) -> str:
    """The comparison as a page."""
    lines = [
        f"{headline(report)}.",
        "",
        "| model | route | bits/dim | of | kind |",
        "|---|---|---|---|---|",
    ]
    for row in report["models"]:
        best = best_route(row)
        for route in row["routes"]:
            bits = f"{route['bits_per_dim']:.3f} {_error(route)}"
            bits = f"**{bits}**" if route is best else bits
            cells = (row["model"], route["route"], bits, route["of"], route["kind"])
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "", "Bold: the lowest limit for the whole-number pixels. Errors are one standard error over"
        " pictures; `to the best` is the difference picture by picture, and its error.", "",
        "| model | bits/dim | to the best | Fréchet distance (floor) | evaluations | ms a sample | "
        "parameters | images | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in report["models"]:
        best, fd, (mean, error) = best_route(row), row["frechet"], row["gap"]
        distance = (
            f"{fd['distance']:.0f} ({fd['floor']:.0f})" if "distance" in fd else "not measured"
        )
        to_best = "best" if mean == 0 else f"+{mean:.3f} ± {error:.3f}"
        lines.append(
            f"| {row['model']} | {best['bits_per_dim']:.3f} {_error(best)} | {to_best} | "
            f"{distance} | {row['evaluations']} | {1000 * row['seconds_per_sample']:.2f} | "
            f"{row['parameters'] / 1e6:.2f} M | {row['images']:,} | {row['seconds']:.0f} |"
        )
    lines += ["", "What each is bad at, computed from these numbers:", ""]
    lines += [f"- **{row['model']}**: {row['bad_at']}." for row in report["models"]]
    if report["order"]:
        lines += ["", "From VAE to VDM:", "", *(f"- {line}." for line in report["order"])]
    lines += ["", "What the numbers are:", "", *(f"- {line}." for line in report["means"])]
    lines += ["", *(f"- {line}" for line in PUBLISHED)]
    return "\n".join(lines) + "\n"


def _error(route: Report) -> str:
    return "" if route["stderr"] is None else f"±{route['stderr']:.3f}"


def _of(route: Report) -> str:
    return f"{route['of'].removesuffix(' pixels')}, {route['kind']}"


def _wrapped(sentences: Sequence[str]) -> list[str]:
    lines = []
    for sentence in sentences:
        lines += textwrap.wrap(sentence, 96, initial_indent="- ", subsequent_indent="  ")
    return lines
