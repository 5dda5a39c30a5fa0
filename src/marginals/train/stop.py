"""Stopping a run is always allowed: Ctrl-C or SIGTERM finish the step and write a checkpoint."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from marginals.errors import MarginalsError

__all__ = ["Diverged", "Stop", "Stopped"]


class Stopped(MarginalsError):
    """The run was stopped by a person and wrote its checkpoint; the message says how to go on."""

    exit_code = 130


class Diverged(MarginalsError):
    """The loss or its gradient is not a finite number; the last good checkpoint was kept."""


class Stop:
    """A request to stop, from a signal or from another thread.

        with Stop() as stop:
            while not stop.requested: ...

    Inside the block SIGINT and SIGTERM only set `requested`; a second SIGINT interrupts at once.
    Signals can be caught in the main thread only; elsewhere `request()` is the way.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._old: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        """Ask the run to stop after the present step."""
        self._event.set()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.request()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]
        self._old.clear()
