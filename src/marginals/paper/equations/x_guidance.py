"""Extensions: guidance as it is used."""

import math

import torch
from torch import Tensor

from ...chain import mean_from_score, posterior_variance, step_variance
from ...guidance import Guided
from ...oracle import Mixture
from ...scaling import VP
from ...schedule import Logit
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_guidance import (
    autoguidance,
    classifier_gradient,
    guidance_of_w,
    guided_mean,
    guided_noise,
    interval_weight,
    rescaled_guidance,
)
from ..extra_worlds import flat_bumps, gradient, normal, numbers

PART = "Guidance in practice"
ADM = "Dhariwal & Nichol 2021, arXiv 2105.05233"


@equation(
    "X85",
    part=PART,
    source="Ho & Salimans 2022, arXiv 2207.12598, Eq. 6",
    latex=r"(1 + w)\, \epsilon_\theta(x, y) - w\, \epsilon_\theta(x), \qquad \gamma = 1 + w",
    says="“Guidance 7.5” in today's tools is γ; in the paper that invented it the same is w = 6.5.",
    home=(guidance_of_w, Guided.__call__),
)
def _() -> Finding:
    mixture, x, lam = flat_bumps(), normal(6, 2), numbers(-1.2, -0.4, 0.3, 0.9, 1.6, 2.4)
    label, w = torch.tensor([0, 1, 1, 0, 1, 0]), 1.4
    both = mixture(x, lam, label), mixture(x, lam)
    guided = Guided(mixture, 1.0 + w)(x, lam, label)
    pairs = [
        (guidance_of_w(both[0].eps, both[1].eps, w), guided.eps),
        (guidance_of_w(both[0].x0, both[1].x0, w), guided.x0),
        (guidance_of_w(both[0].eps, both[1].eps, 0.0), both[0].eps),
    ]
    return all_equal(pairs, "the w form against the guided denoiser with γ = 1 + w")


@equation(
    "X86",
    part=PART,
    source=ADM + ", Algorithm 2",
    latex=r"\hat\epsilon = \epsilon_\theta(x_t) - \sqrt{1 - \bar\alpha_t}\; s\, \nabla \log "
    r"p(y \mid x_t)",
    says="A classifier guides a noise prediction by changing what is taken for noise by its own "
    "slope.",
    home=guided_noise,
)
def _() -> Finding:
    mixture, x, lam, s = flat_bumps(), normal(6, 2), 0.4, 2.3
    push = classifier_gradient(mixture, x, lam, 1)

    def tilted(v: Tensor) -> Tensor:
        return mixture.log_prob(v, lam) + s * mixture.class_posterior(v, lam)[:, 1].log()

    sigma = VP(lam).sigma
    found = guided_noise(mixture(x, lam).eps, sigma, push, s)
    return equal(-found / sigma, gradient(tilted, x), "as a score, against log p(x)·p(y | x)^s")


@equation(
    "X87",
    part=PART,
    source=ADM + ", Algorithm 1 and Eq. 10",
    latex=r"\mu \leftarrow \mu + s\, \Sigma\, \nabla \log p(y \mid x_t)",
    says="Guiding the mean of a random step is the same as guiding the score, as steps get small.",
    home=guided_mean,
    status="limit",
    tolerance=0.05,
    note="Exactly the same if Σ = β/√α, first order in the step for the usual choices.",
)
def _() -> Finding:
    mixture, x, lam, s = flat_bumps(), normal(6, 2), 0.4, 2.3
    score, push = mixture.score(x, lam), classifier_gradient(mixture, x, lam, 1)
    gaps = []
    for h in (0.02, 0.01):
        t, other = VP(lam), VP(lam + h)
        mean = mean_from_score(x, score, t, other)
        exact = mean_from_score(x, score + s * push, t, other)
        var = step_variance(t, other)
        ratio = t.alpha / other.alpha
        matched = guided_mean(mean, var / ratio, push, s)
        require((matched - exact).abs().max().item() < 1e-12, "equal for the matching Σ")
        found = guided_mean(mean, posterior_variance(t, other), push, s)
        gaps.append((found - exact).abs().max().item())
    return Finding(abs(math.log2(gaps[0] / gaps[1]) - 2.0), "order of the difference in the step")


@equation(
    "X88",
    part=PART,
    source="Kynkäänniemi et al. 2024, arXiv 2404.07724",
    latex=r"\gamma(\lambda) = \gamma \text{ for } \lambda_{\text{lo}} \le \lambda \le "
    r"\lambda_{\text{hi}}, \quad 1 \text{ elsewhere}",
    says="Guidance may be left to the middle of the walk; outside an interval the plain model "
    "walks.",
    home=(interval_weight, Guided.__call__),
    status="definition",
    note="Guidance at high noise removes variety, and at low noise it changes little.",
)
def _() -> Finding:
    mixture, x = flat_bumps(), normal(5, 2)
    lam, label = numbers(-2.0, -0.5, 0.4, 1.1, 3.0), torch.ones(5, dtype=torch.long)
    weight = interval_weight(lam, -0.5, 1.1, 2.0)
    both = mixture(x, lam, label).x0, mixture(x, lam).x0
    mixed = weight.unsqueeze(1) * both[0] + (1.0 - weight.unsqueeze(1)) * both[1]
    inside = Guided(mixture, 2.0)(x, lam, label).x0
    outside = mixture(x, lam, label).x0
    wanted = torch.cat([outside[:1], inside[1:4], outside[4:]])
    found = Guided(mixture, 2.0, interval=(-0.5, 1.1))(x, lam, label).x0
    pairs = [(mixed, wanted), (weight, numbers(1, 2, 2, 2, 1)), (found, wanted)]
    return all_equal(pairs, "inside and outside")


@equation(
    "X89",
    part=PART,
    source="Karras et al. 2024 (autoguidance), arXiv 2406.02507",
    latex=r"D = D_{\text{weak}} + w \left(D_{\text{strong}} - D_{\text{weak}}\right)",
    says="A model can be guided away from the mistakes of a worse version of itself, also where "
    "there are no classes.",
    home=(autoguidance, Guided.__call__),
)
def _() -> Finding:
    strong, weak, w = normal(4, 3), normal(4, 3), 2.2
    pairs = [
        (autoguidance(strong, weak, w), w * strong + (1.0 - w) * weak),
        (autoguidance(strong, weak, 1.0), strong),
        (autoguidance(strong, weak, 0.0), weak),
    ]
    mixture, x, label = flat_bumps(), normal(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    parts = mixture(x, 0.4, label).x0, mixture(x, 0.4).x0
    pairs += [(autoguidance(*parts, w), Guided(mixture, w)(x, 0.4, label).x0)]
    worse = Mixture(0.6 * mixture.means, 0.8, labels=mixture.labels)
    two = mixture(x, 0.4, label).x0, worse(x, 0.4, label).x0
    pairs += [(autoguidance(*two, w), Guided(mixture, w, weak=worse)(x, 0.4, label).x0)]
    return all_equal(pairs, "its three special weights, and class guidance as a case of it")


@equation(
    "X90",
    part=PART,
    source="Lin et al. 2023, arXiv 2305.08891, section 3.4",
    latex=r"\hat x = \phi\, x_{\text{cfg}} \frac{\operatorname{std}(x_{\text{pos}})}"
    r"{\operatorname{std}(x_{\text{cfg}})} + (1 - \phi)\, x_{\text{cfg}}",
    says="Strong guidance makes pictures too bright and too dark; this pulls their spread back.",
    home=(rescaled_guidance, Guided.__call__),
    status="definition",
)
def _() -> Finding:
    plain, wild, share = normal(3, 2, 4, 4), 2.3 * normal(3, 2, 4, 4) + 0.4, 0.7
    full, part = (rescaled_guidance(wild, plain, phi) for phi in (1.0, share))
    spread = full.flatten(1).var(1), plain.flatten(1).var(1)
    centred = plain.flatten(1) - plain.flatten(1).mean(1, keepdim=True)
    by_hand = centred.square().sum(1) / 31.0
    pairs = [
        (spread[0], by_hand),
        (part, share * full + (1.0 - share) * wild),
        (rescaled_guidance(wild, plain, 0.0), wild),
        (full / wild, (full / wild)[:, :1, :1, :1].expand_as(full)),
    ]
    require(bool((full.flatten(1)[:, 0] * wild.flatten(1)[:, 0] > 0).all()), "signs stay")
    mixture, x, label = flat_bumps(), normal(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    both = Guided(mixture, 4.0)(x, 0.4, label).x0, mixture(x, 0.4, label).x0
    found = Guided(mixture, 4.0, rescale=share)(x, 0.4, label)
    pairs += [(found.x0, rescaled_guidance(*both, share))]
    pairs += [(found.eps, (x - found.level.alpha * found.x0) / found.level.sigma)]
    return all_equal(pairs, "spreads after rescaling, and the mixture")


@equation(
    "X91",
    part=PART,
    source="Zheng et al. 2023, arXiv 2311.13443; Luo Eq. 170",
    latex=r"v_\gamma = \gamma\, v(x, y) + (1 - \gamma)\, v(x)",
    says="Flow models are guided in the same way as diffusion models, since a velocity is as good "
    "as a score.",
    home=Guided.__call__,
)
def _() -> Finding:
    mixture, x, lam = flat_bumps(), normal(6, 2), numbers(-1.2, -0.4, 0.3, 0.9, 1.6, 2.4)
    label, weight = torch.tensor([0, 1, 1, 0, 1, 0]), 3.1
    speeds = [est.velocity(Logit()) for est in (mixture(x, lam, label), mixture(x, lam))]
    guided = Guided(mixture, weight)(x, lam, label)
    mixed = weight * speeds[0] + (1.0 - weight) * speeds[1]
    # one batch of twice the size must keep levels and labels of every row
    rows = [Guided(mixture, weight)(x[i : i + 1], lam[i].item(), label[i : i + 1]) for i in (0, 5)]
    pairs = [(guided.velocity(Logit()), mixed)]
    pairs += [(guided.x0[i : i + 1], row.x0) for i, row in zip((0, 5), rows)]
    return all_equal(pairs, "the guided velocity against two velocities")
