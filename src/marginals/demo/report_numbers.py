"""The parts of the report that hold numbers: likelihoods, agreement, judgement."""

import torch

from marginals.demo.agreement import LEVELS, NAMES
from marginals.demo.findings import Findings
from marginals.demo.html import Html, figure, number, table, text, yes_no
from marginals.demo.judge import best, langevin_words
from marginals.demo.likelihoods import Likelihoods
from marginals.io.pictures import grid
from marginals.io.plots import LikelihoodBar, elbo_terms, likelihood_bars
from marginals.pixels import to_float

__all__ = ["number_parts"]


def number_parts(found: Findings) -> dict[str, object]:
    """What stands in the places of the template that hold likelihoods, agreement and judgement."""
    like = found.likelihoods
    return {
        "pictures": "1 unseen picture"
        if like.pictures == 1
        else f"{like.pictures} unseen pictures",
        "bars": _bars(like),
        "routes": _routes(like),
        "order": found.order,
        "gaps": _gaps(found),
        "terms": _terms(like),
        "levels": _levels(like),
        "checks": _checks(found),
        "compared": ", ".join(f"{lam:g}".replace("-", "−") for lam in LEVELS),
        "conversions": _conversions(found),
        "routes_compared": _routes_compared(found),
        "labels": _labels(found),
        "copies": _copies(found),
    }


def _bars(like: Likelihoods) -> Html:
    bars = [
        LikelihoodBar(r.title, r.bound.mean, _known(r.bound.stderr), r.bound.kind)
        for r in like.routes.values()
    ]
    caption = (
        "The same pictures by every route: three routes, five lines. The chain in T steps stands "
        "there twice, the second time with twice the steps; the last line is the continuous-time "
        "bound with another way to count pixels. The number after ± is one standard error, as "
        "everywhere on this page, the whiskers included."
    )
    return figure(likelihood_bars(bars), caption, "plot")


def _routes(like: Likelihoods) -> Html:
    rows = [
        (
            _with_equations(route.title, route.equations),
            route.kind,
            f"{route.bound.mean:.3f} ± {_error(route.bound.stderr)}",
            route.bound.nfe,
        )
        for route in like.routes.values()
    ]
    head = ("route", "kind of number", "bits per pixel value", "evaluations per picture")
    return table(head, rows, (2, 3))


def _gaps(found: Findings) -> Html:
    parts = []
    for gap in found.gaps:
        verdict = yes_no(gap.as_theory, "✓", "✗ not to be expected")
        title = f"<strong>{text(gap.title)}</strong>"
        parts.append(f"<li>{title} {verdict}<br>{text(gap.words)}</li>")
    return Html("".join(parts))


def _terms(like: Likelihoods) -> Html:
    """Reconstruction, prior, denoising: the bounds term by term, in bits per pixel value."""
    keys = ("discrete", "discrete_2", "continuous", "decoder")
    names = ("denoising", "prior", "reconstruction", "pixel bins")
    rows = []
    for route in (like.routes[key] for key in keys):
        terms = route.terms()
        cells = [_signed(terms[name], 4) if name in terms else "–" for name in names]
        rows.append((route.title, *cells, f"{route.bound.mean:.3f}"))
    return table(("bits per pixel value", *names, "sum"), rows, range(1, 6))


def _levels(like: Likelihoods) -> Html:
    route = like.routes["discrete"]
    assert route.bound.levels is not None
    lam, nats = route.bound.levels
    caption = (
        f"Where the price is paid: the {like.levels} denoising terms of the discrete-time bound. "
        "Deciding what the picture shows (left) is cheap; its last grey levels (right) are most of "
        "the price, although no eye would miss them."
    )
    return figure(elbo_terms(lam.numpy(), nats.numpy()), caption, "plot")


def _checks(found: Findings) -> Html:
    rows = []
    for check in found.checks:
        grey = check.grey_levels
        in_grey = "" if grey is None else Html(f"<br><small>{number(grey)} grey levels</small>")
        single = Html(text(number(check.float32)) + in_grey)
        title = _with_equations(check.title, check.equations)
        rows.append((title, number(check.float64), single, yes_no(check.agrees)))
    head = ("should be equal", "largest difference, 64-bit", "32-bit, as run", "")
    return table(head, rows, (1, 2))


def _conversions(found: Findings) -> Html:
    rows = [
        (name, *(number(float(value)) for value in row))
        for name, row in zip(NAMES, found.conversions)
    ]
    return table(("from \\ to", *NAMES), rows, range(1, 6))


def _routes_compared(found: Findings) -> Html:
    rows = []
    for gap in found.gaps:
        verdict = yes_no(gap.as_theory, "✓ to be expected", "✗ not to be expected")
        value = f"{_signed(gap.gap.mean, 3)} ± {_error(gap.gap.stderr)}"
        cells = value, _signed(gap.gap.z, 1)
        rows.append((gap.title, *cells, verdict))
    head = ("likelihood routes", "difference (± one standard error)", "in standard errors", "")
    return table(head, rows, (1, 2))


def _labels(found: Findings) -> Html:
    if isinstance(found.classifier, str):
        return Html(f'<p class="note">{text(found.classifier)}</p>')
    accuracy, top = found.classifier.accuracy, best(found.judged)
    words = (
        "A second, separate network learned to tell the kinds of real pictures apart. On real "
        f"pictures it has never seen it is right in {accuracy}. It was then shown samples: does it "
        f"see what was asked for? Best: {top.hits} ({top.share}) by {top.view.title}. "
        "Samples can agree more often than real pictures do, since real pictures include odd ones."
    )
    rows = [
        (each.view.title, f"{each.share}", each.hits, shown.nfe)
        for each, shown in zip(found.judged, found.shown, strict=True)
    ]
    head = ("method", "label agreement", "samples recognised", "evaluations")
    remark = langevin_words(found.judged)
    after = f"<p>{text(remark)}</p>" if remark else ""
    return Html(f"<p>{text(words)}</p>" + table(head, rows, (1, 2, 3)) + after)


def _copies(found: Findings) -> Html:
    copies = found.copies
    count = len(copies.samples)
    originals = [to_float(rank) for rank in copies.pictures.unbind(1)]
    image = grid(torch.cat([copies.samples.clamp(-1, 1), *originals]), count)
    distances = ", ".join(f"{d:.2f}" for d in copies.distances.mean(0).tolist())
    caption = f"Mean distance to each row below the first: {distances} (0 would be a copy)."
    compared = (
        f"Over all samples: {copies.memorisation}."
        if copies.memorisation is not None
        else "There are too few unseen pictures to say which distance is normal."
    )
    return Html(figure(image, caption) + f"<p>{text(compared)}</p>")


def _with_equations(title: str, equations: str) -> Html:
    return Html(f'{text(title)}<br><span class="eq">{text(equations)}</span>')


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _known(stderr: float) -> float:
    return stderr if stderr < float("inf") else 0.0


def _error(stderr: float, digits: int = 3) -> str:
    return f"{stderr:.{digits}f}" if stderr < float("inf") else "unknown"
