"""`marginals paper list | show | check | errata | translate | site | mutate`: Luo's equations."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from tyro.conf import FlagCreatePairsOff, Positional, arg

from marginals.commands.common import Command, to_json
from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from marginals.paper.equation import Equation, Result

Numbers = Positional[Annotated[tuple[str, ...], arg(metavar="N")]]
Json = Annotated[FlagCreatePairsOff[bool], arg(name="json")]


class List(Command):
    """Every equation in one line: Luo's 170 and the extensions X1, X2, ...

    Examples:
      marginals paper list
      marginals paper list --section "Evidence Lower Bound"
    """

    section: str | None = None
    """Only this section of the paper, or theme of an extension (a part of its name is enough)."""

    def run(self) -> int:
        from marginals.paper.catalogue import load
        from marginals.paper.show import listing

        print(listing(load(), self.section))
        return 0


class Show(Command):
    """One equation: the maths, what it says, the function that is it, and the check, run now.

    Examples:
      marginals paper show 58
      marginals paper show 46-57 X3
    """

    ids: Numbers = ()
    """Numbers of equations, also ranges: 58, 46-57, X3."""
    code: FlagCreatePairsOff[bool] = True
    """Print the source of the function too (--no-code leaves it out)."""

    def run(self) -> int:
        from marginals.paper.catalogue import find, load
        from marginals.paper.letters import columns
        from marginals.paper.show import page

        if not self.ids:
            raise MarginalsError("say which equation: `marginals paper show 58`; all: `paper list`")
        entries = load()
        shown = [page(entry, entries, code=self.code) for entry in find(entries, self.ids)]
        print(("\n\n" + "═" * columns() + "\n\n").join(shown))
        return 0


class Check(Command):
    """Run the checks and say how large the error was; exit code 1 if one fails.

    Examples:
      marginals paper check --all
      marginals paper check 45 58 X3
    """

    ids: Numbers = ()
    """Numbers of equations, also ranges: 58, 46-57, X3. Without any, all are checked."""
    all: FlagCreatePairsOff[bool] = False
    """Check every equation (the same as giving no number)."""
    only: tuple[str, ...] = ()
    """Only the entries written in these modules of marginals.paper.equations."""
    as_json: Json = False
    """Print one JSON object with every result."""

    def run(self) -> int:
        from marginals.paper.catalogue import find, load
        from marginals.paper.equation import run
        from marginals.paper.show import as_json, summary, verdict

        if self.ids and self.all:
            raise MarginalsError("give numbers or --all, not both")
        entries = load(self.only)
        entries = find(entries, self.ids) if self.ids else entries
        results = []
        for entry in entries:
            results.append(run(entry))
            if not self.as_json:
                print(verdict(results[-1]), flush=True)
        print(to_json(as_json(results)) if self.as_json else "\n" + summary(results))
        return 0 if results and all(result.ok for result in results) else 1


class Errata(Command):
    """What is wrong, or easily got wrong, in the paper: in plain words, with numbers computed now.

    Examples:
      marginals paper errata
      marginals paper errata E1 E4
    """

    ids: Positional[Annotated[tuple[str, ...], arg(metavar="E")]] = ()
    """E1 to E16; all of them by default."""

    def run(self) -> int:
        from marginals.paper.errata import find, words

        print("\n\n".join(words(erratum) for erratum in find(self.ids)))
        return 0


class Translate(Command):
    """The same quantity in six dialects: Luo, DDPM, VDM, EDM, DPM-Solver, flow matching.

    Every spelling comes with the code of this package that computes it, and with its value at one
    noise level.

    Examples:
      marginals paper translate
      marginals paper translate "noise level" --lam 2
    """

    quantity: Positional[Annotated[str | None, arg(metavar="QUANTITY")]] = None
    """A part of a quantity's name; the whole table by default."""
    lam: Annotated[float, Field(ge=-30, le=30)] = 1.0
    """The noise level at which values are shown: the log signal-to-noise ratio λ."""

    def run(self) -> int:
        from marginals.paper.translate import find, key, words

        blocks = [words(quantity, self.lam) for quantity in find(self.quantity)]
        print("\n\n".join([key(self.lam), *blocks]))
        return 0


class Site(Command):
    """One HTML file with all equations typeset, explained, checked and linked; works offline.

    Examples:
      marginals paper site --out paper-site
    """

    out: Path = Path("paper-site")
    """The folder to write index.html into."""

    def run(self) -> int:
        from marginals.paper.catalogue import load
        from marginals.paper.site import write

        results = _run_all(load())
        path = write(results, self.out)
        good = sum(result.ok for result in results)
        print(f"{path}: {len(results)} equations, {good} checks passed")
        return 0 if good == len(results) else 1


class Mutate(Command):
    """Plant errors in the functions that are checked, and report the share that is noticed.

    Wrong signs, factors and indices, α for σ, swapped arguments, a standard deviation for a
    variance: each is planted alone, in memory, and the checks are run. What no check notices is
    listed; exit code 1 if that is more than 5 %.

    Examples:
      marginals paper mutate --count 100
      marginals paper mutate --only elbo
    """

    ids: Numbers = ()
    """Only errors in the functions of these equations."""
    count: Annotated[int | None, Field(ge=1)] = None
    """How many errors to plant, drawn at random; by default all that there are."""
    seed: int = 0
    """Which ones are drawn."""
    only: tuple[str, ...] = ()
    """Only the entries written in these modules of marginals.paper.equations."""
    as_json: Json = False
    """Print one JSON object with the numbers and the survivors."""

    def run(self) -> int:
        from marginals.paper.catalogue import find, load
        from marginals.paper.mutate import mutate
        from marginals.paper.show import mutation_json, mutation_report

        entries = load(self.only)
        if self.ids:
            entries = find(entries, self.ids)
        report = mutate(entries, count=self.count, seed=self.seed, progress=_progress)
        clear = sys.stderr.isatty()
        print("\r\033[K" if clear else "", end="", file=sys.stderr, flush=True)
        print(to_json(mutation_json(report)) if self.as_json else mutation_report(report))
        return 0 if report.share >= 0.95 and not report.failing else 1


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} planted", end="", file=sys.stderr, flush=True)


def _run_all(entries: "list[Equation]") -> "list[Result]":
    from tqdm import tqdm

    from marginals.paper.equation import run

    bar: Any = tqdm(entries, desc="checking", unit=" equations", disable=None)
    return [run(entry) for entry in bar]
