"""Luo Eqs. 86–92: how far the model's step back is from the true one."""

from functools import partial

import torch
from torch import Tensor

from ...chain import (
    mean_from_x0,
    mean_gap,
    posterior,
    posterior_variance,
    step_variance,
    variance,
)
from ...gaussian import Normal, kl_normal
from ..equation import Finding, all_equal, equal, equation
from ..fixtures import Steps, randn, steps

line = partial(equation, part="Variational Diffusion Models", page=13)

_ON = "steps of four chains, three pixels, an untrained network"
_MIN = r"\arg\min_\theta\; "
_KL = r"D_{\mathrm{KL}}\left(q(x_{t-1} \mid x_t, x_0)\,\Vert\,p_\theta(x_{t-1} \mid x_t)\right)"
_TWO = (
    r"D_{\mathrm{KL}}\left(\mathcal{N}(x_{t-1};\mu_q,\Sigma_q(t))\,\Vert\,"
    r"\mathcal{N}(x_{t-1};\mu_\theta,\Sigma_q(t))\right)"
)
_GAP = r"(\mu_\theta-\mu_q)"
_SQUARE = _GAP + r"^\top \Sigma_q(t)^{-1} " + _GAP
_HALF = r"\frac{1}{2\sigma_q^2(t)}"


def _laws(f: Steps) -> tuple[Normal, Normal]:
    """q(x_{t−1} | x_t, x0) and the model's step, which has the same variance."""
    q = posterior(f.x_t, f.x0, f.t, f.s)
    return q, Normal(mean_from_x0(f.x_t, f.x_hat, f.t, f.s), q.log_std)


def _kl(f: Steps) -> Tensor:
    """KL(q ‖ p_θ), (B,), as the package computes it."""
    q, p = _laws(f)
    return q.kl(p)


def _means(f: Steps) -> tuple[Tensor, Tensor]:
    """μ_θ and μ_q, by conditioning a joint Gaussian."""
    return f.mean_q(f.x_hat), f.mean_q(f.x0)


def _matrix(f: Steps) -> Tensor:
    """Σ_q(t) = σ_q²(t)·I as matrices, (B, 3, 3)."""
    return f.var_q.unsqueeze(-1) * torch.eye(3, dtype=torch.float64)


def _quadratic(f: Steps, inverse: Tensor) -> Tensor:
    """(μ_θ − μ_q)ᵀ Σ⁻¹ (μ_θ − μ_q), (B,)."""
    gap = _means(f)[0] - _means(f)[1]
    return torch.einsum("bi,bij,bj->b", gap, inverse, gap)


@line(
    "86",
    latex=r"D_{\mathrm{KL}}\left(\mathcal{N}(x;\mu_x,\Sigma_x)\,\Vert\,\mathcal{N}(y;\mu_y,\Sigma_y)"
    r"\right) = \frac{1}{2}\left[\log\frac{|\Sigma_y|}{|\Sigma_x|} - d + \mathrm{tr}"
    r"(\Sigma_y^{-1}\Sigma_x) + (\mu_y-\mu_x)^\top\Sigma_y^{-1}(\mu_y-\mu_x)\right]",
    says="How far one Gaussian is from another is a formula: it grows with the distance of the "
    "means and with the mismatch of the spreads.",
    home=(kl_normal, Normal.kl),
    note="The package keeps independent pixels; any two Gaussians become so in a common basis, "
    "and the check goes there. Both names x and y stand for one and the same variable.",
    erratum="E14",
    page=12,
)
def _() -> Finding:
    pairs = []
    for seed in range(5):
        roots, means = randn(2, 4, 4, seed=seed), randn(2, 4, seed=seed + 50)
        cov_x, cov_y = (root @ root.T + 0.3 * torch.eye(4).double() for root in roots)
        ratio = torch.linalg.inv(cov_y) @ cov_x
        gap = means[1] - means[0]
        square = gap @ torch.linalg.inv(cov_y) @ gap
        logs = torch.logdet(cov_y) - torch.logdet(cov_x)
        printed = 0.5 * (logs - 4 + ratio.trace() + square)
        # in the basis that makes Σ_x the identity and Σ_y diagonal, the pixels are independent
        whiten = torch.linalg.inv(torch.linalg.cholesky(cov_x))
        spread, turn = torch.linalg.eigh(whiten @ cov_y @ whiten.T)
        first, second = ((turn.T @ whiten @ mean).unsqueeze(0) for mean in means)
        scale = torch.full((4,), 1.7, dtype=torch.float64)  # any common stretch changes nothing
        x, y = first * scale.sqrt(), second * scale.sqrt()
        pairs.append((kl_normal(x, scale, y, scale * spread), printed))
        law_x, law_y = Normal(x, 0.5 * scale.log()), Normal(y, 0.5 * (scale * spread).log())
        pairs.append((law_x.kl(law_y), printed))
    return all_equal(pairs, "five pairs of Gaussians with full covariances in four dimensions")


@line(
    "87",
    latex=_MIN + _KL + " = " + _MIN + _TWO,
    says="The model's step back is given the spread of the true one, so that only its mean has to "
    "be learned.",
    home=(posterior, Normal.kl),
    note="If the model uses another variance, a term without the means is added (see Eq. 92).",
)
def _() -> Finding:
    f = steps()
    mean_p, mean_q = _means(f)
    average = torch.zeros(len(f.x0), dtype=torch.float64)
    for place, share in ((-(3.0**0.5), 1 / 6), (0.0, 2 / 3), (3.0**0.5, 1 / 6)):
        x = mean_q + place * f.var_q.sqrt()  # three points average a quadratic exactly
        logs = ((x - mean_p) ** 2 - (x - mean_q) ** 2) / (2 * f.var_q)
        average = average + share * logs.sum(1)
    return equal(_kl(f), average, f"KL as the average of log q - log p over q, {_ON}")


@line(
    "88",
    latex=_MIN + r"\frac{1}{2}\left[\log\frac{|\Sigma_q(t)|}{|\Sigma_q(t)|} - d + "
    r"\mathrm{tr}(\Sigma_q(t)^{-1}\Sigma_q(t)) + " + _SQUARE + r"\right]",
    says="Put the two Gaussians into the formula for their distance.",
    home=Normal.kl,
)
def _() -> Finding:
    f = steps()
    cov = _matrix(f)
    inverse = torch.linalg.inv(cov)
    trace = torch.einsum("bij,bji->b", inverse, cov)
    logs = torch.logdet(cov) - torch.logdet(cov)
    return equal(_kl(f), 0.5 * (logs - 3 + trace + _quadratic(f, inverse)), f"KL, {_ON}")


@line(
    "89",
    latex=_MIN + r"\frac{1}{2}\left[\log 1 - d + d + " + _SQUARE + r"\right]",
    says="Since the spreads are equal, their ratio is one and their trace counts the pixels.",
    home=Normal.kl,
)
def _() -> Finding:
    f = steps()
    d = f.x0.shape[1]
    line89 = 0.5 * (0.0 - d + d + _quadratic(f, torch.linalg.inv(_matrix(f))))
    return equal(_kl(f), line89, f"KL, {_ON}")


@line(
    "90",
    latex=_MIN + r"\frac{1}{2}\left[" + _SQUARE + r"\right]",
    says="Everything cancels but the distance of the means.",
    home=mean_gap,
)
def _() -> Finding:
    f = steps()
    ours = mean_gap(*_means(f), f.var_q.squeeze(1))
    return equal(ours, 0.5 * _quadratic(f, torch.linalg.inv(_matrix(f))), f"loss, {_ON}")


@line(
    "91",
    latex=_MIN + r"\frac{1}{2}\left[" + _GAP + r"^\top \left(\sigma_q^2(t)I\right)^{-1} " + _GAP
    + r"\right]",
    says="The spread is one number for all pixels.",
    home=(mean_gap, posterior_variance),
)  # fmt: skip
def _() -> Finding:
    f = steps()
    inverse = torch.eye(3, dtype=torch.float64) / f.var_q.unsqueeze(-1)
    ours = mean_gap(*_means(f), posterior_variance(f.t, f.s))
    return equal(ours, 0.5 * _quadratic(f, inverse), f"loss, {_ON}")


@line(
    "92",
    latex=_MIN + _HALF + r"\left[\left\Vert\mu_\theta-\mu_q\right\Vert_2^2\right]",
    says="Learning the step back means bringing its mean close to the true one, in squared "
    "distance.",
    home=(mean_gap, variance, step_variance, posterior_variance),
    note="With another variance v, the KL has the extra term (d/2)(log(v/σ_q²) − 1 + σ_q²/v).",
)
def _() -> Finding:
    f = steps()
    p, q = _means(f)
    small = posterior_variance(f.t, f.s)
    v = torch.as_tensor(variance(f.t, f.s, 0.3)).unsqueeze(1)  # between DDPM's two choices
    between = (0.3 * (1 - f.a).log() + 0.7 * f.var_q.log()).exp()
    other = kl_normal(q, f.var_q, p, v)
    extra = 1.5 * ((v / f.var_q).log() - 1 + f.var_q / v).squeeze(1)
    pairs = [(mean_gap(p, q, small), f.loss(p, q)), (_kl(f), f.loss(p, q))]
    pairs += [(other - mean_gap(p, q, v.squeeze(1)), extra), (v / between, torch.ones_like(v))]
    ends = [variance(f.t, f.s, 0.0), variance(f.t, f.s, 1.0)]
    pairs += [(ends[0], small), (ends[1], (1 - f.a).squeeze(1))]
    return all_equal(pairs, f"loss and KL, also with a variance between small and large, {_ON}")
