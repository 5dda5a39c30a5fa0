"""What a likelihood says: nats per picture, what they are nats *of*, and the parts they are made
of.

Every latent-variable model of this package, from a VAE to a diffusion model with infinitely many
steps, bounds log p(x) by the same three parts (Luo Eqs. 19, 29, 58), its :class:`Terms`:

    log p(x) ≥ reconstruction − prior matching − Σ matching of every level between.
"""

import math
import zlib
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from .errors import MarginalsError
from .pixels import bits_per_dim


@dataclass(frozen=True)
class Bound:
    """Log-likelihoods of a batch, with everything needed to compare them honestly.

    ``nats``: (B,), log p of every picture. ``kind``: "bound" (the truth is at least this) or
    "exact". ``density``: True if nats is the log of a density on [-1, 1] (dequantised pixels),
    False if it is the log-probability of whole-number pixels. ``nfe``: network evaluations per
    picture. ``terms``: the parts that add up to ``nats``, each (B,). ``levels``: for bounds, the
    noise levels (or the numbers of the rungs) and the nats lost at each, (L,) and (L,), averaged
    over the batch. ``binary``: the pixels were cut to black and white first; their bits/dim say
    nothing about pictures of 256 values. ``noise``: (B,), the standard error of ``nats`` from
    random levels, noise or probes alone, where it was measured. ``calls``: (B,), the evaluations of
    every picture, where they differ (``nfe`` is then their mean). ``pictures``: the
    :func:`fingerprint` of the pictures.
    """

    nats: Tensor
    kind: str
    density: bool
    dims: int
    nfe: int
    terms: dict[str, Tensor] = field(default_factory=dict)
    levels: tuple[Tensor, Tensor] | None = None
    binary: bool = False
    noise: Tensor | None = None
    calls: Tensor | None = None
    pictures: int | None = None

    def __post_init__(self) -> None:
        if not bool(self.nats.isfinite().all()):
            raise MarginalsError(
                "The likelihood of some pictures is not a finite number: the pictures or the "
                "network's answers hold NaN or infinity; check both, or use an earlier checkpoint."
            )

    @property
    def of(self) -> str:
        """What has this probability: two bounds compare only if they are of the same thing, or of
        "dequantised" and "whole-number" pixels, the first then bounding the second."""
        if self.binary:
            return "black-and-white pixels"
        return "dequantised pixels" if self.density else "whole-number pixels"

    def bits_per_dim(self) -> Tensor:
        """−log2 P(picture)/D for every picture, (B,); smaller is better."""
        return bits_per_dim(self.nats, self.dims, density=self.density)

    @property
    def mean(self) -> float:
        """Mean bits/dim over the pictures."""
        return self.bits_per_dim().mean().item()

    @property
    def stderr(self) -> float:
        """Standard error of :attr:`mean` over the pictures (covers the Monte-Carlo noise too)."""
        bits = self.bits_per_dim()
        return (bits.std() / len(bits) ** 0.5).item() if len(bits) > 1 else math.inf

    @property
    def noise_bits(self) -> float | None:
        """The part of the standard error of :attr:`mean`, in bits/dim, that more levels, draws or
        probes would lower; None where it was not measured."""
        if self.noise is None:
            return None
        spread = self.noise.double().square().sum().sqrt() / len(self.noise)
        return spread.item() / (self.dims * math.log(2.0))

    def __sub__(self, other: "Bound") -> "Difference":
        """Picture by picture: the difference of two bounds on the same pictures.

        Refuses what is not comparable: probabilities of different things, or of other pictures.
        """
        if self.of != other.of:
            raise MarginalsError(
                f"One number is of {self.of} and the other of {other.of}, so they cannot be "
                "subtracted: measure both on the same kind of pixels."
            )
        same = self.pictures is None or other.pictures is None or self.pictures == other.pictures
        if not same or len(self.nats) != len(other.nats) or self.dims != other.dims:
            raise MarginalsError(
                "The two likelihoods are of different pictures: measure both on the same ones (for "
                "dequantised pixels, with the same noise)."
            )
        gap = other.nats.detach().to(self.nats) - self.nats.detach()
        return Difference(gap / (self.dims * math.log(2.0)))


@dataclass(frozen=True)
class Difference:
    """Bits/dim of one bound minus those of another, for every picture, (B,).

    A hard picture is hard for both, so the error of the mean difference is far smaller than that
    of either mean.
    """

    bits: Tensor

    @property
    def mean(self) -> float:
        """Mean difference in bits/dim; negative if the first needs fewer bits."""
        return self.bits.mean().item()

    @property
    def stderr(self) -> float:
        """Standard error of :attr:`mean` over the pictures; infinite for a single one."""
        many = len(self.bits) > 1
        return (self.bits.std() / len(self.bits) ** 0.5).item() if many else math.inf

    @property
    def z(self) -> float:
        """How many standard errors the mean is away from zero."""
        return self.mean / self.stderr if self.stderr > 0 else 0.0


def fingerprint(x: Tensor) -> int:
    """A number that tells pictures from others (CRC-32 of their values)."""
    return zlib.crc32(x.detach().cpu().contiguous().numpy().tobytes())


@dataclass(frozen=True, kw_only=True)
class Terms(Bound):
    """An evidence lower bound, part by part; what every model's ``elbo(x)`` returns.

    ``reconstruction``: (B,), E_q[log p(x | cleanest latent)]. ``prior``: (B,), the KL paid at the
    top, q(top | x) against p(top). ``matching``: (B, L), the KL (or its estimate) paid at each
    latent below the top. ``at``: (L,), which latent that is: λ for noise levels, the number of the
    rung for ladders (1 is next to the data). All in nats per example;
    ``nats = reconstruction − prior − matching.sum(1)``.
    """

    reconstruction: Tensor
    prior: Tensor
    matching: Tensor
    at: Tensor

    @classmethod
    def of_parts(
        cls,
        reconstruction: Tensor,
        prior: Tensor,
        matching: Tensor,
        at: Tensor,
        *,
        dims: int,
        density: bool,
        nfe: int = 1,
        binary: bool = False,
        name: str = "matching",
        pictures: int | None = None,
    ) -> Self:
        """Put the parts together; ``name`` is what the table of ``terms`` calls the third."""
        parts = {"reconstruction": reconstruction, "prior": -prior, name: -matching.sum(1)}
        return cls(
            nats=torch.stack(list(parts.values())).sum(0),
            kind="bound",
            density=density,
            dims=dims,
            nfe=nfe,
            terms=parts,
            levels=(at.cpu(), matching.mean(0).cpu()),
            binary=binary,
            pictures=pictures,
            reconstruction=reconstruction,
            prior=prior,
            matching=matching,
            at=at,
        )
