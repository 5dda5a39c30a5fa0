"""Diffusion is a hierarchical VAE: a ladder of diffusion rungs is the discrete diffusion ELBO.

Twice: with the rungs of :mod:`marginals.ancestral`, and with rungs that know nothing of the chain's
formulas, whose fixed posterior is Bayes' rule for two Gaussian factors. The KL is the ladder's own.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from marginals.ancestral import State, diffusion_rungs
from marginals.decoders import Categorical, GaussianDecoder
from marginals.denoiser import Net
from marginals.gaussian import Normal, Prior
from marginals.generative import DataStats
from marginals.ladder import Ladder
from marginals.likelihood import Ends, discrete_elbo
from marginals.nn import MLP
from marginals.noise import item_noise
from marginals.oracle import Mixture
from marginals.pixels import to_float
from marginals.predict import EPS, X0, V
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.solvers import ddpm
from marginals.solvers.grids import grid, uniform_lam

SCALINGS = [VP, VE, FLOW, SUB_VP]
MEANS = torch.tensor([[-0.6, 0.4], [0.5, -0.3], [0.2, 0.7]])


def mixture(scaling=VP):
    return Mixture(MEANS, [0.3, 0.2, 0.4], torch.tensor([1.0, 2.0, 1.0]), scaling=scaling)


class Top:
    """z_T = x at lam_min: q is the forward jump, p the prior."""

    def __init__(self, level, prior):
        self.level, self.law = level, prior

    def prior(self, above):
        mean, var = self.law.moments(self.level)
        mean = torch.full((1, 2), mean, dtype=torch.float64)
        return Normal(mean, torch.tensor(0.5 * math.log(var), dtype=torch.float64))

    def posterior(self, evidence, above):
        log_sigma = torch.tensor(math.log(self.level.sigma), dtype=torch.float64)
        return Normal(self.level.alpha * evidence, log_sigma)

    def carry(self, z, above):
        return z


class Step(Top):
    """x_s given x_t: Bayes' rule from q(x_s | x0)·q(x_t | x_s); p puts x̂0 in the place of x0."""

    def __init__(self, denoiser, t, s):
        self.denoiser, self.t, self.s = denoiser, t, s

    def reverse(self, x_t, x0):
        t, s = self.t, self.s
        keep = t.alpha / s.alpha
        added = t.sigma**2 - (keep * s.sigma) ** 2
        precision = 1.0 / s.sigma**2 + keep**2 / added
        mean = (s.alpha * x0 / s.sigma**2 + keep * x_t / added) / precision
        return Normal(mean, torch.tensor(-0.5 * math.log(precision), dtype=torch.float64))

    def prior(self, above):
        return self.reverse(above, self.denoiser(above, self.t.lam).x0)

    def posterior(self, evidence, above):
        return self.reverse(above, evidence)


class Watched:
    """A rung that remembers what was drawn."""

    def __init__(self, rung):
        self.rung, self.prior, self.posterior = rung, rung.prior, rung.posterior
        self.drawn = None

    def carry(self, z, above):
        self.drawn = z
        return self.rung.carry(z, above)


def ladder_of(denoiser, ends, steps, decoder, build="bayes"):
    """The chain of ``discrete_elbo`` as a ladder, its levels, and the states of its last walk."""
    lams = grid(uniform_lam(ends.lam_min, ends.lam_max), steps, final=False)
    levels = [denoiser.scaling(lam) for lam in lams]
    if build == "bayes":
        pairs = itertools.pairwise(levels)
        rungs = [Top(levels[0], ends.prior), *(Step(denoiser, t, s) for t, s in pairs)]
    else:
        rungs = diffusion_rungs(denoiser, lams, ends.prior)
    rungs = [Watched(rung) for rung in rungs]
    alpha, sigma = levels[-1].alpha, levels[-1].sigma

    def decode(above):
        x = above.x if isinstance(above, State) else above
        if isinstance(decoder, GaussianDecoder):
            return torch.cat([x / alpha, torch.full_like(x, math.log(sigma / alpha))], 1)
        centres = alpha * to_float(torch.arange(256, dtype=torch.uint8), torch.float64)
        return -0.5 * ((x[:, None] - centres[:, None]) / sigma).square().flatten(1)

    def root(n, cond):
        return None if build == "bayes" else State(torch.empty(n, 2, dtype=torch.float64), cond)

    ladder = Ladder(rungs, decode, decoder, root=root)
    return ladder, levels, lambda: [rung.drawn for rung in rungs]


def known_noise(x0, levels, states, std=0.8):
    """What is known to have mean zero in the ladder's estimates, from the ε behind each state.

    ‖ε‖² − D times a factor: at each step the one that is right for Gaussian data of ``std``, and at
    the decoder −½. Also the ε themselves.
    """
    noises = [(z - at.alpha * x0) / at.sigma for z, at in zip(states, levels, strict=True)]
    excess = torch.stack([noise.square().sum(1) - 2.0 for noise in noises], 1)
    lams = torch.tensor([at.lam for at in levels], dtype=torch.float64)
    weight = 0.5 * torch.expm1(lams.diff()) * torch.sigmoid(lams[:-1] + 2.0 * math.log(std)) ** 2
    return weight * excess[:, :-1], -0.5 * excess[:, -1], noises


def network(prediction, scaling):
    torch.manual_seed(3)
    net = Net(MLP(2, width=16).double(), prediction=prediction, scaling=scaling)
    for weight in net.parameters():  # an untrained network must not answer zero
        torch.nn.init.normal_(weight, std=0.3)
    return net


DENOISERS = [
    *(pytest.param(lambda s=s: mixture(s), id=f"oracle-{s!r}") for s in SCALINGS),
    *(pytest.param(lambda p=p: network(p, VP), id=repr(p)) for p in (EPS, X0, V)),
    *(pytest.param(lambda s=s: network(V, s), id=f"V-{s!r}") for s in (VE, FLOW, SUB_VP)),
]


@pytest.mark.parametrize("rungs", ["bayes", "core"])
@pytest.mark.parametrize("build", DENOISERS)
@pytest.mark.parametrize("steps", [1, 9])
@pytest.mark.parametrize("whole", [False, True], ids=["density", "whole numbers"])
def test_a_ladder_with_diffusion_rungs_is_the_discrete_diffusion_elbo(
    rungs, build, steps, whole, monkeypatch
):
    """On the same states, every part of Luo Eq. 58 agrees to 1e-12.

    ``discrete_elbo`` estimates two of its terms with less noise, by leaving out what is known to
    have mean zero; that is put back by hand.
    """
    denoiser, ends = build(), Ends(-5.0, 5.0, Prior(0.1, 0.8))
    x = mixture().sample(6, seed=2)[0]
    x = torch.randint(0, 256, x.shape, dtype=torch.uint8) if whole else x
    decoder = Categorical() if whole else GaussianDecoder()
    ladder, levels, states = ladder_of(denoiser, ends, steps, decoder, rungs)
    mine = ladder.elbo(x)
    x0 = to_float(x, torch.float64) if whole else x
    of_steps, of_decoder, noises = known_noise(x0, levels, states())
    draws = iter(noises)
    monkeypatch.setattr("marginals.likelihood._randn", lambda like, _: next(draws))
    theirs = discrete_elbo(denoiser, x, ends, steps=steps, dtype=torch.float64)
    matching = theirs.matching + of_steps
    reconstruction = theirs.reconstruction + (0.0 if whole else of_decoder)
    assert torch.allclose(mine.prior, theirs.prior, rtol=1e-12, atol=1e-12)
    assert torch.allclose(mine.matching, matching, rtol=1e-12, atol=1e-12)
    assert torch.allclose(mine.reconstruction, reconstruction, rtol=1e-12, atol=1e-12)
    assert mine.matching.shape == (6, steps) and float(mine.matching.mean()) > 0.01
    assert mine.density == theirs.density


@pytest.mark.parametrize("rungs", ["bayes", "core"])
@pytest.mark.parametrize("build", DENOISERS)
def test_climbing_down_the_ladder_is_ancestral_sampling(rungs, build):
    """The same pictures from the same seeds, draw for draw, as DDPM's solver on the same levels."""
    denoiser, ends = build(), Ends(-5.0, 5.0, Prior(0.1, 0.8))
    ladder, levels, _ = ladder_of(denoiser, ends, 7, GaussianDecoder(), rungs)
    ladder.data = DataStats((2,))
    mine = ladder.sample(4, seed=11).x
    start = ends.prior.start(item_noise(range(11, 15), (2,), dtype=torch.float64), levels[0])
    lams = [level.lam for level in levels]
    theirs = sample(denoiser, start, lams, ddpm(), seeds=range(11, 15)).x
    assert torch.allclose(mine, theirs / levels[-1].alpha, rtol=1e-9, atol=1e-9)


class TestExactDenoiser:
    """Data N(m, s²) twice over, in expectation: everything is linear, so cubature is exact."""

    m, s = 0.2, 0.7
    ends = Ends(-12.0, 14.0, Prior(0.2, 0.7))

    def loss(self, steps, monkeypatch):
        """E[−ELBO_T] over data and latents, by cubature over both."""
        oracle = Mixture(torch.full((1, 2), self.m, dtype=torch.float64), self.s)
        dims = 2 * (steps + 2)  # x0, and steps + 1 latents
        points = math.sqrt(dims) * torch.eye(dims, dtype=torch.float64)
        points = torch.cat([points, -points])
        draws = iter(points[:, 2:].reshape(len(points), -1, 2).unbind(1))
        monkeypatch.setattr("marginals.ladder._randn", lambda like, _: next(draws))
        ladder = ladder_of(oracle, self.ends, steps, GaussianDecoder())[0]
        return -ladder.elbo(self.m + self.s * points[:, :2]).nats.mean().item()

    def test_the_loss_falls_to_the_entropy_of_the_data_at_rate_one_over_t(self, monkeypatch):
        entropy = math.log(2.0 * math.pi * math.e * self.s**2)
        steps = [64, 128, 256]
        gaps = [self.loss(n, monkeypatch) - entropy for n in steps]
        assert gaps == sorted(gaps, reverse=True) and gaps[-1] > 0.0
        rate = np.polyfit(np.log(steps), np.log(gaps), 1)[0]
        assert rate == pytest.approx(-1.0, abs=0.1)
        # without its 1/T part the loss is the entropy itself
        assert abs(2.0 * gaps[-1] - gaps[-2]) < 0.1 * gaps[-1]

    def test_a_finite_ladder_is_never_better_than_an_infinite_one(self, monkeypatch):
        """E[−ELBO_T] = E[−ELBO_∞] + Σ of what a staircase lies above the curve it sums, for each
        T the same number that quadrature gives."""
        for steps in (1, 2, 5, 33):
            lams = np.linspace(self.ends.lam_min, self.ends.lam_max, steps + 1)
            error = 2.0 * np.exp(lams) * self.s**2 / (1.0 + np.exp(lams) * self.s**2)
            staircase = (0.5 * np.expm1(np.diff(lams)) * error[:-1]).sum()
            top, bottom = (math.log1p(self.s**2 * math.exp(lam)) for lam in (lams[-1], lams[0]))
            noisy = self.s**2 + math.exp(-lams[-1])
            infinite = math.log(2.0 * math.pi * math.e * noisy)
            excess = self.loss(steps, monkeypatch) - infinite
            assert excess > 0.0
            assert excess == pytest.approx(staircase - (top - bottom), rel=1e-8)


def test_with_a_mixture_the_gap_falls_at_rate_one_over_t_too():
    """Sampled: E[log p(x) − ELBO_T] for three modes in the plane, far above its standard error."""
    oracle, ends = mixture(), Ends(-10.0, 10.0, Prior(0.1, 0.8))
    x = oracle.sample(8000, seed=5)[0]
    log_p, gaps = oracle.log_prob(x), []
    steps = [48, 96, 192]
    for n in steps:
        ladder, levels, states = ladder_of(oracle, ends, n, GaussianDecoder())
        nats = ladder.elbo(x, generator=torch.Generator().manual_seed(n)).nats
        of_steps, of_decoder, _ = known_noise(x, levels, states(), std=0.35)
        gap = log_p - (nats + of_steps.sum(1) - of_decoder)
        gaps.append(gap.mean().item())
        assert gaps[-1] > 4.0 * gap.std().item() / 8000**0.5
    rate = np.polyfit(np.log(steps), np.log(gaps), 1)[0]
    assert rate == pytest.approx(-1.0, abs=0.2)
