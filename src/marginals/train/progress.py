"""What a run says while it works. The loop emits events; these listeners show or ignore them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tqdm import tqdm

__all__ = ["Event", "EventKind", "Listener", "ProgressBar"]

EventKind = Literal["plan", "start", "step", "log", "snapshot", "checkpoint", "warning", "end"]


@dataclass(frozen=True)
class Event:
    """Something that happened after `images` of `total` images.

    plan: what will be done (parameters, memory, time) · start · step: loss (a float, or nothing
    where reading it would stall the device) · log: a line of log.jsonl in `values` · snapshot ·
    checkpoint · warning: a sentence in `text` · end.
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
        self._levels: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if event.kind in ("plan", "warning") and event.text:
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
            self._levels = event.values["levels"]
        if event.kind == "snapshot" and self._levels:
            tqdm.write(f"{event.images} images, {self._by_level()}", file=sys.stderr)
        if event.kind == "end":
            self.close()
            if event.text:
                print(event.text, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _by_level(self) -> str:
        """The last logged loss in each bin of λ; noise is on the left, data on the right."""
        return "loss by noise level λ: " + "  ".join(
            f"{name} {loss:.4f}" for name, loss in self._levels.items()
        )
