"""Losses as weightings: the formula table of Kingma & Gao 2023, re-derived in the comments."""

import math

import pytest
import torch

from marginals.denoiser import Estimate
from marginals.errors import MarginalsError
from marginals.objective import (
    P2,
    Edm,
    Elbo,
    MinSnr,
    Mse,
    NormalLevels,
    Objective,
    Sigmoid,
    UniformTime,
    spread_uniform,
)
from marginals.oracle import Mixture
from marginals.predict import EPS, SCORE, VELOCITY, X0, ScorePrediction, V, VPrediction
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.schedule import Cosine, LinearBeta, Logit, LogLinear, Tabulated, Truncated

LAM = torch.linspace(-9.0, 9.0, 181, dtype=torch.float64)


def sech(x):
    return 1.0 / torch.cosh(x)


def gauss(lam):
    return torch.exp(-0.5 * ((lam - 2.4) / 2.4) ** 2)


TABLE = {
    "ELBO": (Elbo(), torch.ones_like),
    "eps, cosine": (Mse(EPS, Cosine()), lambda lam: sech(lam / 2)),
    "EDM": (Edm(), lambda lam: gauss(lam) * ((-lam).exp() + 0.25)),
    "v, cosine": (Mse(V, Cosine()), lambda lam: (-lam / 2).exp()),
    "flow matching": (Mse(VELOCITY, Logit()), lambda lam: (-lam / 2).exp()),
    "InDI": (Mse(X0, Logit()), lambda lam: (-lam).exp() * sech(lam / 4) ** 2),
    "P2": (
        P2(Mse(EPS, Cosine()), gamma=0.5),
        lambda lam: sech(lam / 2) / (1 + lam.exp()) ** 0.5,
    ),
    "min-SNR": (
        MinSnr(Mse(EPS, Cosine()), gamma=5.0),
        lambda lam: sech(lam / 2) * (5 * (-lam).exp()).clamp(max=1.0),
    ),
    "sigmoid": (Sigmoid(2.0), lambda lam: 1.0 / (1.0 + (lam - 2.0).exp())),
    "likelihood of the SDE": (Elbo(), lambda lam: lam * 0 + 1),
    "shifted flow": (Mse(VELOCITY, Logit(3.0)), lambda lam: sech((lam / 2 + math.log(3)) / 2) ** 2
                     / sech(lam / 4) ** 2 * (-lam / 2).exp()),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_weightings_are_the_papers_table(name):
    weighting, formula = TABLE[name]
    ratio = weighting(LAM) / formula(LAM)
    assert ((ratio.max() - ratio.min()) / ratio.mean()).item() < 1e-9


def test_constants_where_a_paper_fixes_them():
    assert torch.equal(Elbo()(LAM), torch.ones_like(LAM))
    k, lam = 0.3, torch.zeros(1).double()
    assert P2(Elbo(), 2.0, k)(lam).item() == pytest.approx((k + 1.0) ** -2)
    assert MinSnr(Elbo(), 5.0)(torch.tensor([0.0, math.log(5.0), 3.0])).tolist() == pytest.approx(
        [1.0, 1.0, 5.0 * math.exp(-3.0)]
    )
    assert Mse()(lam).item() == pytest.approx(1 / (2 * math.pi))


def test_defaults_are_the_papers_recommendations():
    assert (P2().gamma, P2().k, MinSnr().gamma, Sigmoid().bias) == (1.0, 1.0, 5.0, 2.0)
    assert (Edm().p_mean, Edm().p_std, Edm().data_std) == (-1.2, 1.2, 0.5)
    assert NormalLevels() == NormalLevels(2.4, 2.4) and P2().base == MinSnr().base == Mse()
    assert Mse() == Mse(EPS, Cosine())
    values = [Elbo(), Mse(), MinSnr(), P2(), Sigmoid(), Edm(), NormalLevels(), UniformTime(Logit())]
    assert len({Objective(Elbo(), NormalLevels()), *values}) == 9  # values: frozen, hashable


class Random:
    """An arbitrary, wrong denoiser that answers in a prediction of your choice."""

    def __init__(self, prediction, scaling=VP):
        self.prediction, self.scaling = prediction, scaling

    def __call__(self, x, lam, cond=None):
        clean = torch.tanh(x.flip(-1) + 0.3) + 0.1 * torch.sin(3.0 * x)
        return Estimate(x, lam, self.scaling, self._say(x, lam, clean), self.prediction)

    def _say(self, x, lam, clean):
        return Estimate(x, lam, self.scaling, clean, X0).read(self.prediction)


def batch(count=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(8)
    x0, eps = torch.randn(2, count, 3, 2, generator=generator, dtype=torch.float64)
    lam = torch.linspace(-5.0, 6.0, count, dtype=torch.float64)
    return x0.to(dtype), lam, eps.to(dtype)


PREDICTIONS = [X0, EPS, SCORE, ScorePrediction(VE), V, VPrediction(0.5), VELOCITY]


@pytest.mark.parametrize("weighting", [Elbo(), Edm(), MinSnr(), Mse(VELOCITY, Logit())])
def test_a_loss_does_not_depend_on_how_the_estimate_is_spelled(weighting):
    """Convert-then-loss equals re-weighted loss, for a denoiser that is wrong everywhere."""
    objective = Objective(weighting, UniformTime(Cosine()))
    x0, lam, eps = batch()
    for scaling in (VP, VE, FLOW, SUB_VP):
        losses = [objective(Random(p, scaling), x0, lam, eps) for p in PREDICTIONS]
        # by hand: ½·w(λ)/p(λ)·mean (ε − ε̂)²
        alpha, sigma = (v.reshape(-1, 1, 1) for v in scaling(lam)[1:])
        error = Random(EPS, scaling)(alpha * x0 + sigma * eps, lam).eps - eps
        weight = 0.5 * weighting(lam) / Cosine().density(lam)
        wanted = weight * error.square().flatten(1).mean(1)
        for loss in losses:
            assert loss.shape == (7,)
            assert torch.allclose(loss, wanted, rtol=1e-10, atol=0)


OWN = {
    "ddpm": (Mse(EPS, Tabulated.ddpm()), UniformTime(Tabulated.ddpm()), EPS, 0.5),
    "v": (Mse(V, Cosine()), UniformTime(Cosine()), V, 0.5),
    "flow": (Mse(VELOCITY, Logit()), UniformTime(Logit()), VELOCITY, 0.5),
    "x0": (Mse(X0, LinearBeta()), UniformTime(LinearBeta()), X0, 0.5),
}


@pytest.mark.parametrize("name", OWN)
def test_plain_mse_losses_are_plain_mse(name):
    """Under its own schedule every named simple loss is ½·mean (target − out)²."""
    weighting, levels, prediction, half = OWN[name]
    x0, lam, eps = batch()
    lam = lam.clamp(-4.0, 6.0)
    alpha, sigma = (v.reshape(-1, 1, 1) for v in VP(lam)[1:])
    x = alpha * x0 + sigma * eps
    target = {"ddpm": eps, "v": alpha * eps - sigma * x0, "flow": eps - x0, "x0": x0}[name]
    wanted = half * (target - Random(prediction)(x, lam).out).square().flatten(1).mean(1)
    got = Objective(weighting, levels)(Random(prediction), x0, lam, eps)
    assert torch.allclose(got, wanted, rtol=1e-9, atol=0)


def test_edm_is_karras_loss():
    """½·(σ² + σ_d²)/(σ·σ_d)²·‖D − x0‖² (Karras et al. 2022) when λ ~ N(2.4, 2.4²)."""
    x0, lam, eps = batch()
    sigma = (-0.5 * lam).exp().reshape(-1, 1, 1)
    d = Random(X0, VE)(x0 + sigma * eps, lam).x0
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    wanted = 0.5 * (weight * (d - x0) ** 2).flatten(1).mean(1)
    got = Objective(Edm(), NormalLevels())(Random(VPrediction(0.5), VE), x0, lam, eps)
    assert torch.allclose(got, wanted, rtol=1e-10, atol=0)


def test_edm_weighting_follows_its_parameters():
    """EDM2 (Karras et al. 2024): P_mean −0.4, P_std 1.0, that is λ ~ N(0.8, 2²)."""
    normal = torch.distributions.Normal(LAM.new_tensor(0.8), LAM.new_tensor(2.0))
    wanted = normal.log_prob(LAM).exp() * ((-LAM).exp() / 0.09 + 1.0)
    assert torch.allclose(Edm(-0.4, 1.0, 0.3)(LAM), wanted, rtol=1e-12)


def test_min_snr_caps_what_a_v_network_is_charged():
    """Hang et al. 2023: weight min(SNR, γ) on the x0 error; for v that is min(SNR, γ)/(SNR + 1)."""
    base, snr = Mse(EPS, Cosine()), LAM.exp()
    objective = Objective(MinSnr(base, 5.0), UniformTime(Cosine()))
    for prediction, denominator in ((X0, 1.0), (EPS, snr), (V, snr + 1.0)):
        weight = objective.weight(prediction, LAM)
        wanted = 0.5 * snr.clamp(max=5.0) / denominator
        assert torch.allclose(weight, wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("weighting", [Sigmoid(1.0), Edm()])
def test_expected_loss_does_not_depend_on_where_levels_are_drawn(weighting):
    """½∫w·E‖ε − ε̂‖²dλ whatever p(λ), by quadrature on an oracle whose error is known exactly."""
    oracle = Mixture(torch.tensor([[-1.0], [1.5]]), 0.3)
    node, mass = torch.distributions.Normal(0.0, 1.0), 301
    z = torch.linspace(-7, 7, mass).double()
    prob = node.log_prob(z).exp()
    results = []
    for schedule in (
        LogLinear(9.0, -9.0),
        Truncated(Cosine(), 9.0, -9.0),
        Truncated(Logit(2.0), 9.0, -9.0),
    ):
        objective = Objective(weighting, UniformTime(schedule))
        t = (torch.arange(200).double() + 0.5) / 200
        value = 0.0
        for lam in schedule.lam(t).tolist():
            x0 = torch.tensor([[-0.8], [1.2]]).double().repeat_interleave(mass, 0)
            eps, lams = z.repeat(2).unsqueeze(1), torch.full((2 * mass,), lam).double()
            loss = objective(oracle, x0, lams, eps)
            value += (loss * prob.repeat(2)).sum().item() * (z[1] - z[0]).item() / 2 / 200
        results.append(value)
    assert results[1:] == pytest.approx([results[0]] * 2, rel=2e-3)


@pytest.mark.parametrize(
    "levels", [NormalLevels(), NormalLevels(-1.0, 0.7), UniformTime(Logit(2.0))], ids=str
)
def test_sample_is_the_inverse_distribution_function_of_density(levels):
    u = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    lam = levels.sample(u).sort().values
    for a, b, share in zip(lam, lam[1:], u.diff(), strict=False):
        grid = torch.linspace(a.item(), b.item(), 401, dtype=torch.float64)
        assert torch.trapezoid(levels.density(grid), grid).item() == pytest.approx(
            share.item(), rel=1e-5
        )


def test_normal_levels_are_edms_log_normal_and_sd3s_logit_normal():
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    z = torch.special.ndtri(u)
    sigma = (-1.2 + 1.2 * z).exp()
    lam = NormalLevels(2.4, 2.4).sample(1.0 - u)
    assert torch.allclose((-0.5 * lam).exp(), sigma, rtol=1e-10)
    assert torch.allclose(FLOW(NormalLevels(0.0, 2.0).sample(1.0 - u)).sigma, z.sigmoid())


def test_levels_of_a_batch_are_evenly_spread_and_uniform():
    generator = torch.Generator().manual_seed(0)
    for count in (1, 5, 64):
        u = spread_uniform(count, generator)
        assert u.shape == (count,) and u.dtype == torch.float64
        assert bool(((u > 0) & (u < 1)).all())
        gaps = u.sort().values.diff()
        assert torch.allclose(gaps, torch.full_like(gaps, 1 / count))
    firsts = torch.stack([spread_uniform(8, generator) for _ in range(2000)])
    for column in (firsts[:, 0], firsts[:, 5]):
        assert column.mean().item() == pytest.approx(0.5, abs=4 / (12 * 2000) ** 0.5)
        assert column.var().item() == pytest.approx(1 / 12, rel=0.1)


def test_every_level_drawn_is_finite(monkeypatch):
    """Even if the generator says exactly zero."""
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.zeros(*size).double())
    u = spread_uniform(4)
    for levels in (NormalLevels(), UniformTime(Cosine()), UniformTime(Tabulated.ddpm())):
        lam = levels.sample(u)
        assert bool(lam.isfinite().all())


def test_losses_are_per_example_and_float32_stays_float32():
    objective = Objective(Elbo(), UniformTime(LogLinear()))
    x0, lam, eps = batch()
    whole = objective(Random(EPS), x0, lam, eps)
    for i in (0, 3):
        one = objective(Random(EPS), x0[i : i + 1], lam[i : i + 1], eps[i : i + 1])
        assert one.item() == pytest.approx(whole[i].item(), rel=1e-12)
    single = objective(Random(EPS), x0.float(), lam, eps.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), whole, rtol=1e-4)


def test_impossible_levels_are_refused():
    for std in (0.0, -1.0, math.nan):
        with pytest.raises(MarginalsError):
            NormalLevels(0.0, std)
