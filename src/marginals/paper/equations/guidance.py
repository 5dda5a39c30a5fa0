"""Luo Eqs. 162-170: guidance."""

import math

import torch
from torch import Tensor

from ...denoiser import Estimate
from ...guidance import Guided
from ...oracle import Mixture
from ...predict import EPS, SCORE, X0, V
from ...scaling import VP
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_guidance import (
    chain_log_prob,
    classifier_gradient,
    classifier_guidance,
    expanded_guidance,
    implicit_classifier,
)
from ..extra_worlds import (
    flat_bumps,
    gradient,
    integrate,
    line,
    normal,
    numbers,
    three_bumps,
)

CLASSIFIER, FREE = "Classifier Guidance", "Classifier-Free Guidance"
LEFT_SIDE = (
    "Luo keeps the name ∇log p(x_t | y) on the left, which is true for γ = 1 only. γ = 0 gives the "
    "score of all pictures; for other γ the fields of the noise levels are not those of one noised "
    "distribution, as the check of Eq. 166 shows."
)


@equation(
    "162",
    page=20,
    part="Guidance",
    latex=r"p(x_{0:T} \mid y) = p(x_T) \prod_{t=1}^T p_\theta(x_{t-1} \mid x_t, y)",
    says="To make a picture of something in particular, tell every denoising step what it is; the "
    "noise one starts from does not know.",
    home=chain_log_prob,
    status="definition",
)
def _() -> Finding:
    slopes, shifts, spread = (0.8, 0.6), ((0.9, -0.4), (-0.7, 0.3)), (0.5, 0.7)
    x, pairs = line(-9.0, 9.0, 181), []
    top, middle = x.unsqueeze(1), x
    for clean in (-0.3, 1.2):
        for shift in shifts:

            def step(t: int, below: Tensor, above: Tensor, by: tuple = shift) -> Tensor:
                mean = slopes[t - 1] * above + by[t - 1]
                return torch.distributions.Normal(mean, spread[t - 1]).log_prob(below)

            states = [torch.tensor(clean, dtype=torch.float64), middle, top]
            prior = torch.distributions.Normal(numbers(0.0), 1.0)
            joint = chain_log_prob(states, prior.log_prob, step).exp()
            found = integrate(integrate(joint, middle), x)
            mean = slopes[0] * shift[1] + shift[0]
            var = spread[0] ** 2 + slopes[0] ** 2 * (spread[1] ** 2 + slopes[1] ** 2)
            truth = torch.distributions.Normal(numbers(mean), math.sqrt(var))
            pairs.append((found, truth.log_prob(numbers(clean)).exp()))
    return all_equal(pairs, "p(x0 | y) of two-step linear chains, by quadrature and closed form")


@equation(
    "163",
    page=21,
    part=CLASSIFIER,
    latex=r"\nabla \log p(x_t \mid y) = \nabla \log \left(\frac{p(x_t)\, p(y \mid x_t)}{p(y)}"
    r"\right)",
    says="Bayes' rule turns the score of pictures of a class into the score of all pictures and a "
    "classifier.",
    home=(Mixture.score, Mixture.class_posterior),
)
def _() -> Finding:
    mixture, x, lam, pairs = flat_bumps(), normal(7, 2), 0.4, []
    for label, share in ((0, 0.5), (1, 0.5)):
        # p(y | x) from the two conditional densities, by hand
        each = [mixture.log_prob(x, lam, torch.full((7,), c)) + math.log(0.5) for c in (0, 1)]
        posterior = (each[label] - torch.stack(each).logsumexp(0)).exp()
        pairs.append((mixture.class_posterior(x, lam)[:, label], posterior))

        def bayes(v: Tensor, label: int = label, share: float = share) -> Tensor:
            return (
                mixture.log_prob(v, lam)
                + mixture.class_posterior(v, lam)[:, label].log()
                - (math.log(share))
            )

        conditional = mixture.score(x, lam, torch.full((7,), label))
        pairs.append((conditional, gradient(bayes, x)))
    return all_equal(pairs, "the class's own score against autograd of Bayes' rule, at a level")


@equation(
    "164",
    page=21,
    part=CLASSIFIER,
    latex=r"\nabla \log p(x_t \mid y) = \nabla \log p(x_t) + \nabla \log p(y \mid x_t) - "
    r"\nabla \log p(y)",
    says="How common the class is does not depend on the picture, so that part has no slope.",
    home=(classifier_gradient, Mixture.score),
)
def _() -> Finding:
    mixture, x, pairs = flat_bumps(), normal(7, 2), []
    for label, lam in ((0, 0.4), (1, -1.3)):
        conditional = mixture.score(x, lam, torch.full((7,), label))
        sides = mixture.score(x, lam) + classifier_gradient(mixture, x, lam, label)
        pairs.append((sides, conditional))
    return all_equal(pairs, "score plus classifier slope, minus zero, against the class's score")


@equation(
    "165",
    page=21,
    part=CLASSIFIER,
    latex=r"\nabla \log p(x_t \mid y) = \underbrace{\nabla \log p(x_t)}_{\text{unconditional "
    r"score}} + \underbrace{\nabla \log p(y \mid x_t)}_{\text{adversarial gradient}}",
    says="A model of all pictures plus the slope of a classifier is a model of one class.",
    home=classifier_gradient,
    note="The classifier must judge noisy pictures: p(y | x_t) is the share of the class at this "
    "noise level, not at none.",
)
def _() -> Finding:
    mixture, x, lam = three_bumps(), normal(7, 1), 0.9
    level = VP(lam)
    var = level.alpha**2 * mixture.std**2 + level.sigma**2
    gap = level.alpha * mixture.means.T - x
    joint = numbers(0.3, 0.45, 0.25) * (-0.5 * gap**2 / var).exp() / var.sqrt()
    change, inside = joint * gap / var, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    # d/dx log(Σ_in joint / Σ joint), written out
    slope = (inside * change).sum(1) / (inside * joint).sum(1) - change.sum(1) / joint.sum(1)
    found = classifier_gradient(mixture, x, lam, 1)[:, 0]
    clean = classifier_gradient(mixture, x, 6.0, 1)[:, 0]
    require(
        (clean - found).abs().max().item() > 0.1, "a classifier of clean pictures says other things"
    )
    return equal(found, slope, "autograd of the classifier against its slope written out")


@equation(
    "166",
    page=21,
    part=CLASSIFIER,
    latex=r"\nabla \log p(x_t \mid y) = \nabla \log p(x_t) + \gamma \nabla \log p(y \mid x_t)",
    says="Turning up the classifier's slope makes pictures more typical of the class, and less "
    "varied.",
    home=classifier_guidance,
    status="condition",
    erratum="E12",
    note="At each noise level this is the score of p(x_t)·p(y | x_t)^γ. " + LEFT_SIDE,
)
def _() -> Finding:
    mixture, x, lam, weight = flat_bumps(), normal(7, 2), 0.3, 2.7
    score, push = mixture.score(x, lam), classifier_gradient(mixture, x, lam, 1)

    def tilted(v: Tensor) -> Tensor:
        return mixture.log_prob(v, lam) + weight * mixture.class_posterior(v, lam)[:, 1].log()

    conditional = mixture.score(x, lam, torch.ones(7, dtype=torch.long))
    pairs = [
        (classifier_guidance(score, push, weight), gradient(tilted, x)),
        (classifier_guidance(score, push, 1.0), conditional),
        (classifier_guidance(score, push, 0.0), score),
    ]
    require(_gap_to_noised_tilt(3.0) > 0.1, "γ = 3 is not the noised tilted distribution")
    require(_gap_to_noised_tilt(1.0) < 1e-8, "γ = 1 is")
    return all_equal(pairs, "the guided field against autograd of log p(x)·p(y | x)^γ, fixed level")


def _gap_to_noised_tilt(weight: float) -> float:
    """Mean square distance between the guided score at ᾱ = 0.3 and the score of the noised
    version of p_0(x)·p_0(y | x)^γ."""
    mixture, lam = three_bumps(), math.log(0.3 / 0.7)
    level, clean, x = VP(lam), line(-4.0, 4.0, 1601), line(-4.0, 4.0, 401)
    column = clean.unsqueeze(1)
    tilt = mixture.log_prob(column) + weight * mixture.class_posterior(column, math.inf)[:, 1].log()
    shape = torch.distributions.Normal(level.alpha * clean, level.sigma)
    points = x.unsqueeze(1)
    weights = torch.softmax(tilt + shape.log_prob(points), 1)
    noised = (weights * (level.alpha * clean - points)).sum(1) / level.sigma**2
    push = classifier_gradient(mixture, points, lam, 1)
    guided = classifier_guidance(mixture.score(points, lam), push, weight)[:, 0]
    density = (tilt + shape.log_prob(points)).exp().sum(1)
    return ((guided - noised) ** 2 * density / density.sum()).sum().item()


def _two_scores(rows: int = 6) -> tuple[Mixture, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """An oracle, x, one level per picture, classes, and the scores with and without the class."""
    mixture, x, lam = flat_bumps(), normal(rows, 2), torch.linspace(-1.2, 2.3, rows).double()
    label = torch.arange(rows) % 2
    return mixture, x, lam, label, mixture.score(x, lam, label), mixture.score(x, lam)


@equation(
    "167",
    page=21,
    part=FREE,
    latex=r"\nabla \log p(y \mid x_t) = \nabla \log p(x_t \mid y) - \nabla \log p(x_t)",
    says="The difference between a model of the class and a model of everything is a classifier.",
    home=implicit_classifier,
)
def _() -> Finding:
    mixture, x, lam, label, conditional, plain = _two_scores()
    each = [classifier_gradient(mixture, x, lam, c) for c in (0, 1)]
    truth = torch.where(label.unsqueeze(1) == 1, each[1], each[0])
    return equal(implicit_classifier(conditional, plain), truth, "against the exact classifier")


@equation(
    "168",
    page=21,
    part=FREE,
    latex=r"\nabla \log p(x_t \mid y) = \nabla \log p(x_t) + \gamma\left("
    r"\nabla \log p(x_t \mid y) - \nabla \log p(x_t)\right)",
    says="So the classifier of the guided model can be replaced by two answers of one network.",
    home=(classifier_guidance, implicit_classifier),
    status="condition",
    erratum="E12",
    note=LEFT_SIDE,
)
def _() -> Finding:
    mixture, x, lam, label, conditional, plain = _two_scores()
    found = classifier_guidance(plain, implicit_classifier(conditional, plain), 2.7)

    def tilted(v: Tensor) -> Tensor:
        posterior = mixture.class_posterior(v, lam).gather(1, label.unsqueeze(1))[:, 0]
        return mixture.log_prob(v, lam) + 2.7 * posterior.log()

    return equal(found, gradient(tilted, x), "two scores against autograd of log p(x)·p(y | x)^γ")


@equation(
    "169",
    page=21,
    part=FREE,
    latex=r"= \nabla \log p(x_t) + \gamma \nabla \log p(x_t \mid y) - \gamma \nabla \log p(x_t)",
    says="Multiplied out: one part with the class, two without.",
    home=expanded_guidance,
    status="condition",
    erratum="E12",
    note=LEFT_SIDE,
)
def _() -> Finding:
    mixture, x, lam, label, conditional, plain = _two_scores()
    guided = Guided(mixture, 2.7)(x, lam, label).score
    found = expanded_guidance(conditional, plain, 2.7)
    return equal(found, guided, "two scores, combined, against the guided denoiser's score")


@equation(
    "170",
    page=21,
    part=FREE,
    latex=r"= \underbrace{\gamma \nabla \log p(x_t \mid y)}_{\text{conditional score}} + "
    r"\underbrace{(1 - \gamma) \nabla \log p(x_t)}_{\text{unconditional score}}",
    says="Classifier-free guidance mixes what the model says with and without the class; a weight "
    "above one exaggerates the class.",
    home=Guided.__call__,
    status="condition",
    erratum="E12",
    note=LEFT_SIDE + " Papers that write w mean γ = 1 + w.",
)
def _() -> Finding:
    mixture, x, lam, label, conditional, plain = _two_scores()
    guided, weight = Guided(mixture, 2.7), 2.7
    wanted = weight * conditional + (1.0 - weight) * plain
    both = (mixture(x, lam, label), mixture(x, lam))
    pairs = [(guided(x, lam, label).score, wanted)]
    for prediction in (X0, EPS, V, SCORE):
        parts = [est.read(prediction) for est in both]
        mixed = weight * parts[0] + (1.0 - weight) * parts[1]
        pairs.append((guided(x, lam, label).read(prediction), mixed))
    level = 0.6
    one = Guided(mixture, 1.0)(x, level, label).x0
    pairs += [
        (guided(x, lam).x0, both[1].x0),
        (one, mixture(x, level, label).x0),
        (guided(x, level, label).x0, 2.7 * one - 1.7 * mixture(x, level).x0),
        (guided(x, numbers(level)[0], label).x0, guided(x, level, label).x0),
        (Guided(_Counted(mixture, calls := []), 1.0)(x, level, label).x0, one),
    ]
    require(calls == [6], "without guidance the model is asked once, for one batch")
    return all_equal(pairs, "the guided denoiser against two scores, in x0, ε, v and score alike")


class _Counted:
    """A denoiser that notes the size of every batch it is asked for."""

    def __init__(self, inner: Mixture, calls: list[int]) -> None:
        self.inner, self.calls, self.scaling = inner, calls, inner.scaling

    def __call__(self, x: Tensor, lam: float | Tensor, cond: Tensor | None = None) -> Estimate:
        self.calls.append(len(x))
        return self.inner(x, lam, cond)
