"""What backbones and latents add to the theory: modulation, patches, and one change of units."""

import torch
from torch import Tensor


def adaln_zero(x: Tensor, out: Tensor, gate: Tensor) -> Tensor:
    """x + gate·f(…): a block of DiT, whose gate starts at zero (Peebles & Xie 2023)."""
    return x + gate * out


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x)·(1 + scale) + shift: adaptive layer norm over the last axis, without weights."""
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-6).sqrt() * (1.0 + scale) + shift


def patches(x: Tensor, size: int) -> Tensor:
    """Pictures (B, C, H, W) cut into squares: (B, places, C·size²)."""
    b, c, h, w = x.shape
    cut = x.reshape(b, c, h // size, size, w // size, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * size**2)


def standardise(latents: Tensor, mean: float, std: float) -> Tensor:
    """(z − mean)/std: measured statistics instead of a magic 0.18215 (Rombach et al. 2022)."""
    return (latents - mean) / std


def level_of_scaled(lam: Tensor, std: float) -> Tensor:
    """λ + 2·log s: the level at which unit-variance data are as visible as data of std s at λ."""
    return lam + 2.0 * torch.tensor(std, dtype=lam.dtype).log()


def moving_average(average: Tensor, weights: Tensor, half_life: float) -> Tensor:
    """a + (1 − 2^(−1/h))·(w − a): after h steps half of the old average is left (EMA)."""
    return average + (1.0 - 2.0 ** (-1.0 / half_life)) * (weights - average)
