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
from .ancestral import Variance, ancestral
from .coupling import Coupling, Independent
from .denoiser import Denoiser, Net
from .device import send
from .errors import MarginalsError
from .gaussian import Prior
from .generative import DataStats as DataStats
from .generative import Labels, check_count
from .guidance import Guided
from .learned import LearnedSchedule, end_losses
from .likelihood import Ends
from .measured import Measured
from .noise import item_noise
from .objective import Objective, spread_uniform
from .sampling import Progress, SampleResult, sample
from .scaling import Scaling
from .schedule import NoiseSchedule
from .solvers import FittedTable, Solver, auto, grid, straight

Grid = Callable[[float, float], NoiseSchedule]
"""(lam_min, lam_max) → a schedule whose equal time steps are the levels of a walk."""

Guidance = float | Tensor | Callable[[Denoiser], Denoiser]
"""γ, 1 = none; or γ of every picture, (n,); or wrappers (:mod:`.guidance`) around the denoiser."""

_FEW = 4
"""Pictures of a batch on which the ends of a learned schedule are measured."""


class Model(Measured):
    """A denoiser network with its schedule, objective, and the two ends of its walk.

    ``lam_min`` and ``lam_max``: the noisiest and the cleanest level of walks and likelihoods
    (finite). ``data``: statistics of the training data; without them the data count as mean 0, std
    1, and the shape is taken from the first batch of :meth:`losses`. ``coupling``: which noise
    meets which picture in training. ``walk``: the few levels of a model that was distilled for
    them, which :meth:`sample` then takes if nothing else is asked for.
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
        coupling: Coupling | None = None,
        walk: FittedTable | None = None,
    ) -> None:
        super().__init__(data)
        self.net = net
        self.schedule = schedule
        self.objective = objective
        self.coupling = coupling or Independent()
        self.walk = walk
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
        eps = send(torch.randn(x0.shape, generator=generator), x0)
        lam = send(self.objective.levels.sample(u), x0.device)
        x0, eps = self.coupling(x0, eps, lam, labels)
        losses = self.objective(self.net, x0, lam, eps, labels)
        return losses + self._at_the_ends(x, x0, eps).to(losses), lam.detach()

    def _at_the_ends(self, x: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        """The rest of the bound, if the ends of the schedule learn from it; else nothing. A few
        pictures stand for all: the 256-way decoder is slow, and its mean differs little."""
        time = self.schedule
        if not (isinstance(time, LearnedSchedule) and time.learn_ends):
            return x0.new_zeros(())
        pixels = x[:_FEW] if x.dtype == torch.uint8 else None
        return end_losses(time, self.scaling, self._prior, x0[:_FEW], pixels, eps[:_FEW]).mean()

    def guided(self, guidance: Guidance, part: slice = slice(None)) -> Denoiser:
        """The denoiser, with classifier-free guidance of weight γ (1 = none; Luo Eq. 170), or of a
        weight for every picture, of which ``part`` is used; or with any wrappers of it."""
        if isinstance(guidance, Tensor):
            return Guided(self.net, guidance[part].to(self.device))
        if callable(guidance):
            return guidance(self.net)
        return self.net if guidance == 1.0 else Guided(self.net, guidance)

    def start(self, seeds: Sequence[int], lam: float | None = None) -> Tensor:
        """x at level ``lam`` (default ``lam_min``), in this model's units, one picture per seed."""
        noise = item_noise(seeds, self._shape()).to(next(self.net.parameters()))
        return self.ends.prior.start(noise, self.scaling(self.lam_min if lam is None else lam))

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        solver: Solver | None = None,
        levels: Grid | Sequence[float] = straight,
        seed: int = 0,
        cond: Labels = None,
        guidance: Guidance = 1.0,
        batch: int = 256,
        tolerance: float | None = None,
        callback: Callable[[Progress], None] | None = None,
        advance: Advance | None = None,
    ) -> SampleResult:
        """n pictures (n, *shape); picture i has seed ``seed + i`` and is the same in any batch.

        ``solver``: from :mod:`marginals.solvers` (default :func:`~.solvers.choice.auto`).
        ``steps``: 20, unless the model has a walk of its own. ``levels``: where the steps go, a
        grid for ``steps`` of them, or the levels λ themselves, noise first (those of a fitted
        table, say). ``cond``: one class index for all, or one per picture, −1 for none.
        ``guidance``: γ, 1 = none, or what :meth:`guided` takes. ``batch``: pictures at once.
        ``tolerance``: instead of a solver and its steps, Dormand–Prince steps of a size that makes
        errors of this relative and absolute size, every picture its own
        (:func:`~.adaptive.sample_adaptive`); then ``advance`` hears of the progress instead of
        ``callback``.
        """
        check_count(n, batch)
        if tolerance is not None and (
            [solver, steps, callback] != [None] * 3 or levels is not straight
        ):
            raise MarginalsError(
                "A tolerance chooses the steps itself: leave solver, steps and levels out, and let "
                "advance, not callback, hear of the progress."
            )
        self._check_guidance(guidance, n, cond)
        seeds = range(seed, seed + n)
        labels = self._labels(n, cond)
        asked = [solver, steps, tolerance] != [None] * 3 or levels is not straight
        if self.walk is not None and not asked:
            solver, levels = self.walk.solver, self.walk.levels
        self._refuse_noise(solver)
        named = callable(levels)
        steps = 20 if steps is None else steps
        lams = grid(levels(self.lam_min, self.lam_max), steps) if named else list(levels)
        if len(lams) < 2:
            raise MarginalsError("A walk needs at least two noise levels.")
        results = []
        for first in range(0, n, batch):
            part = slice(first, first + batch)
            denoiser = self.guided(guidance, part)
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
                    rule = solver or auto(guided=denoiser is not self.net)
                    result = sample(denoiser, start, lams, rule, cond=some, **about)
            results.append(result)
        nfe = max((result.nfe for result in results), default=0)
        return replace(results[0], x=torch.cat([result.x for result in results]), nfe=nfe)

    @staticmethod
    def _check_guidance(guidance: Guidance, n: int, cond: Labels) -> None:
        if isinstance(guidance, Tensor):
            if guidance.shape != (n,):
                raise MarginalsError(
                    f"{n} pictures need {n} weights of guidance, not shape {tuple(guidance.shape)}."
                )
        elif callable(guidance) or guidance == 1.0:
            return
        if cond is None:
            raise MarginalsError("Guidance exaggerates a class: give cond, or leave guidance at 1.")

    def _refuse_noise(self, solver: Solver | None) -> None:
        """A model whose pairs are dependent has a flow and no score (:mod:`.coupling`)."""
        if solver is not None and solver.stochastic and self.coupling != Independent():
            raise MarginalsError(
                f"{solver.name} adds noise, which needs a score, and with a coupling "
                f"({type(self.coupling).__name__}) a model learns only a flow: use a deterministic "
                "solver."
            )

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
        rest = {"data": self.data, "coupling": self.coupling, "walk": self.walk}
        return Model(twin, self.schedule, self.objective, **ends, **rest)
