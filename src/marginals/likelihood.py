"""How probable is this picture under the model? Three routes to the same number.

All numbers are nats (natural logs) per picture; ``Bound.bits_per_dim`` converts. With L(λ) =
E‖ε − ε̂(x_λ)‖², the error of the denoiser at one level:

* :func:`elbo` — continuous time (VDM, Kingma et al. 2021; Luo Eq. 58 with T → ∞):
  log p(x0) ≥ reconstruction − prior − ½ ∫ L(λ) dλ between λ_min and λ_max.
* :func:`discrete_elbo` — T steps (Luo Eqs. 58, 110, 130; DDPM): the integral becomes a sum with
  weights ½·(SNR(s)/SNR(t) − 1), always a little looser.
* :func:`ode_log_prob` — the exact log density under the probability-flow ODE (Song et al. 2021).

The two bounds are about the model as a latent-variable model, the last about the model as an
invertible flow; for the exact denoiser all three give log q(x0).
"""

import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .bound import Bound as Bound
from .bound import Terms as Terms
from .denoiser import Denoiser, expand
from .errors import MarginalsError
from .gaussian import Prior, discretised_reconstruction, gaussian_reconstruction, sum_dims
from .ode import Tick, exact_trace, hutchinson, solve
from .pixels import to_float
from .scaling import VP, units
from .schedule import Logit, Truncated
from .solvers.grids import grid, uniform_lam


@dataclass(frozen=True)
class Ends:
    """Where the walk begins and stops, and the law of x at its noisy end."""

    lam_min: float
    lam_max: float
    prior: Prior = field(default_factory=Prior)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lam_min) and math.isfinite(self.lam_max)):
            raise MarginalsError("Likelihoods need finite noise levels at both ends.")
        if not self.lam_min < self.lam_max:
            raise MarginalsError(f"lam_min must be below lam_max: {self.lam_min}, {self.lam_max}.")


def _noise_error(
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
    log_var = 2.0 * math.log(prior.std) if prior.std > 0 else -math.inf
    weight = torch.sigmoid(torch.as_tensor(lam, dtype=torch.float64) + log_var).square()
    return error - weight.to(error) * (sum_dims(eps.square()) - eps[0].numel())


def _both_ends(
    denoiser: Denoiser, x0: Tensor, ends: Ends, pixels: Tensor | None, eps: Tensor
) -> tuple[Tensor, Tensor]:
    """The terms of Luo Eq. 58 that need no network: reconstruction and prior matching."""
    clean, noisy = denoiser.scaling(ends.lam_max), denoiser.scaling(ends.lam_min)
    if pixels is None:
        reconstruction = gaussian_reconstruction(x0, clean)
    else:
        x = clean.alpha * x0 + clean.sigma * eps
        reconstruction = discretised_reconstruction(pixels, x, clean)
    return reconstruction, ends.prior.kl_from(x0, noisy)


def _prepare(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Pictures as real numbers, and the whole-number pixels if that is what was given."""
    return (to_float(x, dtype), x) if x.dtype == torch.uint8 else (x, None)


def _randn(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


@torch.no_grad()
def elbo(
    denoiser: Denoiser,
    x: Tensor,
    ends: Ends,
    *,
    samples: int = 64,
    cond: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
    tick: Tick | None = None,
) -> Terms:
    """The evidence lower bound in continuous time, an unbiased Monte-Carlo estimate per picture.

        log p(x0) ≥ E[log p(x0 | x_max)] − KL(q(x_min | x0) ‖ prior) − ½ ∫ E‖ε − ε̂‖² dλ

    ``x``: float pictures give a bound on the log density; uint8 pictures give a bound on the log
    probability of their whole-number pixels (256-way decoder). ``samples`` levels per picture, one
    in each of ``samples`` equal slices of [λ_min, λ_max]. ``dtype``: in which uint8 pictures are
    given to the denoiser.
    """
    if samples < 1:
        raise MarginalsError(f"The ELBO needs at least 1 sampled level per picture, not {samples}.")
    x0, pixels = _prepare(x, dtype)
    span, count = ends.lam_max - ends.lam_min, len(x0)
    losses, lams = [], []
    for i in range(samples):
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        lam = (ends.lam_min + span * (i + u) / samples).to(x0.device)
        error = _noise_error(denoiser, x0, lam, cond, _randn(x0, generator), ends.prior)
        losses.append(0.5 * span * error / samples)
        lams.append(lam.mean())
        if tick is not None:
            tick(i + 1, samples)
    both = _both_ends(denoiser, x0, ends, pixels, _randn(x0, generator))
    return _terms(x0, pixels, both, losses, torch.stack(lams))


@torch.no_grad()
def discrete_elbo(
    denoiser: Denoiser,
    x: Tensor,
    ends: Ends,
    *,
    steps: int = 64,
    cond: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
    tick: Tick | None = None,
) -> Terms:
    """The ELBO of the chain with T = ``steps`` steps, every term evaluated (Luo Eqs. 58, 85, 130).

    Level s is one step cleaner than t; the KL of a step is ½·expm1(λ_s − λ_t)·‖ε − ε̂(x_t)‖²,
    exactly, when the model's step has the posterior variance σ_q². ``x`` as in :func:`elbo`.
    """
    x0, pixels = _prepare(x, dtype)
    lams = grid(uniform_lam(ends.lam_min, ends.lam_max), steps, final=False)
    losses = []
    for i, (t, s) in enumerate(itertools.pairwise(lams)):
        error = _noise_error(denoiser, x0, t, cond, _randn(x0, generator), ends.prior)
        losses.append(0.5 * math.expm1(s - t) * error)
        if tick is not None:
            tick(i + 1, steps)
    both = _both_ends(denoiser, x0, ends, pixels, _randn(x0, generator))
    return _terms(x0, pixels, both, losses, torch.tensor(lams[:-1]))


def _terms(
    x0: Tensor,
    pixels: Tensor | None,
    both: tuple[Tensor, Tensor],
    losses: list[Tensor],
    lams: Tensor,
) -> Terms:
    about = {"dims": x0[0].numel(), "density": pixels is None, "nfe": len(losses)}
    return Terms.of_parts(*both, torch.stack(losses, 1), lams, name="denoising", **about)


def ode_log_prob(
    denoiser: Denoiser,
    x: Tensor,
    ends: Ends,
    *,
    steps: int = 20,
    cond: Tensor | None = None,
    exact: bool = False,
    generator: torch.Generator | None = None,
    tick: Tick | None = None,
) -> Bound:
    """The exact log density of float pictures under the probability-flow ODE (Song et al. 2021,
    Eq. 39).

        log p(x0) = log prior(x_min) + ∫ ½·α·σ·tr(∂v̂/∂x) dλ + D·log α(λ_max)

    along the path that starts at the picture, taken as x at λ_max; the last term turns VP units
    into picture units. ``exact``: the whole trace (D backward passes, small D); otherwise
    Hutchinson's estimate with random signs, unbiased in nats. ``steps`` Runge–Kutta steps of 4
    evaluations. Whole-number pixels have no density: dequantise them first.
    """
    if x.dtype == torch.uint8:
        raise MarginalsError(
            "A density needs real numbers: spread whole-number pixels over their bins first with "
            "marginals.pixels.dequantise."
        )
    # equal steps in flow time: the denoiser changes fastest around λ = 0, and slowly at both ends
    lams = grid(Truncated(Logit(), ends.lam_max, ends.lam_min), steps, final=False)[::-1]
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2.0 - 1.0
    divergence = exact_trace if exact else hutchinson(signs)
    start = x * VP(ends.lam_max).alpha
    last, change, nfe = solve(denoiser, start, lams, cond=cond, divergence=divergence, tick=tick)
    noisy = denoiser.scaling(ends.lam_min)
    factor = units(ends.lam_min, VP, denoiser.scaling)
    dims = x[0].numel()
    prior = ends.prior.log_prob(last * factor, noisy) + dims * math.log(factor)
    unit = torch.full_like(prior, dims * math.log(VP(ends.lam_max).alpha))
    # change = log q(x_min) − log q(x_max) along the path, so it is subtracted
    terms = {"prior": prior, "divergence": -change, "units": unit}
    return Bound(prior - change + unit, "exact", True, dims, nfe, terms)
