"""What a person may want next, and the exact command for it."""

import shlex

from marginals.demo.config import DemoConfig
from marginals.demo.findings import Subject

__all__ = ["commands"]

_LONGER = 200_000


def commands(subject: Subject) -> list[tuple[str, str]]:
    """(what it does, command) pairs; the commands work as they stand, in the same folder."""
    run = shlex.quote(str(subject.run))
    longer = max(5 * subject.trained.images, _LONGER)
    more = f"marginals sample {run} --solver dpmpp_2m --steps 20 --seed 100 -n 64"
    chain = f"marginals sample {run} --solver ddpm --steps 200 -n 16"
    if subject.labels is not None:
        more += " --guidance 3"
        chain += f" --label {shlex.quote(subject.train.classes[-1])}"
    return [
        ("More pictures", more),
        ("Slowly, by the original chain", chain),
        (
            "Train longer (Ctrl-C stops and saves)",
            f"marginals train --resume {run} --images {longer}",
        ),
        ("Look at everything again afterwards", _again(subject.config)),
        (
            "The demo with your own pictures, one sub-folder per kind",
            "marginals demo --data path/to/pictures",
        ),
        (
            "A serious run on your own pictures",
            "marginals train --data path/to/pictures --minutes 30 --out runs/mine",
        ),
    ]


def _again(config: DemoConfig) -> str:
    """The command that goes on with this demo: its own settings, as far as they decide anything."""
    words = ["marginals", "demo", "--data", config.data]
    for name in ("out", "images", "minutes", "threads"):
        if (value := getattr(config, name)) is not None:
            words += [f"--{name}", str(value)]
    if config.seed:
        words += ["--seed", str(config.seed)]
    return shlex.join(words)
