"""Networks and oracles as denoisers: units, labels and preconditioning leave x̂0 alone."""

import math

import pytest
import torch
from torch import nn

from marginals.denoiser import Estimate, Net, Rescaled
from marginals.errors import MarginalsError
from marginals.oracle import Mixture
from marginals.predict import EPS, VELOCITY, X0, V, VPrediction
from marginals.scaling import FLOW, SUB_VP, VE, VP, UnitVariance, units
from marginals.schedule import Cosine, LogLinear, Tabulated

SCALINGS = [VP, VE, FLOW, SUB_VP]


class Recorder(nn.Module):
    """A small fixed function of everything it is told; remembers what that was."""

    def forward(self, x, t, cond=None):
        self.x, self.t, self.cond = x, t, cond
        shift = 0.0 if cond is None else cond.to(x.dtype).reshape(-1, 1)
        return torch.tanh(1.7 * x + t.reshape(-1, 1)) + 0.3 * x.flip(-1) + 0.1 * shift


def noisy(lam, scaling, dtype=torch.float64):
    """The same picture and noise at level λ, in any units."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    level = scaling(torch.as_tensor(lam, dtype=torch.float64))
    alpha, sigma = (v.reshape(-1, 1) for v in level[1:])
    return (alpha * x0 + sigma * eps).to(dtype)


LAMS = [-6.0, 0.4, 7.0, torch.tensor([-6.0, -1.0, 2.0, 7.0], dtype=torch.float64)]


@pytest.mark.parametrize("prediction", [X0, EPS, V, VPrediction(0.5), VELOCITY])
@pytest.mark.parametrize("lam", LAMS, ids=str)
def test_a_net_says_the_same_picture_in_every_scaling(prediction, lam):
    body, seen = Recorder(), []
    for scaling in SCALINGS:
        net = Net(body, prediction=prediction, scaling=scaling, input_scaling=VP, label=Cosine())
        estimate = net(noisy(lam, scaling), lam)
        seen.append((estimate.x0, body.x, body.t))
        assert estimate.scaling == net.scaling == scaling
    for x0, x, t in seen[1:]:
        assert torch.allclose(x0, seen[0][0], rtol=1e-10, atol=1e-10)
        assert torch.allclose(x, seen[0][1], rtol=1e-12, atol=0)
        assert torch.equal(t, seen[0][2])


def test_a_net_in_single_precision():
    lam = torch.tensor([-3.0, -1.0, 2.0, 4.0], dtype=torch.float64)
    body = Recorder()
    wanted = Net(body, prediction=V)(noisy(lam, VP), lam).x0
    for scaling in SCALINGS:
        net = Net(body, prediction=V, scaling=scaling, input_scaling=VP)
        estimate = net(noisy(lam, scaling, torch.float32), lam)
        assert body.x.dtype == body.t.dtype == estimate.x0.dtype == torch.float32
        assert torch.allclose(estimate.x0.double(), wanted, rtol=1e-5, atol=1e-5)


def test_input_units_are_edms_preconditioning():
    """The backbone sees c_in·x with unit variance: c_in = 1/√(σ² + σ_d²) (Karras et al. 2022)."""
    body, x = Recorder(), noisy(1.0, VE)
    sigma = math.exp(-0.5)
    Net(body, prediction=VPrediction(0.5), scaling=VE, input_scaling=UnitVariance(0.5))(x, 1.0)
    assert torch.allclose(body.x, x / math.sqrt(sigma**2 + 0.25), rtol=1e-12)


def test_the_label_is_the_schedules_time_and_stays_within_zero_and_one():
    body, x = Recorder(), noisy(0.0, VP)
    chain = Tabulated.ddpm(10, 1e-3, 0.5)
    Net(body, label=chain)(x, chain.lams[6])
    assert torch.allclose(body.t, torch.full((4,), 0.7, dtype=torch.float64))
    lam = x.new_tensor([chain.lams[i] for i in (0, 1, 4, 9)])
    Net(body, label=chain)(x, lam)
    assert torch.allclose(body.t, x.new_tensor([0.1, 0.2, 0.5, 1.0]))
    Net(body)(x, 5.0)
    assert body.t.tolist() == [0.375] * 4  # the default label: straight from λ = 20 to −20
    for label in (LogLinear(), chain, Cosine()):
        for lam, t in ((math.inf, 0.0), (-math.inf, 1.0)):
            for told in (lam, torch.full((4,), lam, dtype=torch.float64)):
                out = Net(body, label=label)(x, told).x0
                assert body.t.tolist() == [t] * 4 and bool(out.isfinite().all())


def test_labels_of_pictures_reach_the_backbone_only_when_given():
    body, x = Recorder(), noisy(0.0, VP)
    net, cond = Net(body), torch.tensor([0, 1, -1, 2])
    with_cond, without = net(x, 0.0, cond).x0, net(x, 0.0).x0
    assert not torch.allclose(with_cond[1], without[1]) and torch.allclose(with_cond[0], without[0])
    net(x, 0.0, cond)
    assert torch.equal(body.cond, cond)

    class TwoArguments(nn.Module):
        def forward(self, x, t):
            return x * t.reshape(-1, 1)

    assert Net(TwoArguments(), prediction=X0, label=LogLinear(1.0, -1.0))(x, 0.0).x0.allclose(x / 2)


def test_default_input_units_are_the_nets_own():
    assert Net(nn.Identity(), scaling=FLOW).input_scaling == FLOW


@pytest.mark.parametrize("lam", LAMS, ids=str)
def test_rescaled_oracle_equals_the_oracle_built_in_those_units(lam):
    means = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]])
    base = Mixture(means, 0.3, scaling=VP)
    for scaling in SCALINGS:
        x = noisy(lam, scaling)
        other, own = Rescaled(base, scaling)(x, lam), Mixture(means, 0.3, scaling=scaling)(x, lam)
        assert other.scaling == scaling and other.var is not None and own.var is not None
        for a, b in ((other.x0, own.x0), (other.eps, own.eps), (other.var, own.var)):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
        assert torch.allclose(other.score, own.score, rtol=1e-9, atol=1e-9)
        lams = torch.as_tensor(lam, dtype=torch.float64)
        factor = units(lams, scaling, VP).reshape(-1, 1)
        assert torch.allclose(other.score, base(x * factor, lam).score * factor, rtol=1e-9)


def test_eps_prediction_at_zero_signal_is_refused_with_a_remedy():
    x = noisy(0.0, VP)
    net = Net(Recorder(), prediction=EPS, label=Cosine())
    with pytest.raises(MarginalsError, match="v-prediction"):
        _ = net(x, -math.inf).x0
    assert torch.isfinite(Net(Recorder(), prediction=V, label=Cosine())(x, -math.inf).x0).all()


def test_estimate_reads_its_own_prediction_without_touching_it():
    out = torch.randn(2, 3)
    assert Estimate(torch.randn(2, 3), 0.3, VP, out, V).v is out
    assert Estimate(torch.randn(2, 3), math.inf, VP, out, X0).x0 is out
