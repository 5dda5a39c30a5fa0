"""Latent diffusion: a codec of pictures, and a model of its latents (Rombach et al. 2022).

    model = Latent(codec, inner)          # inner: any model over latents of the codec's shape
    loss = model.loss(x)                  # encode, then inner.loss
    x = model.sample(16, steps=20).x      # inner.sample, then decode

It is one latent-variable model, p(x, z) = p(z)·p(x | z) with p(z) the inner model, so what it says
of a picture's probability is a bound; with q(z | x) as the codec's encoder says,

    log p(x) ≥ E_q[ log p(x | z) + log p(z) − log q(z | x) ],

where log p(z) may be bounded in its turn. That q and p(x | z) were trained before p(z), under the
simple prior N(0, I), costs nothing but tightness: the bound holds for any q. As a ladder, it has
the inner model's rungs above, one rung more (the latents, λ = ∞), and the codec's decoder below.
"""

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .bound import Bound, Terms, fingerprint
from .errors import MarginalsError
from .gaussian import Normal
from .generative import DataStats, Generative, Labels
from .models import Model
from .sampling import SampleResult
from .scaling import Scaling


class Codec(Protocol):
    """Pictures to normalised latents and back; an ``nn.Module`` (:class:`.codec.LadderCodec`).

    ``shape``: of one z. ``pictures``: statistics of the pictures, or None. ``density``: whether
    ``log_prob`` is about real numbers; if not, it is about uint8 pixels. ``encode``: mean latents,
    normalised by measured statistics. ``posterior``, ``log_prob``: q(z | x), and log p(x | z) in
    nats, (B,), for likelihoods; z is normalised in both.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def pictures(self) -> DataStats | None: ...
    @property
    def density(self) -> bool: ...
    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, z: Tensor) -> Tensor: ...
    def posterior(self, x: Tensor) -> Normal: ...
    def log_prob(self, x: Tensor, z: Tensor) -> Tensor: ...


class Latent(Generative):
    """``inner`` over the latents of ``codec``: a model of pictures.

    The codec's weights are no longer trained. ``data``: statistics of the pictures; what the model
    is told (classes, texts) are those of ``inner``. Everything that ``inner`` knows passes through:
    solvers, levels, guidance, conditions, every option of its ``sample``, ``elbo``, ``log_prob``.
    """

    def __init__(self, codec: Codec, inner: Generative, data: DataStats | None = None) -> None:
        pictures = data or codec.pictures
        if pictures is not None and inner.data is not None:
            told = {"classes": inner.data.classes, "text": inner.data.text}
            pictures = replace(pictures, **told)
        super().__init__(pictures)
        if inner.data is not None and tuple(inner.data.shape) != tuple(codec.shape):
            raise MarginalsError(
                f"The codec's latents have shape {tuple(codec.shape)}, but the inner model knows "
                f"data of shape {tuple(inner.data.shape)}: build it for the former."
            )
        self.codec, self.inner = codec, inner
        if isinstance(codec, torch.nn.Module):
            codec.requires_grad_(False)

    def at_progress(self, images_seen: int) -> None:
        self.inner.at_progress(images_seen)

    def losses(
        self, x: Tensor, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The loss of ``inner`` on the mean latents of pictures x. What has the shape of latents
        and not that of pictures counts as latents: encoded once, before many steps."""
        shape = tuple(x.shape[1:])
        ready = shape == tuple(self.codec.shape) and shape != (self.data and self.data.shape)
        return self.inner.losses(x if ready else self.encode(x), cond, generator)

    def encode(self, x: Tensor) -> Tensor:
        """The mean latents of pictures, normalised."""
        return self.codec.encode(self._checked(x))

    def decode(self, z: Tensor, batch: int = 64) -> Tensor:
        """The pictures of latents."""
        return torch.cat([self.codec.decode(part) for part in z.split(batch)])

    def sample(self, n: int, **options: Any) -> SampleResult:
        """n pictures: the latents that ``inner.sample`` draws with these options, decoded."""
        result = self.inner.sample(n, **options)
        return replace(result, x=self.decode(result.x, min(options.get("batch", 64), 64)))

    @torch.no_grad()
    def elbo(
        self,
        x: Tensor,
        cond: Labels = None,
        *,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Terms:
        """The evidence lower bound of every picture from one z ~ q(z | x), unbiased, part by part.

        ``reconstruction`` is log p(x | z). ``prior`` and ``matching`` are those of ``inner``, whose
        bound on log p(z) takes ``options``, and one column more, at λ = ∞: what the latents cost
        beyond its cleanest level z_1, log q(z | x) − E[log p(z | z_1)].
        """
        with self._evaluating():
            q, z = self._draw(x, generator)
            below = self.inner.elbo(z, cond, generator=generator, **options)
            reconstruction = self.codec.log_prob(x, z)
        lowest = (q.log_prob(z) - below.reconstruction).unsqueeze(1)
        matching = torch.cat([below.matching, lowest.to(below.matching)], 1)
        at = torch.cat([below.at.double().cpu(), torch.tensor([torch.inf])])
        about: dict[str, Any] = {"density": self.codec.density, "nfe": below.nfe}
        about |= {"dims": x[0].numel(), "pictures": fingerprint(x), "name": "matching"}
        return Terms.of_parts(reconstruction, below.prior, matching, at, **about)

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        cond: Labels = None,
        *,
        draws: int = 1,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Bound:
        """The same bound with ``inner.log_prob`` for log p(z), its mean over ``draws`` of z; any
        single z gives log p(x) itself if q(z | x) is the true posterior.
        """
        if draws < 1:
            raise MarginalsError(f"A bound needs at least 1 draw of the latents, not {draws}.")
        inner, total, nfe = self.inner, 0.0, 0
        if not isinstance(inner, Model):
            raise MarginalsError("The inner model has no density by the ODE: use elbo.")
        with self._evaluating():
            for _ in range(draws):
                q, z = self._draw(x, generator)
                prior = inner.log_prob(z, cond, generator=generator, **options)
                nats = self.codec.log_prob(x, z) + prior.nats.to(x.device) - q.log_prob(z)
                total, nfe = total + nats / draws, nfe + prior.nfe
        about: dict[str, Any] = {"density": self.codec.density, "nfe": nfe}
        about |= {"dims": x[0].numel(), "pictures": fingerprint(x)}
        return Bound(torch.as_tensor(total), "bound", **about)

    def convert(self, scaling: Scaling) -> "Latent":
        """The same model, its walk presented in other units (:meth:`.models.Model.convert`)."""
        if not isinstance(self.inner, Model):
            raise MarginalsError("The inner model has no noise levels and no units.")
        return Latent(self.codec, self.inner.convert(scaling), self.data)

    def _draw(self, x: Tensor, generator: torch.Generator | None) -> tuple[Normal, Tensor]:
        """q(z | x), and one z drawn from it."""
        q = self.codec.posterior(self._checked(x))
        noise = torch.randn(q.mean.shape, generator=generator, dtype=q.mean.dtype)
        return q, q.sample(noise.to(q.mean))


def walked(model: Generative) -> Model | None:
    """The diffusion model whose walk makes the pictures of ``model``: itself, or the one inside a
    latent model; None for models without a walk."""
    inside = model.inner if isinstance(model, Latent) else model
    return inside if isinstance(inside, Model) else None
