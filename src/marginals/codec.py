"""A codec of pictures: a VAE whose one latent is a small picture of its own, and its statistics.

    net = marginals.nn.ImageCodec(channels=3, size=64, latents=16, widths=(32, 64, 128), ...)
    model = marginals.autoencoder(net)          # trained by its ELBO, like every ladder
    model.measure(pictures)                     # mean and standard deviation of every channel
    codec = model.codec()                       # z = codec.encode(x);  x = codec.decode(z)

Diffusion models want data of mean 0 and variance 1 in every channel. The latents of an autoencoder
have other moments (their prior N(0, I) is hardly pressing at the weights that keep pictures sharp),
so they are *measured* on training pictures and kept in the model's file; every autoencoder has its
own, and no constant fits two of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .autoencoders import ELBO, LatentNetwork, LawRung
from .decoders import Decoder, DiscretisedLogistic, whole_numbers
from .device import send
from .errors import MarginalsError
from .gaussian import Normal
from .generative import DataStats
from .ladder import Ladder
from .rung import KlObjective

LOGISTIC = DiscretisedLogistic()
"""The default law of a pixel: a logistic, whose −log p is nearly |x − m|/s a few s away from m, so
that edges stay sharp, and with it a probability of whole numbers that compares with all others."""

_BATCH = 128

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""(pictures, reconstructions), both real numbers in [-1, 1], → what training charges, (B,)."""


@dataclass(frozen=True)
class LatentStats:
    """Mean and standard deviation of every channel of the mean latents, over pictures and places;
    ``noise``: the root mean square of the posterior's standard deviation in the same units, how
    much of a channel the encoder itself calls noise."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    noise: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        fine = len(self.mean) == len(self.std) and all(0 < s < math.inf for s in self.std)
        if not fine or not all(math.isfinite(m) for m in self.mean):
            raise MarginalsError(
                "Latent statistics are a finite mean and a positive standard deviation for every "
                f"channel, not {self.mean} and {self.std}: a channel that never changes carries "
                "nothing; train again with fewer latents or a lower beta."
            )


class Autoencoder(Ladder):
    """A ladder with one rung, a grid of latents, that knows the statistics of its latents.

    ``stats``: from :meth:`measure`, or from a file. ``perceptual``: one more thing that training
    charges (a distance between features, say); no part of the model, its bound or its file.
    """

    stats: LatentStats | None = None
    perceptual: Perceptual | None = None

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C_z, H_z, W_z) of one z."""
        return tuple(self.rungs[0].prior(None).mean.shape[1:])

    def losses(
        self, x: Tensor, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, None]:
        """−ELBO/D in nats per dimension, (B,), as the ``objective`` charges it (KL/D times β), and
        what ``perceptual`` says of the mean reconstruction of the same z."""
        if self.perceptual is None:
            return super().losses(x, cond, generator)
        self._meet(x)
        target, evidence = self._look(x, None, generator)
        q = self.rungs[0].posterior(evidence, None)
        noise = torch.randn(q.mean.shape, generator=generator, dtype=q.mean.dtype)
        z = q.sample(send(noise, q.mean))
        out = self.decode(self.rungs[0].carry(z, None))
        paid = q.kl(self.rungs[0].prior(None)).unsqueeze(1)
        charged = self.objective(paid, self._images) - self.decoder.log_prob(target, out)
        seen = self.perceptual(self.decoder.shown(target, self.dtype), self.decoder.mean(out))
        return charged / x[0].numel() + seen, None

    @torch.no_grad()
    def inferred(self, x: Tensor) -> Normal:
        """q(z | x), in the units of the rung; uint8 pixels stand at the centres of their bins."""
        with self._evaluating():
            real = self._centres(x).to(self.dtype)
            seen = real if self.evidence is None else self.evidence(real, None)
            return self.rungs[0].posterior(seen, None)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean picture of the mean latents of x."""
        return self.pictures([self.inferred(x).mean])

    @torch.no_grad()
    def measure(self, x: Tensor) -> LatentStats:
        """Measure ``stats`` on pictures x and keep them: with these, the mean latents of x have
        mean 0 and variance 1 in every channel."""
        count, total, square, noise = 0, 0.0, 0.0, 0.0
        for part in x.split(_BATCH):
            q = self.inferred(part.to(self.device))
            mean = q.mean.double().movedim(1, -1).flatten(0, -2)
            count, total = count + len(mean), total + mean.sum(0)
            square = square + mean.square().sum(0)
            spread = (2.0 * q.log_std.double()).exp().expand_as(q.mean)
            noise = noise + spread.movedim(1, -1).flatten(0, -2).sum(0)
        mean = cast(Tensor, total / count)
        std = (square / count - mean.square()).clamp(min=0.0).sqrt()
        relative = cast(Tensor, noise / count).sqrt() / std
        self.stats = LatentStats(*(tuple(v.tolist()) for v in (mean, std, relative)))
        return self.stats

    def codec(self) -> "LadderCodec":
        """The way to normalised latents and back; raises MarginalsError before :meth:`measure`."""
        return LadderCodec(self)


class LadderCodec(nn.Module):
    """A :class:`.latent.Codec` made of an autoencoder: its latents less their mean, over their std.

    ``shape``: (C_z, H_z, W_z) of z; ``pictures``: statistics of the pictures, or None; ``density``:
    whether :meth:`log_prob` is about real numbers rather than whole-number pixels.
    """

    def __init__(self, ladder: Autoencoder) -> None:
        super().__init__()
        if ladder.stats is None:
            raise MarginalsError(
                "The statistics of this autoencoder's latents are not known: measure them with "
                "autoencoder.measure(pictures); a training run does so by itself."
            )
        self.ladder = ladder
        shape = (1, -1, *[1] * (len(ladder.latent_shape) - 1))
        for name in ("mean", "std"):
            values = torch.tensor(getattr(ladder.stats, name), dtype=ladder.dtype)
            self.register_buffer(f"_{name}", values.reshape(shape), persistent=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ladder.latent_shape

    @property
    def pictures(self) -> DataStats | None:
        return self.ladder.data

    @property
    def density(self) -> bool:
        return self.ladder.decoder.density

    def encode(self, x: Tensor) -> Tensor:
        """Mean latents (B, *shape) of pictures, normalised."""
        return self.posterior(x).mean

    def decode(self, z: Tensor) -> Tensor:
        """Mean pictures of normalised latents."""
        return self.ladder.pictures([z * self._of("std") + self._of("mean")])

    def posterior(self, x: Tensor) -> Normal:
        """q(z | x) of the normalised z."""
        q = self.ladder.inferred(x)
        std = self._of("std")
        return Normal((q.mean - self._of("mean")) / std, q.log_std - std.log())

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) in nats, (B,), z normalised; of uint8 pixels for laws of whole numbers."""
        ladder = self.ladder
        with torch.no_grad(), ladder._evaluating():
            whole = not self.density
            target = whole_numbers(x) if whole else ladder._centres(x).to(ladder.dtype)
            raw = z * self._of("std") + self._of("mean")
            return ladder.decoder.log_prob(target, ladder.decode(ladder.rungs[0].carry(raw, None)))

    def _of(self, name: str) -> Tensor:
        return cast(Tensor, getattr(self, f"_{name}"))


def autoencoder(
    network: LatentNetwork,
    *,
    decoder: Decoder = LOGISTIC,
    objective: KlObjective = ELBO,
    data: DataStats | None = None,
    stats: LatentStats | None = None,
) -> Autoencoder:
    """KL autoencoder (Rombach et al. 2022), as what it is: a VAE with a grid of latents.

    With β = 1 and the spread of the pixels learned, training maximises the ELBO, and what the KL
    weighs follows from how well pixels can be told; a smaller β keeps more in the latents.
    """
    if len(network.rungs) != 1:
        raise MarginalsError(
            f"An autoencoder has one latent and this network has {len(network.rungs)}: use hvae."
        )
    if network.config["params"] != decoder.params:
        raise MarginalsError(
            f"{type(decoder).__name__} reads {decoder.params} numbers per pixel value, but the "
            f"network gives {network.config['params']}: build it with params={decoder.params}."
        )
    model = Autoencoder(
        [LawRung(network.rungs[0])],
        network.decode,
        decoder,
        evidence=network.evidence,
        objective=objective,
        data=data,
        recipe=cast(dict[str, Any], {"kind": network.kind, **network.config}),
    )
    model.stats = stats
    return model
