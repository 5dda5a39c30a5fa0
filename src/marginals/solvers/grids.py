"""Which levels a walk visits: finite grids of λ, from noise to data, always ``steps`` steps long.

A grid is a list of ``steps`` levels from ``lam_min`` up to ``lam_max``, followed by λ = ∞: the last
step removes what noise is left. ``final=False`` stops at ``lam_max`` instead (steps + 1 levels).
"""

import math
from collections.abc import Callable

import torch

from ..errors import MarginalsError
from ..schedule import Karras, LogLinear, NoiseSchedule, Truncated


def grid(schedule: NoiseSchedule, steps: int, *, final: bool = True) -> list[float]:
    """Levels at equal distances in the time of ``schedule``, noise first; len = steps + 1."""
    if steps < 1:
        raise MarginalsError(f"Sampling needs at least 1 step, not {steps}.")
    count = steps if final else steps + 1
    times = torch.linspace(1.0, 0.0, count, dtype=torch.float64)
    lams = schedule.lam(times if count > 1 else torch.ones(1, dtype=torch.float64)).tolist()
    return [*lams, math.inf] if final else lams


def uniform_lam(lam_min: float, lam_max: float) -> NoiseSchedule:
    """Equal steps in λ (DPM-Solver's choice)."""
    return LogLinear(lam_max, lam_min)


def karras(lam_min: float, lam_max: float, rho: float = 7.0) -> NoiseSchedule:
    """Equal steps in σ^(1/ρ) (Karras et al. 2022): more steps near the data than at the noise."""
    return Karras(math.exp(-0.5 * lam_max), math.exp(-0.5 * lam_min), rho)


def uniform_time(schedule: NoiseSchedule) -> Callable[[float, float], NoiseSchedule]:
    """Equal steps in a schedule's own time, between two levels."""
    return lambda lam_min, lam_max: Truncated(schedule, lam_max, lam_min)
