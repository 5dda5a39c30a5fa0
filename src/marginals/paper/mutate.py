"""How good are the checks? Plant errors in what they check and count those that are noticed.

Every home (the function that *is* an equation) is changed in one place at a time, in memory, and
the checks of the equations it belongs to are run. An error is *caught* if one of them fails. A
check that catches nothing would pass whatever the code says, and this is how one finds out.
"""

import gc
import random
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import _lru_cache_wrapper, lru_cache
from types import FrameType, FunctionType
from typing import Any

from .catalogue import implementation
from .equation import Equation, Result, run
from .equivalent import EQUIVALENT
from .mutants import Mutant, mutants

_NONSENSE = ("TypeError", "AttributeError", "NameError", "UnboundLocalError", "KeyError")
"""Python itself refuses these: they show nothing about a check and are not counted."""
_PATIENCE = 20.0  # seconds after which a planted error counts as noticed: it hangs


@dataclass(frozen=True)
class Outcome:
    """One planted error and the id of the equation whose check noticed it ("" for none)."""

    mutant: Mutant
    caught_by: str
    equations: tuple[str, ...]


@dataclass
class Report:
    """What became of all planted errors."""

    outcomes: list[Outcome] = field(default_factory=list)
    excluded: list[tuple[Mutant, str]] = field(default_factory=list)
    failing: list[Result] = field(default_factory=list)
    refused: int = 0
    """Changes that Python itself refuses, whatever the check: not counted as planted."""
    functions: int = 0
    seconds: float = 0.0

    @property
    def planted(self) -> int:
        return len(self.outcomes)

    @property
    def survivors(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.caught_by]

    @property
    def share(self) -> float:
        """The share caught, 0 to 1."""
        return 1.0 - len(self.survivors) / self.planted if self.planted else 0.0

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Kind of error → (caught, planted)."""
        planted = Counter(o.mutant.kind for o in self.outcomes)
        missed = Counter(o.mutant.kind for o in self.survivors)
        return {kind: (n - missed[kind], n) for kind, n in planted.most_common()}


def functions_of(home: Callable[..., object]) -> list[FunctionType]:
    """The functions of this package that a home consists of: itself, or the methods of a class."""
    found = implementation(home)
    if not found.__module__.startswith("marginals."):
        return []
    if isinstance(found, FunctionType):
        return [found]
    parts = [getattr(part, "fget", None) or part for part in vars(found).values()]
    parts = [getattr(part, "__func__", part) for part in parts]
    plain = [p for p in parts if isinstance(p, FunctionType) and p.__module__ == found.__module__]
    return [p for p in plain if p.__name__ in ("__call__", "__getitem__") or p.__name__[0] != "_"]


def homes(entries: Sequence[Equation]) -> dict[FunctionType, list[Equation]]:
    """Every distinct function, and the equations with a check that are it."""
    found: dict[FunctionType, list[Equation]] = {}
    for entry in entries:
        for home in entry.homes if entry.check else ():
            for function in functions_of(home):
                found.setdefault(function, []).append(entry)
    return found


def mutate(
    entries: Sequence[Equation],
    *,
    count: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Plant errors in the homes of ``entries`` (``count`` of them, drawn with ``seed``; all by
    default), one after the other, and see which checks notice."""
    start, report = time.perf_counter(), Report()
    before = {entry.id: run(entry) for entry in entries if entry.check}
    _caches.cache_clear()  # the checks may have imported more of the package
    report.failing = [result for result in before.values() if not result.ok]
    sound = [e for e in entries if e.id in before and before[e.id].ok]
    checks = homes(sound)
    planted = [mutant for function in checks for mutant in mutants(function)]
    random.Random(seed).shuffle(planted)
    reasons = [(mutant, reason_for(mutant)) for mutant in planted]
    report.excluded = [(mutant, reason) for mutant, reason in reasons if reason]
    waiting = [mutant for mutant, reason in reasons if not reason]
    report.functions = len({mutant.function for mutant in waiting})
    for mutant in waiting:
        if count is not None and report.planted >= count:
            break
        cheap_first = sorted(checks[mutant.function], key=lambda e: before[e.id].seconds)
        caught = _caught_by(mutant, cheap_first)
        if caught is None:
            report.refused += 1
        else:
            ids = tuple(entry.id for entry in cheap_first)
            report.outcomes.append(Outcome(mutant, caught, ids))
        progress(report.planted, min(count or len(waiting), len(waiting)))
    report.outcomes.sort(key=lambda o: (o.mutant.name, o.mutant.line))
    report.seconds = time.perf_counter() - start
    return report


def reason_for(mutant: Mutant) -> str:
    """Why a change changes nothing (a line of ``equivalent.py``), or ""."""
    for name, before, after, reason in EQUIVALENT:
        if (name, before, after) == (mutant.name, mutant.before, mutant.after):
            return reason
    return ""


def _caught_by(mutant: Mutant, checks: Sequence[Equation]) -> str | None:
    """The id of the first check that fails, "" if none does, None if Python refuses the change."""
    with planted_error(mutant):
        for entry in checks:
            result = _within(_PATIENCE, entry)
            if result.failure.startswith(_NONSENSE):
                return None
            if not result.ok:
                return entry.id
    return ""


@contextmanager
def planted_error(mutant: Mutant) -> Iterator[None]:
    """The planted error is in force in this block, and every remembered result is forgotten."""
    function, original = mutant.function, mutant.function.__code__
    forget()
    try:
        function.__code__ = mutant.code
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        function.__code__ = original
        forget()


def forget() -> None:
    """Clear the caches of this package: what they hold may come from a planted error."""
    for cache in _caches():
        cache.cache_clear()


@lru_cache(maxsize=1)
def _caches() -> list[Any]:
    """Everything cached with ``lru_cache`` in the package, this function and its like excepted."""
    found = [thing for thing in gc.get_objects() if type(thing) is _lru_cache_wrapper]
    names = [(thing, str(getattr(thing, "__module__", ""))) for thing in found]
    return [c for c, name in names if name.startswith("marginals.") and name not in _OWN]


_OWN = {__name__, "marginals.paper.mutants"}


def _within(seconds: float, entry: Equation) -> Result:
    """Run a check; one that hangs is stopped (in the main thread) and has failed."""
    if threading.current_thread() is not threading.main_thread():
        return run(entry)

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still running after {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return run(entry)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
