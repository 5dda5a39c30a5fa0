"""Guidance: a denoiser made of two estimates of the same denoiser.

Wrappers are denoisers, so everything that walks one (solvers, scalings) walks the other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .condition import null_like
from .denoiser import Denoiser, Estimate
from .scaling import Real, Scaling


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho & Salimans 2022; Luo Eq. 170).

        γ·∇ log p(x | y) + (1 − γ)·∇ log p(x),     γ = ``weight``

    γ = 1 is the plain conditional model, γ > 1 exaggerates what makes the class the class. (Papers
    that write w mean γ = 1 + w.) The mixture is the same for x0, ε, v and the score, because all of
    them are linear in one another. Both halves run as one batch of twice the size; it is counted
    as one evaluation.

    The guided field is not the score of any noised distribution (Luo writes Eqs. 166-170 as if it
    were): samples are not draws from p(x)·p(y | x)^γ, and a guided model has no likelihood.
    """

    denoiser: Denoiser
    weight: float

    @property
    def scaling(self) -> Scaling:
        return self.denoiser.scaling

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        if cond is None or self.weight == 1.0:
            return self.denoiser(x, lam, cond)
        both = lam.repeat(2) if isinstance(lam, Tensor) and lam.ndim else lam
        est = self.denoiser(torch.cat([x, x]), both, torch.cat([cond, null_like(cond)]))
        conditional, plain = est.out.chunk(2)
        out = torch.lerp(plain, conditional, self.weight)
        return Estimate(x, lam, est.scaling, out, est.prediction)
