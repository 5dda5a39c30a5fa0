"""Progress that people can read: numbered stages, each with a bar and the time it still needs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from marginals.train.progress import Event, ProgressBar

__all__ = ["Stages", "TrainingBar"]


class Stages:
    """`with stages("likelihoods", total) as tick: ... tick(n)`; remembers the seconds of each."""

    def __init__(self, count: int) -> None:
        self.count, self.seconds = count, dict[str, float]()

    @contextmanager
    def __call__(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A stage of ``total`` network evaluations; without a total only its title is shown."""
        name = f"[{len(self.seconds) + 1}/{self.count}] {title}"
        began = time.monotonic()
        if total is None:
            print(name, file=sys.stderr)
            yield lambda done: None
        else:
            with tqdm(
                total=total, desc=name, unit=" evaluations", unit_scale=True, dynamic_ncols=True
            ) as bar:

                def tick(done: int) -> None:
                    bar.update(done)

                yield tick
        self.seconds[title] = time.monotonic() - began


class TrainingBar(ProgressBar):
    """The trainer's bar and its warnings; what it says besides stands in the report."""

    def __call__(self, event: Event) -> None:
        if event.kind == "end":
            self.close()
        elif event.kind not in ("trial", "plan", "snapshot"):
            super().__call__(event)
