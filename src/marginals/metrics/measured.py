"""What a route to the likelihood costs and what it found: the nouns of :mod:`.routes`."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from marginals.bound import Bound, Terms
from marginals.density import TOLERANCE

_LN2 = 0.6931471805599453


@dataclass(frozen=True)
class Effort:
    """How much work each route may do per picture."""

    levels: int = 64
    """Noise levels of the ELBOs (T of the discrete one; there is also one with 2T)."""
    ode_steps: int | None = None
    """Runge-Kutta steps of the exact route, four evaluations each; None for steps that choose
    their own size."""
    importance: int = 64
    """k of the importance-weighted bound of ladders, and walks of their ELBO."""
    only: tuple[str, ...] = ()
    """Keys of the routes to take; () for all that the model has."""
    tolerance: float = TOLERANCE
    """Error of each step of the exact route where they choose their own size, in nats/dim."""
    probes: int = 1
    """Random directions in which the exact route measures the trace."""
    target: float | None = None
    """Error bar in bits/dim from random levels at which the continuous bounds of a batch are good
    enough; None for ``levels`` levels."""

    def takes(self, key: str) -> bool:
        return not self.only or key in self.only


@dataclass(frozen=True)
class Route:
    """One way to the likelihood; ``bound`` holds the numbers of every picture."""

    key: str
    title: str
    bound: Bound
    equations: str

    @property
    def kind(self) -> str:
        """What kind of number it is, in the words of the table."""
        return f"{self.bound.kind}, {self.bound.of.removesuffix(' pixels')}"

    def terms(self) -> dict[str, float]:
        """The parts of the mean in bits/dim; they add up to it. Pixel bins cost 7 bits."""
        bits = {
            name: float(-nats.mean() / (self.bound.dims * _LN2))
            for name, nats in self.bound.terms.items()
        }
        return bits | ({"pixel bins": 7.0} if self.bound.density else {})

    def paid(self) -> dict[str, float]:
        """Nats paid at every latent, mean over pictures: by λ, or by the number of the rung."""
        if not isinstance(self.bound, Terms):
            return {}
        nats = self.bound.matching.mean(0).tolist()
        paid = {f"{at:g}": value for at, value in zip(self.bound.at.tolist(), nats, strict=True)}
        if self.key == "elbo":  # of a ladder, whose top rung is a latent like the others
            paid = {str(len(paid) + 1): float(self.bound.prior.mean())} | paid
        return paid


@dataclass(frozen=True)
class Measured:
    """One route over all pictures, in bits/dim; less is better."""

    key: str
    title: str
    kind: str
    """"bound": the truth is at most this. "exact": it is this."""
    of: str
    """What has this probability."""
    evaluations: int
    bits: Tensor
    """(N,), one number per picture."""
    terms: dict[str, float]
    """The parts of the mean; they add up to it."""
    paid: dict[str, float]
    """Nats per picture at every level of noise (by λ) or at every rung (by its number, 1 beside
    the picture)."""
    noise: float | None = None
    """The part of ``stderr`` that more levels or probes would lower, where it was measured."""

    @property
    def mean(self) -> float:
        return float(self.bits.mean())

    @property
    def stderr(self) -> float | None:
        """Standard error of the mean over pictures; None for a single one."""
        return float(self.bits.std() / len(self.bits) ** 0.5) if len(self.bits) > 1 else None

    def as_json(self) -> dict[str, Any]:
        """Everything but the numbers of single pictures."""
        return {
            "route": self.title,
            "bits_per_dim": self.mean,
            "stderr": self.stderr,
            **({} if self.noise is None else {"noise": self.noise}),
            "kind": self.kind,
            "of": self.of,
            "evaluations": self.evaluations,
            "terms": self.terms,
            **({"rungs": self.paid} if self.key == "elbo" else {}),
        }
