"""What a run says while it works. The loop emits events; these listeners show or ignore them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tqdm import tqdm

from marginals.train.rungs import rung_words

__all__ = ["Event", "EventKind", "Listener", "ProgressBar"]

EventKind = Literal[
    "trial", "plan", "start", "step", "log", "snapshot", "checkpoint", "warning", "end"
]


@dataclass(frozen=True)
class Event:
    """Something that happened after `images` of `total` images.

    trial: a few steps will be timed, which may take a while · plan: what will be done (parameters,
    memory, time) · start · step: loss (a float, or nothing where reading it would stall the device)
    · log: a line of log.jsonl in `values` · snapshot · checkpoint · warning: a sentence in `text` ·
    end.
    """

    kind: EventKind
    images: int
    total: int
    text: str = ""
    values: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


class ProgressBar:
    """A bar with time left, images per second and loss on stderr; sentences above it."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._parts = ""

    def __call__(self, event: Event) -> None:
        if event.kind in ("trial", "plan", "start", "warning") and event.text:
            tqdm.write(event.text, file=sys.stderr)
        if event.kind == "start":
            self._bar = tqdm(
                total=event.total,
                initial=event.images,
                desc="training",
                unit="img",
                dynamic_ncols=True,
                mininterval=0.5,
            )
        if self._bar is None:
            return
        if event.kind == "step":
            self._bar.update(min(event.images, event.total) - self._bar.n)
        if event.kind == "log":
            self._bar.set_postfix(loss=f"{event.values['loss']:.4f}", refresh=False)
            self._parts = _parts(event.values)
        if event.kind == "snapshot" and self._parts:
            tqdm.write(f"{event.images} images, {self._parts}", file=sys.stderr)
        if event.kind == "end":
            self.close()
            if event.text:
                print(event.text, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _parts(values: dict[str, Any]) -> str:
    """The parts of a logged loss: by bin of λ (noise left, data right), or by rung."""
    if "rungs" in values:
        return rung_words(values["rungs"])
    levels = "  ".join(f"{name} {loss:.4f}" for name, loss in values["levels"].items())
    return f"loss by noise level λ: {levels}"
