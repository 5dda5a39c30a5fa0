"""A classifier of noisy pictures, p(y | x, λ): what classifier guidance asks (Luo Eqs. 162-166).

    classifier = NoisyClassifier(body)                # body: (x, t) → logits (B, K)
    loss = classifier.loss(x, labels)
    x = model.sample(16, cond=3, guidance=classifier.guide(2.0)).x

It knows the noise level and nothing of any model: it is trained in one scaling, and a noisy picture
of any other one is the same picture times a number. So one classifier guides every diffusion model
of the same pictures, whatever that predicts and in whatever units it walks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coupling import Independent
from .denoiser import Denoiser, expand, told_time
from .device import send
from .errors import MarginalsError
from .generative import DataStats, Generative
from .guidance import Classifier, ClassifierGuided, Weight
from .latent import Latent
from .models import Model
from .objective import Levels, UniformTime, spread_uniform
from .scaling import VP, Real, Scaling, units
from .schedule import Logit, LogLinear, NoiseSchedule, Truncated


class NoisyClassifier(Generative):
    """Logits of the classes of noisy pictures, for x in ``scaling`` units at level λ.

    ``body``: a network (x, t) → (B, K). ``levels``: p(λ) in training; by default flow time, so λ is
    logistic around 0, from −12 to 12: there it is decided what a picture shows. ``label``: the
    schedule whose time the body is told. The loss is the cross-entropy,

        E_{λ~p, ε}[ −log p(y | α·x0 + σ·ε, λ) ],

    of which the least value at every level is that of the true posterior (a proper score).
    """

    draws: ClassVar[bool] = False

    def __init__(
        self,
        body: nn.Module,
        *,
        levels: Levels | None = None,
        label: NoiseSchedule | None = None,
        scaling: Scaling = VP,
        data: DataStats | None = None,
    ) -> None:
        super().__init__(data)
        self.body, self.scaling = body, scaling
        self.levels = UniformTime(Truncated(Logit(), 12.0, -12.0)) if levels is None else levels
        self.label = LogLinear(12.0, -12.0) if label is None else label

    def forward(self, x: Tensor, lam: Real) -> Tensor:
        """(x (B, ...), λ a float or (B,)) → logits (B, K)."""
        if self.data is not None and tuple(x.shape[1:]) != self.data.shape:
            raise MarginalsError(
                f"This classifier knows pictures of shape {self.data.shape}, not of shape "
                f"{tuple(x.shape[1:])} (latents, say): guide a model of those pictures."
            )
        return self.body(x, told_time(self.label, lam, x))

    def losses(
        self, x: Tensor, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The cross-entropy of every picture in nats and the level it was measured at, (B,), (B,).

        ``x``: as in :meth:`.Model.losses`. ``cond``: (B,) class indices; a picture without one (−1)
        costs nothing. Randomness from ``generator`` in the order levels, bins, noise.
        """
        self._meet(x)
        labels = self._labels(len(x), cond)
        if labels is None or labels.is_floating_point():
            raise MarginalsError("A classifier learns from labels: give cond, one class each.")
        u = spread_uniform(len(x), generator)
        x0 = self._real(x, generator)
        eps = send(torch.randn(x0.shape, generator=generator), x0)
        lam = send(self.levels.sample(u), x0.device)
        return self.cross_entropy(x0, eps, lam, labels), lam

    def cross_entropy(self, x0: Tensor, eps: Tensor, lam: Real, labels: Tensor) -> Tensor:
        """−log p(y | α·x0 + σ·ε, λ) of every picture in nats, (B,); 0 where the label is −1."""
        _, alpha, sigma = (expand(value, x0) for value in self.scaling(lam))
        logits = self(alpha * x0 + sigma * eps, lam)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")

    def in_units(self, scaling: Scaling) -> Classifier:
        """The same classifier for pictures in other units."""
        return _InUnits(self, scaling)

    def guide(
        self, scale: Weight = 1.0, *, conditional: bool = False
    ) -> Callable[[Denoiser], Denoiser]:
        """What ``Model.sample(guidance=...)`` takes: any denoiser, guided by this classifier in the
        denoiser's own units (:class:`.guidance.ClassifierGuided`)."""

        def wrap(denoiser: Denoiser) -> Denoiser:
            classifier = self.in_units(denoiser.scaling)
            return ClassifierGuided(denoiser, classifier, scale, conditional)

        return wrap

    def elbo(self, x: Tensor, cond: Any = None, **options: Any) -> NoReturn:
        raise MarginalsError("A classifier says nothing of a picture's probability.")

    def sample(self, n: int, **options: Any) -> NoReturn:
        raise MarginalsError(
            "A classifier draws no pictures: give it to a diffusion model, "
            "model.sample(n, cond=..., guidance=classifier.guide(scale))."
        )


@dataclass(frozen=True)
class _InUnits:
    classifier: NoisyClassifier
    scaling: Scaling

    def __call__(self, x: Tensor, lam: Real) -> Tensor:
        factor = units(lam, self.scaling, self.classifier.scaling)
        return self.classifier(x * expand(factor, x), lam)


def require_pair(model: Generative, classifier: NoisyClassifier) -> None:
    """Raise MarginalsError unless the classifier can guide the model: a diffusion model with a
    score, of pictures of the same shape, with the same classes or with none."""
    if not isinstance(model, Model):
        what = "walks in the latents of a codec" if isinstance(model, Latent) else "does not walk"
        raise MarginalsError(
            f"A classifier guides a diffusion model that walks in pixels, and this one {what}."
        )
    if model.coupling != Independent():
        raise MarginalsError(
            "A classifier corrects the score, and this model has none: it was trained with a "
            f"coupling ({type(model.coupling).__name__}) and is only a flow."
        )
    mine, theirs = classifier.data or DataStats(()), model.data or DataStats(())
    if mine.shape != theirs.shape:
        raise MarginalsError(
            f"The classifier knows pictures of shape {mine.shape}, and the model makes pictures of "
            f"shape {theirs.shape}: train one for the same pictures."
        )
    if theirs.text:
        raise MarginalsError("This model is told texts, and a classifier only knows classes.")
    if theirs.classes and theirs.classes != mine.classes:
        raise MarginalsError(
            f"The classifier and the model know other classes ({_few(mine.classes)} and "
            f"{_few(theirs.classes)}): train one for the same classes."
        )


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
