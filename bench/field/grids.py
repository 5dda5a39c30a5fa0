"""The usual grids of noise levels, in VE units: σ from 80 down to 0.002, and then 0 or nothing.

Every grid is a list of σ, largest first. ``steps`` is the number of steps between them; ``end``
says what the last one reaches:

* ``"zero"``: ``steps`` levels from ``START`` to ``STOP``, then σ = 0 (k-diffusion and diffusers);
* ``"stop"``: ``steps`` + 1 levels from ``START`` to ``STOP`` (azula, DPM-Solver's own code).

All of them in float64, so that nothing of what is measured is rounding.
"""

import math
from collections.abc import Callable

import torch

START, STOP = 80.0, 0.002
ENDS = ("zero", "stop")
Shape = Callable[[torch.Tensor], torch.Tensor]
"""From equal distances in [0, 1], 0 = noise, to σ."""


def _between(forward: Callable[[float], float], back: Shape) -> Shape:
    """Equal steps in ``forward(σ)``, with the inverse ``back``."""
    first, last = forward(START), forward(STOP)
    return lambda u: back(first + u * (last - first))


def _power(rho: float) -> Shape:
    """Karras et al. 2022, Eq. 5."""
    return _between(lambda s: s ** (1.0 / rho), lambda v: v**rho)


def _beta(u: torch.Tensor) -> torch.Tensor:
    """diffusers' ``use_beta_sigmas``: quantiles of Beta(0.6, 0.6) stretched over σ."""
    from scipy.stats import beta

    quantiles = torch.tensor([beta.ppf(1.0 - v, 0.6, 0.6) for v in u.tolist()], dtype=u.dtype)
    return STOP + (START - STOP) * quantiles


def _vp(u: torch.Tensor, slope: float = 19.9, least: float = 0.1) -> torch.Tensor:
    """Uniform time of linear β (Song et al. 2021): σ² = exp(β_d·t²/2 + β_min·t) − 1."""

    def time(sigma: float) -> float:
        c = math.log1p(sigma**2)
        return 2.0 * c / (least + math.sqrt(least**2 + 2.0 * slope * c))

    t = time(START) + u * (time(STOP) - time(START))
    return torch.expm1(0.5 * slope * t**2 + least * t).sqrt()


def _shifted(shift: float) -> Shape:
    """Uniform time of flow matching, t = σ/(σ + 1), after the resolution shift of Esser et al. 2024
    (t ↦ shift·t/(1 + (shift − 1)·t), which multiplies σ by ``shift``)."""
    return _between(lambda s: s / (s + shift), lambda t: shift * t / (1.0 - t))


GRIDS: dict[str, Shape] = {
    "karras": _power(7.0),
    "exponential": _between(math.log, torch.exp),  # = uniform λ
    "beta": _beta,
    "karras rho 3": _power(3.0),
    "karras rho 5": _power(5.0),
    "karras rho 12": _power(12.0),
    "vp": _vp,
    "cosine": _between(math.atan, torch.tan),
    "flow": _shifted(1.0),
    "flow shift 3": _shifted(3.0),
}
"""By the names libraries give them; ``vp`` is k-diffusion's, ``flow`` that of SD3 and Flux."""


def sigmas(grid: str, steps: int, end: str = "zero") -> list[float]:
    """The levels of one walk, largest first: steps + 1 of them."""
    count = steps if end == "zero" else steps + 1
    u = torch.linspace(0.0, 1.0, count, dtype=torch.float64) if count > 1 else torch.zeros(1)
    levels = GRIDS[grid](u.double()).tolist()
    levels[0] = START  # exactly, after any rounding of a function and its inverse
    return [*levels, 0.0] if end == "zero" else levels
