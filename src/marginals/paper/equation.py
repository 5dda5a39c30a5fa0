"""One equation of the paper: what it says, which function of this package it is, and its check.

    @equation("85", page=12, part="Variational Diffusion Models", latex=r"...", says="...",
              home=posterior_variance)
    def _() -> Finding:
        return equal(posterior_variance(...), the_same_by_conditioning_a_joint_gaussian(...))

A check compares the function that *is* the equation (its ``home``) with a truth found in another
way: a closed form, quadrature, a finite sum, autograd. The error it finds must stay below the
equation's tolerance. Equations that are only true in expectation, under a condition, or not at all
are checked as what they are; ``status`` says which.
"""

import inspect
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Status = Literal[
    "identity", "definition", "bound", "expectation", "condition", "limit", "wrong", "explained"
]
"""identity: both sides equal. definition: the function does what the symbol says. bound: ≥, strict
somewhere and tight somewhere. expectation: equal on average only. condition: equal only under the
condition named in ``note``. limit: equal as something goes to 0 or ∞, at a measured rate. wrong:
false as printed; the check proves by how much. explained: nothing to compute; ``note`` says why."""


@dataclass(frozen=True)
class Finding:
    """What a check found: the largest error, and in words what was compared on what."""

    error: float
    compared: str


@dataclass(frozen=True)
class Equation:
    """An entry of the catalogue.

    ``id``: Luo's number ("58") or "X" and a number for the extensions. ``part``: the paper's
    section (or the theme of an extension). ``page``: of arXiv 2208.11970v1, None for extensions.
    ``latex``: the equation. ``says``: one sentence in plain language that is true. ``homes``: the
    functions of this package that are the equation, the first one being *the* function. ``note``:
    what to be careful about. ``erratum``: the number of the erratum that concerns it ("E1").
    ``source``: where an extension comes from. ``module``: where the entry is written.
    """

    id: str
    part: str
    latex: str
    says: str
    homes: tuple[Callable[..., object], ...]
    check: Callable[[], Finding] | None
    status: Status = "identity"
    tolerance: float = 1e-10
    page: int | None = None
    note: str = ""
    erratum: str = ""
    source: str = "Luo 2022, arXiv 2208.11970v1"
    module: str = ""

    @property
    def order(self) -> tuple[int, int]:
        """Luo's numbers first, then the extensions."""
        return (1, int(self.id[1:])) if self.id.startswith("X") else (0, int(self.id))


@dataclass(frozen=True)
class Result:
    """An equation after its check: the error found, whether it is small enough, and the time."""

    equation: Equation
    finding: Finding | None
    seconds: float
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether the check ran and its error is within tolerance (NaN is not)."""
        if self.equation.check is None:
            return not self.failure
        return self.finding is not None and self.finding.error <= self.equation.tolerance


@dataclass
class Catalogue:
    """All equations, by id."""

    entries: dict[str, Equation] = field(default_factory=dict)

    def add(self, entry: Equation) -> None:
        if entry.id in self.entries:
            raise ValueError(f"equation {entry.id} is written twice")
        self.entries[entry.id] = entry


CATALOGUE = Catalogue()
"""Filled by importing the modules of :mod:`marginals.paper.equations`."""


def equation(
    id: str,
    *,
    part: str,
    latex: str,
    says: str,
    home: Callable[..., object] | Iterable[Callable[..., object]],
    page: int | None = None,
    status: Status = "identity",
    tolerance: float = 1e-10,
    note: str = "",
    erratum: str = "",
    source: str = "Luo 2022, arXiv 2208.11970v1",
) -> Callable[[Callable[[], Finding]], Callable[[], Finding]]:
    """Register the decorated function as the check of an equation."""
    homes = (home,) if callable(home) else tuple(home)

    def register(check: Callable[[], Finding]) -> Callable[[], Finding]:
        CATALOGUE.add(
            Equation(
                id=id,
                part=part,
                latex=inspect.cleandoc(latex),
                says=says,
                homes=homes,
                check=None if status == "explained" else check,
                status=status,
                tolerance=tolerance,
                page=page,
                note=note,
                erratum=erratum,
                source=source,
                module=check.__module__,
            )
        )
        return check

    return register


def run(entry: Equation) -> Result:
    """Run one check, reproducibly; an exception is a failed check, not a crash."""
    start = time.perf_counter()
    if entry.check is None:
        return Result(entry, None, 0.0)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            finding = entry.check()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        return Result(entry, None, time.perf_counter() - start, failure)
    return Result(entry, finding, time.perf_counter() - start)


# ---- what checks are made of -------------------------------------------------------------------


def gap(left: Tensor | float, right: Tensor | float) -> float:
    """The largest |left − right| / max(1, |right|) over all entries; NaN and shapes that do not
    broadcast count as infinite."""
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (left, right))
    error = ((a - b).abs() / b.abs().clamp(min=1.0)).max().item()
    return error if math.isfinite(error) else math.inf


def equal(left: Tensor | float, right: Tensor | float, compared: str) -> Finding:
    """Both sides, entry by entry."""
    return Finding(gap(left, right), compared)


def all_equal(pairs: Iterable[tuple[Tensor | float, Tensor | float]], compared: str) -> Finding:
    """Several pairs of sides; the largest error counts."""
    return Finding(max(gap(left, right) for left, right in pairs), compared)


def require(condition: bool, sentence: str) -> None:
    """A side condition of a check (a bound that must be strict, a gap that must not vanish)."""
    if not condition:
        raise AssertionError(sentence)
