"""report.html: everything the demo found, in one file that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path

import torch

import marginals
from marginals.demo.findings import Findings
from marginals.demo.html import Html, cards, figure, fill, formula, picture, text
from marginals.demo.judge import best
from marginals.demo.report_numbers import number_parts
from marginals.demo.sheets import named_sheet, noise_sheet
from marginals.demo.views import Shown
from marginals.demo.words import likeness_words
from marginals.io.atomic import write_text
from marginals.io.pictures import grid
from marginals.io.plots import loss_curve

__all__ = ["write_report"]


def write_report(found: Findings, commands: Sequence[tuple[str, str]]) -> Path:
    """Write FOLDER/report.html and return its path."""
    path = found.subject.folder / "report.html"
    write_text(path, fill("report.html", **_story_parts(found, commands), **number_parts(found)))
    return path


def _story_parts(found: Findings, commands: Sequence[tuple[str, str]]) -> dict[str, object]:
    """What stands in the places of the template that hold pictures and prose."""
    subject, count = found.subject, _in_words(len(found.shown))
    labelled = subject.labels is not None
    return {
        "title": f"One network, {count} ways to make a picture",
        "lead": _lead(found),
        "cards": _cards(found),
        "count": count.capitalize(),
        "told": ", given also the name of its kind" if labelled else "",
        "same_labels": " and the same labels, one kind per column" if labelled else "",
        "likeness": likeness_words(found.shown),
        "story": _story(found),
        "data": _data(found),
        "views": Html(_start(found) + "".join(_view(each, found) for each in found.shown)),
        "parameters": f"{subject.trained.parameters:,}",
        "images": f"{subject.trained.images:,}",
        "seconds": f"{subject.trained.seconds:.0f}",
        "training": _training(found),
        "next": _commands(commands),
        "made": f"Made by marginals {marginals.__version__} with PyTorch {torch.__version__}, seed "
        f"{subject.config.seed}. All numbers are in results.json beside this file.",
    }


def _lead(found: Findings) -> str:
    trained, train = found.subject.trained, found.subject.train
    minutes = trained.seconds / 60.0
    time = f"{minutes:.1f} minutes" if minutes >= 1 else f"{trained.seconds:.0f} seconds"
    return (
        f"A small network looked at {trained.images:,} noisy pictures ({train.name}) for {time}. "
        "This page shows what it can do, and that the well-known methods for making pictures this "
        "way are views of one and the same thing. No mathematics is needed to read it; formulas "
        "and equation numbers are there for those who want them."
    )


def _cards(found: Findings) -> Html:
    trained, exact = found.subject.trained, found.likelihoods.routes["ode"].bound
    agreeing = sum(check.agrees for check in found.checks)
    values = [
        (f"{trained.parameters / 1e6:.1f} million", "adjustable numbers in the network"),
        (_in_words(len(found.shown)), "methods, one checkpoint, no retraining"),
    ]
    if found.judged:
        top = best(found.judged)
        low, high = (f"{100 * end:.1f}" for end in top.range)
        about = (
            "samples of the best method show what was asked for "
            f"(with more samples: very likely {low} to {high} %)"
        )
        values.append((top.hits, about))
    bits = f"{exact.mean:.2f} ± {exact.stderr:.2f}"
    values.append((bits, "bits per pixel value of unseen pictures (stored: 8)"))
    checks = f"{agreeing} of {len(found.checks)}"
    values.append((checks, "equalities of theory hold up to rounding"))
    return cards(values)


def _story(found: Findings) -> Html:
    story = found.story
    captions = [f"λ = {lam:g}".replace("-", "−") for lam in story.lams]
    pictures = torch.cat([story.noisy, story.cleaned]).clamp(-1, 1)
    image = grid(pictures, len(story.lams), labels=captions * 2)
    return figure(
        image,
        "Above: one picture it has never seen, with more and more noise from left to right. Below: "
        "what the network says the clean picture was, asked once for each. λ says how much picture "
        "is left: 12 is almost clean, 0 as much noise as picture, −8 almost nothing but noise.",
    )


def _data(found: Findings) -> Html:
    train, held = found.subject.train, len(found.subject.held_out)
    channels, height, width = train.shape
    colour = "grey" if channels == 1 else "colour"
    names = ", ".join(train.classes)
    classes = f" of {len(train.classes)} kinds ({names})" if train.classes else ""
    words = (
        f"{len(train):,} {colour} pictures of {width} × {height} pixels{classes}; {held:,} more "
        f"were kept away from training and serve as the test. {train.note}"
    )
    unlabelled = (
        ""
        if found.subject.labels is not None
        else '<p class="note">There are no classes here (or only one), so the network learned the '
        "pictures without labels; guidance and label agreement are left out.</p>"
    )
    sheet_ = figure(named_sheet(found.real, found), "Real training pictures.")
    folder = (
        ""
        if train.report is None
        else "<details><summary>What was found in the folder</summary>"
        f"<pre>{text(train.report.text())}</pre></details>"
    )
    return Html(f"<p>{text(words)}</p>{unlabelled}{folder}{sheet_}")


def _start(found: Findings) -> str:
    image = picture(noise_sheet(found), "The starting noise")
    about = (
        "Every walk begins here. The picture in row 1, column 1 of every other sheet grew out of "
        "the noise in row 1, column 1 of this one, and so on."
    )
    return (
        f'<section class="view"><h3>The start: pure noise</h3><p>{about}</p>'
        f"{formula('x ~ N(α·m, α²s² + σ²) ≈ N(0, I) for data of mean m and variance s²')}"
        f'<p class="eq">Luo Eq. 33</p><figure>{image}</figure></section>'
    )


def _view(each: Shown, found: Findings) -> str:
    view = each.view
    share = found.share.get(view.key)
    agreement = f"<span>label agreement {text(share)}</span>" if share else ""
    image = named_sheet(each.x, found)
    return (
        f'<section class="view"><h3>{text(view.title)}</h3><p>{text(view.about)}</p>'
        f"{formula(view.formula)}"
        f'<p class="eq">{text(view.equations)}</p>'
        f'<div class="facts"><b>{each.nfe} network evaluations</b>'
        f"<span>{view.steps} {_levels(each)}, {text(view.grid_name)}</span>{agreement}</div>"
        f"<figure>{picture(image, f'Samples by {view.title}')}</figure></section>"
    )


def _levels(each: Shown) -> str:
    return "levels" if each.view.solver.order is None else "steps"


def _training(found: Findings) -> Html:
    subject, trained = found.subject, found.subject.trained
    parts = [f'<p class="note">{text(trained.remark)}</p>'] if trained.remark else []
    if len(trained.log) > 1:
        seen = [entry["images"] for entry in trained.log]
        plot = loss_curve(seen, [entry["loss"] for entry in trained.log])
        parts.append(figure(plot, "The error falls while it learns.", "plot"))
    strip = subject.run / "samples.png"
    if strip.is_file():
        caption = "The same noise at different ages of the network (left: pictures seen so far)."
        parts.append(figure(strip.read_bytes(), caption, "strip"))
    return Html("".join(parts))


def _commands(commands: Sequence[tuple[str, str]]) -> Html:
    lines = (f"<p>{text(what)}</p><pre>{text(command)}</pre>" for what, command in commands)
    return Html("".join(lines))


def _in_words(count: int) -> str:
    names = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return names[count] if count < len(names) else str(count)
