"""Nine ways from noise to a picture, all with one denoiser: the views of the demo.

Each view is a solver, a grid of levels as its inventors would choose it, and the units in which x
is written. Everything else (network, weights, starting noise, labels) is the same for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from marginals.models import Grid, Model
from marginals.sampling import SampleResult
from marginals.scaling import FLOW, VE, VP, Scaling
from marginals.schedule import Cosine, Logit, NoiseSchedule
from marginals.solvers import (
    Solver,
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    euler_maruyama,
    grid,
    heun,
    karras,
    langevin,
    uniform_lam,
    uniform_time,
)

__all__ = ["VIEWS", "Shown", "View", "labels_for", "show", "views_for", "walk"]

Tick = Callable[[int], None]
"""Called with a number of network evaluations that have just been done."""


@dataclass(frozen=True)
class View:
    """One way to walk: solver, levels, units. `equations`, `formula` and `about` are for people."""

    key: str
    title: str
    solver: Solver
    steps: int
    levels: Grid
    grid_name: str
    equations: str
    formula: str
    about: str
    scaling: Scaling = VP
    guidance: float = 1.0

    def lams(self, model: Model) -> list[float]:
        """The levels this view visits between the model's two ends, noise first."""
        return grid(self.levels(model.lam_min, model.lam_max), self.steps)

    def evaluations(self, model: Model) -> int:
        """Calls of the network per picture; guidance asks it twice at every step."""
        calls = self.solver.evaluations([self.scaling(lam) for lam in self.lams(model)])
        return calls if self.guidance == 1.0 else 2 * calls


def _noisy(lam_min: float, lam_max: float) -> NoiseSchedule:
    """Equal steps of λ down to a noise that one denoising can remove.

    Langevin's noise has to settle anew at every level, so its moves are spent where they count."""
    return uniform_lam(lam_min, min(lam_max, 4.0))


VIEWS: tuple[View, ...] = (
    View(
        "ddpm",
        "DDPM, the original chain",
        ddpm(),
        100,
        uniform_time(Cosine()),
        "equal steps of cosine time",
        "Luo Eqs. 84, 85, 94; Ho et al. 2020",
        "x_s ~ N( μ_q(x_t, x̂0), σ_q² ),  σ_q² = σ_s²·(1 − SNR(t)/SNR(s))",
        "Remove a little noise, put a little less fresh noise back, again and again.",
    ),
    View(
        "ddim",
        "DDIM",
        ddim(),
        50,
        uniform_time(Cosine()),
        "equal steps of cosine time",
        "from Luo Eqs. 69 and 115; Song, Meng and Ermon 2021",
        "x_s = α_s·x̂0 + σ_s·ε̂",
        "Split the noisy picture into clean picture and noise, and mix them again with less noise. "
        "No new noise is added: the same start always gives the same picture.",
    ),
    View(
        "euler_maruyama",
        "Reverse SDE (Euler–Maruyama)",
        euler_maruyama(),
        120,
        uniform_lam,
        "equal steps of λ",
        "Luo section on score models (T → ∞) with Eq. 151; Song et al. 2021",
        "y ← y + (r_t² − r_s²)·score + √(r_t² − r_s²)·z,   y = x/α, r = σ/α",
        "Diffusion in continuous time, run backwards: drift towards likelier pictures plus fresh "
        "noise in many small steps.",
        VE,
    ),
    View(
        "euler",
        "Probability-flow ODE, Euler",
        euler(),
        40,
        karras,
        "Karras levels (ρ = 7)",
        "score from Luo Eqs. 133, 151; Song et al. 2021; Karras et al. 2022",
        "dy/dr = ε̂(y, r),   y = x/α, r = σ/α",
        "The same crowd of noisy pictures, moved without any randomness along smooth paths; this "
        "follows a path in straight steps.",
        VE,
    ),
    View(
        "heun",
        "Probability-flow ODE, Heun",
        heun(),
        18,
        karras,
        "Karras levels (ρ = 7)",
        "as Euler; Karras et al. 2022, Algorithm 1",
        "average of the slopes at both ends of a step",
        "The same path, but every step looks ahead first and then takes the average of two slopes.",
        VE,
    ),
    View(
        "dpmpp_2m",
        "Probability-flow ODE, DPM-Solver++ 2M",
        dpmpp_2m(),
        20,
        karras,
        "Karras levels (ρ = 7)",
        "as Euler; Lu et al. 2022",
        "x_s = (σ_s/σ_t)·x_t + (α_s − α_t·σ_s/σ_t)·D,   D from two estimates of x̂0",
        "The same path with a memory: the last estimate and the one before are extrapolated. "
        "Few network evaluations are enough.",
    ),
    View(
        "langevin",
        "Annealed Langevin dynamics",
        langevin(corrections=1, step=0.35),
        150,
        _noisy,
        "equal steps of λ up to 4, one move at each",
        "Luo Eq. 158 level by level, last step Eq. 133; Song and Ermon 2019",
        "x ← x + c·score + √(2c)·z,   c = 0.35·σ²",
        "At every noise level: climb a little towards likelier pictures, jiggle, repeat; then "
        "lower the noise.",
        VE,
    ),
    View(
        "rectified_flow",
        "Rectified flow (velocity)",
        euler(),
        40,
        uniform_time(Logit()),
        "equal steps of flow time",
        "Luo Eq. 69 with α = 1 − t, σ = t; Liu et al. 2022, Lipman et al. 2023",
        "x_s = x_t + (s − t)·v̂,   v̂ = ε̂ − x̂0",
        "The same network read as a flow: x is written as (1 − t)·picture + t·noise, and the "
        "network's output as a velocity. Nothing was retrained.",
        FLOW,
    ),
    View(
        "guided",
        "DPM-Solver++ 2M with guidance γ = 3",
        dpmpp_2m(),
        20,
        karras,
        "Karras levels (ρ = 7)",
        "Luo Eq. 170; Ho and Salimans 2022",
        "γ·score(x | class) + (1 − γ)·score(x),   γ = 3",
        "Exaggerate what makes the class the class: the network is asked twice at each step, with "
        "and without the label. Clearer pictures, less variety.",
        guidance=3.0,
    ),
)


@dataclass(frozen=True)
class Shown:
    """What one view made: pictures (n, C, H, W) in [-1, 1] and evaluations per picture."""

    view: View
    x: Tensor
    nfe: int


def labels_for(model: Model, columns: int, rows: int) -> Tensor | None:
    """One class per column, row after row: (rows·columns,); None for a model without classes."""
    classes = len(model.data.classes) if model.data else 0
    return None if not classes else (torch.arange(columns) % classes).repeat(rows)


def views_for(model: Model) -> list[View]:
    """All views; without classes there is nothing to guide by."""
    conditional = bool(model.data and model.data.classes)
    return [view for view in VIEWS if conditional or view.guidance == 1.0]


def walk(
    model: Model, view: View, count: int, seed: int, cond: Tensor | None, tick: Tick
) -> SampleResult:
    """`count` pictures of one view; picture i starts from the noise of seed + i in every view."""
    calls = 1 if view.guidance == 1.0 else 2
    return model.convert(view.scaling).sample(
        count,
        steps=view.steps,
        solver=view.solver,
        levels=view.levels,
        seed=seed,
        cond=cond,
        guidance=view.guidance,
        callback=lambda progress: tick(calls * len(progress.estimate.x)),
    )


def show(
    model: Model, views: Sequence[View], count: int, seed: int, cond: Tensor | None, tick: Tick
) -> list[Shown]:
    """Every view from the same starting noise and with the same labels."""
    return [
        Shown(view, walk(model, view, count, seed, cond, tick).x, view.evaluations(model))
        for view in views
    ]
