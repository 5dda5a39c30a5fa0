"""How far a walk ended from the truth, with error bars."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Error:
    """``rmse`` = √(mean over all entries of (x − truth)²), with ``rmse_se`` its standard error;
    ``mean``, ``median``, ``p90``: of the RMSE of single samples. ``nfe``: evaluations counted."""

    nfe: int
    rmse: float
    rmse_se: float
    mean: float
    median: float
    p90: float

    def record(self) -> dict:
        return asdict(self)


def measure(square: Tensor, nfe: int) -> Error:
    """The figures of one walk from the mean squared error of every sample (B,). The error bar is a
    bootstrap over samples, always with the same draws. A walk that broke down is infinitely far
    off.
    """
    if not bool(square.isfinite().all()):
        return Error(nfe, *[float("inf")] * 5)
    each = square.sqrt()
    return Error(
        nfe,
        square.mean().sqrt().item(),
        square[resamples(len(square))].mean(1).sqrt().std().item(),
        each.mean().item(),
        each.median().item(),
        each.quantile(0.9).item(),
    )


def resamples(count: int, draws: int = 500) -> Tensor:
    """Which samples each bootstrap draw takes, with replacement: (draws, count)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(count, (draws, count), generator=generator)


def ratio(square: Tensor, other: Tensor) -> tuple[float, float]:
    """RMSE of the one walk over RMSE of the other, on the same samples, with its standard error."""
    index = resamples(len(square))
    ratios = (square[index].mean(1) / other[index].mean(1)).sqrt()
    return (square.mean() / other.mean()).sqrt().item(), ratios.std().item()
