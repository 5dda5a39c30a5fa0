"""Classifier-free guidance on a labelled mixture, where the classifier is known exactly."""

import math

import pytest
import torch

from marginals.denoiser import Net, Rescaled
from marginals.guidance import Guided
from marginals.oracle import Mixture
from marginals.predict import EPS, SCORE, VELOCITY, X0, V
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.solvers import dpmpp_2m

ORACLE = Mixture(
    torch.tensor([[-1.0, 0.5], [1.2, 0.0], [0.3, -1.5]]),
    [0.5, 0.4, 0.6],
    torch.tensor([1.0, 2.0, 1.5]),
    labels=torch.tensor([0, 1, 1]),
)
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
COND = torch.tensor([0, 1, 1, 0, 1])
LAMS = [-3.0, 0.4, 4.0, torch.tensor([-3.0, -1.0, 0.0, 2.0, 4.0], dtype=torch.float64)]


@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
@pytest.mark.parametrize("lam", LAMS, ids=str)
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0, 7.5])
def test_it_is_the_score_plus_the_classifiers_gradient(scaling, lam, weight):
    """∇ log p(x) + γ·∇ log p(y | x) with the exact classifier at that level (Luo Eqs. 166, 170)."""
    oracle = Rescaled(ORACLE, scaling)
    own = Mixture(
        ORACLE.means, ORACLE.std, ORACLE.log_weights.exp(), ORACLE.labels, scaling=scaling
    )
    x = X.clone().requires_grad_()
    chosen = own.class_posterior(x, lam).gather(1, COND[:, None])
    (gradient,) = torch.autograd.grad(chosen.log().sum(), x)
    wanted = own(X, lam).score + weight * gradient
    got = Guided(oracle, weight)(X, lam, COND)
    assert torch.allclose(got.score, wanted, rtol=1e-9, atol=1e-10)
    assert got.scaling == Guided(oracle, weight).scaling == scaling


@pytest.mark.parametrize("lam", LAMS, ids=str)
def test_the_mixture_is_the_same_for_every_prediction(lam):
    conditional, plain = ORACLE(X, lam, COND), ORACLE(X, lam)
    got = Guided(ORACLE, 3.0)(X, lam, COND)
    for prediction in (X0, EPS, V, SCORE, VELOCITY):
        wanted = 3.0 * conditional.read(prediction) - 2.0 * plain.read(prediction)
        assert torch.allclose(got.read(prediction), wanted, rtol=1e-10, atol=1e-11)

    class Body(torch.nn.Module):
        def forward(self, x, t, cond):
            shift = cond.to(x.dtype)[:, None]
            return torch.tanh(x + shift) + t[:, None]

    # the same estimates, spoken as ε, v or velocity, are guided alike
    for prediction in (EPS, V, VELOCITY):
        net = Net(Body(), prediction=prediction)
        cond, null = net(X, lam, COND), net(X, lam, torch.full_like(COND, -1))
        got = Guided(net, -1.5)(X, lam, COND)
        assert torch.allclose(got.x0, -1.5 * cond.x0 + 2.5 * null.x0, rtol=1e-9, atol=1e-10)


def test_weight_one_is_the_plain_conditional_model_bit_for_bit():
    lams = [-5.0, -1.0, 2.0, math.inf]
    plain = sample(ORACLE, X, lams, dpmpp_2m(), cond=COND).x
    assert torch.equal(sample(Guided(ORACLE, 1.0), X, lams, dpmpp_2m(), cond=COND).x, plain)
    assert Guided(ORACLE, 1.0)(X, 0.0, COND).var is not None


def test_without_a_label_there_is_nothing_to_guide():
    got = Guided(ORACLE, 4.0)(X, 0.5)
    assert torch.equal(got.x0, ORACLE(X, 0.5).x0)
    null = torch.tensor([0, -1, 1, -1, 0])
    mixed = Guided(ORACLE, 4.0)(X, 0.5, null).x0
    unlabelled = null < 0
    assert torch.allclose(mixed[unlabelled], ORACLE(X, 0.5).x0[unlabelled], rtol=1e-12)
    assert not torch.allclose(mixed[~unlabelled], ORACLE(X, 0.5).x0[~unlabelled])


def test_both_halves_run_as_one_evaluation():
    seen = []

    class Watched:
        scaling = VP

        def __call__(self, x, lam, cond=None):
            seen.append((len(x), cond.tolist()))
            return ORACLE(x, lam, cond)

    result = sample(Guided(Watched(), 2.0), X, [-5.0, 0.0, math.inf], dpmpp_2m(), cond=COND)
    assert result.nfe == len(seen) == 2
    assert seen[0] == (10, [*COND.tolist(), -1, -1, -1, -1, -1])


def test_a_mix_of_step_variances_is_that_of_the_strong_side():
    class Twice(torch.nn.Module):
        def forward(self, x, t, cond):
            return torch.cat([x, x + cond[:, None].to(x)], 1)

    net = Net(Twice(), prediction=EPS)
    wanted = net(X, 0.3, COND).mix
    got = Guided(net, 3.0)(X, 0.3, COND).mix
    assert wanted is not None and got is not None and torch.equal(got, wanted)
