"""Levels by importance, the Gaussian's reference, the I-MMSE reading, and error bars that stop."""

import math

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.gaussian import Ends, Prior
from marginals.likelihood import elbo, elbo_until, immse
from marginals.oracle import Mixture
from marginals.proposal import Proposal, Reference, learn

MEANS = torch.tensor([[-0.6, 0.4], [0.5, -0.3], [0.2, 0.7]])
ENDS = Ends(-14.0, 14.0, Prior(0.15, 0.55))


def mixture() -> Mixture:
    return Mixture(MEANS, [0.05, 0.04, 0.06], torch.tensor([1.0, 2.0, 1.0]))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def learned(**options) -> Proposal:
    pilot = mixture().sample(64, seed=9)[0]
    return learn(mixture(), pilot, ENDS, generator=generator(9), **options)


def test_quantiles_and_densities_belong_together():
    proposal = Proposal((-2.0, 0.0, 1.0, 5.0), (0.2, 0.7, 0.1))
    u = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)[:-1]
    lam, density = proposal.sample(u)
    assert lam[0] == -2.0 and lam.max() < 5.0 and bool((lam.diff() > 0).all())
    assert lam[400].item() == pytest.approx(0.0) and lam[1800].item() == pytest.approx(1.0)
    slope = u.diff() / lam.diff()
    same = density[1:] == density[:-1]
    assert torch.allclose(slope[same], density[1:][same], rtol=1e-6)
    # Σ f/p over spread-out u is ∫ f
    lam, density = proposal.sample(u + 0.5 / 2000)
    assert (lam.square() / density).mean().item() == pytest.approx((125 + 8) / 3, rel=2e-3)


@pytest.mark.parametrize("std", [0.4, 1.3])
def test_the_reference_is_the_error_of_a_gaussians_denoiser(std):
    prior = Prior(0.2, std)
    oracle = Mixture(torch.full((1, 3), 0.2), std)
    x = torch.tensor([[0.5, -1.0, 0.3]], dtype=torch.float64)
    reference = Reference.of(x, prior)
    eps = torch.randn(200_000, 3, generator=generator(), dtype=torch.float64)
    for lam in (-3.0, 0.5, 4.0):
        level = oracle.scaling(lam)
        error = oracle(level.alpha * x + level.sigma * eps, lam).eps - eps
        wanted = error.square().sum(1)
        found = reference.error(torch.tensor([lam])).item()
        assert found == pytest.approx(
            wanted.mean().item(), abs=5 * wanted.std().item() / 200_000**0.5
        )
    lams = torch.linspace(-30.0, 20.0, 20_001, dtype=torch.float64)
    curve = torch.stack([reference.error(lam.unsqueeze(0)) for lam in lams]).squeeze()
    whole = torch.trapezoid(curve, lams).item()
    assert reference.integral(-30.0, 20.0).item() == pytest.approx(whole, rel=1e-6)


def test_data_without_spread_have_no_reference():
    reference = Reference.of(torch.ones(2, 3), Prior(1.0, 0.0))
    assert torch.equal(reference.integral(-5.0, 9.0), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(reference.error(torch.tensor([3.0, 4.0])), torch.zeros(2).double())


@pytest.mark.parametrize("route", [elbo, immse])
def test_learned_levels_keep_the_mean_and_lower_the_noise(route):
    x = mixture().sample(1, seed=2)[0].expand(3000, 2)
    truth = mixture().log_prob(x[:1]).item()
    options = {"samples": 12, "generator": generator(1)}
    plain = route(mixture(), x, ENDS, **options).nats
    better = route(mixture(), x, ENDS, proposal=learned(), **options).nats
    for nats in (plain, better):
        assert nats.mean().item() == pytest.approx(
            truth, abs=4 * nats.std().item() / 3000**0.5 + 1e-3
        )
    assert better.std() < 0.8 * plain.std()


def test_immse_needs_no_far_ends():
    """Beyond the ends the Gaussian's denoiser stands in; the ELBO's own ends cost nats there."""
    x, near = mixture().sample(4000, seed=2)[0], Ends(-5.0, 12.0, ENDS.prior)
    truth = mixture().log_prob(x)
    gaps = {
        route: (route(mixture(), x, near, samples=40, generator=generator(1)).nats - truth)
        for route in (immse, elbo)
    }
    for gap, slack in ((gaps[immse], 0.01), (gaps[elbo], 0.05)):
        assert gap.mean().item() == pytest.approx(0.0, abs=4 * gap.std().item() / 4000**0.5 + slack)
    bound = immse(mixture(), x[:5], near, samples=3, generator=generator())
    assert torch.allclose(sum(bound.terms.values()), bound.nats)
    assert (bound.kind, bound.density, bound.nfe) == ("bound", True, 3)


class TestUntil:
    def test_it_stops_at_the_target(self):
        x = mixture().sample(40, seed=2)[0]
        for target in (0.1, 0.03):
            found = elbo_until(mixture(), x, ENDS, target=target, samples=8, generator=generator(3))
            assert 0 < found.noise_bits <= target and found.nfe % 8 == 0
            error = (found.nats - mixture().log_prob(x)).mean().item() / (2 * math.log(2))
            assert abs(error) < 4 * target
            parts = found.reconstruction - found.prior - found.matching.sum(1)
            assert torch.allclose(parts, found.nats)
        loose = elbo_until(mixture(), x, ENDS, target=0.1, samples=8, generator=generator(3))
        assert loose.nfe < found.nfe

    def test_the_error_bar_is_that_of_repetitions(self):
        x = mixture().sample(2, seed=2)[0]
        found = [
            elbo_until(mixture(), x, ENDS, target=1e-9, most=48, samples=4, generator=generator(s))
            for s in range(80)
        ]
        spread = torch.stack([each.nats for each in found]).std(0)
        told = torch.stack([each.noise for each in found]).square().mean(0).sqrt()
        assert torch.allclose(spread, told, rtol=0.3)

    def test_it_gives_up_at_the_most(self):
        x, seen = mixture().sample(3, seed=2)[0], []
        options = {"samples": 4, "most": 25, "tick": lambda *now: seen.append(now)}
        found = elbo_until(mixture(), x, ENDS, target=1e-9, **options)
        assert found.nfe == 24 and found.noise_bits > 1e-9
        assert seen[-1] == (25, 25) and seen[0] == (4, 25)


REFUSED = {
    "shares": lambda: Proposal((0.0, 1.0, 2.0), (1.0, 0.0)),
    "sum": lambda: Proposal((0.0, 1.0), (0.9,)),
    "edges": lambda: Proposal((0.0, 0.0, 1.0), (0.5, 0.5)),
    "other ends": lambda: elbo(
        mixture(), torch.zeros(1, 2), ENDS, proposal=Proposal((0, 1), (1.0,))
    ),
    "pixels": lambda: immse(mixture(), torch.zeros(1, 2, dtype=torch.uint8), ENDS),
    "no spread": lambda: immse(mixture(), torch.zeros(1, 2), Ends(-3.0, 3.0, Prior(0.0, 0.0))),
    "target": lambda: elbo_until(mixture(), torch.zeros(1, 2), ENDS, target=0.0),
    "room": lambda: elbo_until(mixture(), torch.zeros(1, 2), ENDS, target=0.1, most=100),
    "draws": lambda: learned(draws=1),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_impossible_requests_are_refused(make):
    with pytest.raises(MarginalsError):
        make()
