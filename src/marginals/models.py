"""A model: one denoiser, with what it needs to be trained, walked and measured.

    model = marginals.ddpm(net)
    loss = model.loss(x)
    x = model.sample(16).x

There is one class. DDPM, VDM, EDM, rectified flow and the score SDEs differ in five choices
(:mod:`.formulations` lists them); after training, all of them can be walked by every solver, in
every scaling, and measured by every likelihood.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .bound import Bound, Terms
from .denoiser import Denoiser, Net
from .errors import MarginalsError
from .gaussian import Prior
from .guidance import Guided
from .likelihood import Ends, discrete_elbo, elbo, ode_log_prob
from .noise import item_noise
from .objective import Objective, spread_uniform
from .ode import Tick
from .pixels import dequantise
from .sampling import Progress, SampleResult, sample
from .scaling import Scaling
from .schedule import NoiseSchedule
from .solvers import Solver, dpmpp_2m, grid, karras

_FAR = 30
"""Standard deviations from the mean beyond which numbers cannot be data (0..255 in float, say)."""

Grid = Callable[[float, float], NoiseSchedule]
"""(lam_min, lam_max) → a schedule whose equal time steps are the levels of a walk."""


@dataclass(frozen=True)
class DataStats:
    """What a model knows about its data: shape (C, H, W) of one item, mean and standard deviation
    over all entries, class names in label order, a name for people."""

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 1.0
    classes: tuple[str, ...] = ()
    name: str = ""


class Model(nn.Module):
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
        super().__init__()
        self.net = net
        self.schedule = schedule
        self.objective = objective
        self.data = data
        self.lam_min, self.lam_max = lam_min, lam_max
        _ = self.ends  # refuses impossible ends now, not at the first use

    @property
    def scaling(self) -> Scaling:
        """The units of x in which this model presents itself; changed by :meth:`convert`."""
        return self.net.scaling

    @property
    def ends(self) -> Ends:
        """The two ends of the walk, with the prior matched to the data."""
        prior = Prior() if self.data is None else Prior(self.data.mean, self.data.std)
        return Ends(self.lam_min, self.lam_max, prior)

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.net.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.net.parameters()).dtype

    def losses(
        self, x: Tensor, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The training loss of every picture and the level it was measured at, (B,) and (B,).

        ``x``: (B, ...) float in [-1, 1], or uint8, which is dequantised with fresh uniform noise.
        All randomness comes from ``generator`` (on the CPU), in the order levels, bins, noise.
        """
        if self.data is None:
            self.data = DataStats(tuple(x.shape[1:]))
        u = spread_uniform(len(x), generator)
        x, labels = self._real(x, generator), self._labels(len(x), cond)
        eps = torch.randn(x.shape, generator=generator).to(x)
        lam = self.objective.levels.sample(u).to(x.device)
        return self.objective(self.net, x, lam, eps, labels), lam

    def loss(
        self, x: Tensor, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean of :meth:`losses`: the number to call ``backward()`` on."""
        return self.losses(x, cond, generator)[0].mean()

    def guided(self, guidance: float) -> Denoiser:
        """The denoiser, with classifier-free guidance of weight γ (1 = none; Luo Eq. 170)."""
        return self.net if guidance == 1.0 else Guided(self.net, guidance)

    def start(self, seeds: Sequence[int]) -> Tensor:
        """x at ``lam_min``, in this model's units, one picture per seed."""
        noise = item_noise(seeds, self._shape()).to(next(self.net.parameters()))
        return self.ends.prior.start(noise, self.scaling(self.lam_min))

    def sample(
        self,
        n: int,
        *,
        steps: int = 20,
        solver: Solver | None = None,
        levels: Grid = karras,
        seed: int = 0,
        cond: int | Sequence[int] | Tensor | None = None,
        guidance: float = 1.0,
        batch: int = 256,
        callback: Callable[[Progress], None] | None = None,
    ) -> SampleResult:
        """n pictures (n, *shape); picture i has seed ``seed + i`` and is the same in any batch.

        ``solver``: from :mod:`marginals.solvers` (default DPM-Solver++ 2M). ``levels``: where the
        steps go. ``cond``: one class index for all, or one per picture, −1 for none. ``batch``:
        pictures at once.
        """
        if n < 1:
            raise MarginalsError(f"Ask for at least 1 picture, not {n}.")
        if batch < 1:
            raise MarginalsError(f"A batch holds at least 1 picture, not {batch}.")
        if guidance != 1.0 and cond is None:
            raise MarginalsError("Guidance exaggerates a class: give cond, or leave guidance at 1.")
        seeds = range(seed, seed + n)
        labels = self._labels(n, cond)
        lams = grid(levels(self.lam_min, self.lam_max), steps)
        denoiser, results = self.guided(guidance), []
        for first in range(0, n, batch):
            part = slice(first, first + batch)
            with self._evaluating():
                result = sample(
                    denoiser,
                    self.start(seeds[part]),
                    lams,
                    solver or dpmpp_2m(),
                    cond=None if labels is None else labels[part],
                    seeds=seeds[part],
                    callback=callback,
                )
            results.append(result)
        return replace(results[0], x=torch.cat([result.x for result in results]))

    def elbo(
        self, x: Tensor, cond: int | Sequence[int] | Tensor | None = None, **options: Any
    ) -> Terms:
        """Continuous-time ELBO per picture (:func:`marginals.likelihood.elbo`)."""
        with self._evaluating():
            x, labels = self._checked(x), self._labels(len(x), cond)
            return elbo(self.net, x, self.ends, cond=labels, dtype=self.dtype, **options)

    def discrete_elbo(
        self, x: Tensor, cond: int | Sequence[int] | Tensor | None = None, **options: Any
    ) -> Terms:
        """T-step ELBO per picture, term by term (:func:`marginals.likelihood.discrete_elbo`)."""
        with self._evaluating():
            x, labels = self._checked(x), self._labels(len(x), cond)
            return discrete_elbo(self.net, x, self.ends, cond=labels, dtype=self.dtype, **options)

    def log_prob(
        self,
        x: Tensor,
        cond: int | Sequence[int] | Tensor | None = None,
        *,
        steps: int = 20,
        exact: bool = False,
        generator: torch.Generator | None = None,
        tick: Tick | None = None,
    ) -> Bound:
        """Log density per picture under the probability-flow ODE; uint8 pixels are dequantised
        first."""
        x, labels = self._real(x, generator), self._labels(len(x), cond)
        options = {"steps": steps, "exact": exact, "generator": generator, "tick": tick}
        with self._evaluating():
            return ode_log_prob(self.net, x, self.ends, cond=labels, **options)

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

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Dropout and its like switched off, and afterwards as they were."""
        was = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was)

    def _shape(self) -> tuple[int, ...]:
        if self.data is None:
            raise MarginalsError(
                "The model does not know the shape of its data yet: train it first, or build "
                "it with data=DataStats(shape=(channels, height, width))."
            )
        return self.data.shape

    def _checked(self, x: Tensor) -> Tensor:
        """x itself, if it can be data of this model."""
        if self.data is not None and tuple(x.shape[1:]) != self.data.shape:
            raise MarginalsError(
                f"This model knows data of shape {self.data.shape}, not {tuple(x.shape[1:])}."
            )
        if x.dtype == torch.uint8:
            return x
        stats = self.data or DataStats(())
        if x.device.type == "cpu" and x.numel():  # elsewhere, looking would wait for the device
            far = float((x - stats.mean).abs().max()) / stats.std
            if not far < _FAR:
                raise MarginalsError(
                    f"The data hold NaN, or values more than {_FAR} standard deviations from their "
                    "mean: give pictures as floats in [-1, 1] or as uint8, and other data with "
                    "their own data=DataStats(shape, mean, std)."
                )
        return x

    def _real(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Checked data as real numbers; uint8 pixels are spread over their bins."""
        x = self._checked(x)
        if x.dtype != torch.uint8:
            return x
        u = torch.rand(x.shape, generator=generator)
        return dequantise(x, u.to(x.device)).to(self.dtype)

    def _labels(self, n: int, cond: int | Sequence[int] | Tensor | None) -> Tensor | None:
        """One label per picture, (n,), on the model's device; None if there are none."""
        if cond is None:
            return None
        labels = torch.as_tensor(cond, device=self.device)
        labels = labels.expand(n) if isinstance(cond, int) else labels
        if labels.shape != (n,):
            raise MarginalsError(f"{n} pictures need {n} labels, not shape {tuple(labels.shape)}.")
        classes = len(self.data.classes) if self.data else 0
        look = classes > 0 and labels.device.type == "cpu"
        if look and not bool(((labels >= -1) & (labels < classes)).all()):
            raise MarginalsError(f"Labels go from 0 to {classes - 1} (or −1 for no label).")
        return labels
