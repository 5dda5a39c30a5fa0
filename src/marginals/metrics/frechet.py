"""How far apart two sets of pictures are, seen through a feature extractor.

Two distances between feature clouds a and b, both (n, d):

Fréchet distance (Heusel et al. 2017, Eq. 6): both clouds are replaced by Gaussians,

    FD = |μa − μb|² + tr(Σa + Σb − 2·(Σa Σb)^½).

With A, B the centred features over √(n−1), so that Σa = AᵀA and Σb = BᵀB, the eigenvalues of
Σa Σb = AᵀA BᵀB are the squared singular values of A Bᵀ, hence

    tr (Σa Σb)^½ = ‖A Bᵀ‖_* = Σᵢ sᵢ(A Bᵀ):

no matrix square root, exact for n < d too. The estimate is *biased*: with finitely many pictures it
is too large, by about c/n with a c that depends on the data (Chong and Forsyth 2020). So the two
sets always get the same n, n is stated, and the same distance of *real held-out* pictures stands
beside it as the floor that a perfect model would reach.

Kernel distance (MMD² with k(x, y) = (xᵀy/d + 1)³, Bińkowski et al. 2018): unbiased at every n, zero
on average for equal distributions (so it can come out negative), and it has a standard error.

The numbers carry the name of their features: FD-lite0, FD-classifier. They rank models, solvers and
step counts here; they cannot be compared with published FID values, which need Inception features.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from marginals.errors import MarginalsError
from marginals.metrics.features import Extractor, extract

__all__ = ["FrechetReport", "Mmd", "frechet_distance", "frechet_report", "kernel_distance"]


class Mmd(NamedTuple):
    """An unbiased squared kernel distance and its standard error."""

    value: float
    stderr: float


class FrechetReport(NamedTuple):
    """Distance of samples to real pictures, with the distance of other real pictures beside it."""

    name: str
    """"FD-" and the name of the features."""
    n: int
    """Pictures in each of the three sets."""
    fd: float
    """Samples against reference."""
    floor: float
    """Real held-out pictures against reference: what a perfect model would get."""
    mmd: float
    mmd_se: float
    floor_mmd: float
    floor_mmd_se: float

    def __str__(self) -> str:
        return (
            f"{self.name} {self.fd:.2f} (real held-out pictures: {self.floor:.2f}), "
            f"MMD² {self.mmd:.4f} ± {self.mmd_se:.4f} (real held-out pictures: "
            f"{self.floor_mmd:.4f} ± {self.floor_mmd_se:.4f}), {self.n} pictures each"
        )


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of feature sets a (n, d) and b (m, d), in float64; see the module.

    Cost: two QR factors and the singular values of a matrix no larger than min(n, d) x min(m, d).
    """
    a, b = _checked(a, b)
    mean = (a.mean(0) - b.mean(0)).square().sum()
    root_a, root_b = _root(a), _root(b)
    spread = root_a.square().sum() + root_b.square().sum()
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    # Rounding may leave a tiny negative number where the distance is zero.
    return max(0.0, float(mean + spread - 2 * overlap))


def kernel_distance(a: Tensor, b: Tensor, *, block: int = 1024) -> Mmd:
    """Unbiased MMD² of a and b, both (n, d), with the cubic kernel, and its jackknife error.

    MMD² = Σ_{i≠j} h(i, j) / (n(n−1)),  h(i, j) = k(aᵢ, aⱼ) + k(bᵢ, bⱼ) − k(aᵢ, bⱼ) − k(aⱼ, bᵢ)
    (Gretton et al. 2012, Eq. 4). Leaving out pair i changes the sum by 2·Σⱼ h(i, j), so the row
    sums of h give the estimate and its jackknife standard error; the n x n matrix is never stored.
    """
    a, b = _checked(a, b)
    n = len(a)
    if len(b) != n or n < 3:
        raise MarginalsError(
            f"the kernel distance needs two sets of the same size, at least 3, not {n} and {len(b)}"
        )
    rows = torch.cat([_row_sums(a, b, slice(i, i + block)) for i in range(0, n, block)])
    total = rows.sum()
    left_out = (total - 2 * rows) / ((n - 1) * (n - 2))
    variance = (left_out - left_out.mean()).square().sum() * (n - 1) / n
    return Mmd(float(total / (n * (n - 1))), float(variance.sqrt()))


def frechet_report(
    samples: Tensor,
    reference: Tensor,
    held_out: Tensor,
    extractor: Extractor,
    *,
    batch: int = 100,
    progress: bool = False,
) -> FrechetReport:
    """Both distances of `samples` to `reference`, and of `held_out` to `reference` as the floor.

    samples, reference, held_out   pictures (N, C, H, W), uint8 or float in [-1, 1]; reference and
                                   held_out are real (training and held-out pictures)

    All three sets are cut to the size of the smallest by a fixed random choice, because the bias of
    the Fréchet distance depends on the size. Raises MarginalsError for fewer than 3 pictures.
    """
    n = min(len(samples), len(reference), len(held_out))
    if n < 3:
        raise MarginalsError(f"a Fréchet distance needs at least 3 pictures in each set, not {n}")
    s, r, h = (
        extract(extractor, _choose(pictures, n), batch=batch, progress=progress)
        for pictures in (samples, reference, held_out)
    )
    mmd, floor_mmd = kernel_distance(s, r), kernel_distance(h, r)
    return FrechetReport(
        f"FD-{extractor.name}",
        n,
        frechet_distance(s, r),
        frechet_distance(h, r),
        mmd.value,
        mmd.stderr,
        floor_mmd.value,
        floor_mmd.stderr,
    )


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise MarginalsError(
            "two feature sets have shape (count, features) with equally many features, "
            f"not {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if min(len(a), len(b)) < 2:
        raise MarginalsError("a Fréchet distance needs at least 2 pictures in each set")
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise MarginalsError("the features contain NaN or infinity; check the pictures and network")
    return a.detach().cpu().double(), b.detach().cpu().double()


def _root(features: Tensor) -> Tensor:
    """R of at most d rows with RᵀR = the covariance of `features` (n, d)."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    if len(centred) <= centred.shape[1]:
        return centred
    return torch.linalg.qr(centred, mode="r").R


def _row_sums(a: Tensor, b: Tensor, rows: slice) -> Tensor:
    """Σ_{j≠i} h(i, j) for the `rows` i."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1).pow_(3)

    a_rows, b_rows = a[rows], b[rows]
    h = kernel(a_rows, a) + kernel(b_rows, b) - kernel(a_rows, b) - kernel(b_rows, a)
    place = torch.arange(len(a_rows))
    own = h[place, place + rows.start]
    return h.sum(1) - own


def _choose(pictures: Tensor, n: int) -> Tensor:
    """`n` pictures, the same ones every time; all of them when there are just `n`."""
    if len(pictures) == n:
        return pictures
    generator = torch.Generator().manual_seed(n)
    return pictures[torch.randperm(len(pictures), generator=generator)[:n]]
