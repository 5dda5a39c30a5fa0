"""A rung of a ladder: one latent, its two laws, and what training charges for it.

A :class:`Rung` is written from the top's point of view: ``above`` is whatever the rungs above hand
down, for a Markov ladder z itself, for a modern hierarchical VAE the residual stream. A
:class:`Visit` is what one walk leaves behind at a rung, and every bound is made of visits. The two
walks are :func:`descend` and :func:`climb`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from .errors import MarginalsError
from .gaussian import Normal

Posterior = Literal["top_down", "bottom_up"]
"""top_down: q(z_t | x, above), drawn from the top. bottom_up: q(z_1 | x)·Π q(z_t | z_{t−1}), drawn
from the picture up (Luo Eq. 24)."""


class Rung(Protocol):
    """One latent z of a ladder: its two laws, and what the rung below is told.

    A batch has B entries; means have the full shape (B, ...) of z (a prior may have batch 1).
    """

    def prior(self, above: Any) -> Normal:
        """p(z | above). ``above`` is what the rung above carried; at the top, the ladder's
        ``root`` (None without one)."""
        ...

    def posterior(self, evidence: Any, above: Any) -> Normal:
        """q(z | x, above), where ``evidence`` is what the ladder's ``evidence`` made of x.

        In a bottom-up ladder it is q(z | below) instead: ``evidence`` is that of x at rung 1 and
        the latent z of the rung below at all others, and ``above`` is None.
        """
        ...

    def carry(self, z: Tensor, above: Any) -> Any:
        """What the next rung below (at the bottom: ``decode``) is told; z in a Markov ladder."""
        ...


class Visit(NamedTuple):
    """One rung during one walk: q(z | ...), p(z | ...), and the z that was drawn from q."""

    posterior: Normal
    prior: Normal
    z: Tensor

    def kl(self) -> Tensor:
        """KL( q ‖ p ) in nats, in closed form: (B,)."""
        return self.posterior.kl(self.prior)

    def log_ratio(self) -> Tensor:
        """log q(z) − log p(z), one sample of the KL: (B,)."""
        return self.posterior.log_prob(self.z) - self.prior.log_prob(self.z)


Draw = Callable[[Tensor], Tensor]
"""Standard normal noise of the shape of a tensor."""


def descend(
    rungs: Sequence[Rung], evidence: Any, above: Any, draw: Draw
) -> tuple[list[Visit], Any]:
    """Draw z from the top down, q(z_t | x, above): every rung knows x and what was drawn above.

    ``rungs`` from the top; ``above`` is what the top rung is told. Returns the visits, top first,
    and what the lowest rung carried.
    """
    visits = []
    for rung in rungs:
        posterior, prior = rung.posterior(evidence, above), rung.prior(above)
        z = posterior.sample(draw(posterior.mean))
        visits.append(Visit(posterior, prior, z))
        above = rung.carry(z, above)
    return visits, above


def climb(rungs: Sequence[Rung], evidence: Any, above: Any, draw: Draw) -> tuple[list[Visit], Any]:
    """Draw z from the picture up, q(z_1 | x)·Π q(z_t | z_{t−1}) (Luo Eq. 24); then ask the priors.

    Arguments and results as those of :func:`descend`.
    """
    drawn: list[tuple[Normal, Tensor]] = []
    for rung in reversed(rungs):
        posterior = rung.posterior(evidence, None)
        evidence = posterior.sample(draw(posterior.mean))
        drawn.append((posterior, evidence))
    visits = []
    for rung, (posterior, z) in zip(rungs, reversed(drawn), strict=True):
        visits.append(Visit(posterior, rung.prior(above), z))
        above = rung.carry(z, above)
    return visits, above


def nats_paid(visits: Sequence[Visit], posterior: Posterior) -> Tensor:
    """Nats paid at every rung of a walk, (B, rungs), top first; their sum's mean is E_q[log q/p].

    Top-down, z_t is drawn given everything above it, so that every KL is exact (Luo Eq. 58's form).
    Bottom-up that is so at the top only: below, z_t was drawn without knowing z_{t+1}, on which
    p(z_t | z_{t+1}) depends, and what can be charged is log q/p at the sample (Luo Eq. 44). The KL
    in its place, Luo Eq. 45, is another number.
    """
    exact = posterior == "top_down"
    nats = [v.kl() if exact or i == 0 else v.log_ratio() for i, v in enumerate(visits)]
    return torch.stack(nats, 1)


@dataclass(frozen=True)
class KlObjective:
    """What training charges for the latents; the ELBO itself is β = 1 and nothing else.

    ``beta``: weight of all KLs (β-VAE, Higgins et al. 2017). ``free_bits``: nats per rung that cost
    nothing, so that a rung has no reason to fall silent (Kingma et al. 2016, their λ). The mean
    over the batch is what must exceed it: a rung may then spend its nats on the pictures that need
    them, where a floor under every single picture would switch the gradient off for just the
    pictures that spend little. In a bottom-up ladder, a rung below the top may pay less than
    nothing (:func:`nats_paid`), and the floor takes that away. ``warmup``: pictures over which β
    rises in a straight line from 0 (Sønderby et al. 2016): a function of pictures seen, so that
    resuming is exact.
    """

    beta: float = 1.0
    free_bits: float = 0.0
    warmup: int = 0

    def __post_init__(self) -> None:
        for name in ("beta", "free_bits", "warmup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise MarginalsError(
                    f"{name} of a KL objective must be finite and at least 0, not "
                    f"{getattr(self, name)}."
                )

    def weight(self, images_seen: int | None) -> float:
        """β after so many training pictures; the full β if nothing is known (None)."""
        if images_seen is None or images_seen >= self.warmup:
            return self.beta
        return self.beta * images_seen / self.warmup

    def __call__(self, paid: Tensor, images_seen: int | None = None) -> Tensor:
        """β·Σ max(free_bits, KL) from the nats paid at each rung: (B, rungs) → (B,)."""
        free = paid.new_full((), self.free_bits)
        charged = torch.where(paid.mean(0) > free, paid, free) if self.free_bits else paid
        return self.weight(images_seen) * charged.sum(1)


def importance_bound(log_weights: Tensor) -> Tensor:
    """log (1/k)·Σ_i w_i from log w_i = log p(x, z_i) − log q(z_i | x) with z_i ~ q: (k, B) → (B,).

    The importance-weighted bound (Burda et al. 2016, Eq. 8). Its mean is at most log p(x), because
    the logarithm is concave; k = 1 is the ELBO's integrand (Luo Eq. 8), and it rises with k.
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))
