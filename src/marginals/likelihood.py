"""How probable is this picture under the model? Routes to the same number.

All numbers are nats (natural logs) per picture; ``Bound.bits_per_dim`` converts. With L(λ) =
E‖ε − ε̂(x_λ)‖², the error of the denoiser at one level:

* :func:`elbo` — continuous time (VDM, Kingma et al. 2021; Luo Eq. 58 with T → ∞):
  log p(x0) ≥ reconstruction − prior − ½ ∫ L(λ) dλ between λ_min and λ_max.
* :func:`discrete_elbo` — T steps (Luo Eqs. 58, 110, 130; DDPM): the integral becomes a sum with
  weights ½·(SNR(s)/SNR(t) − 1), always a little looser.
* :func:`immse` — the first integral read against that of a Gaussian, whose log density is known.
* :func:`ode_log_prob` — the exact log density under the probability-flow ODE (:mod:`.density`).

The bounds are about the model as a latent-variable model, the last about the model as an
invertible flow; for the exact denoiser all give log q(x0).
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .bound import Bound as Bound
from .bound import Terms as Terms
from .bound import fingerprint
from .denoiser import Denoiser
from .density import ode_log_prob as ode_log_prob
from .device import send
from .errors import MarginalsError
from .gaussian import Ends as Ends
from .gaussian import (
    discretised_reconstruction,
    gaussian_reconstruction,
    normal_log_prob,
)
from .ode import Tick
from .pixels import to_float
from .proposal import Proposal, Reference, noise_error
from .solvers.grids import grid, uniform_lam


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
    return send(torch.randn(like.shape, generator=generator, dtype=like.dtype), like.device)


@torch.no_grad()
def elbo(
    denoiser: Denoiser,
    x: Tensor,
    ends: Ends,
    *,
    samples: int = 64,
    proposal: Proposal | None = None,
    cond: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
    tick: Tick | None = None,
) -> Terms:
    """The evidence lower bound in continuous time, an unbiased Monte-Carlo estimate per picture.

        log p(x0) ≥ E[log p(x0 | x_max)] − KL(q(x_min | x0) ‖ prior) − ½ ∫ E‖ε − ε̂‖² dλ

    ``x``: float pictures give a bound on the log density; uint8 pictures give a bound on the log
    probability of their whole-number pixels (256-way decoder). ``samples`` levels per picture, one
    in each of ``samples`` slices of [λ_min, λ_max] that the ``proposal`` finds equally likely; by
    default, equal slices. A proposal (:func:`.proposal.learn`) that asks where the error is
    noisy lowers the noise and leaves the mean. What a Gaussian's error would be is integrated
    exactly, and only the rest of L is sampled. ``dtype``: in which uint8 pictures are given to the
    denoiser.
    """
    x0, pixels = _prepare(x, dtype)
    proposal = proposal or Proposal.uniform(ends.lam_min, ends.lam_max)
    losses, lams, reference = [], [], Reference.of(x0, ends.prior)
    for lam, weight, low, high in _sampled_levels(len(x0), samples, proposal, ends, generator):
        lam, weight = send(lam, x0.device), send(weight, x0.device)
        error = noise_error(denoiser, x0, lam, cond, _randn(x0, generator), ends.prior)
        known = reference.integral(low, high)
        losses.append(0.5 * (known + weight * (error - reference.error(lam))))
        lams.append(lam.mean())
        if tick is not None:
            tick(len(lams), samples)
    both = _both_ends(denoiser, x0, ends, pixels, _randn(x0, generator))
    return _terms(x, x0, pixels, both, losses, torch.stack(lams))


def _sampled_levels(
    count: int,
    samples: int,
    proposal: Proposal,
    ends: Ends,
    generator: torch.Generator | None,
) -> Iterator[tuple[Tensor, Tensor, float, float]]:
    """(λ, weight, low, high), (B,) each for the first two: Σ weight·f(λ) estimates ∫ f dλ without
    bias, one level in each slice from low to high."""
    if samples < 1:
        raise MarginalsError(f"The ELBO needs at least 1 sampled level per picture, not {samples}.")
    proposal.check(ends.lam_min, ends.lam_max)
    edges, _ = proposal.sample(torch.linspace(0.0, 1.0, samples + 1, dtype=torch.float64))
    for i, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        lam, density = proposal.sample((i + u) / samples)
        yield lam, 1.0 / (samples * density), low, high


@torch.no_grad()
def immse(
    denoiser: Denoiser,
    x: Tensor,
    ends: Ends,
    *,
    samples: int = 64,
    proposal: Proposal | None = None,
    cond: Tensor | None = None,
    generator: torch.Generator | None = None,
    tick: Tick | None = None,
) -> Bound:
    """log p of float pictures, read off the curve of the denoiser's error (I-MMSE; Guo, Shamai &
    Verdú 2005; Kong et al. 2023, "Information-theoretic diffusion").

        log p(x0) ≥ log N(x0; m, s²) + ½ ∫ [L_G(λ) − L(λ)] dλ

    with N the Gaussian of the data's moments (``ends.prior``) and L_G the error of *its* denoiser
    (:class:`.proposal.Reference`): what the network knows beyond two moments. An equality for the
    exact denoiser, up to what lies beyond the two ends, where the Gaussian's denoiser counts as the
    model; so the ends need not be as far out as in :func:`elbo`.
    """
    if x.dtype == torch.uint8 or not ends.prior.std > 0:
        raise MarginalsError(
            "This reading needs a density: pictures of real numbers (see "
            "marginals.pixels.dequantise) and data of standard deviation above 0."
        )
    proposal = proposal or Proposal.uniform(ends.lam_min, ends.lam_max)
    dims, reference = x[0].numel(), Reference.of(x, ends.prior)
    gain, levels = 0.0, _sampled_levels(len(x), samples, proposal, ends, generator)
    for i, (lam, weight, _, _) in enumerate(levels, 1):
        lam, weight = send(lam, x.device), send(weight, x.device)
        error = noise_error(denoiser, x, lam, cond, _randn(x, generator), ends.prior)
        gain = gain + 0.5 * weight * (reference.error(lam) - error)
        if tick is not None:
            tick(i, samples)
    gaussian = normal_log_prob(x, ends.prior.mean, ends.prior.std**2)
    terms = {"gaussian": gaussian, "gain": torch.as_tensor(gain)}
    return Bound(gaussian + gain, "bound", True, dims, samples, terms, pictures=fingerprint(x))


@torch.no_grad()
def elbo_until(
    denoiser: Denoiser,
    x: Tensor,
    ends: Ends,
    *,
    target: float,
    most: int = 4096,
    samples: int = 32,
    tick: Tick | None = None,
    **options: Any,
) -> Terms:
    """:func:`elbo`, again and again until its error bar is small enough.

    Rounds of ``samples`` levels are averaged until ``noise_bits`` (the standard error of the mean
    bits/dim from levels and noise alone) is at most ``target``, or ``most`` evaluations per picture
    are spent; the answer says which by its ``noise_bits`` and ``nfe``. At least 4 rounds, so that
    the error bar means something; ``options`` are those of :func:`elbo`.
    """
    if not target > 0 or most < 4 * samples:
        raise MarginalsError(
            f"A target above 0 bits/dim and room for 4 rounds of {samples} levels are needed, not "
            f"{target} and {most} evaluations."
        )
    rounds: list[Terms] = []
    result: Terms | None = None
    while result is None or (result.noise_bits or 0.0) > target:
        if (len(rounds) + 1) * samples > most:
            break
        rounds.append(elbo(denoiser, x, ends, samples=samples, **options))
        if tick is not None:
            tick(len(rounds) * samples, most)
        if len(rounds) >= 4:
            result = _averaged(rounds)
    assert result is not None
    if tick is not None and len(rounds) * samples < most:
        tick(most, most)  # as good as all of them
    return result


def _averaged(rounds: list[Terms]) -> Terms:
    """The mean of independent rounds, with the standard error of every picture."""
    first, count = rounds[0], len(rounds)

    def mean(part: str) -> Tensor:
        return torch.stack([getattr(each, part) for each in rounds]).mean(0)

    result = Terms.of_parts(
        mean("reconstruction"),
        mean("prior"),
        mean("matching"),
        first.at,
        dims=first.dims,
        density=first.density,
        nfe=sum(each.nfe for each in rounds),
        name="denoising",
        pictures=first.pictures,
    )
    return replace(result, noise=torch.stack([each.nats for each in rounds]).std(0) / count**0.5)


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
        error = noise_error(denoiser, x0, t, cond, _randn(x0, generator), ends.prior)
        losses.append(0.5 * math.expm1(s - t) * error)
        if tick is not None:
            tick(i + 1, steps)
    both = _both_ends(denoiser, x0, ends, pixels, _randn(x0, generator))
    return _terms(x, x0, pixels, both, losses, torch.tensor(lams[:-1]))


def _terms(
    x: Tensor,
    x0: Tensor,
    pixels: Tensor | None,
    both: tuple[Tensor, Tensor],
    losses: list[Tensor],
    lams: Tensor,
) -> Terms:
    about = {"density": pixels is None, "pictures": fingerprint(x), "name": "denoising"}
    dims, nfe, matching = x0[0].numel(), len(losses), torch.stack(losses, 1)
    return Terms.of_parts(*both, matching, lams, dims=dims, nfe=nfe, **about)
