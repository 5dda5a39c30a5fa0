"""Small worlds in which everything is known: what the checks of the equations stand on.

Each gives the truth by a way that the package's own formulas do not take: Luo's α_t multiplied up
one by one, a density summed over a fine grid, a derivative by autograd, networks that nobody
trained. All numbers are float64, and none of them is 0, 1 or ½, so that a wrong sign, factor or
index has nowhere to hide.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..oracle import Mixture
from ..scaling import Level

Predictor = Callable[[Tensor, Tensor], Tensor]
"""A network's answer to (x (B, D), λ (B,)), of x's shape."""


def randn(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in float64, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# ---- chains in Luo's letters -------------------------------------------------------------------


def chains() -> dict[str, Tensor]:
    """Luo's α_1..α_T of four chains (his α_t is DDPM's 1 − β_t).

    "ddpm": β linear from 1e-4 to 0.02, T = 1000. "cosine": ᾱ_t = cos²(πt/2T), the last β cut at
    0.999, T = 40. "vdm": log SNR falling on a line from 13.3 to −5, T = 30. "random": T = 7.
    """
    t = torch.arange(41, dtype=torch.float64) / 40
    cosine = (0.5 * math.pi * t).cos() ** 2
    vdm = torch.cat([torch.ones(1).double(), torch.linspace(13.3, -5.0, 30).double().sigmoid()])
    generator = torch.Generator().manual_seed(1)
    return {
        "ddpm": 1.0 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64),
        "cosine": (cosine[1:] / cosine[:-1]).clamp(min=0.001),
        "vdm": vdm[1:] / vdm[:-1],
        "random": 0.3 + 0.65 * torch.rand(7, generator=generator, dtype=torch.float64),
    }


def bars(alphas: Tensor) -> Tensor:
    """ᾱ_0..ᾱ_T, (T + 1,): the running product of Luo's α_t, multiplied one by one; ᾱ_0 = 1."""
    out = [alphas.new_ones(())]
    for alpha in alphas:
        out.append(out[-1] * alpha)
    return torch.stack(out)


def level(bar: Tensor) -> Level[Tensor]:
    """The level with signal ᾱ, (B, 1) → tensors (B,), written down without the package's units."""
    flat = bar.flatten()
    return Level((flat / (1.0 - flat)).log(), flat.sqrt(), (1.0 - flat).sqrt())


@dataclass(frozen=True)
class Steps:
    """Single steps t − 2 → t − 1 → t of all chains (B of them), with pictures of three pixels.

    ``a``, ``a1``: α_t and α_{t−1}. ``bar``, ``prev``, ``prev2``: ᾱ_t, ᾱ_{t−1}, ᾱ_{t−2}; each
    (B, 1). ``x0``, ``eps``, ``guess``: the picture, the noise in it, and some other picture,
    each (B, 3).
    """

    a: Tensor
    a1: Tensor
    bar: Tensor
    prev: Tensor
    prev2: Tensor
    x0: Tensor
    eps: Tensor
    guess: Tensor

    @cached_property
    def t(self) -> Level[Tensor]:
        """The noisier level of the step."""
        return level(self.bar)

    @cached_property
    def s(self) -> Level[Tensor]:
        """The cleaner level of the step, Luo's t − 1."""
        return level(self.prev)

    @cached_property
    def r(self) -> Level[Tensor]:
        """The level before that, Luo's t − 2."""
        return level(self.prev2)

    @cached_property
    def x_t(self) -> Tensor:
        """√ᾱ_t·x0 + √(1 − ᾱ_t)·ε (Luo Eq. 69), (B, 3)."""
        return self.bar.sqrt() * self.x0 + (1.0 - self.bar).sqrt() * self.eps

    @cached_property
    def var_q(self) -> Tensor:
        """σ_q², (B, 1), by conditioning: x_{t−1} and x_t are jointly Gaussian given x0, so the
        variance left is v − c²/w, with v, w their variances and c = √α_t·v their covariance."""
        v, c = 1.0 - self.prev, self.a.sqrt() * (1.0 - self.prev)
        return v - c**2 / (1.0 - self.bar)

    @cached_property
    def x_hat(self) -> Tensor:
        """x̂_θ(x_t, t), the guess of a network that nobody trained, (B, 3)."""
        return network(3)(self.x_t, self.t.lam)

    @cached_property
    def eps_hat(self) -> Tensor:
        """ε̂_θ(x_t, t) of another such network, (B, 3)."""
        return network(13)(self.x_t, self.t.lam)

    @cached_property
    def s_hat(self) -> Tensor:
        """s_θ(x_t, t) of a third one, (B, 3)."""
        return network(23)(self.x_t, self.t.lam)

    def loss(self, left: Tensor, right: Tensor | float = 0.0) -> Tensor:
        """‖left − right‖²/(2σ_q²), (B,)."""
        return ((left - right) ** 2).sum(1) / (2.0 * self.var_q.squeeze(1))

    def mean_q(self, x0: Tensor) -> Tensor:
        """μ_q for a picture x0, (B, 3), by conditioning the same joint: m + (c/w)·(x_t − n)."""
        share = self.a.sqrt() * (1.0 - self.prev) / (1.0 - self.bar)
        return self.prev.sqrt() * x0 + share * (self.x_t - self.bar.sqrt() * x0)


def steps(seed: int = 0, noise: float = 0.0) -> Steps:
    """Steps from the beginning, the middle and the end of every chain (t ≥ 3); only those with at
    least 1 − ᾱ_{t−1} = ``noise``."""
    rows = []
    for alphas in chains().values():
        bar = bars(alphas)
        count = len(alphas)
        for t in sorted({3, 4, 5, count // 2, count - 1, count}):
            if 1.0 - bar[t - 1] >= noise:
                rows.append(
                    torch.stack([alphas[t - 1], alphas[t - 2], *bar[t - 2 : t + 1].flip(0)])
                )
    a, a1, bar, prev, prev2 = torch.stack(rows).unsqueeze(-1).unbind(1)
    x0, eps, guess = randn(3, len(rows), 3, seed=seed)
    return Steps(a, a1, bar, prev, prev2, x0, eps, guess)


def network(seed: int, dims: int = 3, hidden: int = 8) -> Predictor:
    """A small random network that nobody trained: identities of losses must hold for any."""
    first = randn(dims + 1, hidden, seed=seed) / 2
    second = randn(hidden, dims, seed=seed + 1) / 2
    shift = randn(hidden, seed=seed + 2)

    def predict(x: Tensor, lam: Tensor) -> Tensor:
        seen = torch.cat([x, lam.clamp(-20.0, 20.0).reshape(-1, 1).expand(len(x), 1) / 10.0], 1)
        return torch.tanh(seen @ first + shift) @ second

    return predict


# ---- a distribution on a line, by quadrature ---------------------------------------------------

_MEANS, _STDS, _WEIGHTS = (-1.7, 0.4, 2.1), (0.35, 0.6, 0.45), (0.3, 0.45, 0.25)


class OnALine:
    """A mixture of three Gaussians on the line, noised to ᾱ; every expectation is a sum over a
    grid, whose error is below rounding for such smooth functions.

    ``x0``, ``mass``: (N,), the grid of clean values and its probabilities.
    """

    def __init__(self, count: int = 801, reach: float = 8.0) -> None:
        self.x0 = torch.linspace(-reach, reach, count, dtype=torch.float64)
        bumps = [
            w * torch.exp(-0.5 * ((self.x0 - m) / s) ** 2) / (s * math.sqrt(2.0 * math.pi))
            for m, s, w in zip(_MEANS, _STDS, _WEIGHTS, strict=True)
        ]
        self.mass = torch.stack(bumps).sum(0) * (self.x0[1] - self.x0[0])

    @staticmethod
    def oracle() -> Mixture:
        """The same distribution as the package knows it, on pictures of one pixel."""
        means = torch.tensor(_MEANS, dtype=torch.float64).unsqueeze(1)
        return Mixture(means, list(_STDS), torch.tensor(_WEIGHTS, dtype=torch.float64))

    def joint(self, x: Tensor, bar: float) -> Tensor:
        """p(x0)·q(x_t = x | x0) for every grid point, (M, 1) → (M, N)."""
        gap = x - math.sqrt(bar) * self.x0
        var = 1.0 - bar
        return self.mass * torch.exp(-0.5 * gap**2 / var) / math.sqrt(2.0 * math.pi * var)

    def density(self, x: Tensor, bar: float) -> Tensor:
        """p(x_t), (M, 1) → (M, 1)."""
        return self.joint(x, bar).sum(1, keepdim=True)

    def mean(self, x: Tensor, bar: float, of: Tensor | None = None) -> Tensor:
        """E[of(x0) | x_t = x], (M, 1); ``of`` is given on the grid or for every pair (M, N)."""
        joint = self.joint(x, bar)
        values = self.x0 if of is None else of
        return (joint * values).sum(1, keepdim=True) / joint.sum(1, keepdim=True)

    def score(self, x: Tensor, bar: float) -> Tensor:
        """∇ log p(x_t), (M, 1), by differentiating the summed density."""
        y = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.density(y, bar).log().sum(), y)
        return slope

    def step_back(self, x: Tensor, bar: float, prev: float) -> Tensor:
        """E[x_{t−1} | x_t = x], (M, 1), by Bayes' rule on a grid of x_{t−1}."""
        y, share = self.places(prev)
        a = bar / prev
        joint = share.T * torch.exp(-0.5 * (x - math.sqrt(a) * y.T) ** 2 / (1.0 - a))
        return joint @ y / joint.sum(1, keepdim=True)

    def places(self, bar: float, count: int = 401) -> tuple[Tensor, Tensor]:
        """A grid of x_t (M, 1) and its probabilities (M, 1), to average over p(x_t)."""
        reach = 5.0 * math.sqrt(bar) + 7.0 * math.sqrt(1.0 - bar)
        x = torch.linspace(-reach, reach, count, dtype=torch.float64).unsqueeze(1)
        return x, self.density(x, bar) * (x[1] - x[0])
