"""Langevin dynamics: moves that stay at a noise level and settle its distribution.

x ← x + c·score + √(2c)·z leaves q(x_λ) as it is, up to an error of order c (Luo Eq. 158). Such
moves alone, at ever lower noise, are annealed Langevin dynamics; after each step of another solver
they are the corrector of predictor–corrector sampling (Song et al. 2021).
"""

import itertools
import math
from collections.abc import Sequence

from ..errors import MarginalsError
from ..scaling import Level
from .frames import infinite
from .rules import first_order
from .table import Row, Solver, Table


def _move(i: int, t: Level[float], step: float) -> Row:
    """One move with c = step·σ²; score and x̂0 are the same thing: score = (α·x̂0 − x)/σ²."""
    return Row(t, {i: 1.0 - step}, {i: step * t.alpha}, t.sigma * math.sqrt(2.0 * step))


def _adaptive_move(i: int, t: Level[float], snr: float) -> Row:
    """One move whose c = 2·(snr·‖z‖/‖score‖)² is found in the walk, for every picture its own."""
    return Row(t, {i: 0.0}, {i: t.alpha}, t.sigma, snr=snr)


def _carry(rows: Table, s: Level[float]) -> Row:
    """The last state taken to another level by its signal alone: x/α stays as it is."""
    return Row(s, {len(rows): s.alpha / rows[-1].at.alpha}, {})


def langevin(corrections: int = 3, step: float = 0.35) -> Solver:
    """Annealed Langevin dynamics (Song & Ermon 2019; Luo Eq. 158 level by level).

    At every level ``corrections`` moves x ← x + c·score + √(2c)·z with c = ``step``·σ²; then x/α is
    carried unchanged to the next, cleaner level, as in NCSN. A step into λ = ∞ is one noise-free
    denoising (Tweedie, Luo Eq. 133).
    """
    if corrections < 1 or not 0.0 < step < 1.0:
        raise MarginalsError(
            f"Langevin needs corrections >= 1 and 0 < step < 1, got {corrections} and {step}."
        )
    about = "jiggle towards the data at ever lower noise"
    return _annealed("langevin", about, corrections, step=step)


def langevin_adaptive(corrections: int = 3, snr: float = 0.16) -> Solver:
    """Annealed Langevin dynamics whose steps are set by norms (Song et al. 2021, Algorithms 4, 5).

    c = 2·(``snr``·‖z‖/‖score‖)²: the pull of the score, c·‖score‖, is ``snr`` times as long as the
    noise, √(2c)·‖z‖. The norms are each picture's own; the paper's code takes means over the batch,
    so that its pictures depend on their neighbours.
    """
    _check(corrections, snr)
    about = "Langevin, its steps set by the score's length"
    return _annealed("langevin_adaptive", about, corrections, snr=snr)


def _annealed(
    name: str, about: str, corrections: int, *, step: float = 0.0, snr: float = 0.0
) -> Solver:
    def rule(levels: Sequence[Level[float]]) -> Table:
        if infinite(levels[0]):
            raise MarginalsError("Langevin needs a finite first level: choose a finite lam_min.")
        rows: Table = []
        for t, s in itertools.pairwise(levels):
            if rows:
                rows.append(_carry(rows, t))
            for _ in range(corrections):
                i = len(rows)
                rows.append(_adaptive_move(i, t, snr) if snr else _move(i, t, step))
            if s is levels[-1]:
                end = first_order(len(rows), t, s) if infinite(s) else _carry(rows, s)
                rows.append(end)
        return rows

    return Solver(name, rule, None, True, about)


def predictor_corrector(corrections: int = 1, snr: float = 0.16) -> Solver:
    """Predictor–corrector sampling (Song et al. 2021, Algorithm 1): a step of the reverse SDE, then
    Langevin moves at the level reached.

    The predictor is DDPM's step; the corrector's moves are those of :func:`langevin_adaptive`. The
    step into λ = ∞ is not corrected. 1 + ``corrections`` evaluations a step.
    """
    _check(corrections, snr)

    def rule(levels: Sequence[Level[float]]) -> Table:
        rows: Table = []
        for t, s in itertools.pairwise(levels):
            rows.append(first_order(len(rows), t, s, 1.0))
            if s is not levels[-1]:
                rows += [_adaptive_move(len(rows) + k, s, snr) for k in range(corrections)]
        return rows

    about = "a step of the SDE, then Langevin moves"
    return Solver("predictor_corrector", rule, None, True, about)


def _check(corrections: int, snr: float) -> None:
    if corrections < 1 or not 0.0 < snr < 1.0:
        raise MarginalsError(
            f"Langevin needs corrections >= 1 and 0 < snr < 1, got {corrections} and {snr}."
        )
