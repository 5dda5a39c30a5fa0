"""The ladder: VAE, hierarchical VAE and diffusion model as one latent-variable model.

Latents z_T, ..., z_1 stand above the picture x like the rungs of a ladder; rung 1 is next to x.
Generating means climbing down, p(z_T)·Π p(z_t | above)·p(x | z_1) (Luo Eq. 23), and learning means
making the evidence lower bound large (Luo Eqs. 28, 29, 58):

    log p(x) ≥ E_q[ log p(x | z_1) ] − KL at the top − Σ what is paid at each rung below it.

One rung is a VAE. Several, with learned posteriors, are a hierarchical VAE. If the posteriors are
the fixed q(x_s | x_t, x_0) and the priors plug a denoiser's x̂0 into them, it is DDPM
(:func:`.ancestral.diffusion_rungs`): *a diffusion model is a hierarchical VAE*, as a test.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .bound import Bound, Terms
from .decoders import Decoder, whole_numbers
from .device import send
from .errors import MarginalsError
from .gaussian import Normal as Normal
from .generative import DataStats, Generative, Labels, check_count
from .noise import item_noise
from .ode import Tick
from .rung import KlObjective as KlObjective
from .rung import Posterior as Posterior
from .rung import Rung as Rung
from .rung import Visit, climb, descend, importance_bound, nats_paid
from .sampling import SampleResult, check_finite


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
        self.posterior: Posterior = posterior
        self.objective = objective or KlObjective()
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
        charged = self.objective(nats_paid(visits, self.posterior), self._images)
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
                paid = nats_paid(visits, self.posterior) / samples + paid.to(x.device)
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
        if not 0.0 <= temperature < math.inf:
            raise MarginalsError(f"A temperature is finite and at least 0, not {temperature}.")
        shape, labels, pictures = self._shape(), self._labels(n, cond), []
        for first in range(0, n, batch):
            seeds = range(seed + first, seed + min(first + batch, n))
            part = None if labels is None else labels[first : first + batch]

            def choose(i: int, law: Normal, seeds: range = seeds) -> Tensor:
                noise = self._noise(seeds, law.mean.shape[1:], i, law.mean.dtype)
                return law.sample(temperature * noise)

            with self._evaluating():
                out = self._down(len(seeds), part, choose)
            if decoder_noise:
                z = self._noise(seeds, shape, len(self.rungs), torch.float64)
                pictures.append(self.decoder.sample(out, torch.special.ndtr(z)))
            else:
                pictures.append(self.decoder.mean(out))
        x = check_finite(torch.cat(pictures), "down the ladder")
        return SampleResult(x, 1, (), "ancestral")

    @torch.no_grad()
    def encode(
        self, x: Tensor, cond: Labels = None, *, generator: torch.Generator | None = None
    ) -> list[Visit]:
        """One walk z ~ q(z | x): at every rung, from the top down, q, p and the z that was drawn.

        The posterior means are ``[visit.posterior.mean for visit in ladder.encode(x)]``.
        """
        with self._evaluating():
            labels = self._labels(len(x), cond)
            target, evidence = self._look(x, labels, generator)
            return self._draw(target, evidence, labels, generator)[1]

    @torch.no_grad()
    def pictures(self, latents: Sequence[Tensor], cond: Labels = None) -> Tensor:
        """The mean pictures (B, *shape) of given latents, each (B, ...), from the top rung down.

        Rungs below those that are given stand at the mean of their prior; so the pictures of the
        upper latents alone show what these decide.
        """
        if not 0 < len(latents) <= len(self.rungs):
            raise MarginalsError(
                f"This ladder has {len(self.rungs)} rungs: give 1 to {len(self.rungs)} latents, "
                f"from the top down, not {len(latents)}."
            )
        n = len(latents[0])

        def choose(i: int, law: Normal) -> Tensor:
            return latents[i] if i < len(latents) else law.mean.expand(n, *law.mean.shape[1:])

        with self._evaluating():
            return self.decoder.mean(self._down(n, self._labels(n, cond), choose))

    def _down(
        self, n: int, labels: Tensor | None, choose: Callable[[int, Normal], Tensor]
    ) -> Tensor:
        """The decoder's numbers at the end of a walk by the priors; ``choose`` picks each z."""
        above = self._root(n, labels)
        for i, rung in enumerate(self.rungs):
            above = rung.carry(choose(i, rung.prior(above)), above)
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
        walk = descend if self.posterior == "top_down" else climb
        root = self._root(len(target), labels)
        visits, bottom = walk(self.rungs, evidence, root, lambda like: _randn(like, generator))
        return self.decoder.log_prob(target, self.decode(bottom)), visits

    def _root(self, n: int, labels: Tensor | None) -> Any:
        return None if self.root is None else self.root(n, labels)

    def _look(
        self, x: Tensor, labels: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Any]:
        """The data as the decoder rates them, and what the posteriors see of them."""
        if self.decoder.density:
            target = self._real(x, generator).to(self.dtype)
        else:
            target = whole_numbers(self._checked(x))
        shown = self.decoder.shown(target, self.dtype)
        return target, shown if self.evidence is None else self.evidence(shown, labels)

    def _about(self, x: Tensor) -> dict[str, Any]:
        about = {"density": self.decoder.density, "binary": self.decoder.binary}
        return about | {"dims": x[0].numel()}

    @staticmethod
    def _require_samples(samples: int) -> None:
        if samples < 1:
            raise MarginalsError(f"A bound needs at least 1 sample per picture, not {samples}.")


def _randn(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return send(torch.randn(like.shape, generator=generator, dtype=like.dtype), like.device)
