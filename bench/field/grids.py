"""The usual grids of noise levels, in VE units: σ from 80 down to 0.002 or 0.

Every grid is a list of σ, largest first. ``steps`` is the number of steps between them; ``end``
says what the last one reaches:

* ``"zero"``: ``steps`` levels from ``START`` to ``STOP``, then σ = 0 (k-diffusion and diffusers);
* ``"stop"``: ``steps`` + 1 levels from ``START`` to ``STOP`` (DPM-Solver's own code, DEIS);
* ``"straight"``: ``steps`` + 1 levels from ``START`` to 0, where equal steps of a time lead there
  (diffusers' "trailing", the pipelines of flow models).

All of them in float64, so that nothing of what is measured is rounding.
"""

import math
from collections.abc import Callable

import torch

START, STOP = 80.0, 0.002
ENDS = ("zero", "stop", "straight")
Shape = Callable[[torch.Tensor, float], torch.Tensor]
"""(equal distances in [0, 1], 0 = noise; the least σ) → σ."""


def _even(forward: Callable[[float], float], back: Callable[[torch.Tensor], torch.Tensor]) -> Shape:
    """Equal steps in ``forward(σ)``, with the inverse ``back``."""

    def shape(u: torch.Tensor, stop: float) -> torch.Tensor:
        return back(forward(START) + u * (forward(stop) - forward(START)))

    return shape


def _power(rho: float) -> Shape:
    """Karras et al. 2022, Eq. 5."""
    return _even(lambda s: s ** (1.0 / rho), lambda v: v**rho)


def _beta(u: torch.Tensor, stop: float) -> torch.Tensor:
    """diffusers' ``use_beta_sigmas``: quantiles of Beta(0.6, 0.6) stretched over σ."""
    from scipy.stats import beta

    quantiles = torch.tensor([beta.ppf(1.0 - v, 0.6, 0.6) for v in u.tolist()], dtype=u.dtype)
    return stop + (START - stop) * quantiles


def _vp(slope: float = 19.9, least: float = 0.1) -> Shape:
    """Uniform time of linear β (Song et al. 2021): σ² = exp(β_d·t²/2 + β_min·t) − 1."""

    def time(sigma: float) -> float:
        c = math.log1p(sigma**2)
        return 2.0 * c / (least + math.sqrt(least**2 + 2.0 * slope * c))

    return _even(time, lambda t: torch.expm1(0.5 * slope * t**2 + least * t).sqrt())


def _flow(shift: float) -> Shape:
    """Uniform time of flow matching, t = σ/(σ + 1), after the resolution shift of Esser et al. 2024
    (t ↦ shift·t/(1 + (shift − 1)·t), which multiplies σ by ``shift``)."""
    return _even(lambda s: s / (s + shift), lambda t: shift * t / (1.0 - t))


GRIDS: dict[str, Shape] = {
    "karras": _power(7.0),
    "exponential": _even(math.log, torch.exp),  # = uniform λ
    "beta": _beta,
    "karras rho 3": _power(3.0),
    "karras rho 5": _power(5.0),
    "karras rho 12": _power(12.0),
    "vp": _vp(),
    "cosine": _even(math.atan, torch.tan),
    "flow": _flow(1.0),
    "flow shift 3": _flow(3.0),
}
"""By the names libraries give them; ``vp`` is k-diffusion's, ``flow`` that of SD3 and Flux."""
STRAIGHT = ("vp", "cosine", "flow", "flow shift 3")
"""Grids whose time is finite at σ = 0."""


def takes(grid: str, end: str) -> bool:
    """Whether the grid can have this end."""
    return end != "straight" or grid in STRAIGHT


def sigmas(grid: str, steps: int, end: str = "zero") -> list[float]:
    """The levels of one walk, largest first: steps + 1 of them."""
    count = steps if end == "zero" else steps + 1
    u = torch.linspace(0.0, 1.0, count, dtype=torch.float64)
    levels = GRIDS[grid](u, 0.0 if end == "straight" else STOP).tolist()
    levels[0] = START  # exactly, after any rounding of a function and its inverse
    if end == "straight":
        levels[-1] = 0.0
    return [*levels, 0.0] if end == "zero" else levels
