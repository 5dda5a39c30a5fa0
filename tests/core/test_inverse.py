"""Measurements: operators and their adjoints, and four methods against exact posteriors."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from marginals.adaptive import sample_adaptive
from marginals.denoiser import Rescaled
from marginals.errors import MarginalsError
from marginals.inverse import Average, Blur, Mask, Matrix, conjugate_gradients
from marginals.inverse import Observed as Careful
from marginals.oracle import Gaussian, Mixture
from marginals.sampling import sample
from marginals.scaling import FLOW, VE, VP
from marginals.solvers import dpmpp_2m

D = 5
Observed = partial(Careful, iterations=8, trust=-math.inf)  # for exact denoisers


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


A = randn(2, D, seed=1)
FACTOR = randn(D, D, seed=2)
COV = FACTOR @ FACTOR.T / D + 0.1 * torch.eye(D).double()
MEAN = randn(D, seed=3)
PRIOR = Gaussian(MEAN, COV)
MIXTURE = Mixture(randn(4, D, seed=4), [0.5, 0.6, 0.4, 0.7])
X, Y = randn(3, D, seed=5), randn(3, 2, seed=6)
LAMS = [-4.0, 0.3, 5.0, torch.tensor([-4.0, 0.3, 5.0], dtype=torch.float64)]


def posterior(mean, cov, a, y, std):
    """Mean and covariance of x0 given y = A·x0 + s·n under N(mean, cov)."""
    gain = cov @ a.T @ torch.linalg.inv(a @ cov @ a.T + std**2 * torch.eye(len(a)).double())
    return mean + gain @ (y - a @ mean), cov - gain @ a @ cov


# operators


OPERATORS = [
    Mask(randn(6, 8, seed=7) > 0),
    Mask(randn(3, 2, 6, 8, seed=7) > 0),
    Average(2),
    Blur(0.8),
    Blur(2.5),
    Matrix(randn(7, 96, seed=8), (2, 6, 8)),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_the_adjoint_is_the_adjoint(operator):
    x = randn(3, 2, 6, 8, seed=9)
    image = operator(x)
    y = randn(*image.shape, seed=10)
    left, right = (image * y).flatten(1).sum(1), (x * operator.adjoint(y)).flatten(1).sum(1)
    assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)
    assert torch.allclose(operator(2.0 * x - x.flip(0)), 2.0 * image - operator(x.flip(0)))
    with torch.no_grad():
        assert torch.equal(operator.adjoint(y), operator.adjoint(y))


def test_averages_and_blurs_keep_a_flat_picture_and_masks_hide():
    flat = torch.full((1, 1, 8, 8), 0.3, dtype=torch.float64)
    assert torch.allclose(Average(4)(flat), torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64))
    assert torch.allclose(Blur(1.5)(flat), flat)
    spot = torch.zeros(1, 1, 25, 25, dtype=torch.float64)
    spot[0, 0, 12, 12] = 1.0
    at = torch.arange(25, dtype=torch.float64) - 12
    seen = Blur(2.0)(spot)[0, 0]
    assert seen.sum().item() == pytest.approx(1.0)
    assert (seen * at**2).sum().item() == pytest.approx(4.0, rel=0.05)  # its variance
    assert torch.equal(
        Mask(torch.tensor([True, False]))(torch.ones(1, 2)), torch.tensor([[1.0, 0]])
    )
    with pytest.raises(MarginalsError, match="divides both sides"):
        Average(3)(flat)


def test_conjugate_gradients_solve_and_take_the_smallest_solution():
    b = randn(3, D, seed=11)
    u = conjugate_gradients(lambda v: v @ COV, b, D)
    assert torch.allclose(u @ COV, b, rtol=1e-9, atol=1e-9)
    low = randn(D, 2, seed=12)
    low = low @ low.T  # rank 2; an image of it has a solution of least size
    b = b @ low
    u = conjugate_gradients(lambda v: v @ low, b, 20)  # goes on after it has arrived
    assert torch.allclose(u, b @ torch.linalg.pinv(low), rtol=1e-6, atol=1e-8)
    assert torch.equal(conjugate_gradients(lambda v: -v, b, 3), torch.zeros_like(b))


# one level


@pytest.mark.parametrize("scaling", [VP, VE, FLOW], ids=repr)
@pytest.mark.parametrize("lam", LAMS, ids=str)
@pytest.mark.parametrize("std", [0.0, 0.3])
def test_with_the_exact_covariance_a_gaussian_prior_gives_the_exact_denoiser(scaling, lam, std):
    with torch.no_grad():
        got = Observed(Rescaled(PRIOR, scaling), Matrix(A, (D,)), Y, std)(X, lam)
    for i in range(3):
        level = scaling(lam if isinstance(lam, float) else lam[i].item())
        precision = torch.linalg.inv(COV) + (level.alpha / level.sigma) ** 2 * torch.eye(D).double()
        cov = torch.linalg.inv(precision)
        known = level.alpha / level.sigma**2 * X[i] + torch.linalg.solve(COV, MEAN)
        wanted, _ = posterior(cov @ known, cov, A, Y[i], std)
        assert torch.allclose(got.x0[i], wanted, rtol=1e-8, atol=1e-8)
    assert got.scaling == scaling and not got.x0.requires_grad


@pytest.mark.parametrize("lam", LAMS, ids=str)
def test_for_independent_entries_three_methods_are_one(lam):
    """V = r²·I is then true, whichever of the two it stands for."""
    prior, operator = Gaussian(MEAN, 0.49 * torch.eye(D).double()), Matrix(A, (D,))
    found = [
        Observed(prior, operator, Y, 0.2, method, data_std=0.7)(X, lam).x0
        for method in ("mmps", "pigdm", "ddnm")
    ]
    assert torch.allclose(found[0], found[1], rtol=1e-9, atol=1e-9)
    assert torch.allclose(found[0], found[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lam", LAMS[:3], ids=str)
@pytest.mark.parametrize("method", ["mmps", "pigdm", "dps", "ddnm"])
def test_every_method_is_its_line_of_the_table(lam, method):
    """With V out of the whole Jacobian, and the inverse written out."""
    level = VP(lam)
    got = Observed(MIXTURE, Matrix(A, (D,)), Y, 0.4, method, data_std=0.9)(X, lam).x0
    ratio = 0.81 * level.sigma**2 / (0.81 * level.alpha**2 + level.sigma**2)
    same = ratio * torch.eye(D).double()
    for i in range(3):
        x0 = MIXTURE(X[i : i + 1], lam).x0[0]
        jacobian = torch.autograd.functional.jacobian(lambda x: MIXTURE(x[None], lam).x0[0], X[i])
        exact = level.sigma**2 / level.alpha * jacobian
        first = same if method == "ddnm" else exact
        second = {"mmps": exact, "dps": torch.zeros(D, D).double()}.get(method, same)
        middle = torch.linalg.inv(0.16 * torch.eye(2).double() + A @ second @ A.T)
        wanted = x0 + first @ A.T @ middle @ (Y[i] - A @ x0)
        assert torch.allclose(got[i], wanted, rtol=1e-8, atol=1e-9)


def test_dps_is_the_slope_of_the_likelihood_of_the_clean_estimate():
    x = X.clone().requires_grad_()
    fit = -((Y - MIXTURE(x, 0.5).x0 @ A.T) ** 2).sum() / (2 * 0.3**2)
    (slope,) = torch.autograd.grad(fit, x)
    got = Observed(MIXTURE, Matrix(A, (D,)), Y, 0.3, "dps")(X, 0.5)
    assert torch.allclose(got.score, MIXTURE.score(X, 0.5) + slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["mmps", "pigdm", "dps"])
def test_noisier_than_trust_the_jacobian_is_not_believed(method):
    about = {"operator": Matrix(A, (D,)), "y": Y, "std": 0.3, "data_std": 0.9}
    plain = Observed(MIXTURE, method="ddnm", **about)
    careful, full = (
        Careful(MIXTURE, method=method, **about),
        Observed(MIXTURE, method=method, **about),
    )
    careful = replace(careful, iterations=8)
    for lam in (-3.5, -3.0, 1.0):
        wanted = (plain if lam < -3.0 else full)(X, lam).x0
        assert torch.equal(careful(X, lam).x0, wanted)
    lam = torch.tensor([-3.5, -3.0, 1.0], dtype=torch.float64)
    wanted = torch.stack([careful(X, one).x0[i] for i, one in enumerate(lam.tolist())])
    assert torch.allclose(careful(X, lam).x0, wanted, rtol=1e-9, atol=1e-9)


# walks


def test_a_gaussian_posterior_is_sampled_with_its_exact_mean_and_covariance():
    """The flow of a Gaussian is affine: what it makes of zero and of unit vectors says all."""
    y = Y[:1]
    start = torch.cat([torch.zeros(1, D), torch.eye(D)]).double()
    known = Observed(PRIOR, Matrix(A, (D,)), y, 0.3)
    x = sample_adaptive(known, start, -30.0, 18.0, rtol=1e-9, atol=1e-9).x
    mean, columns = x[0], x[1:] - x[0]
    wanted_mean, wanted_cov = posterior(MEAN, COV, A, y[0], 0.3)
    assert torch.allclose(mean, wanted_mean, atol=2e-6)
    assert torch.allclose(columns.T @ columns, wanted_cov, atol=2e-6)


def test_samples_of_a_mixture_are_nearest_to_the_posterior_with_the_exact_covariance():
    """Blobs along a diagonal, one coordinate measured: what it says of the other one only the
    covariance knows."""
    means = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None].expand(9, 2)
    mixture, std, y = Mixture(means, 0.2), 0.2, torch.tensor([[0.8]], dtype=torch.float64)
    share = (-0.5 * (y - means[:, 0]) ** 2 / (0.04 + std**2)).softmax(1)[0]
    mean = (share * means[:, 1]).sum()
    spread = (0.04 + (share * means[:, 1] ** 2).sum() - mean**2).sqrt()
    operator = Matrix(torch.tensor([[1.0, 0.0]], dtype=torch.float64), (2,))
    lams, start = [*torch.linspace(-9, 9, 25).tolist(), math.inf], randn(400, 2, seed=13)
    errors = {}
    for method in ("mmps", "pigdm", "dps", "ddnm"):
        known = Observed(mixture, operator, y, std, method, iterations=1)
        x = sample(known, start, lams, dpmpp_2m()).x[:, 1]
        errors[method] = ((x.mean() - mean).abs() + (x.std() - spread).abs()).item()
    assert errors["mmps"] < 0.05
    assert errors["mmps"] < 0.5 * min(errors[other] for other in ("pigdm", "dps", "ddnm"))


def test_a_measurement_without_noise_is_met_exactly():
    pictures = Mixture(randn(4, 1, 6, 6, seed=14), 0.4)
    known = Mask(randn(6, 6, seed=15) > 0)
    y = known(randn(2, 1, 6, 6, seed=16))
    x = randn(2, 1, 6, 6, seed=17)
    for method in ("mmps", "pigdm", "ddnm"):
        out = sample(Observed(pictures, known, y, method=method, iterations=20), x,
                     [-8.0, -2.0, 1.0, 4.0, 9.0, math.inf], dpmpp_2m()).x  # fmt: skip
        assert torch.allclose(known(out), y, atol=1e-3), method


def test_what_cannot_be_meant_is_refused():
    operator = Matrix(A, (D,))
    with pytest.raises(MarginalsError, match="dps divides"):
        Observed(PRIOR, operator, Y, 0.0, "dps")
    with pytest.raises(MarginalsError, match="measurements"):
        Observed(PRIOR, operator, Y[:2], 0.1)(X, 0.0)
    for lam in (-math.inf, math.inf):
        with pytest.raises(MarginalsError, match="finite noise levels"):
            Observed(PRIOR, operator, Y, 0.1)(X, lam)
