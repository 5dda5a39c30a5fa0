"""Guidance: a denoiser made of two, or of one and a classifier.

    model.sample(16, cond=3, guidance=2.0)
    model.sample(16, cond=3, guidance=partial(Guided, weight=2.0, interval=(-1.0, 2.5)))

| wrapper                   | what it does                                                        |
|---------------------------|---------------------------------------------------------------------|
| :class:`Guided`           | classifier-free guidance, its interval, autoguidance, negatives     |
| :class:`ClassifierGuided` | the slope of a classifier that judges noisy pictures                |
| :class:`Clipped`          | x̂0 kept within [−1, 1], as it is or by dynamic thresholding          |

Wrappers are denoisers, so everything that walks one (solvers, scalings) walks the other, and they
can be stacked: the order of wrapping is the order of doing, inside first.

γ and w: here, as in Luo, Imagen, DiT and today's tools, the weight is γ and γ = 1 is no guidance.
Ho & Salimans (2022) write w = γ − 1 for which 0 is none.

No guided field is the score of a noised distribution (Luo writes Eqs. 166-170 as if it were): at
each level it is the score of q(x)·q(y | x)^γ, but these are not the noised versions of one law of
pictures. Samples are not draws from p(x)·p(y | x)^γ, and a guided model has no likelihood; only
γ = 0 and γ = 1 are exact.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .condition import join, null_like
from .denoiser import Denoiser, Estimate, Rescaled, expand
from .errors import MarginalsError
from .predict import determinant
from .scaling import Real, Scaling

Weight = float | Tensor | Callable[[Real], Real]
"""γ: one number, one for every picture (B,), or a function of the level, λ ↦ γ."""


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho & Salimans 2022; Luo Eq. 170).

        γ·∇ log p(x | y) + (1 − γ)·∇ log p(x) = weak + γ·(strong − weak),     γ = ``weight``

    γ = 1 is the plain conditional model, γ > 1 exaggerates what makes the class the class. The
    mixture is the same for x0, ε, v and the score, because all of them are linear in one another.

    ``weak``: another denoiser for the weak side, told the same as the strong one: *autoguidance*
    (Karras et al. 2024), for which it is a smaller or less trained model. ``negative``: what the
    weak side is told, (1, ...) for all or (B, ...); by default nothing, if it is the same network
    (a text here is a *negative prompt*). Without ``weak``, both sides run as one batch of twice the
    size, which is counted as one evaluation.

    ``interval``: (low, high) in λ, outside of which the weight is 1 and only the plain pass is run
    (Kynkäänniemi et al. 2024; their σ is e^(−λ/2) and their ImageNet interval −0.95 ≤ λ ≤ 2.53).
    The level is that of each evaluation, also where a step has several.

    ``rescale``: φ in [0, 1], by which the spread of the guided x̂0 of a picture is pulled back to
    that of the strong one, so that strong guidance does not burn (Lin et al. 2023, Sec. 3.4):

        x̂0 ← x̂0·(φ·std(x̂0_strong)/std(x̂0) + 1 − φ).
    """

    denoiser: Denoiser
    weight: Weight
    weak: Denoiser | None = None
    interval: tuple[float, float] | None = None
    negative: Tensor | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if self.interval is not None and not self.interval[0] < self.interval[1]:
            raise MarginalsError(
                f"An interval of guidance is (low, high) in λ, noisier first, not {self.interval}."
            )
        if not 0.0 <= self.rescale <= 1.0:
            raise MarginalsError(f"rescale is a share from 0 to 1, not {self.rescale}.")

    @property
    def scaling(self) -> Scaling:
        return self.denoiser.scaling

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        weight = weight_at(self.weight, lam, self.interval)
        alone = self.weak is None and self.negative is None and cond is None
        if alone or (not isinstance(weight, Tensor) and weight == 1.0):
            return self.denoiser(x, lam, cond)
        strong, weak = self._sides(x, lam, cond)
        out = torch.lerp(weak, strong.out, _factor(weight, strong.out))
        est = Estimate(x, lam, self.scaling, out, strong.prediction, mix=strong.mix)
        return est if self.rescale == 0.0 else _respread(est, strong, self.rescale)

    def _sides(self, x: Tensor, lam: Real, cond: Tensor | None) -> tuple[Estimate, Tensor]:
        """The strong estimate, and the weak one read as the same prediction."""
        said = self.negative
        if said is not None:
            said = per_picture(said, x, "negative conditions").expand(len(x), *said.shape[1:])
        if self.weak is not None:
            strong = self.denoiser(x, lam, cond)
            weak = Rescaled(self.weak, self.scaling)(x, lam, cond if said is None else said)
            return strong, weak.read(strong.prediction)
        if said is None:
            assert cond is not None  # or there is nothing to guide by
            said = null_like(cond)
        told = join([null_like(said) if cond is None else cond, said])
        both = lam.repeat(2) if isinstance(lam, Tensor) and lam.ndim else lam
        est = self.denoiser(torch.cat([x, x]), both, told)
        strong, weak = est.out.chunk(2)
        mix = None if est.mix is None else est.mix.chunk(2)[0]
        return Estimate(x, lam, est.scaling, strong, est.prediction, mix=mix), weak


def weight_at(weight: Weight, lam: Real, interval: tuple[float, float] | None = None) -> Real:
    """γ at a level: ``weight`` within the interval, 1 outside; a tensor where either input is."""
    found = weight(lam) if callable(weight) else weight
    if interval is None:
        return found
    low, high = interval
    if not isinstance(lam, Tensor):
        return found if low <= lam <= high else 1.0
    found = torch.as_tensor(found, dtype=lam.dtype, device=lam.device)
    return torch.where((lam >= low) & (lam <= high), found, torch.ones_like(found))


def per_picture(value: Tensor, x: Tensor, what: str) -> Tensor:
    """The value itself, if it is one for all pictures of x or one for each."""
    if value.ndim and len(value) not in (1, len(x)):
        raise MarginalsError(
            f"{len(x)} pictures cannot have {len(value)} {what}: give one for all or one for each, "
            "and take a solver with fixed steps (adaptive ones leave finished pictures out)."
        )
    return value


def _factor(weight: Real, x: Tensor) -> Real:
    """A weight, shaped to multiply the batch x."""
    if not isinstance(weight, Tensor):
        return weight
    return expand(per_picture(weight, x, "weights of guidance").to(x), x)


def _respread(est: Estimate, like: Estimate, share: float) -> Estimate:
    """x̂0·(φ·std(like)/std(x̂0) + 1 − φ), the standard deviations over each picture."""
    wanted, found = like.x0.flatten(1).std(1), est.x0.flatten(1).std(1)
    ratio = torch.where(found > 0, wanted / found, 1.0)  # a picture of one colour stays
    x0 = est.x0 * expand(share * ratio + (1.0 - share), est.x)
    return Estimate(est.x, est.lam, est.scaling, x0, mix=est.mix)


Classifier = Callable[[Tensor, Real], Tensor]
"""(x, λ) → logits (B, K) of the classes of *noisy* pictures; x in the denoiser's units."""


@dataclass(frozen=True)
class ClassifierGuided:
    """Classifier guidance (Dhariwal & Nichol 2021, Algorithm 2; Luo Eqs. 163-166).

        ∇ log p(x) + γ·∇ log p(y | x),      ε̂ ← ε̂ − σ·γ·∇ log p(y | x),     γ = ``scale``

    with the slope of the classifier by autograd; γ = 1 with both exact is the conditional model
    (Eq. 165). The denoiser is not told the class, unless ``conditional`` (ADM-G does, and then the
    class counts 1 + γ times). ``cond`` (B,) holds class indices; −1 is guided nowhere.
    """

    denoiser: Denoiser
    classifier: Classifier
    scale: Weight = 1.0
    conditional: bool = False

    @property
    def scaling(self) -> Scaling:
        return self.denoiser.scaling

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        plain = null_like(cond) if cond is not None and not self.conditional else cond
        est = self.denoiser(x, lam, plain)
        if cond is None:
            return est
        # ε changes by −σ·γ·slope, so x0 by σ²/α of it and the output by the sum of both: −σ·det/α
        level = self.scaling(lam)
        if isinstance(level.alpha, float) and level.alpha == 0.0:
            raise MarginalsError(
                "A classifier cannot guide at λ = −∞, where the picture is only noise: start the "
                "walk at a finite level."
            )
        det = determinant(est.prediction, self.scaling, lam)
        gain = expand(level.sigma * det / level.alpha, x) * _factor(weight_at(self.scale, lam), x)
        out = est.out - gain * self._slope(x, lam, cond)
        return Estimate(x, lam, self.scaling, out, est.prediction, mix=est.mix)

    def _slope(self, x: Tensor, lam: Real, cond: Tensor) -> Tensor:
        """∇_x log p(y | x), zero for pictures without a class."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            log_probs = self.classifier(leaf, lam).log_softmax(1)
            chosen = log_probs.gather(1, cond.clamp(min=0).unsqueeze(1)).squeeze(1)
            total = torch.where(cond >= 0, chosen, 0.0).sum()
            return torch.autograd.grad(total, leaf)[0]


@dataclass(frozen=True)
class Clipped:
    """x̂0 kept within [−bound, bound].

    ``quantile``: *dynamic thresholding* (Saharia et al. 2022, Imagen, Sec. 2.3; they take 0.995):
    s is that quantile of the sizes of x̂0 in each picture, but at least ``bound``, and

        x̂0 ← clip(x̂0, −s, s)·bound/s,

    so that a picture whose guidance went too far is brought back as a whole instead of burning.
    """

    denoiser: Denoiser
    bound: float = 1.0
    quantile: float | None = None

    def __post_init__(self) -> None:
        if not self.bound > 0 or not (self.quantile is None or 0.0 < self.quantile <= 1.0):
            raise MarginalsError(
                f"Clipping needs a bound above 0 and a quantile from 0 to 1, not {self.bound} and "
                f"{self.quantile}."
            )

    @property
    def scaling(self) -> Scaling:
        return self.denoiser.scaling

    def __call__(self, x: Tensor, lam: Real, cond: Tensor | None = None) -> Estimate:
        est = self.denoiser(x, lam, cond)
        x0, bound = est.x0, self.bound
        if self.quantile is not None:
            sizes = x0.abs().flatten(1)
            rank = max(1, math.ceil(self.quantile * sizes.shape[1]))
            s = expand(sizes.kthvalue(rank).values.clamp(min=bound), x0)
            x0 = x0 * (bound / s)
        return Estimate(x, lam, self.scaling, x0.clamp(-bound, bound), mix=est.mix)
