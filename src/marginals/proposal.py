"""Where to look: a density of noise levels, learned from a pilot, for a loss integral ∫ L(λ) dλ.

Levels drawn from a density p(λ) and weighted by 1/p(λ) give the integral without bias, whatever p
is; the noise is least when p is proportional to the root of E[L²] at each level (Kingma et al. 2021
learn a schedule for this; importance sampling in general: Owen 2013, Ch. 9).
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser, expand
from .errors import MarginalsError
from .gaussian import sum_dims


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
    lam_min: float,
    lam_max: float,
    *,
    bins: int = 24,
    draws: int = 8,
    floor: float = 0.1,
    cond: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Proposal:
    """A proposal from ``bins``·``draws`` evaluations on some float pictures (few are enough).

    Each bin's share is proportional to the root of its mean squared loss, L = ‖ε − ε̂‖², times its
    width; ``floor`` of the mass is spread evenly, so that no level is forgotten. Learn it from
    other pictures or other noise than it is used on, or the result is no longer unbiased.
    """
    edges = torch.linspace(lam_min, lam_max, bins + 1, dtype=torch.float64)
    sizes = []
    for low, high in itertools.pairwise(edges):
        squares = []
        for j in range(draws):
            u = torch.rand(len(pictures), generator=generator, dtype=torch.float64)
            lam = (low + (high - low) * (j + u) / draws).to(pictures.device)
            eps = torch.randn(pictures.shape, generator=generator).to(pictures)
            _, alpha, sigma = (expand(value, pictures) for value in denoiser.scaling(lam))
            error = denoiser(alpha * pictures + sigma * eps, lam, cond).eps - eps
            squares.append(sum_dims(error.square()).square().mean())
        sizes.append(torch.stack(squares).mean().sqrt())
    size = torch.stack(sizes).cpu()
    if not bool(size.isfinite().all()) or not float(size.sum()) > 0:
        raise MarginalsError("The pilot's losses are not finite: look at the pictures and network.")
    shares = (1.0 - floor) * size / size.sum() + floor / bins
    return Proposal(tuple(edges.tolist()), tuple((shares / shares.sum()).tolist()))
