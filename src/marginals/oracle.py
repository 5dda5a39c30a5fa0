"""Exact denoisers: distributions whose every noisy marginal is known in closed form.

A mixture of Gaussians stays a mixture of Gaussians under noise, and so does a finite data set (a
mixture of points). For them the posterior mean E[x0 | x], its variance, the score, log p(x), the
class probabilities and samples are formulas at every level λ. Nothing is learned, so whatever a
solver or a likelihood gets wrong on an oracle is that method's own error. The tests, the lessons
and the benchmarks stand on this module.

All arithmetic is in float64; the estimates come back in the dtype of x.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .denoiser import Estimate
from .errors import MarginalsError
from .scaling import VP, Real, Scaling

_CHUNK = 1 << 25  # numbers held at once when comparing pictures with components


def _column(value: Real) -> Real:
    """(B,) → (B, 1) in float64; floats pass."""
    return value.double().reshape(-1, 1) if isinstance(value, Tensor) and value.ndim else value


class Mixture:
    """Σ_k w_k N(m_k, s_k²·I), with an optional class label for every component.

    ``means``: (K, *shape). ``std``: one number or (K,); zero makes a component a point.
    ``weights``: (K,), normalised here. ``labels``: (K,) whole numbers; with ``cond`` (B,) given,
    only the components of that class count (−1 = all of them), which is the exact
    class-conditional denoiser.

    Under noise, component k becomes N(α·m_k, V_k·I) with V_k = α²s_k² + σ², so with
    responsibilities r_k ∝ w_k N(x; α·m_k, V_k),

        E[x0 | x] = Σ_k r_k·(m_k + (α·s_k²/V_k)·(x − α·m_k)),        ∇ log q(x) = Σ_k r_k·(α·m_k −
        x)/V_k.
    """

    def __init__(
        self,
        means: Tensor,
        std: float | Sequence[float] | Tensor,
        weights: Tensor | None = None,
        labels: Tensor | None = None,
        scaling: Scaling = VP,
    ) -> None:
        self.scaling = scaling
        self.shape = means.shape[1:]
        self.means = means.double().flatten(1)
        count = len(self.means)
        self.std = torch.as_tensor(std, dtype=torch.float64, device=means.device).expand(count)
        weights = torch.ones(count, device=means.device) if weights is None else weights
        self.log_weights = (weights.double() / weights.double().sum()).log()
        self.labels = labels
        finite = bool(self.means.isfinite().all()) and bool(self.std.isfinite().all())
        if not finite or (self.std < 0).any() or self.log_weights.isnan().any():
            raise MarginalsError("A mixture needs finite means, finite std >= 0 and weights >= 0.")

    def _square_distances(self, x: Tensor, alpha: Real) -> Tensor:
        """‖x_b − α_b·m_k‖² as (B, K), without the cancellation of expanding the square."""
        rows = max(1, _CHUNK // self.means.numel())
        shifts = torch.as_tensor(alpha, dtype=x.dtype, device=x.device).expand(len(x), 1)
        parts = [
            (part.unsqueeze(1) - shift.unsqueeze(-1) * self.means).square().sum(-1)
            for part, shift in zip(x.split(rows), shifts.split(rows), strict=True)
        ]
        return torch.cat(parts)

    def _joint(self, x: Tensor, lam: Real, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        """log(w_k·N(x; α·m_k, V_k)) as (B, K), and V_k; w_k renormalised within the class."""
        _, alpha, sigma = (_column(value) for value in self.scaling(lam))
        var = alpha**2 * self.std**2 + sigma**2
        log_w = self.log_weights
        if cond is not None:
            if self.labels is None:
                raise MarginalsError("This mixture has no class labels, so it cannot take cond.")
            other = (cond.unsqueeze(1) >= 0) & (self.labels != cond.unsqueeze(1))
            if bool(other.all(-1).any()):
                raise MarginalsError("This mixture has no component with one of the labels asked.")
            log_w = log_w.masked_fill(other, -math.inf).log_softmax(-1)
        if bool((var == 0).any()):
            raise MarginalsError(
                "A point has no density at zero noise: give the components std > 0, or a finite λ."
            )
        dims = self.means.shape[1]
        square = self._square_distances(x.double().flatten(1), alpha)
        return log_w - 0.5 * square / var - 0.5 * dims * (2.0 * math.pi * var).log(), var

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        """Exact E[x0 | x] and Var[x0 | x] per entry."""
        joint, var = self._joint(x, lam, cond)
        _, alpha, sigma = (_column(value) for value in self.scaling(lam))
        flat, share = x.double().flatten(1), joint.softmax(-1)
        gain = alpha * self.std**2 / var
        keep = 1.0 - gain * alpha
        slope = (share * gain).sum(-1, keepdim=True)
        mean = (share * keep) @ self.means + slope * flat
        second = (share * keep**2) @ self.means**2
        second = second + 2.0 * flat * ((share * keep * gain) @ self.means)
        second = second + flat**2 * (share * gain**2).sum(-1, keepdim=True)
        second = second + (share * self.std**2 * sigma**2 / var).sum(-1, keepdim=True)
        return Estimate(
            x, lam, self.scaling, mean.to(x).view_as(x), var=(second - mean**2).to(x).view_as(x)
        )

    def log_prob(self, x: Tensor, lam: Real = math.inf, cond: Tensor | None = None) -> Tensor:
        """log q(x) in nats at level λ (default: the clean data), in the units of ``scaling``:
        (B,)."""
        return self._joint(x, lam, cond)[0].logsumexp(-1)

    def score(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Tensor:
        """∇ log q(x), from the definition (not through x̂0, so that the two can be compared)."""
        joint, var = self._joint(x, lam, cond)
        pull = joint.softmax(-1) / var
        _, alpha, _ = (_column(value) for value in self.scaling(lam))
        out = alpha * (pull @ self.means) - pull.sum(-1, keepdim=True) * x.double().flatten(1)
        return out.to(x).view_as(x)

    def class_posterior(self, x: Tensor, lam: Real) -> Tensor:
        """P(class | x) at noise level λ: (B, number of classes) (Luo Eqs. 163-165)."""
        if self.labels is None:
            raise MarginalsError("This mixture has no class labels.")
        share = self._joint(x, lam, None)[0].softmax(-1)
        return share @ torch.nn.functional.one_hot(self.labels).double()

    def sample(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Clean samples (count, *shape) in float64, and the component each came from."""
        generator = torch.Generator().manual_seed(seed)
        weights = self.log_weights.exp().cpu()
        which = torch.multinomial(weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        which = which.to(self.means.device)
        x = self.means[which] + self.std[which, None] * noise.to(self.means.device)
        return x.view(count, *self.shape), which


def empirical(data: Tensor, labels: Tensor | None = None, scaling: Scaling = VP) -> Mixture:
    """The exact denoiser of a finite data set (N, *shape): every picture is a point of mass 1/N.

    This is what a network with unlimited capacity would learn: it can only give back training
    pictures (see the nearest-neighbour check in :mod:`marginals.metrics`).
    """
    return Mixture(data, 0.0, labels=labels, scaling=scaling)


class Gaussian:
    """N(m, Σ) with any covariance; besides the denoiser, the exact flow of the ODE is known.

    ``mean``: (D,), ``cov``: (D, D). In the eigenbasis of Σ every direction is a scalar Gaussian
    with variance V = α²s² + σ² at level λ, and the probability-flow ODE just rescales it
    (:meth:`flow`).
    """

    def __init__(self, mean: Tensor, cov: Tensor, scaling: Scaling = VP) -> None:
        self.scaling = scaling
        self.mean = mean.double()
        variances, self.basis = torch.linalg.eigh(cov.double())
        if (variances < -1e-6 * variances.abs().max()).any():
            raise MarginalsError("The covariance of a Gaussian must not have negative eigenvalues.")
        self.variances = variances.clamp(min=0.0)  # what is below zero now is rounding

    def _to_basis(self, x: Tensor, lam: Real) -> tuple[Tensor, Tensor]:
        """Centred x in the eigenbasis (B, D), and V (B or 1, D)."""
        _, alpha, sigma = (_column(value) for value in self.scaling(lam))
        return (x.double() - alpha * self.mean) @ self.basis, alpha**2 * self.variances + sigma**2

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        _, alpha, sigma = (_column(value) for value in self.scaling(lam))
        z, var = self._to_basis(x, lam)
        mean = self.mean + (alpha * self.variances / var * z) @ self.basis.T
        spread = (self.variances * sigma**2 / var) @ (self.basis**2).T
        return Estimate(x, lam, self.scaling, mean.to(x), var=spread.expand_as(x).to(x))

    def log_prob(self, x: Tensor, lam: Real = math.inf) -> Tensor:
        """log q(x) in nats at level λ (default: clean data): (B,)."""
        z, var = self._to_basis(x, lam)
        return -0.5 * (z**2 / var + (2.0 * math.pi * var).log()).sum(-1)

    def flow(self, x: Tensor, lam: float, to: float) -> Tensor:
        """The exact probability-flow ODE map from level ``lam`` to level ``to``: z ↦
        z·√(V_to/V_lam)."""
        z, var = self._to_basis(x, lam)
        level = self.scaling(to)
        target = level.alpha**2 * self.variances + level.sigma**2
        return (level.alpha * self.mean + (z * (target / var).sqrt()) @ self.basis.T).to(x)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Clean samples (count, D) in float64."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        return self.mean + (noise.to(self.mean.device) * self.variances.sqrt()) @ self.basis.T
