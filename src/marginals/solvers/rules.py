"""The rules: how each named solver fills its table.

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
from .table import Row, Solver, Table


def _infinite(*levels: Level[float]) -> bool:
    return any(math.isinf(float(level.lam)) for level in levels)


def _reverse(i: int, t: Level[float], s: Level[float], eta: float) -> Row:
    """One DDIM(η) step from state i: x_s = α_s·x̂0 + √(σ_s² − η²σ_q²)·ε̂ + η·σ_q·z.

    σ_q² = σ_s²(1 − e) is the posterior variance of q(x_s | x_t, x0) (Luo Eq. 85).
    """
    snr_ratio = math.exp(t.lam - s.lam)
    noise = eta * s.sigma * math.sqrt(-math.expm1(t.lam - s.lam))
    keep = s.sigma * math.sqrt((1.0 - eta**2) + eta**2 * snr_ratio) / t.sigma
    return Row(s, {i: keep}, {i: s.alpha - keep * t.alpha}, noise)


def _carry(rows: Table, s: Level[float]) -> Row:
    """The last state taken to another level by its signal alone: x/α stays as it is."""
    return Row(s, {len(rows): s.alpha / rows[-1].at.alpha}, {})


def ddim(eta: float = 0.0) -> Solver:
    """DDIM (Song et al. 2021): from the deterministic ODE (η = 0) to DDPM's chain (η = 1)."""
    if not 0.0 <= eta <= 1.0:
        raise MarginalsError(f"DDIM's eta goes from 0 (deterministic) to 1 (DDPM), not {eta}.")

    def rule(levels: Sequence[Level[float]]) -> Table:
        pairs = itertools.pairwise(levels)
        return [_reverse(i, t, s, eta) for i, (t, s) in enumerate(pairs)]

    return Solver("ddim", rule, 1, eta > 0, "denoise, then put back the predicted noise")


def ddpm() -> Solver:
    """Ancestral sampling of q(x_s | x_t, x̂0) (Ho et al. 2020; Luo Eqs. 84, 85, 94): DDIM with η =
    1."""
    about = "denoise a little, then add fresh noise, again and again (the original chain)"
    return replace(ddim(1.0), name="ddpm", about=about)


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
            rows.append(_reverse(i, t, s, 0.0))
            if _infinite(t, s):
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
            row = _reverse(i, t, s, 0.0)
            if i and not _infinite(levels[i - 1], s):
                c = 0.5 * (s.lam - t.lam) / (t.lam - levels[i - 1].lam)
                row = row._replace(d={i: (1.0 + c) * row.d[i], i - 1: -c * row.d[i]})
            rows.append(row)
        return rows

    return Solver("dpmpp_2m", rule, 2, False, "remember the last estimate and extrapolate")


def euler_maruyama() -> Solver:
    """Euler–Maruyama on the reverse SDE (Anderson 1982; Song et al. 2021) in VE units.

    dy = 2·r·score·dr-steps give y_s = y_t + (r_t² − r_s²)·(x̂0 − y_t)/r_t² + √(r_t² − r_s²)·z. The
    mean is DDPM's; the noise has the variance of the forward step, DDPM's "large" choice, instead
    of the posterior's. The last step, into λ = ∞, adds no noise.
    """

    def rule(levels: Sequence[Level[float]]) -> Table:
        rows: Table = []
        for i, (t, s) in enumerate(itertools.pairwise(levels)):
            row = _reverse(i, t, s, 1.0)
            if t.alpha == 0.0:
                raise MarginalsError(
                    "Euler–Maruyama cannot start from pure noise at λ = −∞, where its noise "
                    "would be infinite: start from a finite λ, or use ddpm."
                )
            spread = (t.sigma / t.alpha) ** 2 - (s.sigma / s.alpha) ** 2
            noise = 0.0 if _infinite(s) else s.alpha * math.sqrt(spread)
            rows.append(row._replace(noise=noise))
        return rows

    return Solver("euler_maruyama", rule, 1, True, "the reverse SDE in small random steps")


def langevin(corrections: int = 3, step: float = 0.35) -> Solver:
    """Annealed Langevin dynamics (Song & Ermon 2019; Luo Eq. 158 level by level).

    At every level ``corrections`` moves x ← x + c·score + √(2c)·z with c = ``step``·σ²; then x/α is
    carried unchanged to the next, cleaner level, as in NCSN. A step into λ = ∞ is one noise-free
    denoising (Tweedie, Luo Eq. 133). Score and x̂0 are the same thing: score = (α·x̂0 − x)/σ².
    """
    if corrections < 1 or not 0.0 < step < 1.0:
        raise MarginalsError(
            f"Langevin needs corrections >= 1 and 0 < step < 1, got {corrections} and {step}."
        )

    def rule(levels: Sequence[Level[float]]) -> Table:
        if _infinite(levels[0]):
            raise MarginalsError("Langevin needs a finite first level: choose a finite lam_min.")
        rows: Table = []
        for t, s in itertools.pairwise(levels):
            if rows:
                rows.append(_carry(rows, t))
            for _ in range(corrections):
                i = len(rows)
                noise = t.sigma * math.sqrt(2.0 * step)
                rows.append(Row(t, {i: 1.0 - step}, {i: step * t.alpha}, noise))
            if s is levels[-1]:
                end = _reverse(len(rows), t, s, 0.0) if _infinite(s) else _carry(rows, s)
                rows.append(end)
        return rows

    return Solver("langevin", rule, None, True, "jiggle towards the data at ever lower noise")


SOLVERS: dict[str, Solver] = {
    solver.name: solver
    for solver in (ddpm(), ddim(), euler(), heun(), dpmpp_2m(), euler_maruyama(), langevin())
}
"""Every solver with its default parameters, by the name people know it by."""
