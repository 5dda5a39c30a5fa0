"""One step of the chain: every formula against Gaussian algebra done another way."""

import math

import pytest
import torch

from marginals import FLOW, SUB_VP, VE, VP
from marginals.chain import (
    Step,
    chain_lams,
    forward_step,
    marginal,
    mean_from_eps,
    mean_from_score,
    mean_from_x0,
    mean_gap,
    posterior,
    posterior_variance,
    snr,
    step,
    step_signal,
    step_variance,
    two_steps,
    variance,
    weight_eps,
    weight_expm1,
    weight_score,
    weight_snr,
    weight_x0,
)
from marginals.gaussian import Normal
from marginals.schedule import Tabulated

SCALINGS = [VP, VE, FLOW, SUB_VP]
LEVELS = [(-2.3, 0.4), (0.7, 0.9), (3.1, 8.0), (-9.0, 12.0)]
scalings = pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: type(s).__name__)
levels = pytest.mark.parametrize("lams", LEVELS, ids=str)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@scalings
@levels
def test_a_step_takes_the_marginal_to_the_next_marginal(scaling, lams):
    t, s = scaling(lams[0]), scaling(lams[1])
    whole = two_steps(Step(s.alpha, s.sigma**2), step(t, s))
    assert whole.signal == pytest.approx(t.alpha, rel=1e-13)
    assert whole.variance == pytest.approx(t.sigma**2, rel=1e-13)
    direct = t.sigma**2 - step_signal(t, s) ** 2 * s.sigma**2
    assert step_variance(t, s) == pytest.approx(direct, rel=1e-9)


@scalings
@levels
def test_the_posterior_is_the_joint_gaussian_conditioned(scaling, lams):
    """Schur complement of the joint law of (x_s, x_t) given x0; nothing of it is in the code."""
    t, s = scaling(lams[0]), scaling(lams[1])
    x0, x_t = normal(5, 3), normal(5, 3)
    cov = step_signal(t, s) * s.sigma**2
    mean = s.alpha * x0 + cov / t.sigma**2 * (x_t - t.alpha * x0)
    q = posterior(x_t, x0, t, s)
    assert torch.allclose(q.mean, mean, rtol=1e-12, atol=1e-12)
    assert (2 * q.log_std).exp().item() == pytest.approx(s.sigma**2 - cov**2 / t.sigma**2, rel=1e-7)


@scalings
@levels
def test_bayes_holds_at_every_point(scaling, lams):
    """q(x_t | x_s)·q(x_s | x0) = q(x_s | x_t, x0)·q(x_t | x0) (Luo Eq. 46)."""
    t, s = scaling(lams[0]), scaling(lams[1])
    x0, x_s, x_t = normal(3, 5, 4)
    left = forward_step(x_s, t, s).log_prob(x_t) + marginal(x0, s).log_prob(x_s)
    right = posterior(x_t, x0, t, s).log_prob(x_s) + marginal(x0, t).log_prob(x_t)
    assert torch.allclose(left, right, rtol=1e-9)


@scalings
@levels
def test_three_ways_to_tell_the_same_mean(scaling, lams):
    t, s = scaling(lams[0]), scaling(lams[1])
    x0, eps = normal(2, 5, 3)
    x_t = t.alpha * x0 + t.sigma * eps
    mean = mean_from_x0(x_t, x0, t, s)
    assert torch.allclose(mean_from_eps(x_t, eps, t, s), mean, rtol=1e-9, atol=1e-9)
    assert torch.allclose(mean_from_score(x_t, -eps / t.sigma, t, s), mean, rtol=1e-9, atol=1e-9)


@scalings
@levels
def test_every_weight_is_the_same_divergence(scaling, lams):
    t, s = scaling(lams[0]), scaling(lams[1])
    x0, eps, guess = normal(3, 5, 6)
    x_t = t.alpha * x0 + t.sigma * eps
    noise = (x_t - t.alpha * guess) / t.sigma
    q, p = posterior(x_t, x0, t, s), posterior(x_t, guess, t, s)
    kl = q.kl(p)
    in_x0, in_eps = (x0 - guess).square().sum(1), (eps - noise).square().sum(1)
    in_score = in_eps / t.sigma**2
    for weight, error in [
        (weight_x0, in_x0),
        (weight_snr, in_x0),
        (weight_eps, in_eps),
        (weight_expm1, in_eps),
        (weight_score, in_score),
    ]:
        assert torch.allclose(weight(t, s) * error, kl, rtol=1e-9), weight.__name__
    assert torch.allclose(mean_gap(p.mean, q.mean, posterior_variance(t, s)), kl, rtol=1e-9)


@scalings
def test_the_clean_end_is_exact(scaling):
    t, s = scaling(1.3), scaling(math.inf)
    x0, x_t = normal(2, 4, 3)
    assert posterior_variance(t, s) == 0.0
    assert torch.equal(mean_from_x0(x_t, x0, t, s), x0 * s.alpha)
    assert step_variance(t, s) == t.sigma**2
    assert variance(t, s, 0.0) == variance(t, s, 0.3) == 0.0
    assert variance(t, s, 1.0) == t.sigma**2


def test_pure_noise_is_legal_too():
    t, s = VP(-math.inf), VP(0.4)
    x0, x_t = normal(2, 4, 3)
    assert torch.equal(mean_from_x0(x_t, x0, t, s), s.alpha * x0)
    assert posterior_variance(t, s) == s.sigma**2


@scalings
@levels
def test_the_variance_goes_from_small_to_large_geometrically(scaling, lams):
    t, s = scaling(lams[0]), scaling(lams[1])
    small, large = posterior_variance(t, s), step_variance(t, s)
    for mix in (0.0, 0.31, 1.0):
        wanted = math.exp(mix * math.log(large) + (1 - mix) * math.log(small))
        assert variance(t, s, mix) == pytest.approx(wanted, rel=1e-12)


def test_small_is_right_for_a_point_and_large_for_unit_gaussian_data():
    """The two choices of DDPM are the two extremes of the true Var[x_s | x_t] (Ho et al. 2020)."""
    t, s = VP(-0.6), VP(1.1)

    def true_variance(data_var):
        var_s = s.alpha**2 * data_var + s.sigma**2
        cov = step_signal(t, s) * var_s
        return var_s - cov**2 / (t.alpha**2 * data_var + t.sigma**2)

    assert variance(t, s, 0.0) == pytest.approx(true_variance(0.0), rel=1e-12)
    assert variance(t, s, 1.0) == pytest.approx(true_variance(1.0), rel=1e-12)


def test_levels_of_tensors_say_what_floats_say():
    lam_t, lam_s = torch.tensor([[-2.0, 0.3, 4.0], [-1.5, 3.0, 9.0]], dtype=torch.float64)
    x0, x_t = normal(2, 3, 1, 2, 2)
    many = posterior(x_t, x0, VP(lam_t), VP(lam_s))
    for i in range(3):
        one = posterior(x_t[i : i + 1], x0[i : i + 1], VP(lam_t[i].item()), VP(lam_s[i].item()))
        assert torch.allclose(many.mean[i], one.mean[0], atol=1e-14)
        assert many.log_std[i].item() == pytest.approx(one.log_std.item(), abs=1e-13)
    assert many.log_prob(x0).shape == (3,)
    assert isinstance(many, Normal)


def test_luos_chain_is_ours():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    lams = chain_lams(1.0 - betas)
    assert lams[0] == math.inf
    assert lams[1:].tolist() == pytest.approx(Tabulated.ddpm(1000).lams, rel=1e-10)
    t, s = VP(lams[400].item()), VP(lams[399].item())
    assert step_variance(t, s) == pytest.approx(betas[399].item(), rel=1e-9)
    assert step_signal(t, s) ** 2 == pytest.approx(1 - betas[399].item(), rel=1e-12)
    assert snr(t) == pytest.approx(math.exp(t.lam), rel=1e-12)
