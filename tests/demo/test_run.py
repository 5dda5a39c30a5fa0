"""The whole demo on a few tiny pictures: everything is there, whole, and can be repeated."""

import json
import re
import shlex
import shutil
import sys
from html.parser import HTMLParser

import pytest

from marginals import cli
from marginals.demo import DemoConfig, demo
from marginals.demo.next_steps import program
from marginals.demo.plan import Plan
from marginals.demo.views import VIEWS
from marginals.io.checkpoint import load_model
from marginals.io.pictures import read_parameters
from marginals.train.stop import Stopped

SMALL = Plan(
    "tiny", images=64, minutes=1.0, columns=2, rows=1, judged=4, judged_slow=4, compared=2,
    measured=3, levels=4, ode_steps=2, classifier_images=96,
)  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("marginals.demo.run.plan_for", lambda source: SMALL)


class Page(HTMLParser):
    """Tags left open, and everything a browser would fetch."""

    VOID = ("meta", "img", "br", "link", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.fetched, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_everything_is_there(small, archive, tmp_path, capsys):
    out = tmp_path / "out"
    result = demo(DemoConfig(threads=1, data=str(archive()), out=out, images=64))
    html = result.report.read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert page.open == [] and "{{" not in html
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in page.fetched)
    assert not re.search(r"@import|url\(|<script|<link", html)
    words = "".join(page.words)
    printed = capsys.readouterr().out
    for view in VIEWS:
        assert view.title in words and view.title in printed
        assert read_parameters(out / "pictures" / f"{view.key}.png")["view"] == view.title
    results = json.loads((out / "results.json").read_text())
    assert results == result.results
    assert [r["route"] for r in results["likelihood"]["routes"]] == [
        "discrete", "discrete_2", "continuous", "ode", "decoder",
    ]  # fmt: skip
    assert results["training"]["images"] == 64
    assert all(check["agrees"] for check in results["agreement"])
    assert results["classifier"]["held_out_accuracy"] <= 1
    assert load_model(result.checkpoint).data.classes == ("dark", "light")


def test_its_commands_work_as_printed(small, archive, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo(DemoConfig(threads=1, data=str(archive()), images=64))
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "demo-run" / "halves2" / "results.json").read_text())
    lines = [each["command"] for each in results["commands"]]
    assert all(f"\n    {line}\n" in printed for line in lines)
    called = shlex.split(lines[0])[0]
    assert shutil.which(called) and all(shlex.split(line)[0] == called for line in lines)
    samples = [line for line in lines if shlex.split(line)[1] == "sample"]
    longer = next(line for line in lines if "--resume" in line)
    assert len(lines) == 6 and len(samples) == 2
    for line in samples:
        assert cli.main([*shlex.split(line)[1:], "-n", "2", "--steps", "2"]) == 0
    words = shlex.split(longer)[1:]
    words[words.index("--images") + 1] = "96"
    assert cli.main(words) == 0
    again = next(line for line in lines if " demo --data /" in line)
    monkeypatch.setattr("marginals.demo.training.train", None)  # it must not train again
    assert cli.main(shlex.split(again)[1:]) == 0
    results = json.loads((tmp_path / "demo-run" / "halves2" / "results.json").read_text())
    assert results["training"]["images"] == 96


@pytest.mark.parametrize(
    ("on_path", "called"),
    [("", "env/bin/marginals"), ("other", "env/bin/marginals"), ("env", "marginals")],
)
def test_the_printed_name_reaches_this_installation(tmp_path, monkeypatch, on_path, called):
    for name in ("env", "other"):
        (tmp_path / name / "bin").mkdir(parents=True)
        script = tmp_path / name / "bin" / "marginals"
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env" / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / on_path / "bin"))
    assert program() == called


def test_the_same_seed_gives_the_same_numbers(small, archive, tmp_path):
    first, second = (
        demo(DemoConfig(threads=1, data=str(archive()), out=tmp_path / name, images=32, seed=2))
        for name in "ab"
    )
    for each in (first.results, second.results):
        (
            each.pop("seconds"),
            each.pop("commands"),
            each["training"].pop("seconds"),
            each["settings"].pop("out"),
        )
    assert first.results == second.results


@pytest.mark.parametrize("classes", [0, 1])
def test_without_classes_the_label_parts_are_left_out(small, archive, tmp_path, classes):
    result = demo(
        DemoConfig(threads=1, data=str(archive(classes)), out=tmp_path / "out", images=32)
    )
    assert "left out" in result.results["classifier"]
    assert all(view["label_agreement"] is None for view in result.results["views"])
    assert "guided" not in {view["view"] for view in result.results["views"]}
    assert "left out" in result.report.read_text(encoding="utf-8")


def test_a_stopped_demo_goes_on_without_training_again(small, archive, tmp_path, monkeypatch):
    config = DemoConfig(threads=1, data=str(archive()), out=tmp_path / "out", images=32)

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("marginals.demo.run.show", interrupted)
        with pytest.raises(Stopped, match="the same command goes on"):
            demo(config)
    assert not (tmp_path / "out" / "report.html").exists()
    before = (tmp_path / "out" / "run" / "model.safetensors").stat().st_mtime_ns
    demo(config)
    assert (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "out" / "run" / "model.safetensors").stat().st_mtime_ns == before


def test_a_longer_training_is_announced(small, archive, tmp_path, capsys):
    config = DemoConfig(threads=1, data=str(archive()), out=tmp_path / "out", images=32)
    demo(config)
    settings = tmp_path / "out" / "run" / "config.yaml"
    settings.write_text(settings.read_text().replace("images: 32", "images: 96"))
    capsys.readouterr()
    assert demo(config).results["training"]["images"] == 96
    assert "continuing the training from 32 to 96 pictures, about " in capsys.readouterr().err
