"""A model: one denoiser, with what it needs to be trained, walked and measured.

    model = marginals.ddpm(net)
    loss = model.loss(x)
    x = model.sample(16).x

There is one class. DDPM, VDM, EDM, rectified flow and the score SDEs differ in five choices
(:mod:`.formulations` lists them); after training, all of them can be walked by every solver, in
every scaling, and measured by every likelihood.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .adaptive import Advance, sample_adaptive
from .ancestral import Hybrid, Variance, ancestral, chain_elbo
from .bound import Bound, Terms
from .denoiser import Denoiser, Net
from .density import decode, encode
from .dequantise import slopes, whole_number_log_prob
from .errors import MarginalsError
from .gaussian import Prior
from .generative import DataStats as DataStats
from .generative import Generative, Labels, check_count
from .guidance import Guided
from .learned import LearnedSchedule, end_losses
from .likelihood import Ends, discrete_elbo, elbo, elbo_until, ode_log_prob
from .noise import item_noise
from .objective import Objective, spread_uniform
from .sampling import Progress, SampleResult, sample
from .scaling import Scaling
from .schedule import NoiseSchedule, Tabulated
from .solvers import Solver, auto, grid, straight

Grid = Callable[[float, float], NoiseSchedule]
"""(lam_min, lam_max) → a schedule whose equal time steps are the levels of a walk."""


_FEW = 4
"""Pictures of a batch on which the ends of a learned schedule are measured."""


class Model(Generative):
    """A denoiser network with its schedule, objective, and the two ends of its walk.

    ``lam_min`` and ``lam_max``: the noisiest and the cleanest level of walks and likelihoods
    (finite). ``data``: statistics of the training data; without them the data count as mean 0, std
    1, and the shape is taken from the first batch of :meth:`losses`.
    """

    def __init__(
        self,
        net: Net,
        schedule: NoiseSchedule,
        objective: Objective,
        *,
        lam_min: float,
        lam_max: float,
        data: DataStats | None = None,
    ) -> None:
        super().__init__(data)
        self.net = net
        self.schedule = schedule
        self.objective = objective
        self._ends = lam_min, lam_max
        _ = self.ends  # refuses impossible ends now, not at the first use

    @property
    def scaling(self) -> Scaling:
        """The units of x in which this model presents itself; changed by :meth:`convert`."""
        return self.net.scaling

    @property
    def lam_min(self) -> float:
        """The noisiest level of walks and likelihoods."""
        time = self.schedule
        return time.lam_min if isinstance(time, LearnedSchedule) else self._ends[0]

    @property
    def lam_max(self) -> float:
        """The cleanest level of walks and likelihoods."""
        time = self.schedule
        return time.lam_max if isinstance(time, LearnedSchedule) else self._ends[1]

    @property
    def ends(self) -> Ends:
        """The two ends of the walk, with the prior matched to the data."""
        return Ends(self.lam_min, self.lam_max, self._prior)

    @property
    def _prior(self) -> Prior:
        return Prior() if self.data is None else Prior(self.data.mean, self.data.std)

    def losses(
        self, x: Tensor, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The training loss of every picture and the level it was measured at, (B,) and (B,).

        ``x``: (B, ...) float in [-1, 1], or uint8, which is dequantised with fresh uniform noise,
        or put on the centres of its bins if the ``objective`` is about whole numbers (VDM). All
        randomness comes from ``generator`` (on the CPU), in the order levels, bins, noise.
        """
        self._meet(x)
        u = spread_uniform(len(x), generator)
        real = self._real if self.objective.dequantise else self._centres
        x0, labels = real(x, generator), self._labels(len(x), cond)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        lam = self.objective.levels.sample(u).to(x0.device)
        losses = self.objective(self.net, x0, lam, eps, labels)
        return losses + self._at_the_ends(x, x0, eps).to(losses), lam.detach()

    def _at_the_ends(self, x: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        """The rest of the bound, if the ends of the schedule learn from it; else nothing. A few
        pictures stand for all: the 256-way decoder is slow, and its mean differs little."""
        time = self.schedule
        if not (isinstance(time, LearnedSchedule) and time.learn_ends):
            return torch.zeros(())
        pixels = x[:_FEW] if x.dtype == torch.uint8 else None
        return end_losses(time, self.scaling, self._prior, x0[:_FEW], pixels, eps[:_FEW]).mean()

    def guided(self, guidance: float) -> Denoiser:
        """The denoiser, with classifier-free guidance of weight γ (1 = none; Luo Eq. 170)."""
        return self.net if guidance == 1.0 else Guided(self.net, guidance)

    def start(self, seeds: Sequence[int], lam: float | None = None) -> Tensor:
        """x at level ``lam`` (default ``lam_min``), in this model's units, one picture per seed."""
        noise = item_noise(seeds, self._shape()).to(next(self.net.parameters()))
        return self.ends.prior.start(noise, self.scaling(self.lam_min if lam is None else lam))

    def sample(
        self,
        n: int,
        *,
        steps: int = 20,
        solver: Solver | None = None,
        levels: Grid | Sequence[float] = straight,
        seed: int = 0,
        cond: Labels = None,
        guidance: float = 1.0,
        batch: int = 256,
        tolerance: float | None = None,
        callback: Callable[[Progress], None] | None = None,
        advance: Advance | None = None,
    ) -> SampleResult:
        """n pictures (n, *shape); picture i has seed ``seed + i`` and is the same in any batch.

        ``solver``: from :mod:`marginals.solvers` (default :func:`~.solvers.choice.auto`).
        ``levels``: where the steps go, a grid for ``steps`` of them, or the levels λ themselves,
        noise first (those of a fitted table, say). ``cond``: one class index for all, or one per
        picture, −1 for none. ``batch``: pictures at once. ``tolerance``: instead of a solver and
        its steps, Dormand–Prince steps of a size that makes errors of this relative and absolute
        size, every picture its own (:func:`~.adaptive.sample_adaptive`); then ``advance`` hears of
        the progress instead of ``callback``.
        """
        check_count(n, batch)
        if tolerance is not None and (solver is not None or levels is not straight):
            raise MarginalsError(
                "A tolerance chooses the steps itself: leave the solver out, and the levels."
            )
        if guidance != 1.0 and cond is None:
            raise MarginalsError("Guidance exaggerates a class: give cond, or leave guidance at 1.")
        seeds = range(seed, seed + n)
        labels = self._labels(n, cond)
        named = callable(levels)
        lams = grid(levels(self.lam_min, self.lam_max), steps) if named else list(levels)
        if len(lams) < 2:
            raise MarginalsError("A walk needs at least two noise levels.")
        denoiser, results = self.guided(guidance), []
        for first in range(0, n, batch):
            part = slice(first, first + batch)
            some = None if labels is None else labels[part]
            with self._evaluating():
                if tolerance is not None:
                    start, std = self.start(seeds[part]), self._prior.std or 1.0
                    way = self.lam_min, self.lam_max
                    size = {"rtol": tolerance, "atol": tolerance, "std": std, "advance": advance}
                    result = sample_adaptive(denoiser, start, *way, cond=some, **size)
                else:
                    start = self.start(seeds[part], lams[0])
                    about = {"seeds": seeds[part], "callback": callback}
                    result = sample(denoiser, start, lams, solver or auto(), cond=some, **about)
            results.append(result)
        nfe = max((result.nfe for result in results), default=0)
        return replace(results[0], x=torch.cat([result.x for result in results]), nfe=nfe)

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

    def ancestral(
        self,
        n: int,
        *,
        variance: Variance | None = None,
        seed: int = 0,
        cond: Labels = None,
        batch: int = 256,
    ) -> SampleResult:
        """n pictures by the model's own chain, every step of it (:func:`.ancestral.ancestral`):
        Ho et al. 2020, Algorithm 2. Seeds, classes and batches as in :meth:`sample`."""
        check_count(n, batch)
        chain, labels, results = self._chain(), self._labels(n, cond), []
        for first in range(0, n, batch):
            seeds = range(seed + first, seed + min(first + batch, n))
            part = None if labels is None else labels[first : first + batch]
            options: dict[str, Any] = {"variance": variance or self._variance()}
            with self._evaluating():
                start = self.start(seeds)
                results.append(ancestral(self.net, start, chain, cond=part, seeds=seeds, **options))
        return replace(results[0], x=torch.cat([result.x for result in results]))

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
            slope = slopes(self.net, x, self.lam_max, labels, self.dtype)
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

    def convert(self, scaling: Scaling) -> "Model":
        """The same model presented in other units, sharing every weight. Nothing is retrained."""
        net = self.net
        twin = Net(
            net.backbone,
            prediction=net.prediction,
            scaling=scaling,
            input_scaling=net.input_scaling,
            label=net.label,
        )
        ends = {"lam_min": self.lam_min, "lam_max": self.lam_max}
        return Model(twin, self.schedule, self.objective, **ends, data=self.data)
