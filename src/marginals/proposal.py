"""Where to look: a density of noise levels, learned from a pilot, for a loss integral ∫ L(λ) dλ.

Levels drawn from a density p(λ) and weighted by 1/p(λ) give the integral without bias, whatever p
is. With one level in each of many slices, what varies along λ is taken care of by the slices; what
is left is the noise at a level, and its variance is least when p is proportional to its standard
deviation (Neyman 1934; Owen 2013, Sec. 9; Kingma et al. 2021 learn a schedule to the same end).
"""

import itertools
import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .denoiser import Denoiser, expand
from .device import send
from .errors import MarginalsError
from .gaussian import Ends, Prior, sum_dims


def noise_error(
    denoiser: Denoiser,
    x0: Tensor,
    lam: float | Tensor,
    cond: Tensor | None,
    eps: Tensor,
    prior: Prior,
) -> Tensor:
    """An unbiased estimate of E‖ε − ε̂(α·x0 + σ·ε)‖² from one draw of ε, (B,) in float64.

    The draw's own ‖ε‖² is most of the estimate's noise at clean levels, and its mean D is known.
    For Gaussian data of the prior's variance s² it enters with the weight c = sigmoid(λ + 2·log
    s)², so c·(‖ε‖² − D) is taken off: the mean stays, the variance falls (a control variate).
    """
    _, alpha, sigma = (expand(value, x0) for value in denoiser.scaling(lam))
    error = sum_dims((denoiser(alpha * x0 + sigma * eps, lam, cond).eps - eps).square())
    weight = torch.sigmoid(torch.as_tensor(lam, dtype=torch.float64) + _log_var(prior)).square()
    return error - weight.to(error) * (sum_dims(eps.square()) - eps[0].numel())


@dataclass(frozen=True)
class Reference:
    """L_G(λ) = E‖ε − ε̂_G‖² of the best denoiser of a Gaussian of the data's moments, and ∫ L_G dλ.

    With c = sigmoid(λ + 2·log s) it is c·(1 − c)·‖x0 − m‖²/s² + c²·D for a picture x0: nearly the
    network's own error at both ends, so ∫ (L − L_G) has little left to be noisy about, and the rest
    is known: ∫ c·(1 − c) = [c], ∫ c² = [softplus(λ + 2·log s) − c].
    """

    far: Tensor
    """‖x0 − m‖²/s² of every picture, (B,)."""
    dims: int
    shift: float
    """2·log s; −∞ for data without spread, whose L_G counts as zero."""

    @classmethod
    def of(cls, x0: Tensor, prior: Prior) -> Self:
        """The reference for pictures x0 (B, ...) under the data's moments."""
        far, std = sum_dims((x0.double() - prior.mean).square()), prior.std
        return cls(far / std**2 if std > 0 else 0.0 * far, x0[0].numel(), _log_var(prior))

    def error(self, lam: Tensor) -> Tensor:
        """L_G at one level per picture."""
        c = torch.sigmoid(lam.double() + self.shift)
        rest = torch.sigmoid(-lam.double() - self.shift)
        return c * rest * self.far + c.square() * self.dims

    def integral(self, low: float, high: float) -> Tensor:
        """∫ L_G dλ between two levels, (B,)."""
        ends = send(torch.tensor([low, high], dtype=torch.float64) + self.shift, self.far.device)
        c = (torch.sigmoid(ends[1]) - torch.sigmoid(ends[0])).nan_to_num(0.0)
        rise = softplus(ends[1], threshold=700.0) - softplus(ends[0], threshold=700.0)
        return c * self.far + (rise - c) * self.dims


def _log_var(prior: Prior) -> float:
    return 2.0 * math.log(prior.std) if prior.std > 0 else -math.inf


@dataclass(frozen=True)
class Proposal:
    """p(λ), constant between neighbouring ``edges`` (rising), with ``shares`` of the mass."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        rises = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        fits = len(self.edges) == len(self.shares) + 1 >= 2
        good = fits and all(s > 0 for s in self.shares) and math.isclose(sum(self.shares), 1.0)
        if not (rises and good):
            raise MarginalsError(
                "A proposal needs rising edges and one positive share between each two, adding up "
                "to 1; a share of zero would leave levels out and bias the result."
            )

    @staticmethod
    def uniform(lam_min: float, lam_max: float) -> "Proposal":
        """Every level alike."""
        return Proposal((lam_min, lam_max), (1.0,))

    def check(self, lam_min: float, lam_max: float) -> None:
        """Refuse to stand for other levels than those between the two ends."""
        if not (math.isclose(self.edges[0], lam_min) and math.isclose(self.edges[-1], lam_max)):
            raise MarginalsError(
                f"The proposal covers levels from {self.edges[0]:g} to {self.edges[-1]:g}, the "
                f"integral needs {lam_min:g} to {lam_max:g}: learn it between the same ends."
            )

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(λ, p(λ)) for u in [0, 1): λ is the u-quantile, so spread-out u give spread-out λ."""
        edges, shares = (
            torch.tensor(v, dtype=u.dtype, device=u.device) for v in (self.edges, self.shares)
        )
        below = torch.cat([shares.new_zeros(1), shares.cumsum(0)])
        i = (torch.searchsorted(below, u.contiguous(), right=True) - 1).clamp(0, len(shares) - 1)
        width = edges.diff()
        lam = edges[i] + width[i] * ((u - below[i]) / shares[i]).clamp(0.0, 1.0)
        return lam, shares[i] / width[i]


@torch.no_grad()
def learn(
    denoiser: Denoiser,
    pictures: Tensor,
    ends: Ends,
    *,
    bins: int = 24,
    draws: int = 8,
    floor: float = 0.1,
    cond: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Proposal:
    """A proposal from ``bins``·``draws`` evaluations on some float pictures (few are enough).

    Each bin's share is proportional to the standard deviation of the error ‖ε − ε̂‖² − L_G
    (:class:`Reference`) over levels and noise at a given picture; ``floor`` of the mass is spread
    evenly, so that no level is forgotten. Learn it from other pictures, or other noise, than it is
    used on: else the result is no longer unbiased.
    """
    if bins < 1 or draws < 2:
        raise MarginalsError(f"A pilot needs at least 1 bin and 2 draws: {bins}, {draws}.")
    edges = torch.linspace(ends.lam_min, ends.lam_max, bins + 1, dtype=torch.float64)
    spreads, reference = [], Reference.of(pictures, ends.prior)
    for low, high in itertools.pairwise(edges.tolist()):
        errors = []
        for j in range(draws):
            u = torch.rand(len(pictures), generator=generator, dtype=torch.float64)
            lam = send(low + (high - low) * (j + u) / draws, pictures.device)
            eps = send(torch.randn(pictures.shape, generator=generator), pictures)
            error = noise_error(denoiser, pictures, lam, cond, eps, ends.prior)
            errors.append(error - reference.error(lam))
        spreads.append(torch.stack(errors).var(0).mean().sqrt())
    size = torch.stack(spreads).cpu()
    if not bool(size.isfinite().all()) or not float(size.sum()) > 0:
        raise MarginalsError("The pilot's errors are not finite: look at the pictures and network.")
    shares = (1.0 - floor) * size / size.sum() + floor / bins
    return Proposal(tuple(edges.tolist()), tuple((shares / shares.sum()).tolist()))
