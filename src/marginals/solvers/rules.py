"""The rules to read first: how DDIM, Euler, Heun and DPM-Solver++(2M) fill their tables.

The others are in :mod:`.multistep`, :mod:`.unipc`, :mod:`.singlestep`, :mod:`.stochastic` and
:mod:`.langevin`; what all deterministic ones have in common is in :mod:`.frames`.

Notation: a step goes from a noisier level t to a cleaner level s; e = e^(λ_t − λ_s) =
SNR(t)/SNR(s) ≤ 1. Every formula is written in (α, σ) of whatever scaling is in use and gives the
same walk in all of them. At λ = −∞ (pure noise, α = 0) and λ = +∞ (clean, σ = 0) each rule takes
its first-order step, which is exact there.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from ..errors import MarginalsError
from ..scaling import Level
from .frames import infinite
from .table import Row, Solver, Table


def first_order(i: int, t: Level[float], s: Level[float], eta: float = 0.0) -> Row:
    """One DDIM(η) step from state i: x_s = α_s·x̂0 + √(σ_s² − η²σ_q²)·ε̂ + η·σ_q·z.

    σ_q² = σ_s²(1 − e) is the posterior variance of q(x_s | x_t, x0) (Luo Eq. 85).
    """
    snr_ratio = math.exp(t.lam - s.lam)
    noise = eta * s.sigma * math.sqrt(-math.expm1(t.lam - s.lam))
    keep = s.sigma * math.sqrt((1.0 - eta**2) + eta**2 * snr_ratio) / t.sigma
    path = (t.lam, eta**2) if noise else None
    return Row(s, {i: keep}, {i: s.alpha - keep * t.alpha}, noise, path)


def ddim(eta: float = 0.0) -> Solver:
    """DDIM (Song et al. 2021): from the deterministic ODE (η = 0) to DDPM's chain (η = 1)."""
    if not 0.0 <= eta <= 1.0:
        raise MarginalsError(f"DDIM's eta goes from 0 (deterministic) to 1 (DDPM), not {eta}.")

    def rule(levels: Sequence[Level[float]]) -> Table:
        pairs = itertools.pairwise(levels)
        return [first_order(i, t, s, eta) for i, (t, s) in enumerate(pairs)]

    return Solver("ddim", rule, 1, eta > 0, "denoise, then put back the predicted noise")


def euler() -> Solver:
    """Euler's method on the probability-flow ODE, in the coordinate where it is straight.

    In VE units dx/dσ = ε̂ (Karras et al. 2022), in rectified-flow units dx/dt = ε̂ − x̂0, and
    either way
    x_s = x_t + (s − t)·slope is the DDIM step: three names of one table.
    """
    return replace(ddim(0.0), name="euler", about="follow the ODE's slope in straight steps")


def heun() -> Solver:
    """Heun's second-order method on dx/dσ = ε̂ in VE units (Karras et al. 2022, Algorithm 1).

    Two evaluations a step: look ahead with Euler, then average both slopes. 2N − 1 in all, because
    the step into λ = ∞ is Euler's.
    """

    def rule(levels: Sequence[Level[float]]) -> Table:
        rows: Table = []
        for t, s in itertools.pairwise(levels):
            i = len(rows)
            rows.append(first_order(i, t, s))
            if infinite(t, s):
                continue
            # VE units: y = x/α, r = σ/α; y_s = y_t + ½(r_s − r_t)·[(y_t − D_t)/r_t + (y_1 −
            # D_1)/r_s]
            r_t, r_s = t.sigma / t.alpha, s.sigma / s.alpha
            first, second = 0.5 * (r_s - r_t) / r_t, 0.5 * (r_s - r_t) / r_s
            x = {i: s.alpha / t.alpha * (1.0 + first), i + 1: second}
            rows.append(Row(s, x, {i: -s.alpha * first, i + 1: -s.alpha * second}))
        return rows

    return Solver("heun", rule, 2, False, "look ahead, average the two slopes")


def dpmpp_2m() -> Solver:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): two clean estimates extrapolated in λ.

    x_s = (σ_s/σ_t)·x_t + (α_s − α_t·σ_s/σ_t)·D,  D = (1 + c)·x̂0(x_i) − c·x̂0(x_(i−1)),  c =
    h_i/(2·h_(i−1)), with h the steps in λ. One evaluation a step; the previous estimate is reused.
    """

    def rule(levels: Sequence[Level[float]]) -> Table:
        rows: Table = []
        for i, (t, s) in enumerate(itertools.pairwise(levels)):
            row = first_order(i, t, s)
            if i and not infinite(levels[i - 1], s):
                c = 0.5 * (s.lam - t.lam) / (t.lam - levels[i - 1].lam)
                row = row._replace(d={i: (1.0 + c) * row.d[i], i - 1: -c * row.d[i]})
            rows.append(row)
        return rows

    return Solver("dpmpp_2m", rule, 2, False, "remember the last estimate and extrapolate")
