"""`demo(config)`: train one model, load it back from disk, and show every view of it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marginals.demo import agreement, judge, likelihoods
from marginals.demo.config import DemoConfig
from marginals.demo.findings import Findings, Subject, as_dict, table
from marginals.demo.folder import open_folder
from marginals.demo.next_steps import commands
from marginals.demo.plan import load_pictures, plan_for
from marginals.demo.report import write_report
from marginals.demo.sheets import write_sheets
from marginals.demo.stages import Stages
from marginals.demo.story import tell
from marginals.demo.training import train_once
from marginals.demo.views import Shown, show, views_for
from marginals.demo.words import explain, order_words
from marginals.io.atomic import write_json
from marginals.metrics.classifier import Classifier
from marginals.pixels import to_float
from marginals.scaling import VP
from marginals.train.stop import Stopped

__all__ = ["DemoResult", "demo"]

_STAGES = 6


@dataclass(frozen=True)
class DemoResult:
    """Where everything is, and every number of the report."""

    folder: Path
    report: Path
    checkpoint: Path
    results: dict[str, Any]


def demo(config: DemoConfig | None = None) -> DemoResult:
    """Run the demo and write everything into `config.folder`.

    The same command again goes on where an interrupted one stopped; a finished training is not
    repeated. Raises Stopped when a person stops it, MarginalsError for impossible data or folders.
    """
    config = config or DemoConfig()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    train, held_out = load_pictures(config.data)
    folder = open_folder(config)
    if train.report is not None:
        print(train.report.text(), file=sys.stderr)
    stages = Stages(_STAGES)
    with stages("learn the pictures"):
        model, trained, plan = train_once(config, plan_for(train), train)
    subject = Subject(config, plan, folder, train, held_out, model, trained)
    try:
        result = _write(_look(subject, stages))
    except KeyboardInterrupt:
        raise Stopped(
            f"Stopped; the trained model in {subject.run} is whole, and the same command goes on "
            "from there"
        ) from None
    return result


def _look(subject: Subject, stages: Stages) -> Findings:
    """Every view of the model; nothing is written yet."""
    seed, model = subject.config.seed, subject.model
    pixels, labels = _unseen(subject)
    shown = _walks(subject, stages)
    like = _likelihoods(subject, stages, pixels, labels)
    checks, conversions = _agreement(subject, stages, pixels, labels)
    classifier, judged = _judgement(subject, stages)
    samples = next(
        (each.x for each in judged if each.view.key == "dpmpp_2m"),
        next(each.x for each in shown if each.view.key == "dpmpp_2m"),
    )
    copies = judge.look_for_copies(
        samples, subject.train, subject.held_out, min(10, subject.plan.columns)
    )
    return Findings(
        subject=subject,
        real=_real(subject),
        noise=model.convert(VP).start(range(seed, seed + subject.count)),
        story=tell(model, to_float(pixels[:1]), None if labels is None else labels[:1], seed),
        shown=shown,
        likelihoods=like,
        order=order_words(like),
        gaps=explain(like),
        checks=checks,
        conversions=conversions,
        classifier=classifier,
        judged=judged,
        copies=copies,
        seconds=stages.seconds,
    )


def _walks(subject: Subject, stages: Stages) -> list[Shown]:
    model, views = subject.model, views_for(subject.model)
    total = subject.count * sum(view.evaluations(model) for view in views)
    with stages("walk from noise to pictures", total) as tick:
        return show(model, views, subject.count, subject.config.seed, subject.labels, tick)


def _likelihoods(
    subject: Subject, stages: Stages, pixels: Tensor, labels: Tensor | None
) -> likelihoods.Likelihoods:
    plan = subject.plan
    total = likelihoods.cost(len(pixels), plan.levels, plan.ode_steps)
    with stages("measure likelihoods", total) as tick:
        return likelihoods.measure(
            subject.model,
            pixels,
            labels,
            levels=plan.levels,
            ode_steps=plan.ode_steps,
            seed=subject.config.seed,
            tick=tick,
        )


def _agreement(
    subject: Subject, stages: Stages, pixels: Tensor, labels: Tensor | None
) -> tuple[list[agreement.Check], Tensor]:
    few = to_float(pixels[: subject.plan.compared])
    few_labels = None if labels is None else labels[: subject.plan.compared]
    with stages("compare the views", agreement.cost(len(few))) as tick:
        return agreement.agree(subject.model, few, few_labels, subject.config.seed, tick)


def _judgement(subject: Subject, stages: Stages) -> tuple[Classifier | str, list[judge.Judged]]:
    model, plan, seed = subject.model, subject.plan, subject.config.seed
    with stages("teach a judge"):
        classifier = judge.teach(subject.train, subject.held_out, plan.classifier_images, seed)
    counts = judge.judged_counts(model, views_for(model), plan)
    if isinstance(classifier, str):
        counts = []
    with stages("judge samples", sum(n * view.evaluations(model) for view, n in counts)) as tick:
        if isinstance(classifier, str):
            return classifier, []
        return classifier, judge.judge_views(model, classifier, counts, seed, tick)


def _unseen(subject: Subject) -> tuple[Tensor, Tensor | None]:
    """Held-out pictures, spread over the whole source; their labels if the model has classes."""
    count = min(subject.plan.measured, len(subject.held_out))
    chosen = torch.linspace(0, len(subject.held_out) - 1, count).round().long()
    pixels, labels = subject.held_out.batch(chosen)
    return pixels, None if subject.labels is None else labels


def _real(subject: Subject) -> Tensor:
    """Training pictures for comparison, one class per column where there are classes."""
    labels, source = subject.labels, subject.train
    if labels is None or source.labels is None:
        chosen = torch.linspace(0, len(source) - 1, subject.count).round().long()
        return source.batch(chosen)[0]
    everything = torch.arange(len(source))
    members = [everything[source.labels == i] for i in range(len(source.classes))]
    used = [0] * len(members)
    rows = []
    for label in labels.tolist():
        own = members[label] if len(members[label]) else everything
        rows.append(int(own[used[label] % len(own)]))
        used[label] += 1
    return source.batch(torch.tensor(rows))[0]


def _write(found: Findings) -> DemoResult:
    """Contact sheets, numbers, report; then the table and what to do next on the terminal."""
    folder = found.subject.folder
    write_sheets(found)
    next_ = commands(found.subject)
    results = as_dict(found)
    results["commands"] = [{"what": what, "command": command} for what, command in next_]
    write_json(folder / "results.json", results)
    report = write_report(found, next_)
    print(f"\n{table(found)}\n")
    minutes, seconds = divmod(round(sum(found.seconds.values())), 60)
    print(f"done in {minutes} min {seconds} s\n")
    print(f"report      {report}")
    print(f"pictures    {folder / 'pictures'}")
    print(f"checkpoint  {found.subject.run / 'model.safetensors'}")
    print("\nwhat next")
    for what, command in next_:
        print(f"  {what}:\n    {command}")
    sys.stdout.flush()
    return DemoResult(folder, report, found.subject.run / "model.safetensors", results)
