"""Inverse problems: pictures of which only a measurement is known, y = A·x0 + s·n, n ~ N(0, I).

    known = Observed(model.net, Mask(mask), y, std=0.05)      # a denoiser of p(x0 | y)
    model.sample(4, guidance=lambda net: Observed(net, Average(4), y))

Given the measurement, the denoiser to walk with is E[x0 | x, y]. Were the picture given x Gaussian,
with mean x̂0 = E[x0 | x] and covariance V = Cov[x0 | x], it would be Kalman's update

    x̂0 + V·Aᵀ·(s²I + A·V·Aᵀ)⁻¹·(y − A·x̂0),        V = (σ²/α)·∂x̂0/∂x,

with V out of the denoiser itself (Tweedie's second identity): a product with V is one backward
pass. Known methods are this formula with simpler guesses for one V or the other:

| ``method`` | first V | second V | source                                                         |
|------------|---------|----------|----------------------------------------------------------------|
| ``mmps``   | V       | V        | moment matching, Rozet et al. 2024 (arXiv 2405.13712), Eq. 20  |
| ``pigdm``  | V       | r²·I     | pseudo-inverse guidance ΠGDM, Song et al. 2023                 |
| ``dps``    | V       | 0        | diffusion posterior sampling, Chung et al. 2023, Eq. 16        |
| ``ddnm``   | r²·I    | r²·I     | null-space projection, Wang et al. 2023; needs no gradient     |

r² = ς²σ²/(α²ς² + σ²) is the variance of x0 given x for independent entries of variance ς² (Song et
al. 2023 have ς = 1). For a Gaussian prior ``mmps`` is exact; for others it errs where x0 given x
has several modes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .denoiser import Denoiser, Estimate, expand
from .errors import MarginalsError
from .gaussian import sum_dims
from .guidance import per_picture
from .scaling import Real, Scaling

Method = Literal["mmps", "pigdm", "dps", "ddnm"]

_CHEAP = 50
"""Steps of conjugate gradients where none of them asks the network."""


class Operator(ABC):
    """A linear map of pictures (B, C, H, W) to measurements (B, ...), and its adjoint:
    ⟨A·x, y⟩ = ⟨x, Aᵀ·y⟩."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A·x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ·y."""


@dataclass(frozen=True)
class Mask(Operator):
    """Inpainting: entries are known where ``known`` is 1 (True), and 0 elsewhere. ``known``
    broadcasts to the pictures: (H, W), (C, H, W) or (B, C, H, W)."""

    known: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.known.to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)


@dataclass(frozen=True)
class Average(Operator):
    """Super-resolution: (B, C, H, W) → the means of squares of ``factor`` pixels a side."""

    factor: int

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise MarginalsError(
                f"Pictures of {x.shape[-2]}×{x.shape[-1]} cannot be averaged over squares of "
                f"{self.factor}: choose a factor that divides both sides."
            )
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        wide = y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return wide / self.factor**2


@dataclass(frozen=True)
class Blur(Operator):
    """Deblurring: convolution with a Gaussian of standard deviation ``sigma`` pixels, cut off at
    3·σ; beyond the edge lies the edge's own colour."""

    sigma: float

    def __call__(self, x: Tensor) -> Tensor:
        reach = max(1, math.ceil(3.0 * self.sigma))
        at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
        weights = (-0.5 * (at / self.sigma) ** 2).exp()
        weights = weights / weights.sum()
        wide = F.pad(x, (reach,) * 4, mode="replicate").flatten(0, 1).unsqueeze(1)
        rows = F.conv2d(wide, weights.reshape(1, 1, -1, 1))
        return F.conv2d(rows, weights.reshape(1, 1, 1, -1)).view_as(x)

    def adjoint(self, y: Tensor) -> Tensor:
        # of a linear map, the gradient of ⟨A·x, y⟩, which is the same at every x
        with torch.enable_grad():
            x = torch.zeros_like(y).requires_grad_()
            return torch.autograd.grad(self(x), x, y)[0]


@dataclass(frozen=True)
class Matrix(Operator):
    """Any matrix (M, D) on flattened pictures of the given ``shape``, D entries."""

    matrix: Tensor
    shape: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).view(len(y), *self.shape)


@dataclass(frozen=True)
class Observed:
    """The denoiser of pictures given their measurement: E[x0 | x, y] by one of four methods.

    ``y``: the measurement of every picture (B, ...), or of all (1, ...). ``std``: s, the standard
    deviation of its noise in the same units; 0 is a measurement without noise, which ``dps`` cannot
    take. ``data_std``: ς. Around a :class:`.guidance.Guided` it keeps the guidance.

    ``iterations``: steps of conjugate gradients of ``mmps``, each a backward pass. ``trust``: the λ
    from which on V is believed; at noisier levels r²·I stands for it, as in ``ddnm``. Both are for
    networks, whose Jacobian is neither symmetric nor exact, and is multiplied by σ²/α: asked for
    more, they diverge (``bench/editing.py``). For an exact denoiser, take as many iterations as
    the measurement has entries, and ``trust=-math.inf``.
    """

    denoiser: Denoiser
    operator: Operator
    y: Tensor
    std: float = 0.0
    method: Method = "mmps"
    iterations: int = 3
    data_std: float = 1.0
    trust: float = -3.0

    def __post_init__(self) -> None:
        if self.std < 0 or (self.std == 0 and self.method == "dps"):
            raise MarginalsError(
                "A measurement has noise of a standard deviation >= 0, and dps divides by it: give "
                "std > 0, or another method."
            )

    @property
    def scaling(self) -> Scaling:
        return self.denoiser.scaling

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        level = self.scaling(lam)
        if isinstance(level.alpha, float) and not (level.alpha and level.sigma):
            raise MarginalsError(
                "A measurement is compared at finite noise levels: begin the walk above λ = −∞ "
                "and let its last evaluation be below ∞."
            )
        y = per_picture(self.y, x, "measurements").to(x)
        wide = (self.data_std * level.sigma) ** 2 / (
            (self.data_std * level.alpha) ** 2 + level.sigma**2
        )
        radius = expand(wide, x)
        if self.method == "ddnm" or (not isinstance(lam, Tensor) and lam < self.trust):
            x0 = self.denoiser(x, lam, cond).x0
            return Estimate(x, lam, self.scaling, x0 + self._projected(x0, y, radius))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            x0 = self.denoiser(leaf, lam, cond).x0
        gain, clean = expand(level.sigma**2 / level.alpha, x), x0.detach()

        def spread(v: Tensor) -> Tensor:
            """V·v."""
            return gain * torch.autograd.grad(x0, leaf, v, retain_graph=True)[0]

        gap = y - self.operator(clean)
        if self.method == "dps":
            weighed = gap / self.std**2
        else:
            weighed = self._solve(gap, radius if self.method == "pigdm" else spread)
        moved = spread(self.operator.adjoint(weighed))
        if isinstance(lam, Tensor):  # every picture at its own level
            believed = (lam >= self.trust).reshape(-1, *[1] * (x.ndim - 1))
            moved = torch.where(believed, moved, self._projected(clean, y, radius))
        return Estimate(x, lam, self.scaling, clean + moved)

    def _projected(self, x0: Tensor, y: Tensor, radius: Real) -> Tensor:
        """r²·Aᵀ·(s²I + r²·A·Aᵀ)⁻¹·(y − A·x̂0)."""
        return radius * self.operator.adjoint(self._solve(y - self.operator(x0), radius))

    def _solve(self, gap: Tensor, spread: Real | Callable[[Tensor], Tensor]) -> Tensor:
        """(s²I + A·V·Aᵀ)⁻¹·gap, V being a function or a number."""

        def product(u: Tensor) -> Tensor:
            back = self.operator.adjoint(u)
            back = spread(back) if callable(spread) else spread * back
            return self.std**2 * u + self.operator(back)

        return conjugate_gradients(product, gap, self.iterations if callable(spread) else _CHEAP)


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """u with product(u) = b for a symmetric product without negative eigenvalues, from u = 0.

    Every picture by itself; one is left alone once its residual is at rounding level, or where the
    product (a network's) turns out not to be positive along the next direction. Of a singular
    product, the solution without components in the kernel. Nothing waits for the device.
    """
    u, residual = torch.zeros_like(b), b
    direction, square = residual, sum_dims(residual**2)
    least = square * (100.0 * torch.finfo(b.dtype).eps) ** 2
    for _ in range(iterations):
        image = product(direction)
        curve = sum_dims(direction * image)
        moving = (square > least) & (curve > 0)
        step = torch.where(moving, square / curve, 0.0)
        u = u + expand(step, b) * direction
        residual = residual - expand(step, b) * image
        new = sum_dims(residual**2)
        ratio = torch.where(moving, new / square, 0.0)
        direction = residual + expand(ratio, b) * direction
        square = torch.where(moving, new, 0.0)
    return u
