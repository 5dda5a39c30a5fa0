"""The oracles against brute force: quadrature, autograd and Bayes' rule written out."""

import math

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.oracle import Gaussian, Mixture, empirical
from marginals.scaling import FLOW, SUB_VP, VE, VP, UnitVariance

SCALINGS = {"vp": VP, "ve": VE, "flow": FLOW, "sub_vp": SUB_VP, "edm": UnitVariance(0.5)}
each_scaling = pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
GRID = torch.linspace(-14.0, 14.0, 56_001, dtype=torch.float64)


def normal(x, mean, std):
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2.0 * math.pi))


def line(scaling=VP):
    """Three components on a line, two classes, unequal weights and widths."""
    return Mixture(
        torch.tensor([[-2.0], [0.5], [3.0]]),
        [0.4, 0.7, 0.2],
        torch.tensor([1.0, 2.0, 5.0]),
        torch.tensor([0, 1, 0]),
        scaling,
    )


def density(cond=-1):
    """The clean density of ``line`` on GRID, from its definition."""
    parts = zip([-2.0, 0.5, 3.0], [0.4, 0.7, 0.2], [1.0, 2.0, 5.0], [0, 1, 0])
    used = [(m, s, w) for m, s, w, y in parts if cond in (-1, y)]
    return sum(w * normal(GRID, m, s) for m, s, w in used) / sum(w for _, _, w in used)


def by_quadrature(scaling, x, lam, cond=-1):
    """log q(x), E[x0|x], Var[x0|x] as integrals over x0."""
    level = scaling(lam)
    weight = density(cond) * normal(x, level.alpha * GRID, level.sigma)
    mass = torch.trapezoid(weight, GRID)
    mean = torch.trapezoid(weight * GRID, GRID) / mass
    var = torch.trapezoid(weight * (GRID - mean) ** 2, GRID) / mass
    return mass.log(), mean, var


@each_scaling
@pytest.mark.parametrize("lam", [-7.0, -1.0, 1.5, 6.0])
@pytest.mark.parametrize("cond", [-1, 0, 1])
def test_mixture_is_the_integral_over_x0(scaling, lam, cond):
    oracle, level = line(scaling), scaling(lam)
    for y in (-2.2, 0.3, 1.9):
        x = torch.tensor([[level.alpha * y + 0.7 * level.sigma]]).double()
        label = torch.tensor([cond])
        log_q, mean, var = by_quadrature(scaling, x[0, 0], lam, cond)
        estimate = oracle(x, lam, label)
        assert estimate.x0.item() == pytest.approx(mean.item(), abs=1e-9)
        assert estimate.var.item() == pytest.approx(var.item(), abs=1e-9)
        assert oracle.log_prob(x, lam, label).item() == pytest.approx(log_q.item(), abs=1e-9)


def several_mixture(scaling=VP):
    generator = torch.Generator().manual_seed(5)
    means = 1.5 * torch.randn(5, 2, 3, generator=generator)
    return Mixture(
        means,
        torch.tensor([0.3, 0.5, 0.2, 0.9, 0.4]),
        torch.tensor([1.0, 2.0, 3.0, 1.0, 0.5]),
        torch.tensor([0, 1, 1, 2, 0]),
        scaling,
    )


def full_gaussian(scaling=VP):
    generator = torch.Generator().manual_seed(6)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    mean = torch.tensor([1.0, -0.5, 0.0, 2.0])
    return Gaussian(mean, 0.3 * root @ root.T + 0.05 * torch.eye(4, dtype=torch.float64), scaling)


@each_scaling
@pytest.mark.parametrize("make", [several_mixture, full_gaussian])
@pytest.mark.parametrize("lam", [-4.0, 0.0, 3.0, "each"])
def test_score_is_the_gradient_and_tweedie_holds(scaling, make, lam):
    oracle = make(scaling)
    lam = torch.tensor([-4.0, -1.0, 1.0, 5.0]).double() if lam == "each" else lam
    level = scaling(torch.as_tensor(lam, dtype=torch.float64).reshape(-1, 1))
    shape = (4, 2, 3) if make is several_mixture else (4, 4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (x * (level.alpha**2 + level.sigma**2).sqrt().reshape(-1, *[1] * (x.ndim - 1))).detach()
    (score,) = torch.autograd.grad(oracle.log_prob(x.requires_grad_(), lam).sum(), x)
    estimate = oracle(x.detach(), lam)
    assert torch.allclose(estimate.score, score, rtol=1e-9, atol=1e-9)
    if make is several_mixture:
        assert torch.allclose(oracle.score(x.detach(), lam), score, rtol=1e-10, atol=1e-10)
    alpha, sigma = (v.reshape(-1, *[1] * (x.ndim - 1)) for v in level[1:])
    tweedie = (x.detach() + sigma**2 * score) / alpha  # Luo Eq. 133
    assert torch.allclose(estimate.x0, tweedie, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("make", [several_mixture, full_gaussian])
def test_posterior_variance_is_the_second_tweedie_formula(make):
    """Var[x0 | x] = (σ²/α)·∂E[x0 | x]/∂x on the diagonal: the slope of the denoiser."""
    oracle, lam = make(FLOW), 0.7
    level = FLOW(lam)
    x = torch.randn(1, *((2, 3) if make is several_mixture else (4,)), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: oracle(z, lam).x0, x)
    size = x.numel()
    slope = jacobian.reshape(size, size).diagonal() * level.sigma**2 / level.alpha
    assert torch.allclose(oracle(x, lam).var.flatten(), slope, rtol=1e-9)


def test_gaussian_is_a_one_component_mixture():
    mean, std = torch.tensor([0.5, -1.0, 2.0]), 0.6
    gaussian, mixture = (
        Gaussian(mean, std**2 * torch.eye(3, dtype=torch.float64)),
        Mixture(mean[None], std),
    )
    x = torch.randn(7, 3, dtype=torch.float64)
    for lam in (-3.0, 2.0, torch.linspace(-5, 5, 7).double()):
        a, b = gaussian(x, lam), mixture(x, lam)
        assert torch.allclose(a.x0, b.x0, rtol=1e-12) and torch.allclose(a.var, b.var, rtol=1e-9)
        assert torch.allclose(gaussian.log_prob(x, lam), mixture.log_prob(x, lam), rtol=1e-12)


def test_gaussian_log_prob_against_torch():
    oracle = full_gaussian()
    generator = torch.Generator().manual_seed(6)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    cov = 0.3 * root @ root.T + 0.05 * torch.eye(4, dtype=torch.float64)
    mean = torch.tensor([1.0, -0.5, 0.0, 2.0]).double()
    x, level = torch.randn(6, 4, dtype=torch.float64), VP(0.9)
    noisy = level.alpha**2 * cov + level.sigma**2 * torch.eye(4, dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(level.alpha * mean, noisy)
    assert torch.allclose(oracle.log_prob(x, 0.9), truth.log_prob(x), rtol=1e-10)
    clean = torch.distributions.MultivariateNormal(mean, cov)
    assert torch.allclose(oracle.log_prob(x), clean.log_prob(x), rtol=1e-9)
    gain = level.alpha * cov @ torch.linalg.inv(noisy)
    wanted = mean + (x - level.alpha * mean) @ gain.T
    assert torch.allclose(oracle(x, 0.9).x0, wanted, rtol=1e-9)
    spread = (cov - level.alpha * gain @ cov).diagonal().expand(6, 4)
    assert torch.allclose(oracle(x, 0.9).var, spread, rtol=1e-9)


@each_scaling
def test_gaussian_flow_solves_the_ode_and_composes(scaling):
    """dx/dλ = −½·(dlog…): check dx/dσ = ε̂ in VE units of the state, by differences."""
    oracle, lam, h = full_gaussian(scaling), 0.6, 1e-4
    x = torch.randn(5, 4, dtype=torch.float64)
    level = scaling(lam)

    def signal_units(to):
        return oracle.flow(x, lam, to) / scaling(to).alpha

    rate = (signal_units(lam + h) - signal_units(lam - h)) / (2 * h)
    slope = -0.5 * math.exp(-0.5 * lam)  # dσ/dλ of VE
    assert torch.allclose(rate, slope * oracle(x, lam).eps, rtol=1e-6, atol=1e-8)
    there = oracle.flow(oracle.flow(x, lam, -2.0), -2.0, lam)
    assert torch.allclose(there, x, rtol=1e-11, atol=1e-11)
    # the flow carries the density of one level to the next: change of variables
    jacobian = torch.autograd.functional.jacobian(lambda z: oracle.flow(z, lam, -2.0), x[:1])
    log_det = torch.linalg.slogdet(jacobian.reshape(4, 4)).logabsdet
    moved = oracle.log_prob(oracle.flow(x[:1], lam, -2.0), -2.0) + log_det
    assert torch.allclose(moved, oracle.log_prob(x[:1], lam), rtol=1e-10)
    assert level.lam == lam


def test_class_posterior_is_bayes_rule():
    """P(y|x) = p(y)·p(x|y)/p(x) at the noise level of x (Luo Eq. 163)."""
    oracle, lam = several_mixture(), 1.1
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    share = torch.tensor([1.5, 5.0, 1.0]).double() / 7.5
    given = torch.stack([oracle.log_prob(x, lam, torch.full((6,), y)) for y in range(3)], 1)
    bayes = share * (given - oracle.log_prob(x, lam).unsqueeze(1)).exp()
    assert torch.allclose(oracle.class_posterior(x, lam), bayes, rtol=1e-10)
    assert torch.allclose(bayes.sum(1), torch.ones(6).double())
    mixed = sum(bayes[:, y, None, None] * oracle(x, lam, torch.full((6,), y)).x0 for y in range(3))
    assert torch.allclose(mixed, oracle(x, lam).x0, rtol=1e-10)


def test_labels_per_picture_and_the_null_label():
    oracle, lam = several_mixture(), 0.2
    x, cond = torch.randn(4, 2, 3, dtype=torch.float64), torch.tensor([0, -1, 2, 1])
    together = oracle(x, lam, cond).x0
    for i in range(4):
        alone = oracle(x[i : i + 1], lam, cond[i : i + 1]).x0[0]
        assert torch.allclose(together[i], alone, rtol=1e-12)
    assert torch.allclose(together[1], oracle(x, lam).x0[1], rtol=1e-12)


def test_infinite_levels():
    oracle, x = several_mixture(), torch.randn(3, 2, 3, dtype=torch.float64)
    assert torch.allclose(oracle(x, math.inf).x0, x)
    assert oracle(x, math.inf).var.abs().max() < 1e-13
    weights = torch.tensor([1.0, 2.0, 3.0, 1.0, 0.5]).double() / 7.5
    prior_mean = (weights @ oracle.means).view(2, 3)
    for lam in (-math.inf, torch.full((3,), -math.inf).double()):
        assert torch.allclose(oracle(x, lam).x0, prior_mean.expand(3, 2, 3))
        assert torch.allclose(oracle.score(x, lam), -x)
    standard = -0.5 * (x.flatten(1) ** 2 + math.log(2 * math.pi)).sum(1)
    assert torch.allclose(oracle.log_prob(x, -math.inf), standard)


def test_empirical_is_a_softmax_over_the_data_and_memorises():
    data = torch.randn(30, 1, 2, 2, generator=torch.Generator().manual_seed(2)).double()
    oracle, lam = empirical(data, labels=torch.arange(30) % 3), 1.0
    level, x = VP(lam), torch.randn(5, 1, 2, 2, dtype=torch.float64)
    square = ((x[:, None] - level.alpha * data) ** 2).flatten(2).sum(-1)
    share = (-0.5 * square / level.sigma**2).softmax(1)
    assert torch.allclose(oracle(x, lam).x0.flatten(1), share @ data.flatten(1), rtol=1e-10)
    near = oracle(data[:4] * VP(12.0).alpha, 12.0).x0
    assert torch.allclose(near, data[:4], atol=1e-10)
    with pytest.raises(MarginalsError, match="density"):
        oracle.log_prob(x)
    only = oracle(x, lam, torch.full((5,), 2)).x0
    kept = (-0.5 * square[:, 2::3] / level.sigma**2).softmax(1)
    assert torch.allclose(only.flatten(1), kept @ data[2::3].flatten(1), rtol=1e-10)


@pytest.mark.parametrize("lam", [0.3, torch.tensor(0.3).double(), "each"])
def test_large_batches_are_cut_up_without_a_trace(monkeypatch, lam):
    oracle, x = several_mixture(), torch.randn(9, 2, 3, dtype=torch.float64)
    lam = torch.linspace(-3, 3, 9).double() if lam == "each" else lam
    wanted = oracle(x, lam)
    monkeypatch.setattr("marginals.oracle._CHUNK", 61)
    cut = oracle(x, lam)
    assert torch.allclose(cut.x0, wanted.x0, rtol=1e-13, atol=1e-14)
    assert torch.allclose(cut.var, wanted.var, rtol=1e-12)


def test_samples_follow_the_density():
    x, which = line().sample(40_000, seed=3)
    counts = torch.bincount(which, minlength=3) / 40_000
    assert torch.allclose(counts, torch.tensor([1, 2, 5]) / 8, atol=4 * (0.25 / 40_000) ** 0.5)
    for k, (mean, std) in enumerate([(-2.0, 0.4), (0.5, 0.7), (3.0, 0.2)]):
        part = x[which == k]
        error = std / len(part) ** 0.5
        assert abs(part.mean() - mean) < 4 * error and abs(part.std() - std) < 4 * error
    oracle = full_gaussian()
    z = oracle.sample(40_000, seed=1)
    error = oracle.variances.max().item() / 200
    cov = oracle.basis @ oracle.variances.diag() @ oracle.basis.T
    assert (z.mean(0) - oracle.mean).abs().max() < 4 * oracle.variances.max() ** 0.5 / 200
    assert (z.T.cov() - cov).abs().max() < 6 * error
    assert not torch.equal(line().sample(5, 0)[0], line().sample(5, 1)[0])
    assert several_mixture().sample(3)[0].shape == (3, 2, 3)


def test_estimates_come_back_in_the_precision_of_x():
    x = torch.randn(3, 2, 3)
    estimate = several_mixture()(x, torch.zeros(3, dtype=torch.float64))
    assert estimate.x0.dtype == estimate.var.dtype == torch.float32
    assert full_gaussian()(torch.randn(3, 4), 0.0).x0.dtype == torch.float32


def test_a_gaussian_on_a_plane_is_legal():
    """Rank-deficient covariances have eigenvalues that round below zero."""
    direction = torch.tensor([[1.0, 2.0, 3.0], [0.3, -1.0, 0.7]]).double()
    for rows in (direction[:1], direction):
        oracle = Gaussian(torch.zeros(3), rows.T @ rows)
        assert torch.isfinite(oracle(torch.randn(2, 3), 1.0).x0).all()


REFUSED = {
    "nan": lambda: Mixture(torch.tensor([[math.nan], [0.0]]), 1.0),
    "nan std": lambda: Mixture(torch.zeros(2, 1), [1.0, math.nan]),
    "infinite mean": lambda: Mixture(torch.tensor([[math.inf]]), 1.0),
    "std": lambda: Mixture(torch.zeros(1, 1), -1.0),
    "weight": lambda: Mixture(torch.zeros(2, 1), 1.0, torch.tensor([1.0, -3.0])),
    "no weight": lambda: Mixture(torch.zeros(2, 1), 1.0, torch.zeros(2)),
    "cov": lambda: Gaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, -1.0]))),
    "no labels": lambda: Mixture(torch.zeros(1, 1), 1.0)(
        torch.zeros(1, 1), 0.0, torch.zeros(1).long()
    ),
    "no classes": lambda: Mixture(torch.zeros(1, 1), 1.0).class_posterior(torch.zeros(1, 1), 0.0),
    "unknown class": lambda: line()(torch.zeros(1, 1), 0.0, torch.tensor([7])),
    "one of them": lambda: line()(torch.zeros(2, 1), 0.0, torch.tensor([1, 7])),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_impossible_oracles_are_refused(make):
    with pytest.raises(MarginalsError):
        make()
