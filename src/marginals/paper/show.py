"""What `marginals paper` prints."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from marginals.errors import MarginalsError

from .catalogue import LUO, locate, module_of, neighbours, related
from .continued import continued
from .equation import Equation, Result, run
from .errata import concerning, size
from .letters import columns, plain
from .mutate import Report
from .terminal import flat, render

MEANING = {
    "identity": "both sides are equal",
    "definition": "a definition: the function does what the symbol says",
    "bound": "an inequality: never broken, strict somewhere, tight somewhere",
    "expectation": "true on average only, not for every single draw",
    "condition": "true only under the condition in the note",
    "limit": "true in the limit; the check measures how fast",
    "wrong": "not true as printed; the check confirms it and measures the gap",
    "explained": "nothing to compute; the note says why",
}
"""What each status means, for a reader."""


CONFIRMED = "confirmed: not true as printed; the formula of the gap holds to"
"""What a passed check says of an equation that is wrong."""


def listing(entries: Sequence[Equation], section: str | None = None) -> str:
    """One line per equation, by section."""
    wanted = [e for e in entries if section is None or section.lower() in e.part.lower()]
    if not wanted:
        parts = ", ".join(dict.fromkeys(e.part for e in entries))
        raise MarginalsError(f"there is no section {section!r}; there are {parts}")
    lines, part, wide = [], "", columns(most=400)  # one line each: the whole terminal
    for entry in wanted:
        if entry.part != part:
            part = entry.part
            lines += ["", part]
        mark = {"wrong": "✗", "explained": "·"}.get(entry.status, " ")
        says = textwrap.shorten(plain(entry.says), wide - 10, placeholder=" …")
        lines.append(f"{entry.id:>6} {mark} {says}")
    luo = sum(not entry.id.startswith("X") for entry in wanted)
    lines += ["", f"{luo} of Luo's {LUO} equations, {_extensions(len(wanted) - luo)}"]
    lines.append("✗ wrong as printed   marginals paper show N for one of them")
    return "\n".join(lines).lstrip("\n")


def _extensions(count: int) -> str:
    return f"{count} extension" if count == 1 else f"{count} extensions"


def title(entry: Equation) -> str:
    """ "Equation 58, page 9: Variational Diffusion Models"."""
    kind = "Extension" if entry.id.startswith("X") else "Equation"
    where = f", page {entry.page}" if entry.page else ""
    return f"{kind} {entry.id}{where} · {entry.part}"


def page(entry: Equation, entries: Sequence[Equation], *, code: bool = True) -> str:
    """Everything about one equation, with its check run now."""
    maths = textwrap.indent(render(entry.latex, columns() - 4), "    ")
    blocks = [title(entry), maths, _begun(entry, entries), _wrap(entry.says), _facts(entry)]
    blocks.append(verdict(run(entry), long=True))
    if code:
        for place in map(locate, entry.homes):
            blocks.append(f"{place.name}   {place.here}\n{textwrap.indent(place.source, '  ')}")
    blocks.append(_near(entry, entries))
    return "\n\n".join(block for block in blocks if block)


def _begun(entry: Equation, entries: Sequence[Equation]) -> str:
    """What a line that begins with a relation continues."""
    line = continued(entry, entries)
    if line is None:
        return ""
    start = f"continues Equation {line.head.id}: "
    since = f"  (≥ since {line.since.id})".replace("≥", line.sign) if line.since else ""
    return start + line.words(columns() - len(start) - len(since)) + since


def _facts(entry: Equation) -> str:
    rows = [("status", f"{entry.status}: {MEANING[entry.status]}"), ("note", entry.note)]
    if errata := concerning(entry):
        rows.append(("errata", f"read `marginals paper errata {' '.join(errata)}`"))
    rows.append(("source", entry.source))
    rows += [("code", f"{p.name}   {p.here}") for p in (locate(home) for home in entry.homes)]
    return "\n".join(_wrap(f"{name:<8} {text}", 9) for name, text in rows if text)


def _near(entry: Equation, entries: Sequence[Equation]) -> str:
    lines = []
    for name, other in neighbours(entry, entries).items():
        lines.append(f"{name:<7}{other.id:>5}  {flat(other.latex, columns() - 14)}")
    if same := related(entry, entries)[:12]:
        lines.append(f"the same code is also: {', '.join(other.id for other in same)}")
    return "\n".join(lines)


def verdict(result: Result, *, long: bool = False) -> str:
    """✓ or ✗, the error and the tolerance, and what was compared."""
    entry, mark = result.equation, "✓" if result.ok else "✗"
    if entry.check is None:
        return f"· {entry.id:>4}  nothing to compute: {entry.note}"
    if result.finding is None:
        return f"{mark} {entry.id:>4}  {result.failure}"
    error = f"error {result.finding.error:.1e} ≤ {entry.tolerance:.0e}"
    if not result.ok:
        error = error.replace("≤", ">")
    false = result.ok and entry.status == "wrong"
    if false:
        error = error.replace("error", "gap holds to" if not long else CONFIRMED)
    slow = f"  ({result.seconds:.1f} s)" if result.seconds > 1 else ""
    if long:
        when = f"checked now in {1e3 * result.seconds:.0f} ms"
        line = _wrap(f"{mark} {error}, {when}: {result.finding.compared}", 2)
        return "\n".join([line, *([_wrap(f"  by how much: {size(entry)}", 2)] if false else [])])
    return _wrap(f"{mark} {entry.id:>4}  {error:<24} {result.finding.compared}{slow}", 33)


def summary(results: Sequence[Result]) -> str:
    """How many passed, what failed, what was slow."""
    numbers = _counts(results)
    lines = [
        f"{numbers['luo']} of Luo's {LUO} equations ({numbers['luo_checked']} checked numerically) "
        f"and {_extensions(numbers['extensions'])} in {numbers['seconds']:.1f} s"
    ]
    if numbers["failed"]:
        lines.append(f"FAILED: {', '.join(numbers['failed'])}")
    else:
        lines.append("all passed")
    slow = sorted((r for r in results if r.seconds > 0.5), key=lambda r: -r.seconds)[:8]
    if slow:
        lines.append("slow: " + ", ".join(f"{r.equation.id} {r.seconds:.1f} s" for r in slow))
    return "\n".join(lines)


def _counts(results: Sequence[Result]) -> dict[str, Any]:
    luo = [r for r in results if not r.equation.id.startswith("X")]
    return {
        "luo": len(luo),
        "luo_checked": sum(r.equation.check is not None for r in luo),
        "extensions": len(results) - len(luo),
        "failed": [r.equation.id for r in results if not r.ok],
        "seconds": sum(r.seconds for r in results),
    }


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """All results as JSON values; an error that is no number is null."""
    return {**_counts(results), "equations": [_result(result) for result in results]}


def _result(result: Result) -> dict[str, Any]:
    entry, finding = result.equation, result.finding
    finite = finding is not None and abs(finding.error) < float("inf")
    return {
        "id": entry.id,
        "part": entry.part,
        "page": entry.page,
        "status": entry.status,
        "ok": result.ok,
        "error": finding.error if finding and finite else None,
        "tolerance": entry.tolerance,
        "compared": finding.compared if finding else None,
        "failure": result.failure or None,
        "seconds": round(result.seconds, 4),
        "homes": [f"{p.name} {p}" for p in (locate(home) for home in entry.homes)],
        "module": module_of(entry),
    }


def mutation_report(report: Report) -> str:
    """What was caught, by kind of error, what survived, with its line, and last the share."""
    caught = report.planted - len(report.survivors)
    lines = [f"  {kind:<24} {c:>4} of {n:<4}" for kind, (c, n) in report.by_kind().items()]
    if report.survivors:
        lines += ["", "not caught:"]
    for outcome in report.survivors:
        mutant = outcome.mutant
        where = f"{locate(mutant.function).file}:{mutant.line}"
        lines.append(f"  {where} {mutant.name} (equations {', '.join(outcome.equations)})")
        lines.append(f"      {mutant}")
    if report.refused:
        lines += ["", f"not counted, because Python refuses to run them: {report.refused}"]
    if report.excluded:
        count = len(report.excluded)
        lines += ["", f"not planted, because they change nothing (--json says why): {count}"]
    if report.failing:
        failing = ", ".join(result.equation.id for result in report.failing)
        lines += ["", f"left out, because their checks fail without any planted error: {failing}"]
    lines += [
        "",
        f"{report.planted} errors planted in {report.functions} functions, {caught} caught "
        f"({math.floor(1000 * report.share) / 10:g} %) in {report.seconds:.0f} s",
    ]
    return "\n".join(lines)


def mutation_json(report: Report) -> dict[str, Any]:
    """The same numbers as JSON values."""
    return {
        "planted": report.planted,
        "caught": report.planted - len(report.survivors),
        "share": report.share,
        "refused": report.refused,
        "functions": report.functions,
        "seconds": round(report.seconds, 1),
        "by_kind": {k: {"caught": c, "planted": n} for k, (c, n) in report.by_kind().items()},
        "survivors": [
            {
                "function": o.mutant.name,
                "file": locate(o.mutant.function).file,
                "line": o.mutant.line,
                "change": str(o.mutant),
                "equations": list(o.equations),
            }
            for o in report.survivors
        ],
        "excluded": [{"function": m.name, "change": str(m), "why": w} for m, w in report.excluded],
        "failing": [result.equation.id for result in report.failing],
    }


def _wrap(text: str, indent: int = 0) -> str:
    space = " " * indent
    return textwrap.fill(plain(text), columns(), subsequent_indent=space, break_long_words=False)
