"""All equations in order, and where in the code each one lives.

The entries are written in the modules of :mod:`marginals.paper.equations`; importing a module
registers its entries. Nothing else in the package names an equation by its number.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from textwrap import dedent
from types import FunctionType, MethodType

import marginals
from marginals.errors import MarginalsError

from . import equations
from .equation import CATALOGUE, Equation

LUO = 170
"""How many numbered equations the paper has."""
_ROOT = Path(marginals.__file__).parent.parent


def modules() -> list[str]:
    """The names of the modules that hold entries."""
    return [module.name for module in iter_modules(equations.__path__)]


def load(only: Sequence[str] = ()) -> list[Equation]:
    """Every entry, Luo's numbers first; ``only``: those of some modules ("elbo", "hvae")."""
    for name in only:
        if name not in modules():
            raise MarginalsError(
                f"there is no module {name!r} of equations; there are {', '.join(modules())}"
            )
    for name in only or modules():
        import_module(f"{equations.__name__}.{name}")
    wanted = [e for e in CATALOGUE.entries.values() if not only or module_of(e) in only]
    return sorted(wanted, key=lambda entry: entry.order)


def module_of(entry: Equation) -> str:
    """The module in which the entry is written, without its package."""
    return entry.module.rpartition(".")[2]


def find(entries: Iterable[Equation], ids: Sequence[str]) -> list[Equation]:
    """The entries with these ids ("58", "x3", "46-57", "58,45"), in the order asked."""
    by_id = {entry.id: entry for entry in entries}
    found = [by_id[one] for asked in _split(ids) for one in _expand(asked, by_id)]
    return list(dict.fromkeys(found))


def _split(ids: Sequence[str]) -> list[str]:
    """ "58,45" → ["58", "45"]; a comma at the end is none, a comma alone stays for the message."""
    return [one for asked in ids for one in asked.split(",") if one.strip()] or list(ids)


def _expand(asked: str, known: Iterable[str]) -> list[str]:
    """ "58" or "Eq. (58)" → ["58"], "46-48" → ["46", "47", "48"].

    Raises MarginalsError for what does not exist.
    """
    words = re.fullmatch(r"(?:EQ)?[.( ]*(X?)(\d+)(?:[-–]X?(\d+))?[) ]*", asked.strip().upper())
    if words:
        kind, first, last = words[1], int(words[2]), int(words[3] or words[2])
        ids = [f"{kind}{number}" for number in range(first, last + 1)]
        if ids and all(one in known for one in ids):
            return ids
    extensions = [one for one in known if one.startswith("X")]
    raise MarginalsError(
        f"there is no equation {asked!r}; Luo's are 1 to {LUO}"
        + (f" and the extensions {extensions[0]} to {extensions[-1]}" if extensions else "")
    )


def neighbours(entry: Equation, entries: Sequence[Equation]) -> dict[str, Equation]:
    """The equation before and the one after."""
    place = entries.index(entry)
    near = {"before": place - 1, "after": place + 1}
    return {name: entries[i] for name, i in near.items() if 0 <= i < len(entries)}


def related(entry: Equation, entries: Sequence[Equation]) -> list[Equation]:
    """Other equations that are the same function of this package."""
    mine = {name_of(home) for home in entry.homes}
    return [e for e in entries if e is not entry and mine & {name_of(home) for home in e.homes}]


# ---- homes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a home is written: dotted name, file below the package's parent, first line, text."""

    name: str
    file: str
    line: int
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def here(self) -> str:
        """The same as a path from the working directory, if the file is below it."""
        path = _ROOT / self.file
        below = path.is_relative_to(Path.cwd())
        return f"{path.relative_to(Path.cwd())}:{self.line}" if below else str(self)


def implementation(home: Callable[..., object]) -> FunctionType | type:
    """The plain function (or class) behind a home: without caches, wrappers and binding."""
    if isinstance(home, partial):
        return implementation(home.func)
    found = inspect.unwrap(home)
    if isinstance(found, MethodType):
        return implementation(found.__func__)
    if isinstance(found, FunctionType | type):
        return found
    return implementation(type(home).__call__)


def name_of(home: Callable[..., object]) -> str:
    """The dotted name, "chain.posterior_variance"."""
    found = implementation(home)
    return f"{found.__module__}.{found.__qualname__}".removeprefix("marginals.")


def locate(home: Callable[..., object]) -> Place:
    """File, line and source of a home."""
    found = implementation(home)
    lines, first = inspect.getsourcelines(found)
    file = Path(inspect.getsourcefile(found) or "").relative_to(_ROOT)
    return Place(name_of(home), file.as_posix(), first, dedent("".join(lines)).rstrip())
