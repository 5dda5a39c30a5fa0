"""Units of x, against the relations that define each of them."""

import math

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.scaling import FLOW, SUB_VP, VE, VP, UnitVariance, units

EDM = UnitVariance(0.5)
ALL = [VP, VE, FLOW, SUB_VP, EDM, UnitVariance(3.0)]
LAMS = torch.linspace(-30.0, 30.0, 241, dtype=torch.float64)


@pytest.mark.parametrize("scaling", ALL, ids=repr)
def test_alpha_over_sigma_is_the_square_root_of_snr(scaling):
    lam, alpha, sigma = scaling(LAMS)
    assert lam is LAMS
    assert torch.allclose(alpha / sigma, (0.5 * LAMS).exp(), rtol=1e-13, atol=0)


def test_vp_keeps_unit_variance_and_alpha_bar_is_a_sigmoid():
    """Luo Eqs. 112-114: ᾱ = sigmoid(−ω) = sigmoid(λ), and α = √ᾱ."""
    _, alpha, sigma = VP(LAMS)
    assert torch.allclose(alpha**2, torch.sigmoid(LAMS), rtol=1e-14, atol=0)
    assert torch.allclose(sigma**2, torch.sigmoid(-LAMS), rtol=1e-14, atol=0)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(LAMS), rtol=1e-15)


@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
def test_unit_variance_is_edms_input_preconditioning(std):
    """c_in = 1/√(σ² + σ_d²) for the VE picture x0 + σ·n (Karras et al. 2022, Table 1)."""
    _, alpha, sigma = UnitVariance(std)(LAMS)
    sigma_ve = (-0.5 * LAMS).exp()
    c_in = 1.0 / (sigma_ve**2 + std**2).sqrt()
    assert torch.allclose(alpha, c_in, rtol=1e-13, atol=0)
    assert torch.allclose(sigma, c_in * sigma_ve, rtol=1e-13, atol=0)
    assert torch.allclose((alpha * std) ** 2 + sigma**2, torch.ones_like(LAMS), rtol=1e-13)


def test_flow_is_a_straight_line():
    _, alpha, sigma = FLOW(LAMS)
    assert torch.allclose(alpha + sigma, torch.ones_like(LAMS), rtol=1e-15)
    t = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)
    level = FLOW(2.0 * ((1.0 - t) / t).log())
    assert torch.allclose(level.alpha, 1.0 - t, rtol=1e-14)
    assert torch.allclose(level.sigma, t, rtol=1e-14)


def test_ve_keeps_the_picture_and_sub_vp_has_std_one_minus_alpha_squared():
    assert torch.equal(VE(LAMS).alpha, torch.ones_like(LAMS))
    _, alpha, sigma = SUB_VP(LAMS)
    # 1 − α² cancels where α → 1, so the comparison is absolute there
    assert torch.allclose(sigma, 1.0 - alpha**2, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("scaling", ALL, ids=repr)
def test_slopes_are_finite_differences(scaling):
    lam, h = torch.linspace(-12.0, 12.0, 49, dtype=torch.float64), 1e-4
    up, down = scaling(lam + h), scaling(lam - h)
    d_alpha, d_sigma = scaling.slopes(lam)
    assert torch.allclose(d_alpha, (up.alpha - down.alpha) / (2 * h), rtol=1e-7, atol=1e-11)
    assert torch.allclose(d_sigma, (up.sigma - down.sigma) / (2 * h), rtol=1e-7, atol=1e-11)
    assert scaling.slopes(1.3) == pytest.approx(
        [v.item() for v in scaling.slopes(torch.tensor(1.3, dtype=torch.float64))], rel=1e-15
    )


@pytest.mark.parametrize("scaling", ALL, ids=repr)
def test_floats_and_tensors_agree(scaling):
    for lam in (-40.0, -3.0, 0.0, 0.7, 40.0):
        level = scaling(lam)
        tensor = scaling(torch.tensor(lam, dtype=torch.float64))
        assert isinstance(level.alpha, float) and isinstance(level.sigma, float)
        assert (level.alpha, level.sigma) == (tensor.alpha.item(), tensor.sigma.item())
    single = scaling(LAMS.float())
    assert single.alpha.dtype == torch.float32
    assert torch.allclose(single.sigma.double(), scaling(LAMS).sigma, rtol=3e-6, atol=0)


def test_infinite_levels_are_exact():
    for scaling, clean in ((VP, 1.0), (FLOW, 1.0), (SUB_VP, 1.0), (VE, 1.0), (EDM, 2.0)):
        assert scaling(math.inf)[1:] == (clean, 0.0)
    for scaling in (VP, FLOW, SUB_VP, EDM):
        assert scaling(-math.inf)[1:] == (0.0, 1.0)
    assert VE(-math.inf)[1:] == (1.0, math.inf)
    both = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    for scaling in (VP, FLOW, SUB_VP):
        assert scaling(both).alpha.tolist() == [0.0, 1.0]
        assert scaling(both).sigma.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("old", ALL, ids=repr)
@pytest.mark.parametrize("new", ALL, ids=repr)
def test_units_rewrite_signal_and_noise_alike_and_compose(old, new):
    factor = units(LAMS, old, new)
    assert torch.allclose(old(LAMS).alpha * factor, new(LAMS).alpha, rtol=1e-13, atol=0)
    assert torch.allclose(old(LAMS).sigma * factor, new(LAMS).sigma, rtol=1e-13, atol=0)
    through = units(LAMS, old, FLOW) * units(LAMS, FLOW, new)
    assert torch.allclose(through, factor, rtol=1e-13, atol=0)
    assert units(0.3, old, new) == pytest.approx(units(LAMS.new_tensor(0.3), old, new).item())
    if VE not in (old, new):
        ends = LAMS.new_tensor([-math.inf, math.inf])
        wanted = [1.0, new(math.inf).alpha / old(math.inf).alpha]  # σ → 1 in all; α/α at λ = ∞
        assert units(ends, old, new).tolist() == wanted
        assert [units(lam, old, new) for lam in (-math.inf, math.inf)] == wanted


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan])
def test_impossible_data_std_is_refused(std):
    with pytest.raises(MarginalsError, match="data_std"):
        UnitVariance(std)
