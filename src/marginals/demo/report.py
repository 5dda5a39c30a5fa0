"""report.html: everything the demo found, in one file that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path

import torch

import marginals
from marginals.demo.findings import Findings
from marginals.demo.html import Html, cards, figure, fill, text
from marginals.demo.judge import best
from marginals.demo.report_numbers import agreement_part, judgement_part, likelihood_part
from marginals.demo.sheets import noise_sheet, sheet
from marginals.demo.views import Shown
from marginals.io.atomic import write_text
from marginals.io.pictures import grid
from marginals.io.plots import loss_curve

__all__ = ["write_report"]


def write_report(found: Findings, commands: Sequence[tuple[str, str]]) -> Path:
    """Write FOLDER/report.html and return its path."""
    subject, count = found.subject, _in_words(len(found.shown))
    title = f"One network, {count} ways to make a picture"
    labels = " and the same labels, one kind per column" if subject.labels is not None else ""
    page = fill(
        "report.html",
        title=title,
        lead=_lead(found),
        cards=_cards(found),
        count=count.capitalize(),
        same_labels=labels,
        story=_story(found),
        data=_data(found),
        noise=figure(
            noise_sheet(found),
            "The starting noise of all walks; place by place, every sheet below began here.",
            "pixels narrow",
        ),
        views=Html(
            f'<div class="views">{"".join(_view(each, found) for each in found.shown)}</div>'
        ),
        bits=likelihood_part(found),
        agree=agreement_part(found),
        good=judgement_part(found),
        training=_training(found),
        next=_commands(commands),
        made=f"Made by marginals {marginals.__version__} with PyTorch {torch.__version__}, seed "
        f"{subject.config.seed}. All numbers are in results.json beside this file.",
    )
    path = subject.folder / "report.html"
    write_text(path, page)
    return path


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
    trained, like = found.subject.trained, found.likelihoods.routes["ode"].bound
    values = [
        (f"{trained.parameters / 1e6:.1f} million", "adjustable numbers in the network"),
        (_in_words(len(found.shown)), "methods, one checkpoint, no retraining"),
    ]
    if found.judged:
        top = best(found.judged)
        values.append(
            (str(top.share), f"of the samples show what was asked for ({top.view.title})")
        )
    values.append(
        (
            f"{like.mean:.2f} ± {like.stderr:.2f}",
            "bits per pixel value of unseen pictures (stored: 8)",
        )
    )
    agreeing = sum(check.agrees for check in found.checks)
    values.append(
        (f"{agreeing} of {len(found.checks)}", "equalities of theory hold up to rounding")
    )
    return cards(values)


def _story(found: Findings) -> Html:
    story = found.story
    captions = [f"λ = {lam:+g}" for lam in story.lams]
    pictures = torch.cat([story.noisy, story.cleaned]).clamp(-1, 1)
    image = grid(pictures, len(story.lams), labels=captions * 2)
    return figure(
        image,
        "Above: one picture it has never seen, with more and more noise from left to right. Below: "
        "what the network says the clean picture was, asked once for each.",
    )


def _data(found: Findings) -> Html:
    train, held = found.subject.train, found.subject.held_out
    channels, height, width = train.shape
    colour = "grey" if channels == 1 else "colour"
    classes = (
        f" of {len(train.classes)} kinds ({', '.join(train.classes)})" if train.classes else ""
    )
    note = f" {train.note}" if train.note else ""
    words = (
        f"{len(train):,} {colour} pictures of {width} × {height} pixels{classes}; {len(held):,} more "
        f"were kept away from training and serve as the test.{note}"
    )
    parts = [f"<p>{text(words)}</p>"]
    if found.subject.labels is None:
        parts.append(
            "<p class=note>There are no classes here (or only one), so the network learned the "
            "pictures without labels; guidance and label agreement are left out.</p>"
        )
    caption = "Real pictures from the training set."
    return Html("".join(parts) + figure(sheet(found.real, found.subject.plan.columns), caption))


def _view(each: Shown, found: Findings) -> str:
    view = each.view
    share = found.share.get(view.key)
    agreement = f"<span>label agreement {text(share)}</span>" if share else ""
    image = sheet(each.x, found.subject.plan.columns)
    return (
        f'<section class="view"><h3>{text(view.title)}</h3><p>{text(view.about)}</p>'
        f'<div class="formula">{text(view.formula)}</div>'
        f'<p class="eq">{text(view.equations)}</p>'
        f'<div class="facts"><b>{each.nfe} network evaluations</b>'
        f"<span>{view.steps} {_levels(each)}, {text(view.grid_name)}</span>{agreement}</div>"
        f"{figure(image, '', alt=f'Samples by {view.title}')}</section>"
    )


def _levels(each: Shown) -> str:
    return "levels" if each.view.solver.order is None else "steps"


def _training(found: Findings) -> Html:
    subject, trained = found.subject, found.subject.trained
    words = (
        f"The network ({trained.parameters:,} numbers) saw {trained.images:,} pictures in random "
        f"order, each with a random amount of noise, in {trained.seconds:.0f} seconds of training. "
        "It was told to say how the picture and the noise are mixed (“v”, a fixed mixture of the "
        "two), and was corrected by the squared error, which is Luo's Eq. 99 or 130 up to a weight. "
        "What is used here is a running average of its weights, written to a file and read back "
        "before anything on this page was made."
    )
    parts = [f"<p>{text(words)}</p>"]
    if trained.remark:
        parts.append(f'<p class="note">{text(trained.remark)}</p>')
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
    intro = "<p>Copy a line into the terminal, in the folder where the demo was started.</p>"
    lines = (f"<p>{text(what)}</p><pre>{text(command)}</pre>" for what, command in commands)
    return Html(intro + "".join(lines))


def _in_words(count: int) -> str:
    names = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return names[count] if count < len(names) else str(count)
