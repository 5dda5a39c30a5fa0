"""Stochastic solvers of one step: noise is taken out and fresh noise is put back.

Each is the DDIM step of :mod:`.rules` with another share of fresh noise. (The multistep family
from ODE to SDE is in :mod:`.multistep`, Langevin dynamics in :mod:`.langevin`.)
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from ..errors import MarginalsError
from ..scaling import VP, Level
from .frames import Frame, infinite
from .multistep import multistep
from .rules import ddim, first_order, heun
from .table import Row, Solver, Table, shifted


def ddpm(variance: Literal["small", "large"] = "small") -> Solver:
    """Ancestral sampling of q(x_s | x_t, x̂0) (Ho et al. 2020; Luo Eqs. 84, 85, 94): DDIM with η =
    1.

    ``variance``: "small" is the posterior's, right where the data are a point; "large" is that of
    the forward step in VP units, β = 1 − ᾱ_t/ᾱ_s, right where they are N(0, I). Nothing is added in
    the step into λ = ∞.
    """
    about = "denoise, add fresh noise: the original chain"
    small = replace(ddim(1.0), name="ddpm", about=about)
    if variance == "small":
        return small
    if variance != "large":
        raise MarginalsError(f"DDPM's variance is small or large, not {variance!r}")

    def rule(levels: Sequence[Level[float]]) -> Table:
        rows = small.rule(levels)
        return [_large(t, row) for t, row in zip(levels, rows, strict=False)]

    return replace(small, rule=rule)


def _large(t: Level[float], row: Row) -> Row:
    s = row.at
    if math.isinf(s.lam):
        return row
    vp_t, vp_s = VP(t.lam), VP(s.lam)
    beta = 1.0 - (vp_t.alpha / vp_s.alpha) ** 2
    return row._replace(noise=s.sigma / vp_s.sigma * math.sqrt(beta))


def euler_ancestral(eta: float = 1.0) -> Solver:
    """Euler down to a cleaner level than asked, then noise up to it (k-diffusion): DDIM(η), for it
    goes down to √(σ_s² − η²σ_q²) and adds η·σ_q (in VE units)."""
    about = "Euler too far, noise back: ddim with eta 1"
    return replace(ddim(eta), name="euler_ancestral", about=about)


def euler_maruyama() -> Solver:
    """Euler–Maruyama on the reverse SDE (Anderson 1982; Song et al. 2021) in VE units.

    dy = 2·r·score·dr-steps give y_s = y_t + (r_t² − r_s²)·(x̂0 − y_t)/r_t² + √(r_t² − r_s²)·z. The
    mean is DDPM's; the noise has the variance of the forward step, DDPM's "large" choice, instead
    of the posterior's. The last step, into λ = ∞, adds no noise.
    """

    def rule(levels: Sequence[Level[float]]) -> Table:
        rows: Table = []
        for i, (t, s) in enumerate(itertools.pairwise(levels)):
            row = first_order(i, t, s, 1.0)
            if t.alpha == 0.0:
                raise MarginalsError(
                    "Euler–Maruyama cannot start from pure noise at λ = −∞, where its noise "
                    "would be infinite: start from a finite λ, or use ddpm."
                )
            spread = (t.sigma / t.alpha) ** 2 - (s.sigma / s.alpha) ** 2
            noise = 0.0 if infinite(s) else s.alpha * math.sqrt(spread)
            rows.append(row._replace(noise=noise))
        return rows

    return Solver("euler_maruyama", rule, 1, True, "the reverse SDE in small random steps")


def sde(eta: float = 1.0) -> Solver:
    """The SDE of strength η with the clean estimate held for a step: the linear part is exact.

    x_s = (σ_s/σ_t)·e^(−η²h/2)·x_t + α_s·(1 − e^(−(1 + η²)h/2))·x̂0 + σ_s·√(1 − e^(−η²h))·z with h
    the step in λ. η = 0 is DDIM and η = 1 is DDPM; between them DDIM(η) is another route from the
    one to the other, and above 1 there is no DDIM.
    """
    frame = Frame("x0", eta)
    rule = multistep(frame, 1, lambda frame, nodes, t, s: (frame.total(t, s),))
    return Solver("sde", rule, 1, eta > 0, "ddim with noise: ODE (eta 0) to SDE (1), beyond")


def edm(churn: float = 40.0, tmin: float = 0.05, tmax: float = 50.0, noise: float = 1.0) -> Solver:
    """EDM's stochastic sampler (Karras et al. 2022, Algorithm 2): noise up, then Heun down.

    At each level σ (in VE units) within [``tmin``, ``tmax``], noise lifts x to σ̂ = (1 + γ)·σ with
    γ = min(``churn``/N, √2 − 1), and Heun's step goes from there to the next level. ``noise`` is
    S_noise, which scales the noise: the paper uses 1.003 to 1.007 for networks that remove too much
    detail; 1 has the right moments. 2N − 1 evaluations.
    """
    if not (churn >= 0 and 0 < noise < math.inf and 0 <= tmin <= tmax):
        raise MarginalsError(
            "EDM's churn needs churn >= 0, 0 <= tmin <= tmax and noise > 0, got "
            f"{churn}, {tmin}, {tmax} and {noise}"
        )

    step = heun()

    def rule(levels: Sequence[Level[float]]) -> Table:
        rows: Table = []
        gamma = min(churn / (len(levels) - 1), math.sqrt(2.0) - 1.0)
        for t, s in itertools.pairwise(levels):
            if not infinite(t) and gamma and tmin <= t.sigma / t.alpha <= tmax:
                up = VP(t.lam - 2.0 * math.log1p(gamma))
                added = up.sigma / (1.0 + gamma) * math.sqrt((1.0 + gamma) ** 2 - 1.0)
                rows.append(Row(up, {len(rows): up.alpha / t.alpha}, {}, noise * added))
                t = up
            rows += shifted(step.rule((t, s)), len(rows))
        return rows

    return Solver("edm", rule, 2, churn > 0, "add noise, then Heun's step over it (churn)")
