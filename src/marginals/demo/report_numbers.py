"""The parts of the report that hold numbers: likelihoods, agreement, judgement."""

import torch

from marginals.demo.agreement import LEVELS, NAMES
from marginals.demo.findings import Findings
from marginals.demo.html import Html, figure, number, table, text, yes_no
from marginals.demo.judge import best
from marginals.demo.likelihoods import Likelihoods, Route
from marginals.io.pictures import grid
from marginals.io.plots import LikelihoodBar, elbo_terms, likelihood_bars
from marginals.pixels import to_float

__all__ = ["agreement_part", "judgement_part", "likelihood_part"]


def likelihood_part(found: Findings) -> Html:
    """Three routes to bits/dim, their terms, and what lies between them."""
    like = found.likelihoods
    routes = list(like.routes.values())
    one = like.pictures == 1
    intro = (
        "A model of pictures can be used to compress them: what it expects is cheap, what surprises "
        "it is dear. The price of a pixel value in bits is the most honest number about such a "
        "model, because it cannot be improved by showing only good samples. A stored value takes 8 "
        f"bits. Here {like.pictures} unseen picture{'' if one else 's'} are priced along three "
        "routes that theory says must meet for a perfect network. Less is better."
    )
    bars = likelihood_bars(
        [LikelihoodBar(r.title, r.bound.mean, _bar(r), _colour(r)) for r in routes]
    )
    rows = [
        (
            Html(f"{text(r.title)}<br><span class=eq>{text(r.equations)}</span>"),
            r.kind,
            f"{r.bound.mean:.3f} ± {_error(r.bound.stderr)}",
            r.bound.nfe,
        )
        for r in routes
    ]
    head = ("route", "kind of number", "bits per pixel value", "evaluations per picture")
    gaps = "".join(
        f"<li><strong>{text(gap.title)}</strong> {yes_no(gap.as_theory, '✓', '✗ not as theory says')}"
        f"<br>{text(gap.words)}</li>"
        for gap in found.gaps
    )
    return Html(
        f"<p>{text(intro)}</p>"
        + figure(bars, "The same pictures by every route, ± two standard errors.", "plot")
        + table(head, rows, (2, 3))
        + "<h3>What lies between the routes</h3><p>Differences are taken picture by picture, so "
        "their errors are much smaller than those above. The sentences are computed from the "
        f"numbers.</p><ul class=gaps>{gaps}</ul>" + _terms(like) + _levels(like)
    )


def _terms(like: Likelihoods) -> Html:
    """Reconstruction, prior, denoising: the bound term by term, in bits/dim."""
    keys = ("discrete", "discrete_2", "continuous", "decoder")
    names = ("denoising", "prior", "reconstruction", "pixel bins")
    rows = []
    for route in (like.routes[key] for key in keys):
        terms = route.terms()
        cells = [f"{terms[name]:+.4f}" if name in terms else "–" for name in names]
        rows.append((route.title, *cells, f"{route.bound.mean:.3f}"))
    words = (
        "A bound is a sum (Luo Eq. 58). Denoising: telling, level by level, how the picture emerges "
        "from the noise. Prior: what is left of the picture at the noisiest level, nearly nothing. "
        "Reconstruction: the last step from an almost clean picture to the picture; it is negative "
        "for real-valued pictures because a density can be larger than one, and the 7 bits of the "
        "pixel bins turn the density into a price of stored pixels."
    )
    head = ("bits per pixel value", *names, "sum")
    return Html(
        f"<h3>The bounds, term by term</h3><p>{text(words)}</p>"
        + table(head, rows, (1, 2, 3, 4, 5))
    )


def _levels(like: Likelihoods) -> Html:
    route = like.routes["discrete"]
    assert route.bound.levels is not None
    lam, nats = route.bound.levels
    plot = elbo_terms(lam.numpy(), nats.numpy())
    caption = (
        f"Where the price is paid: the {like.levels} denoising terms of the discrete-time bound. "
        "Deciding what the picture shows (left) is cheap; its last grey levels (right) are most of "
        "the price, although no eye would miss them."
    )
    return figure(plot, caption, "plot")


def agreement_part(found: Findings) -> Html:
    """What should be zero, in both precisions, and the table of conversions."""
    rows = []
    for check in found.checks:
        grey = check.grey_levels
        single = number(check.float32) + (
            f" ({number(grey)} grey levels)" if grey is not None else ""
        )
        title = Html(f"{text(check.title)}<br><span class=eq>{text(check.equations)}</span>")
        rows.append((title, number(check.float64), single, yes_no(check.agrees)))
    head = ("should be equal", "largest difference, 64-bit", "32-bit, as run", "")
    intro = (
        "The names differ, the thing is one. Each line compares what theory says is equal, once in "
        "64-bit arithmetic, where only a mistake in the mathematics would show, and once in the "
        "32-bit arithmetic used above. Differences are in pixel values, black to white being 2; one "
        "grey level of a stored picture is 0.008."
    )
    names = list(NAMES)
    matrix = [
        (name, *(number(float(value)) for value in row))
        for name, row in zip(names, found.conversions)
    ]
    levels = ", ".join(f"{lam:g}" for lam in LEVELS)
    detail = (
        "The network's output is read as each of five things and turned into every other and back: "
        "the clean picture x0, the noise ε, the score, v = α·ε − σ·x0, and the velocity ε − x0 of a "
        f"flow. Worst difference over the noise levels λ = {levels}, relative to the size of what "
        "is compared, 64-bit:"
    )
    return Html(
        f"<p>{text(intro)}</p>"
        + table(head, rows, (1, 2))
        + f"<details><summary>All 25 conversions</summary><p>{text(detail)}</p>"
        + table(("from \\ to", *names), matrix, range(1, 6))
        + '<p class="eq">Luo Eqs. 115, 133, 151</p></details>'
        + _gaps_in_errors(found)
    )


def _gaps_in_errors(found: Findings) -> Html:
    rows = [
        (gap.title, f"{gap.gap.mean:+.4f}", f"{_error(gap.gap.stderr, 4)}", f"{gap.gap.z:+.1f}",
         yes_no(gap.as_theory, "✓ as theory says", "✗ not as theory says"))
        for gap in found.gaps
    ]  # fmt: skip
    head = ("likelihood routes", "difference, bits", "standard error", "in standard errors", "")
    return Html(
        "<p>The likelihood routes need not be equal: their differences against their errors.</p>"
        + table(head, rows, (1, 2, 3))
    )


def judgement_part(found: Findings) -> Html:
    """Label agreement and near neighbours."""
    return Html(_labels(found) + _copies(found))


def _labels(found: Findings) -> Html:
    if isinstance(found.classifier, str):
        return Html(f'<p class="note">{text(found.classifier)}</p>')
    accuracy, top = found.classifier.accuracy, best(found.judged)
    words = (
        "A second, separate network learned to tell the kinds of real pictures apart. On real "
        f"pictures it has never seen it is right in {accuracy}. It was then shown samples: does it "
        f"see what was asked for? Best: {top.share} ({top.view.title}). Samples can agree more often "
        "than real pictures do, since real pictures include odd ones."
    )
    rows = [
        (each.view.title, f"{each.share}", len(each.x), shown.nfe)
        for each, shown in zip(found.judged, found.shown, strict=True)
    ]
    head = ("method", "label agreement", "samples", "evaluations")
    return Html(f"<p>{text(words)}</p>" + table(head, rows, (1, 2, 3)))


def _copies(found: Findings) -> Html:
    copies = found.copies
    count, k = copies.distances.shape
    originals = to_float(copies.pictures.flatten(0, 1)).reshape(count, k, *copies.samples.shape[1:])
    rows = [copies.samples.clamp(-1, 1), *originals.unbind(1)]
    distances = ", ".join(f"{d:.2f}" for d in copies.distances.mean(0).tolist())
    image = grid(torch.cat(rows), count)
    words = (
        "Does the model invent, or copy? For samples (first row), the most similar pictures of the "
        "whole training set, nearest first (rows below)."
    )
    caption = f"Mean distance to the rows below: {distances} (0 would be a copy)."
    compared = (
        f"Over all samples: {copies.memorisation}."
        if copies.memorisation is not None
        else "There are too few unseen pictures to say which distance is normal."
    )
    return Html(f"<p>{text(words)}</p>" + figure(image, caption) + f"<p>{text(compared)}</p>")


def _bar(route: Route) -> float:
    return route.bound.stderr if route.bound.stderr < float("inf") else 0.0


def _colour(route: Route) -> str:
    return "exact" if route.bound.kind == "exact" else "bound"


def _error(stderr: float, digits: int = 3) -> str:
    return f"{stderr:.{digits}f}" if stderr < float("inf") else "unknown"
