"""Every route to a likelihood of a diffusion model, as methods of the model.

:class:`Measured` is what :class:`.models.Model` is besides being trained and sampled: each method
gives its denoiser, its ends and its data to one function of :mod:`.likelihood`, :mod:`.density`,
:mod:`.dequantise` or :mod:`.ancestral`.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from .ancestral import Hybrid, Variance, chain_elbo
from .bound import Bound, Terms
from .denoiser import Net
from .density import decode, encode
from .dequantise import slopes, whole_number_log_prob
from .errors import MarginalsError
from .generative import Generative, Labels
from .likelihood import Ends, discrete_elbo, elbo, elbo_until, ode_log_prob
from .objective import Objective
from .schedule import NoiseSchedule, Tabulated


class Measured(Generative):
    """A denoiser between two ends, and what its bounds and its density say of pictures."""

    net: Net
    schedule: NoiseSchedule
    objective: Objective

    @property
    @abstractmethod
    def ends(self) -> Ends:
        """The two ends of the walk, with the prior matched to the data."""

    def elbo(
        self, x: Tensor, cond: Labels = None, *, target: float | None = None, **options: Any
    ) -> Terms:
        """Continuous-time ELBO per picture (:func:`marginals.likelihood.elbo`); with a ``target``,
        until its error bar in bits/dim is that small (:func:`marginals.likelihood.elbo_until`)."""
        with self._evaluating():
            x, labels = self._checked(x), self._labels(len(x), cond)
            options |= {"cond": labels, "dtype": self.dtype}
            if target is None:
                return elbo(self.net, x, self.ends, **options)
            return elbo_until(self.net, x, self.ends, target=target, **options)

    def discrete_elbo(self, x: Tensor, cond: Labels = None, **options: Any) -> Terms:
        """T-step ELBO per picture, term by term (:func:`marginals.likelihood.discrete_elbo`)."""
        with self._evaluating():
            x, labels = self._checked(x), self._labels(len(x), cond)
            return discrete_elbo(self.net, x, self.ends, cond=labels, dtype=self.dtype, **options)

    def chain_elbo(self, x: Tensor, cond: Labels = None, **options: Any) -> Terms:
        """The bound of DDPM's own chain, all its steps and its own decoder, per picture
        (:func:`marginals.ancestral.chain_elbo`); ``variance`` is "learned" where the network says
        it. Only for models whose schedule is a table of steps (ddpm, iddpm)."""
        chain = self._chain()
        options = {"variance": self._variance(), "dtype": self.dtype} | options
        with self._evaluating():
            x, labels = self._checked(x), self._labels(len(x), cond)
            return chain_elbo(self.net, x, chain, prior=self.ends.prior, cond=labels, **options)

    def _chain(self) -> tuple[float, ...]:
        """The levels of the model's own chain, noisiest first."""
        if not isinstance(self.schedule, Tabulated):
            raise MarginalsError(
                "Only DDPM has a chain of its own (ddpm, iddpm): use elbo or discrete_elbo, and "
                "sample with the solver ddpm."
            )
        return self.schedule.lams[::-1]

    def _variance(self) -> Variance:
        return "learned" if isinstance(self.objective, Hybrid) else "small"

    def log_prob(
        self,
        x: Tensor,
        cond: Labels = None,
        *,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Bound:
        """Log density per picture under the probability-flow ODE
        (:func:`marginals.density.ode_log_prob`); uint8 pixels are dequantised first."""
        x, labels = self._real(x, generator), self._labels(len(x), cond)
        with self._evaluating():
            return ode_log_prob(self.net, x, self.ends, cond=labels, generator=generator, **options)

    def whole_number_log_prob(
        self,
        x: Tensor,
        cond: Labels = None,
        *,
        draws: int = 8,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Bound:
        """A bound on log P of uint8 pixels from the density of the ODE, by ``draws`` pictures in
        each box of bins, drawn along the score (:mod:`marginals.dequantise`); ``options`` are
        those of :meth:`log_prob`. All draws of a picture share their probes: independent noise
        inside the logarithm of a mean would lift it above the truth."""
        seed = int(torch.randint(1 << 32, (), generator=generator))
        with self._evaluating():
            labels = self._labels(len(x), cond)
            slope = slopes(self.net, x, self.ends.lam_max, labels, self.dtype)
        return whole_number_log_prob(
            lambda real: self.log_prob(
                real, cond, generator=torch.Generator().manual_seed(seed), **options
            ),
            x,
            draws=draws,
            slope=slope,
            dtype=self.dtype,
            generator=generator,
        )

    def encode(self, x: Tensor, cond: Labels = None, **options: Any) -> Tensor:
        """The standard normal noise from which the ODE makes these pictures
        (:func:`marginals.density.encode`); uint8 pixels stand at the centres of their bins."""
        with self._evaluating():
            real, labels = self._centres(x, None), self._labels(len(x), cond)
            return encode(self.net, real, self.ends, cond=labels, **options)

    def decode(self, noise: Tensor, cond: Labels = None, **options: Any) -> Tensor:
        """The pictures that the ODE makes of standard normal noise; undoes :meth:`encode`."""
        with self._evaluating():
            labels = self._labels(len(noise), cond)
            return decode(self.net, noise, self.ends, cond=labels, **options)
