"""Who comes nearest to the truth with how many evaluations.

Every entrant is measured on a few samples, and the best of each side on all of them: those with the
least RMSE there, and the few with the least mean error if they are others. Distances of
single samples are kept in a file, so that a run that was stopped goes on where it was, and a
changed solver, grid, problem or package is measured anew.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from marginals.io.atomic import write_bytes

from .figures import Error, measure, ratio
from .peers import Denoise
from .problems import Counter, Problem

FINALISTS, BY_MEAN, KEEP_EVERY, LONG = 16, 4, 200, 20
"""From ``LONG`` evaluations on, fewer samples screen: errors are more alike there."""


@dataclass(frozen=True)
class Entrant:
    """``side``: "peer", "ours", "default" or "fitted"; ``key``: what is computed, exactly;
    ``screened``: False if its steps depend on which samples it is given (adaptive ones)."""

    side: str
    name: str
    grid: str
    budget: int
    key: str
    walk: Callable[[Denoise, Tensor], Tensor]
    screened: bool = True

    def __str__(self) -> str:
        return f"{self.name}, {self.grid}" if self.grid else self.name


@dataclass(frozen=True)
class Place:
    """An entrant with its figures; ``square``: the mean squared error of every sample."""

    entrant: Entrant
    error: Error
    square: Tensor


class Store:
    """Squared errors of single samples, by what was computed; one file per problem."""

    def __init__(self, file: Path, problem: Problem) -> None:
        self.file, self.problem = file, problem
        self.kept: dict[str, Tensor] = torch.load(file, weights_only=True) if file.exists() else {}
        self.new = 0

    def square(self, entrant: Entrant, first: int, last: int) -> tuple[Tensor, int]:
        """Of samples first..last − 1, and the evaluations it took."""
        text = f"{entrant.key}|{self.problem.mark}|{first}|{last}"
        key = hashlib.sha256(text.encode()).hexdigest()[:24]
        if key not in self.kept:
            part = slice(first, last)
            count = Counter(self.problem.of(part))
            x = entrant.walk(count, self.problem.start[part])
            square = (x - self.problem.truth[part]).double().flatten(1).square().mean(1)
            self.kept[key] = torch.cat([torch.tensor([count.calls]).double(), square])
            self.new += 1
            if self.new % KEEP_EVERY == 0:
                self.save()
        calls, *_ = self.kept[key].tolist()
        return self.kept[key][1:], int(calls)

    def save(self) -> None:
        import io

        buffer = io.BytesIO()
        torch.save(self.kept, buffer)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.file, buffer.getvalue())


@torch.no_grad()
def hold(store: Store, entrants: Iterable[Entrant], *, finalists: int = FINALISTS) -> list[Place]:
    """The finalists of every side, best first: all samples measured."""
    count, few = len(store.problem.start), store.problem.screen
    first: dict[str, list[tuple[float, float, int, Entrant]]] = {}
    for entrant in entrants:
        screen = min(max(few // 4, 24) if entrant.budget >= LONG else few, count)
        square, calls = store.square(entrant, 0, screen if entrant.screened else count)
        if not entrant.screened and calls > entrant.budget:
            continue  # an adaptive one asks as often as it likes
        if calls > entrant.budget:
            raise AssertionError(f"{entrant} asked {calls} times with a budget of {entrant.budget}")
        seen = square[:screen].nan_to_num(nan=torch.inf)
        figures = seen.mean().item(), seen.sqrt().mean().item()
        first.setdefault(entrant.side, []).append((*figures, screen, entrant))
    places = []
    for every in first.values():
        chosen = sorted(every, key=lambda found: found[0])[:finalists]
        by_mean = sorted(every, key=lambda found: found[1])[:BY_MEAN]
        chosen += [found for found in by_mean if found not in chosen]
        places += [_place(store, entrant, screen, count) for *_, screen, entrant in chosen]
    store.save()
    return sorted(places, key=lambda place: place.error.rmse)


def _place(store: Store, entrant: Entrant, screen: int, count: int) -> Place:
    if not entrant.screened:
        square, calls = store.square(entrant, 0, count)
        return Place(entrant, measure(square, calls), square)
    square, calls = store.square(entrant, 0, screen)
    if count > screen:
        square = torch.cat([square, store.square(entrant, screen, count)[0]])
    return Place(entrant, measure(square, calls), square)


def best(places: list[Place], side: str, by: str = "rmse") -> Place | None:
    """The finalist of one side with the least ``by``, a figure of :class:`.figures.Error`; our
    default is one of ours."""
    sides = ("ours", "default") if side == "ours" else (side,)
    found = [place for place in places if place.entrant.side in sides]
    return min(found, key=lambda place: getattr(place.error, by), default=None)


def against(place: Place | None, other: Place | None) -> tuple[float, float] | None:
    """RMSE of the one over RMSE of the other on the same samples, and its standard error."""
    return None if place is None or other is None else ratio(place.square, other.square)
