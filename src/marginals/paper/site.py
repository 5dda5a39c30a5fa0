"""All equations as one HTML file: typeset, explained, checked and linked; it needs no network."""

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import marginals
from marginals.errors import MarginalsError
from marginals.io.atomic import write_text

from . import errata, translate
from .catalogue import LUO, locate, neighbours, related
from .continued import continued
from .equation import Equation, Result
from .letters import marked
from .mathml import mathml
from .show import MEANING

LAM = 1.0
"""The level at which the table of dialects shows values."""


def write(results: Sequence[Result], folder: Path) -> Path:
    """Write ``folder``/index.html with every equation and what its check found."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise MarginalsError(f"{folder} is a file; give a folder as --out") from None
    path = folder / "index.html"
    if path.exists() and "<title>Understanding Diffusion" not in path.read_text(errors="replace"):
        raise MarginalsError(f"{path} is a page of someone else; give another --out")
    write_text(path, build(results))
    return path


def build(results: Sequence[Result]) -> str:
    """The page."""
    entries = [result.equation for result in results]
    sections = [(part, [r for r in results if r.equation.part == part]) for part in _parts(entries)]
    return _fill(
        title="Understanding Diffusion Models, executable",
        lead=_lead(entries),
        cards=_cards(results),
        parts=_options((part, part) for part, _ in sections),
        statuses=_options((status, status) for status in MEANING),
        index=_index(sections),
        equations="\n".join(_section(part, group, entries) for part, group in sections),
        errata="\n".join(_erratum(erratum) for erratum in errata.ERRATA),
        lam=f"{LAM:g}",
        dialects=_table([], [(name, marked(what)) for name, what in translate.DIALECTS.items()]),
        quantities="\n".join(_quantity(quantity) for quantity in translate.QUANTITIES),
        footer=f"Made by <code>marginals paper site</code>, version {marginals.__version__}. "
        "The paper: Calvin Luo, Understanding Diffusion Models: A Unified Perspective, arXiv "
        "2208.11970v1. The sentences and the code are this project's own.",
    )


def _parts(entries: Sequence[Equation]) -> list[str]:
    """Sections in the order of their first equation."""
    return list(dict.fromkeys(entry.part for entry in entries))


def _fill(**parts: str) -> str:
    page = files("marginals.paper").joinpath("assets", "site.html").read_text(encoding="utf-8")
    for name, value in parts.items():
        page = page.replace("{{" + name + "}}", value)
    if "{{" in page:
        raise KeyError(page[page.index("{{") :][:40])
    return page


def _text(value: object) -> str:
    return html.escape(str(value))


# ---- the top -----------------------------------------------------------------------------------


def _lead(entries: Sequence[Equation]) -> str:
    luo = sum(not entry.id.startswith("X") for entry in entries)
    which = "all" if luo == LUO else str(luo)
    return (
        f"Calvin Luo derives diffusion models in {LUO} numbered equations. Here are {which} of "
        f"them and {len(entries) - luo} from the papers around it, each with one plain sentence, "
        "the function of this package that <em>is</em> the equation, and a check that compared the "
        "function with the truth, found in another way, when this page was made. Equations that "
        "hold only on average, only under a condition, or not at all say so."
    )


def _cards(results: Sequence[Result]) -> str:
    checked = [r for r in results if r.finding is not None]
    good = sum(r.ok for r in results)
    seconds = sum(r.seconds for r in results)
    exact = sum(r.finding.error < 1e-10 for r in checked if r.finding)
    homes = {locate(home).name for r in results for home in r.equation.homes}
    rows = [
        (f"{good} of {len(results)}", "checks passed"),
        (str(len(checked)), f"checked numerically, {exact} of them to 1e-10 or better"),
        (str(len(homes)), "functions of this package that are these equations"),
        (str(len(errata.ERRATA)), "errata, in plain words and numbers"),
        (f"{seconds:.0f} s", "for all checks together"),
    ]
    cells = "".join(f"<div><b>{big}</b><span>{small}</span></div>" for big, small in rows)
    return f'<div class="cards">{cells}</div>'


def _options(pairs: Iterable[tuple[str, str]]) -> str:
    pairs = list(dict.fromkeys(pairs))
    return "".join(f'<option value="{_text(v)}">{_text(name)}</option>' for v, name in pairs)


def _index(sections: Sequence[tuple[str, Sequence[Result]]]) -> str:
    lines = []
    for place, (part, group) in enumerate(sections):
        span = _ranges([result.equation for result in group])
        lines.append(f'<a href="#part{place}">{_text(part)}<span class="soft">{span}</span></a>')
    lines.append('<hr><a href="#errata">Errata</a><a href="#translate">Six dialects</a>')
    return "".join(lines)


def _ranges(entries: Sequence[Equation]) -> str:
    """ "30–100", "X1–X22, X100"."""
    runs: list[list[Equation]] = []
    for entry in entries:
        follows = runs and entry.order == (runs[-1][-1].order[0], runs[-1][-1].order[1] + 1)
        runs = [*runs[:-1], [*runs[-1], entry]] if follows else [*runs, [entry]]
    ends = ([run[0].id, run[-1].id] if len(run) > 1 else [run[0].id] for run in runs)
    return ", ".join("\u2060–\u2060".join(pair) for pair in ends)


# ---- equations ---------------------------------------------------------------------------------


def _section(part: str, group: Sequence[Result], entries: Sequence[Equation]) -> str:
    place = _parts(entries).index(part)
    cards = "\n".join(_card(result, entries) for result in group)
    return f'<section id="part{place}"><h2>{_text(part)}</h2>\n{cards}\n</section>'


def _card(result: Result, entries: Sequence[Equation]) -> str:
    entry = result.equation
    places = [locate(home) for home in entry.homes]
    texts = entry.id, entry.says, entry.note, entry.part, entry.source, *errata.concerning(entry)
    found = " ".join([*texts, *(place.name for place in places)])
    where = f"page {entry.page}" if entry.page else _text(entry.source)
    return "\n".join(
        part
        for part in (
            f'<article id="eq{entry.id}" data-id="{entry.id}" data-part="{_text(entry.part)}" '
            f'data-status="{entry.status}" data-text="{_text(found.lower())}">',
            f'<div class="head"><a class="num" href="#eq{entry.id}">{entry.id}</a>'
            f'<span class="soft">{where}</span>'
            f'<span class="tag {entry.status}" title="{_text(MEANING[entry.status])}">'
            f'{entry.status}</span><span class="right">{_verdict(result)}</span></div>',
            f'<div class="maths">{mathml(entry.latex)}</div>',
            _begun(entry, entries),
            f'<p class="says">{marked(entry.says)}</p>',
            _note(entry),
            _code(result),
            _near(entry, entries),
            "</article>",
        )
        if part
    )


def _begun(entry: Equation, entries: Sequence[Equation]) -> str:
    line = continued(entry, entries)
    if line is None:
        return ""
    since = f", {line.sign} since {_link(line.since)}" if line.since else ""
    words = f"continues {_link(line.head)}: {_text(line.words(60))}{since}"
    return f'<p class="soft">{words}</p>'


def _verdict(result: Result) -> str:
    if result.equation.check is None:
        return '<span class="soft">nothing to compute</span>'
    if not result.ok:
        return '<span class="no">✗ check failed</span>'
    assert result.finding is not None
    if result.equation.status == "wrong":
        shown = f"✓ confirmed: not true as printed; gap to {result.finding.error:.0e}"
        return f'<span class="yes" title="{_text(errata.size(result.equation))}">{shown}</span>'
    return f'<span class="yes">✓ error {result.finding.error:.0e}</span>'


def _note(entry: Equation) -> str:
    links = ", ".join(f'<a href="#{e}">{e}</a>' for e in errata.concerning(entry))
    about = f" Errata: {links}" if links else ""
    if size := errata.size(entry):
        about = f" By how much: {marked(size)}.{about}"
    return f'<p class="note">{marked(entry.note)}{about}</p>' if entry.note or about else ""


def _code(result: Result) -> str:
    entry = result.equation
    lines = []
    if result.finding is not None:
        lines.append(
            f"<p>Compared: {marked(result.finding.compared)}. Error {result.finding.error:.1e}, "
            f"allowed {entry.tolerance:.0e}, {1e3 * result.seconds:.0f} ms.</p>"
        )
    elif result.failure:
        lines.append(f"<p>{_text(result.failure)}</p>")
    places = [locate(home) for home in entry.homes]
    for place in places:
        lines.append(
            f"<p><code>{_text(place.name)}</code> in <code>{_text(place)}</code></p>"
            f"<pre>{_text(place.source)}</pre>"
        )
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    title = f"Code and check: <code>{_text(places[0].name)}</code>{more}"
    return f"<details><summary>{title}</summary>{''.join(lines)}</details>"


def _near(entry: Equation, entries: Sequence[Equation]) -> str:
    near = neighbours(entry, entries)
    links = [f"{_link(other)} {name}" for name, other in near.items()]
    if same := related(entry, entries)[:14]:
        links.append("same code: " + " ".join(map(_link, same)))
    return '<div class="near">' + "".join(f"<span>{link}</span>" for link in links) + "</div>"


def _link(entry: Equation) -> str:
    return f'<a href="#eq{entry.id}" title="{_text(entry.says)}">{entry.id}</a>'


# ---- errata and dialects -----------------------------------------------------------------------


def _erratum(erratum: errata.Erratum) -> str:
    links = ", ".join(f'<a href="#eq{number}">{number}</a>' for number in erratum.equations)
    rows = (
        ("printed", erratum.printed),
        ("really", erratum.explained()),
        ("so", erratum.advice),
    )
    body = "".join(f"<dt>{name}</dt><dd>{marked(text)}</dd>" for name, text in rows)
    return (
        f'<article id="{erratum.id}"><h3>{erratum.id} · {_text(erratum.title)}</h3>'
        f'<p class="soft">Equation {links}</p><dl>{body}</dl></article>'
    )


def _quantity(quantity: translate.Quantity) -> str:
    rows = [
        (
            _text(s.dialect),
            marked(s.symbol),
            translate.shown(s.value(LAM)),
            f"<code>{s.code}</code>",
        )
        for s in quantity.spellings
    ]
    head = ("dialect", "written", "value", "code")
    return f"<article><h3>{_text(quantity.name)}</h3><p>{_text(quantity.what)}</p>" + (
        _table(head, rows) + "</article>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    kind = "" if head else ' class="small"'
    return f'<div class="scroll"><table{kind}>{top}{body}</table></div>'
