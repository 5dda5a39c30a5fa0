"""The probability-flow ODE in its smoothest coordinates: unit variance, and an angle for the level.

For data of standard deviation s write x in the units in which Var[x] = 1 at every level
(:class:`.scaling.UnitVariance`), and the level as the angle φ = atan(σ/(α·s)), from 0 (data) to π/2
(noise). With z = x0/s the noisy picture is y = cos φ·z + sin φ·ε, and the ODE is

    dy/dφ = v̂(y, φ),      d log q(y)/dφ = −tr(∂v̂/∂y),      v = cos φ·ε − sin φ·z,

v being EDM's network output up to its sign (:class:`.predict.VPrediction`). There is no linear term
and no singular end: for Gaussian data of standard deviation s nothing moves and both slopes are
zero; for other data they vanish at the noisy end and are smooth at the clean one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser, Rescaled, expand
from .ode import exact_trace, hutchinson
from .predict import VPrediction
from .scaling import Scaling, UnitVariance, units


@dataclass(frozen=True)
class AngleFlow:
    """v̂ and the trace of its Jacobian at angles that may differ from picture to picture.

    ``std``: s. The trace is measured if ``exact`` (D backward passes), or once for each of
    ``probes`` (K, B, ...) (one backward pass each, :func:`.ode.hutchinson`), or not at all.
    ``graph``: keep what backpropagation through the whole walk needs.
    """

    denoiser: Denoiser
    std: float
    cond: Tensor | None = None
    probes: Tensor | None = None
    exact: bool = False
    graph: bool = False

    @property
    def scaling(self) -> Scaling:
        return UnitVariance(self.std)

    def angle(self, lam: float) -> float:
        """φ of a level; exact at λ = ±∞."""
        level = self.scaling(lam)
        return math.atan2(level.sigma, level.alpha * self.std)

    def enter(self, x: Tensor, lam: float) -> tuple[Tensor, float]:
        """x in the denoiser's units → y, and log |∂y/∂x| per dimension."""
        factor = units(lam, self.denoiser.scaling, self.scaling)
        return x * factor, math.log(factor)

    def leave(self, y: Tensor, lam: float) -> Tensor:
        """y → x in the denoiser's units."""
        return y * units(lam, self.scaling, self.denoiser.scaling)

    def __call__(self, y: Tensor, phi: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(dy/dφ (B, ...), d log q/dφ (B, K) in float64) for the pictures numbered ``rows``."""
        lam = -2.0 * (self.std * phi.tan()).log()
        lam = torch.where(phi < 0.5 * math.pi, lam, -math.inf)
        cond = None if self.cond is None else self.cond[rows]
        traced = self.exact or self.probes is not None
        with torch.set_grad_enabled(traced or self.graph):
            leaf = y if self.graph and y.requires_grad else y.detach().requires_grad_(traced)
            v = Rescaled(self.denoiser, self.scaling)(leaf, lam, cond).read(VPrediction(self.std))
            slope = -self._traces(v, leaf, rows)
        return (v, slope) if self.graph else (v.detach(), slope.detach())

    def _traces(self, v: Tensor, leaf: Tensor, rows: Tensor) -> Tensor:
        """(B, K): one column if exact, one for each probe, or none."""
        if self.exact:
            return exact_trace(v, leaf, graph=self.graph).unsqueeze(1)
        if self.probes is None:
            return torch.zeros(len(v), 0, dtype=torch.float64, device=v.device)
        probes = self.probes[:, rows]
        return torch.stack([hutchinson(p, keep=True, graph=self.graph)(v, leaf) for p in probes], 1)


def spread(coefficients: Tensor, values: list[Tensor]) -> Tensor:
    """Σ_j c_j·values_j with one coefficient per picture: coefficients (B, J), J values (B, ...)."""
    pairs = zip(coefficients.unbind(1), values, strict=True)
    return sum((expand(c, value) * value for c, value in pairs), torch.zeros_like(values[0]))
