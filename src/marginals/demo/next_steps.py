"""What a person may want next, and the exact command for it."""

import shlex

from marginals.demo.findings import Subject

__all__ = ["commands"]

_LONGER = 200_000


def commands(subject: Subject) -> list[tuple[str, str]]:
    """(what it does, command) pairs; the commands work as they stand, in the same folder."""
    run = shlex.quote(str(subject.run))
    longer = max(5 * subject.trained.images, _LONGER)
    again = f"marginals demo --data {shlex.quote(subject.config.data)}"
    if subject.config.out is not None:
        again += f" --out {shlex.quote(str(subject.config.out))}"
    more = f"marginals sample {run} --solver dpmpp_2m --steps 20 --seed 100 -n 64"
    chain = f"marginals sample {run} --solver ddpm --steps 200 -n 16"
    if subject.labels is not None:
        more += " --guidance 2"
        chain += f" --label {shlex.quote(subject.train.classes[-1])}"
    return [
        ("More pictures", more),
        ("Slowly, by the original chain", chain),
        (
            "Train longer (Ctrl-C stops and saves)",
            f"marginals train --resume {run} --images {longer}",
        ),
        ("Look at everything again afterwards", again),
        (
            "The demo with your own pictures, one sub-folder per kind",
            "marginals demo --data path/to/pictures",
        ),
        (
            "A serious run on your own pictures",
            "marginals train --data path/to/pictures --minutes 30 --out runs/mine",
        ),
    ]
