"""Predictions as row vectors: conversions against the papers' formulas, and the singular cases."""

import itertools
import math

import pytest
import torch

from marginals.denoiser import Estimate
from marginals.errors import MarginalsError
from marginals.predict import (
    EPS,
    SCORE,
    VELOCITY,
    X0,
    ScorePrediction,
    V,
    VelocityPrediction,
    VPrediction,
    determinant,
    noise_gain,
)
from marginals.scaling import FLOW, SUB_VP, VE, VP, UnitVariance
from marginals.schedule import Cosine, Karras, LinearBeta, Logit, LogLinear

SCALINGS = {"vp": VP, "ve": VE, "flow": FLOW, "sub_vp": SUB_VP, "edm": UnitVariance(0.5)}
PREDICTIONS = {
    "x0": X0,
    "eps": EPS,
    "score": SCORE,
    "score_ve": ScorePrediction(VE),
    "v": V,
    "edm_f": VPrediction(0.5),
    "velocity": VELOCITY,
    "velocity_vp": VelocityPrediction(LinearBeta(), VP),
    "velocity_ve": VelocityPrediction(Karras(1e-4, 1e4), VE),
    "velocity_sub_vp": VelocityPrediction(Cosine(), SUB_VP),
}
each_scaling = pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())


def pair(lam, scaling, dtype=torch.float64):
    """x0, ε and the x they make."""
    generator = torch.Generator().manual_seed(3)
    x0, eps = torch.randn(2, 6, 2, generator=generator, dtype=dtype)
    level = scaling(torch.as_tensor(lam, dtype=dtype))
    alpha, sigma = (v.reshape(-1, 1) for v in level[1:])
    return x0, eps, alpha * x0 + sigma * eps


def truth(prediction, lam, x0, eps):
    """The prediction's own definition, from the papers."""
    lam = torch.as_tensor(lam, dtype=torch.float64).reshape(-1, 1)
    if prediction in (X0, EPS):
        return x0 if prediction is X0 else eps
    if isinstance(prediction, ScorePrediction):  # ∇ log N(x; αx0, σ²) = −ε/σ (Luo Eq. 151)
        return -eps / prediction.scaling(lam).sigma
    if isinstance(prediction, VPrediction):  # −F, F = (x0 − c_skip·x)/c_out (EDM Eq. 7)
        s, sigma = prediction.data_std, (-0.5 * lam).exp()
        c_skip = s**2 / (sigma**2 + s**2)
        c_out = sigma * s / (sigma**2 + s**2).sqrt()
        return -(x0 - c_skip * (x0 + sigma * eps)) / c_out
    t, h = prediction.schedule.t(lam), 1e-5  # d/dt of α(t)x0 + σ(t)ε by differences
    up = prediction.scaling(prediction.schedule.lam(t * (1 + h)))
    down = prediction.scaling(prediction.schedule.lam(t * (1 - h)))
    rise = (up.alpha - down.alpha) * x0 + (up.sigma - down.sigma) * eps
    return rise / (2 * h * t)


@each_scaling
@pytest.mark.parametrize("name", PREDICTIONS)
def test_row_is_the_papers_definition(name, scaling):
    prediction = PREDICTIONS[name]
    lam = torch.linspace(-5, 5, 6, dtype=torch.float64)
    x0, eps, x = pair(lam, scaling)
    wanted = truth(prediction, lam, x0, eps)
    got = Estimate(x, lam, scaling, x0, X0).read(prediction)
    rtol = 2e-7 if isinstance(prediction, VelocityPrediction) else 1e-11
    assert torch.allclose(got, wanted, rtol=rtol, atol=rtol)


@each_scaling
@pytest.mark.parametrize("lam", [-8.0, -1.0, 0.0, 2.5, 8.0, "each"])
def test_any_to_any_round_trip(scaling, lam):
    lam = torch.linspace(-8, 8, 6, dtype=torch.float64) if lam == "each" else lam
    x0, eps, x = pair(lam, scaling)
    for first, second in itertools.product(PREDICTIONS.values(), repeat=2):
        out = Estimate(x, lam, scaling, x0, X0).read(first)
        there = Estimate(x, lam, scaling, out, first)
        back = Estimate(x, lam, scaling, there.read(second), second)
        scale = out.abs().max()
        assert (back.read(first) - out).abs().max() / scale < 1e-10, (first, second)
        # absolute errors in x0 and ε: what a solver works with, each where it is determined
        for reading in (there, back):
            gain = 1.0 + torch.as_tensor(scaling(lam).sigma / scaling(lam).alpha).max()
            assert (reading.x0 - x0).abs().max() < 1e-10 * gain
            gain = 1.0 + torch.as_tensor(scaling(lam).alpha / scaling(lam).sigma).max()
            assert (reading.eps - eps).abs().max() < 1e-10 * gain


@each_scaling
@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("lam", [-math.inf, math.inf])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_infinite_levels_are_exact_or_refused(scaling, name, lam, as_tensor):
    """Never NaN, never a division by zero: a right number or a sentence with a remedy."""
    prediction, level = PREDICTIONS[name], scaling(lam)
    x0, eps = torch.tensor([[0.7]]).double(), torch.tensor([[-1.3]]).double()
    lams = torch.tensor([lam]).double() if as_tensor else lam
    x = level.alpha * x0 + level.sigma * eps  # = x0 (or its multiple) or ε alone
    safe = {"v", "edm_f", "velocity"} | ({"x0"} if lam < 0 else {"eps"})
    if scaling == VE and lam < 0:
        safe = set()  # x itself is infinite there
    outs = {"x0": x0, "eps": eps, "velocity": eps - x0}
    outs |= {"v": -x0, "edm_f": -x0 / 0.5} if lam < 0 else {"v": eps, "edm_f": 0.5 * eps * 2.0}
    estimate = Estimate(x, lams, scaling, outs.get(name, eps), prediction)
    if name not in safe:
        with pytest.raises(MarginalsError, match="v-prediction"):
            estimate.read(VPrediction(2.0))
        return
    assert torch.allclose(estimate.x0, x0, atol=1e-14)
    assert torch.allclose(estimate.eps, eps, atol=1e-14)
    assert torch.allclose(estimate.v, -x0 if lam < 0 else eps, atol=1e-14)
    if lam > 0:
        with pytest.raises(MarginalsError, match="v-prediction"):
            _ = estimate.score  # −ε/0
    else:
        assert torch.allclose(estimate.score, -eps, atol=1e-14)


def test_readings_are_the_named_formulas():
    lam = 0.8
    x0, eps, x = pair(lam, FLOW)
    level = FLOW(lam)
    estimate = Estimate(x, lam, FLOW, eps, EPS)
    assert estimate.level == level
    assert torch.allclose(estimate.x0, (x - level.sigma * eps) / level.alpha)  # Luo Eq. 115
    assert torch.allclose(estimate.score, -eps / level.sigma)  # Luo Eq. 151, in x's own units
    vp = VP(lam)
    assert torch.allclose(estimate.v, vp.alpha * eps - vp.sigma * x0)  # Salimans & Ho 2022
    assert torch.allclose(Estimate(x, lam, FLOW, eps - x0, VELOCITY).x0, x0)  # rectified flow
    line = LogLinear(9.0, -9.0)
    ve = Estimate(x0 + VE(lam).sigma * eps, lam, VE, x0)
    assert torch.allclose(ve.velocity(line), 0.5 * 18.0 * VE(lam).sigma * eps)  # dσ/dt·ε


def test_edm_preconditioning_coefficients():
    """D = c_skip·x + c_out·F with Karras' c_skip and c_out, F being minus our output."""
    for s in (0.5, 1.0, 2.0):
        for sigma in (0.002, 0.5, 3.0, 80.0):
            x, f = torch.tensor([[0.3, -2.0]]).double(), torch.tensor([[1.1, 0.4]]).double()
            got = Estimate(x, -2.0 * math.log(sigma), VE, -f, VPrediction(s)).x0
            root = math.sqrt(sigma**2 + s**2)
            wanted = s**2 / root**2 * x + sigma * s / root * f
            assert torch.allclose(got, wanted, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_noise_gain_turns_output_errors_into_noise_errors_in_every_scaling(name):
    prediction, lam = PREDICTIONS[name], 1.7
    for scaling in SCALINGS.values():
        x0, _, x = pair(lam, scaling)
        out = Estimate(x, lam, scaling, x0).read(prediction)
        bump = torch.full_like(out, 1e-3)
        bad, good = (Estimate(x, lam, scaling, o, prediction).eps for o in (out + bump, out))
        assert torch.allclose(bad - good, noise_gain(prediction, lam) * bump, rtol=1e-8)
        gain = scaling(lam).alpha / determinant(prediction, scaling, lam)
        assert gain == pytest.approx(noise_gain(prediction, lam), rel=1e-12)


def test_predictions_are_values():
    assert len(set(PREDICTIONS.values())) == len(PREDICTIONS)
    assert VPrediction() == V and ScorePrediction(VP) == SCORE
    assert VelocityPrediction(Logit(), FLOW) == VELOCITY


def test_outputs_in_single_precision_stay_single():
    x = torch.randn(3, 1, 2, 2)
    lam = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    assert Estimate(x, lam, VP, x, EPS).v.dtype == torch.float32
