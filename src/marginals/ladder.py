"""The ladder: VAE, hierarchical VAE and diffusion model as one latent-variable model.

Latents z_T, ..., z_1 stand above the picture x like the rungs of a ladder; rung 1 is next to x.
Generating means climbing down, p(z_T)·Π p(z_t | above)·p(x | z_1) (Luo Eq. 23), and learning means
making the evidence lower bound large (Luo Eqs. 28, 29, 58):

    log p(x) ≥ E_q[ log p(x | z_1) ] − KL at the top − Σ what is paid at each rung below it.

One rung is a VAE. Several, with learned posteriors, are a hierarchical VAE. If the posteriors are
the fixed q(x_s | x_t, x_0) and the priors plug a denoiser's x̂0 into them, it is DDPM (:mod:`.chain`
builds such rungs): *a diffusion model is a hierarchical VAE* is a test in this package.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .bound import Bound, Terms
from .decoders import Decoder
from .errors import MarginalsError
from .gaussian import Normal as Normal
from .generative import DataStats, Generative, Labels, check_count
from .noise import item_noise
from .ode import Tick
from .pixels import to_uint8
from .rung import KlObjective as KlObjective
from .rung import Posterior as Posterior
from .rung import Rung as Rung
from .rung import Visit, importance_bound
from .sampling import SampleResult


class Ladder(Generative):
    """Rungs of latents over a decoder: p(x, z) and q(z | x), trained and measured by the ELBO.

    * ``rungs``: from the top down; any number of them.
    * ``decode``: what the lowest rung carried → the numbers ``decoder`` reads.
    * ``decoder``: the law of the picture given those numbers (:mod:`.decoders`).
    * ``evidence``: (x as real numbers, labels or None) → what posteriors see; x itself by default.
    * ``root``: (batch size, labels or None) → ``above`` of the top rung; None by default. This is
      where classes enter the generating side.
    * ``recipe``: JSON values from which a factory can build the same networks again; a model file
      keeps them.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        decode: Callable[[Any], Tensor],
        decoder: Decoder,
        *,
        evidence: Callable[[Tensor, Tensor | None], Any] | None = None,
        root: Callable[[int, Tensor | None], Any] | None = None,
        posterior: Posterior = "top_down",
        objective: KlObjective | None = None,
        data: DataStats | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data)
        if not rungs:
            raise MarginalsError("A ladder needs at least one rung.")
        if posterior not in ("top_down", "bottom_up"):
            raise MarginalsError(f"The posterior is top_down or bottom_up, not {posterior!r}.")
        modules = [rung for rung in rungs if isinstance(rung, nn.Module)]
        whole = len(modules) == len(rungs)
        self.rungs = cast(Sequence[Rung], nn.ModuleList(modules) if whole else tuple(rungs))
        self.decode, self.decoder = decode, decoder
        self.evidence, self.root = evidence, root
        self.posterior, self.objective = posterior, objective or KlObjective()
        self.recipe = dict(recipe or {})
        self._images: int | None = None

    def at_progress(self, images_seen: int) -> None:
        """Set the clock of the KL warm-up; a ladder that was never told charges the full β."""
        self._images = images_seen

    # ---- learning and measuring --------------------------------------------------------------

    def losses(
        self, x: Tensor, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, None]:
        """The training loss of every picture in nats per dimension, (B,): −ELBO/D as the
        ``objective`` charges it. ``x``: uint8, or floats in [-1, 1]."""
        self._meet(x)
        labels = self._labels(len(x), cond)
        target, evidence = self._look(x, labels, generator)
        reconstruction, visits = self._draw(target, evidence, labels, generator)
        charged = self.objective(self._paid(visits), self._images)
        return (charged - reconstruction) / x[0].numel(), None

    @torch.no_grad()
    def elbo(
        self,
        x: Tensor,
        cond: Labels = None,
        *,
        samples: int = 1,
        generator: torch.Generator | None = None,
        tick: Tick | None = None,
    ) -> Terms:
        """The evidence lower bound per picture, an unbiased estimate from ``samples`` walks.

        ``matching`` has one column for every rung below the top, from the upper to the lower;
        ``at`` are their numbers, T−1 ... 1; ``prior`` is the KL of the top rung T. Top-down, every
        KL is exact given the rungs above; bottom-up, that of the top is, and below it log q/p at
        the sample stands for it (Luo Eq. 44). β, free bits and warm-up have no part in it.
        """
        self._require_samples(samples)
        with self._evaluating():
            labels = self._labels(len(x), cond)
            target, evidence = self._look(x, labels, generator)
            reconstruction, paid = 0.0, torch.zeros(())
            for i in range(samples):
                nats, visits = self._draw(target, evidence, labels, generator)
                reconstruction = reconstruction + nats / samples
                paid = self._paid(visits) / samples + paid.to(x.device)
                if tick is not None:
                    tick(i + 1, samples)
        at = torch.arange(len(self.rungs) - 1, 0, -1)
        parts = (cast(Tensor, reconstruction), paid[:, 0], paid[:, 1:], at)
        return Terms.of_parts(*parts, nfe=samples, name="matching", **self._about(x))

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        cond: Labels = None,
        *,
        samples: int = 64,
        generator: torch.Generator | None = None,
        tick: Tick | None = None,
    ) -> Bound:
        """The importance-weighted bound with k = ``samples`` (Burda et al. 2016, Eq. 8), (B,):

            log p(x) ≥ E[ log (1/k) Σ_i p(x, z_i)/q(z_i | x) ],     z_i ~ q.

        k = 1 is the ELBO; it rises with k, to log p(x) for k → ∞.
        """
        self._require_samples(samples)
        with self._evaluating():
            labels = self._labels(len(x), cond)
            target, evidence = self._look(x, labels, generator)
            weights = []
            for i in range(samples):
                nats, visits = self._draw(target, evidence, labels, generator)
                weights.append(nats - torch.stack([v.log_ratio() for v in visits]).sum(0))
                if tick is not None:
                    tick(i + 1, samples)
        nats = importance_bound(torch.stack(weights))
        return Bound(nats, "bound", nfe=samples, **self._about(x))

    # ---- generating --------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        cond: Labels = None,
        temperature: float = 1.0,
        decoder_noise: bool = False,
        batch: int = 256,
    ) -> SampleResult:
        """n pictures (n, *shape); picture i has seed ``seed + i`` and is the same in any batch.

        ``temperature`` scales the noise at every rung. A picture is the decoder's mean;
        ``decoder_noise`` draws it from the decoder instead, which is what p(x) says. ``cond``: one
        class for all, or one per picture, −1 for none. ``batch``: pictures at once.
        """
        check_count(n, batch)
        shape, labels, pictures = self._shape(), self._labels(n, cond), []
        for first in range(0, n, batch):
            seeds = range(seed + first, seed + min(first + batch, n))
            part = None if labels is None else labels[first : first + batch]
            with self._evaluating():
                out = self._generate(seeds, part, temperature)
            u = self._noise(seeds, shape, len(self.rungs), torch.float64)
            last = self.decoder.sample(out, torch.special.ndtr(u)) if decoder_noise else None
            pictures.append(self.decoder.mean(out) if last is None else last)
        return SampleResult(_finite(torch.cat(pictures)), 1, (), "ancestral")

    def _generate(self, seeds: Sequence[int], labels: Tensor | None, temperature: float) -> Tensor:
        above = self._root(len(seeds), labels)
        for draw, rung in enumerate(self.rungs):
            mean, log_std = rung.prior(above)
            noise = self._noise(seeds, mean.shape[1:], draw, mean.dtype)
            z = Normal(mean, log_std).sample(temperature * noise)
            above = rung.carry(z, above)
        return self.decode(above)

    def _noise(
        self, seeds: Sequence[int], shape: Sequence[int], draw: int, dtype: torch.dtype
    ) -> Tensor:
        return item_noise(seeds, shape, draw, device=self.device, dtype=dtype)

    # ---- walking -----------------------------------------------------------------------------

    def _draw(
        self,
        target: Tensor,
        evidence: Any,
        labels: Tensor | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, list[Visit]]:
        """One z ~ q(z | x): log p(x | z_1) in nats, (B,), and the rungs visited, top first."""
        walk = self._descend if self.posterior == "top_down" else self._climb
        visits, bottom = walk(evidence, self._root(len(target), labels), generator)
        return self.decoder.log_prob(target, self.decode(bottom)), visits

    def _descend(
        self, evidence: Any, above: Any, generator: torch.Generator | None
    ) -> tuple[list[Visit], Any]:
        """Draw from the top down; every rung knows x and what was drawn above."""
        visits = []
        for rung in self.rungs:
            posterior, prior = rung.posterior(evidence, above), rung.prior(above)
            z = posterior.sample(_randn(posterior.mean, generator))
            visits.append(Visit(posterior, prior, z))
            above = rung.carry(z, above)
        return visits, above

    def _climb(
        self, evidence: Any, above: Any, generator: torch.Generator | None
    ) -> tuple[list[Visit], Any]:
        """Draw from the picture up, each rung knowing the one below; then ask the priors."""
        drawn: list[tuple[Normal, Tensor]] = []
        for rung in reversed(self.rungs):
            posterior = rung.posterior(evidence, None)
            evidence = posterior.sample(_randn(posterior.mean, generator))
            drawn.append((posterior, evidence))
        visits = []
        for rung, (posterior, z) in zip(self.rungs, reversed(drawn), strict=True):
            visits.append(Visit(posterior, rung.prior(above), z))
            above = rung.carry(z, above)
        return visits, above

    def _paid(self, visits: Sequence[Visit]) -> Tensor:
        """Nats paid at every rung, (B, rungs), top first."""
        exact = self.posterior == "top_down"
        nats = [v.kl() if exact or i == 0 else v.log_ratio() for i, v in enumerate(visits)]
        return torch.stack(nats, 1)

    def _root(self, n: int, labels: Tensor | None) -> Any:
        return None if self.root is None else self.root(n, labels)

    def _look(
        self, x: Tensor, labels: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Any]:
        """The data as the decoder rates them, and what the posteriors see of them."""
        if self.decoder.density:
            target = self._real(x, generator).to(self.dtype)
        else:
            target = self._whole(self._checked(x))
        shown = self.decoder.shown(target, self.dtype)
        return target, shown if self.evidence is None else self.evidence(shown, labels)

    def _whole(self, x: Tensor) -> Tensor:
        """Pixels as whole numbers; real ones are put into their bins."""
        if x.dtype == torch.uint8:
            return x
        if x.device.type == "cpu" and x.numel() and float(x.abs().max()) > 1.0:
            raise MarginalsError(
                f"{type(self.decoder).__name__} rates pixels: give pictures as uint8 or as floats "
                "in [-1, 1], or build the model with a GaussianDecoder."
            )
        return to_uint8(x)

    def _about(self, x: Tensor) -> dict[str, Any]:
        about = {"density": self.decoder.density, "binary": self.decoder.binary}
        return about | {"dims": x[0].numel()}

    @staticmethod
    def _require_samples(samples: int) -> None:
        if samples < 1:
            raise MarginalsError(f"A bound needs at least 1 sample per picture, not {samples}.")


def _randn(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def _finite(x: Tensor) -> Tensor:
    if not math.isfinite(x.sum(dtype=torch.promote_types(x.dtype, torch.float32)).item()):
        raise MarginalsError(
            "The walk down the ladder ended in NaN or infinity: the network's output is not "
            "finite; use an earlier checkpoint, or float32 instead of half precision."
        )
    return x
