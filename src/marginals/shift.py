"""Pictures of another size: everything moves along λ by the same amount.

Averaging m/n pixels into one makes its noise √(m/n) times smaller, so a picture of m pixels shows
at σ·s what one of n pixels shows at σ, with s = √(m/n) (Hoogeboom et al. 2023; Esser et al. 2024,
Eqs. 22, 23). In λ that is a translation,

    λ' = λ − 2·log s,        in flow time  t' = s·t/(1 + (s − 1)·t),

for a schedule and for a distribution of levels (:class:`.objective.ShiftedLevels`) alike. Flux
names its shift by μ = log s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .errors import MarginalsError
from .schedule import NoiseSchedule


@dataclass(frozen=True)
class Shifted(NoiseSchedule):
    """Any schedule for pictures of another size: λ(t) = base.λ(t) − 2·log(shift).

    ``Shifted(Logit(), s)`` is ``Logit(s)``, Stable Diffusion 3's time shift; ``Shifted(Cosine(),
    s)`` is the shifted cosine of simple diffusion. Two shifts multiply.
    """

    base: NoiseSchedule
    shift: float

    def __post_init__(self) -> None:
        check_shift(self.shift)

    def _lam(self, t: Tensor) -> Tensor:
        return self.base._lam(t) - 2.0 * math.log(self.shift)

    def _t(self, lam: Tensor) -> Tensor:
        return self.base._t(lam + 2.0 * math.log(self.shift))

    def _dlam(self, t: Tensor) -> Tensor:
        return self.base._dlam(t)


def resolution_shift(shape: Sequence[int], known: Sequence[int]) -> float:
    """s = √(m/n): the shift for pictures of m pixels of what works for pictures of n pixels.

    ``shape``, ``known``: (C, H, W), or (H, W); channels do not count.
    """
    m, n = math.prod(shape[-2:]), math.prod(known[-2:])
    if min(m, n) < 1:
        raise MarginalsError(f"Pictures have pixels: {tuple(shape)} and {tuple(known)} cannot be.")
    return math.sqrt(m / n)


def check_shift(shift: float) -> None:
    """Refuse what cannot be a shift."""
    if not 0 < shift < math.inf:
        raise MarginalsError(f"A shift must be positive and finite, not {shift}.")
