"""What a network is asked to say: a prediction is a row vector (a, b), out = a·x0 + b·ε.

The noisy picture is itself such a row, x = α·x0 + σ·ε. Knowing x and one more, different mixture
of x0 and ε means knowing both: two equations, two unknowns. With det = α·b − σ·a,

    x0 = (b·x − σ·out)/det            ε = (α·out − a·x)/det

and any other reading (a', b') of the same output is

    out' = [(a'·b − b'·a)·x + det'·out]/det,      det' = α·b' − σ·a'.

So every conversion of the field (Luo Eqs. 115, 133, 151; Salimans & Ho's v; flow velocity; EDM's
F) is one line of algebra, and an error in ``out`` is an error in ε times det/α: the ratio of two
determinants is the whole theory of loss re-weighting.

Where det = 0 the output says nothing new: ε-prediction at zero signal-to-noise only repeats x.
That is an error with a remedy, never a division by a small number.

x0 and ε do not depend on the units of x, so a row is a function of λ alone.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from .scaling import FLOW, VP, Real, Scaling, UnitVariance
from .schedule import Logit, NoiseSchedule


class Prediction(ABC):
    """A row vector (a, b) that depends on the level: the output is a·x0 + b·ε."""

    @abstractmethod
    def row(self, lam: Real) -> tuple[Real, Real]:
        """The coefficients (a, b) at level λ (floats for a float, tensors for a tensor)."""


@dataclass(frozen=True)
class DataPrediction(Prediction):
    """out = x0, the clean picture (Luo Eq. 99)."""

    def row(self, lam: Real) -> tuple[Real, Real]:
        return 1.0, 0.0


@dataclass(frozen=True)
class NoisePrediction(Prediction):
    """out = ε, the noise (Luo Eq. 130; DDPM)."""

    def row(self, lam: Real) -> tuple[Real, Real]:
        return 0.0, 1.0


@dataclass(frozen=True)
class ScorePrediction(Prediction):
    """out = ∇ log q(x) = −ε/σ, the score of the density of x in ``scaling`` units (Luo Eq. 151)."""

    scaling: Scaling = VP

    def row(self, lam: Real) -> tuple[Real, Real]:
        sigma = self.scaling(lam).sigma
        if isinstance(sigma, float) and sigma == 0.0:
            return 0.0, -math.inf  # as a tensor would say; converting it is refused
        return 0.0, -1.0 / sigma


@dataclass(frozen=True)
class VPrediction(Prediction):
    """out = v = α·s·ε − (σ/s)·x0, in the units where data of standard deviation s give Var[x] = 1.

    s = 1 is v-prediction (Salimans & Ho 2022). For any s this is also EDM's network output, up to
    a sign: EDM's F = (x0 − c_skip·x)/c_out (Karras et al. 2022, Eq. 7) equals −v. Its target has
    variance one at every level, and det never vanishes: it is safe from λ = −∞ to λ = +∞.
    """

    data_std: float = 1.0

    def row(self, lam: Real) -> tuple[Real, Real]:
        level = UnitVariance(self.data_std)(lam)
        return -level.sigma / self.data_std, level.alpha * self.data_std


@dataclass(frozen=True)
class VelocityPrediction(Prediction):
    """out = dx/dt = (dα/dt)·x0 + (dσ/dt)·ε along ``schedule`` in ``scaling`` units.

    The default, FLOW with t = Logit time, is ε − x0: rectified flow and flow matching (Lipman et
    al. 2023) with their time turned round, since here t = 1 is noise.
    """

    schedule: NoiseSchedule = field(default_factory=Logit)
    scaling: Scaling = FLOW

    def row(self, lam: Real) -> tuple[Real, Real]:
        if self.scaling == FLOW and self.schedule == Logit():
            return -1.0, 1.0  # exact at t = 0 and t = 1, where dλ/dt is infinite
        slope = self.schedule.dlam(self.schedule.t(lam))
        d_alpha, d_sigma = self.scaling.slopes(lam)
        return d_alpha * slope, d_sigma * slope


X0 = DataPrediction()
EPS = NoisePrediction()
SCORE = ScorePrediction()
V = VPrediction()
VELOCITY = VelocityPrediction()


def determinant(prediction: Prediction, scaling: Scaling, lam: Real) -> Real:
    """det = α·b − σ·a of a prediction's row against x's own row."""
    a, b = prediction.row(lam)
    level = scaling(lam)
    return level.alpha * b - level.sigma * a


def noise_gain(prediction: Prediction, lam: Real) -> Real:
    """α/det: how an error in the output becomes an error in ε (the same in every scaling)."""
    return VP(lam).alpha / determinant(prediction, VP, lam)
