"""What a person may want next, and the exact command for it."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from marginals.demo.config import DemoConfig
from marginals.demo.findings import Subject

__all__ = ["commands", "program"]

_LONGER = 200_000


def program() -> str:
    """What to type for `marginals` in a fresh terminal, here: the plain name where the shell finds
    this very installation, else the path of its script (`make demo` installs into .venv)."""
    name = "marginals.exe" if os.name == "nt" else "marginals"
    script = Path(sys.executable).with_name(name)
    on_path = shutil.which("marginals")
    if not script.is_file():
        return "marginals" if on_path else f"{shlex.quote(sys.executable)} -m marginals.cli"
    if on_path and Path(on_path).resolve() == script.resolve():
        return "marginals"
    here = Path.cwd()
    inside = script.is_relative_to(here)
    return shlex.quote(str(script.relative_to(here) if inside else script))


def commands(subject: Subject) -> list[tuple[str, str]]:
    """(what it does, command) pairs; the commands work as they stand, in the same folder."""
    run, call = shlex.quote(str(subject.run)), program()
    longer = max(5 * subject.trained.images, _LONGER)
    more = f"{call} sample {run} --steps 20 --seed 100 -n 64"
    chain = f"{call} sample {run} --solver ddpm --steps 200 -n 16"
    if subject.labels is not None:
        more += " --guidance 3"
        chain += f" --label {shlex.quote(subject.train.classes[-1])}"
    return [
        ("More pictures", more),
        ("Slowly, by the original chain", chain),
        (
            "Train longer (Ctrl-C stops and saves)",
            f"{call} train --resume {run} --images {longer}",
        ),
        ("Look at everything again afterwards", f"{call} {_again(subject.config)}"),
        (
            "The demo with your own pictures, one sub-folder per kind",
            f"{call} demo --data path/to/pictures",
        ),
        (
            "A serious run on your own pictures",
            f"{call} train --data path/to/pictures --minutes 30 --out runs/mine",
        ),
    ]


def _again(config: DemoConfig) -> str:
    """Arguments that go on with this demo: its own settings, as far as they decide anything."""
    words = ["demo", "--data", config.data]
    for name in ("out", "images", "minutes", "threads"):
        if (value := getattr(config, name)) is not None:
            words += [f"--{name}", str(value)]
    if config.seed:
        words += ["--seed", str(config.seed)]
    return shlex.join(words)
