"""The theorems that make one family of VAE, hierarchical VAE and diffusion, on exact models.

Nothing here is sampled unless it says so. Linear-Gaussian ladders are averaged over a cubature
whose points reproduce every quadratic in the noise, finite ones over all their paths: what is
compared are expectations, to the last digits of float64.
"""

import itertools
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from marginals.decoders import Categorical, GaussianDecoder
from marginals.gaussian import Normal
from marginals.ladder import Ladder


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Draws:
    """Stands in for the ladder's noise: column blocks of ``points``, one block per draw."""

    def __init__(self, points: Tensor) -> None:
        self.points, self.at = points, 0

    def __call__(self, like: Tensor, generator: object = None) -> Tensor:
        start, self.at = self.at, self.at + like[0].numel()
        block = self.points[:, start : self.at].reshape(-1, *like.shape[1:])
        self.at %= self.points.shape[1]
        return block


def cubature(dims: int) -> Tensor:
    """2·dims points ±√dims·e_i: under equal weights, E f(ε) exactly for f of degree 3 or less."""
    points = math.sqrt(dims) * torch.eye(dims, dtype=torch.float64)
    return torch.cat([points, -points])


# ---- linear-Gaussian ladders -------------------------------------------------------------------


class LinearRung:
    """p(z | above) and q(z | evidence, above) with means linear in what they are given."""

    def __init__(self, dims: int, above: int | None, evidence: int, seen: int | None, seed: int):
        self.p_in = None if above is None else randn(dims, above, seed=seed)
        self.p_mean, self.p_log_std = (
            randn(1, dims, seed=seed + 1),
            0.3 * randn(dims, seed=seed + 2),
        )
        self.q_in = 0.4 * randn(dims, evidence, seed=seed + 3)
        self.q_above = None if seen is None else 0.5 * randn(dims, seen, seed=seed + 4)
        self.q_mean = 0.5 * randn(1, dims, seed=seed + 5)
        self.q_log_std = 0.3 * randn(dims, seed=seed + 6) - 0.4
        self.q_params = [self.q_in, self.q_mean, self.q_log_std]
        self.q_params += [] if self.q_above is None else [self.q_above]
        self.p_params = [self.p_mean, self.p_log_std] + ([] if above is None else [self.p_in])
        for value in [*self.q_params, *self.p_params]:
            value.requires_grad_()

    def prior(self, above: Tensor | None) -> Normal:
        mean = (
            self.p_mean if above is None or self.p_in is None else above @ self.p_in.T + self.p_mean
        )
        return Normal(mean, self.p_log_std)

    def posterior(self, evidence: Tensor, above: Tensor | None) -> Normal:
        mean = evidence @ self.q_in.T + self.q_mean
        if above is not None and self.q_above is not None:
            mean = mean + above @ self.q_above.T
        return Normal(mean, self.q_log_std)

    def carry(self, z: Tensor, above: Tensor | None) -> Tensor:
        return z


class Gauss(NamedTuple):
    """A Gaussian with full covariance."""

    mean: Tensor
    cov: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.distributions.MultivariateNormal(self.mean, self.cov).log_prob(x)

    def kl(self, other: "Gauss") -> Tensor:
        p = torch.distributions.MultivariateNormal(self.mean, self.cov)
        q = torch.distributions.MultivariateNormal(other.mean, other.cov)
        return torch.distributions.kl_divergence(p, q)


def markov(steps: list[tuple[Tensor | None, Tensor, Tensor]]) -> Gauss:
    """The joint of v_1, v_2, ..., v_i ~ N(matrix·v_(i−1) + offset, exp(log_std)²)."""
    total = sum(len(log_std) for _, _, log_std in steps)
    means, gains, at = [], [], 0
    for matrix, offset, log_std in steps:
        size = len(log_std)
        own = torch.eye(total, dtype=torch.float64)[at : at + size] * log_std.exp()[:, None]
        mean = offset.reshape(-1)
        if matrix is not None:
            mean, own = mean + matrix @ means[-1], own + matrix @ gains[-1]
        means.append(mean)
        gains.append(own)
        at += size
    gain = torch.cat(gains)
    return Gauss(torch.cat(means), gain @ gain.T)


class LinearWorld:
    """A ladder of rungs with ``sizes`` (top first) over data (2,), and the truth about it."""

    def __init__(self, sizes: list[int], posterior: str, seed: int = 10) -> None:
        self.posterior, self.sizes = posterior, sizes
        self.rungs, self.x = [], torch.tensor([0.7, -1.1], dtype=torch.float64)
        for i, size in enumerate(sizes):
            above = sizes[i - 1] if i else None
            below = sizes[i + 1] if i + 1 < len(sizes) else 2
            evidence, seen = (2, above) if posterior == "top_down" else (below, None)
            self.rungs.append(LinearRung(size, above, evidence, seen, seed + 10 * i))
        self.to_x, self.x_mean = randn(2, sizes[-1], seed=seed + 7), randn(2, seed=seed + 8)
        self.x_log_std = torch.tensor([-0.6, -0.3], dtype=torch.float64)
        self.q_params = [value for rung in self.rungs for value in rung.q_params]
        self.p_params = [value for rung in self.rungs for value in rung.p_params]
        self.p_params += [self.to_x.requires_grad_(), self.x_log_std.requires_grad_()]

    @property
    def ladder(self) -> Ladder:
        return Ladder(self.rungs, self._decode, GaussianDecoder(), posterior=self.posterior)

    def _decode(self, z: Tensor) -> Tensor:
        mean = z @ self.to_x.T + self.x_mean
        return torch.cat([mean, self.x_log_std.expand_as(mean)], 1)

    def expect(self, monkeypatch) -> Tensor:
        """x once for every point of the cubature, which is what the ladder draws from now on."""
        points = cubature(sum(self.sizes))
        monkeypatch.setattr("marginals.ladder._randn", Draws(points))
        return self.x.expand(len(points), 2)

    def joint(self) -> Gauss:
        """p(z_T, ..., z_1, x)."""
        steps = [(r.p_in, r.p_mean, r.p_log_std) for r in self.rungs]
        return markov([*steps, (self.to_x, self.x_mean, self.x_log_std)])

    def log_p(self) -> Tensor:
        mean, cov = self.joint()
        return Gauss(mean[-2:], cov[-2:, -2:]).log_prob(self.x)

    def exact(self) -> Gauss:
        """p(z_T, ..., z_1 | x) by conditioning the joint."""
        mean, cov = self.joint()
        gain = cov[:-2, -2:] @ cov[-2:, -2:].inverse()
        return Gauss(mean[:-2] + gain @ (self.x - mean[-2:]), cov[:-2, :-2] - gain @ cov[-2:, :-2])

    def q(self) -> Gauss:
        """q(z_T, ..., z_1 | x), top first."""
        if self.posterior == "top_down":
            offsets = [r.q_in @ self.x + r.q_mean[0] for r in self.rungs]
            return markov(
                [(r.q_above, b, r.q_log_std) for r, b in zip(self.rungs, offsets, strict=True)]
            )
        first, *higher = reversed(self.rungs)
        steps = [(None, first.q_in @ self.x + first.q_mean[0], first.q_log_std)]
        mean, cov = markov([*steps, *((r.q_in, r.q_mean, r.q_log_std) for r in higher)])
        ends = torch.tensor([0, *itertools.accumulate(reversed(self.sizes))])
        blocks = [torch.arange(int(a), int(b)) for a, b in itertools.pairwise(ends)]
        order = torch.cat(blocks[::-1])
        return Gauss(mean[order], cov[order][:, order])


WORLDS = [
    pytest.param(sizes, posterior, id=f"{sizes}-{posterior}")
    for sizes in ([2], [1, 2], [2, 1, 3], [1, 1, 2, 1])
    for posterior in ("top_down", "bottom_up")
]


@pytest.mark.parametrize(("sizes", "posterior"), WORLDS)
class TestLinearGaussian:
    def test_the_gap_of_the_bound_is_the_kl_to_the_exact_posterior(
        self, sizes, posterior, monkeypatch
    ):
        """Luo Eq. 15 for a whole ladder: log p(x) − E[ELBO] = KL( q(z|x) ‖ p(z|x) )."""
        world = LinearWorld(sizes, posterior)
        terms = world.ladder.elbo(world.expect(monkeypatch))
        gap = world.q().kl(world.exact())
        assert gap > 0.1
        assert (world.log_p() - terms.nats.mean()).item() == pytest.approx(gap.item(), abs=1e-11)
        assert terms.matching.shape == (len(terms.nats), len(sizes) - 1)
        assert terms.at.tolist() == list(range(len(sizes) - 1, 0, -1))

    def test_the_gradient_of_the_bound_is_minus_that_of_the_kl(self, sizes, posterior, monkeypatch):
        """With respect to every parameter of q; log p(x) does not depend on them."""
        world = LinearWorld(sizes, posterior)
        x = world.expect(monkeypatch)
        loss = 2.0 * world.ladder.loss(x)  # two dimensions, so this is E[−ELBO]
        assert (loss + world.log_p()).item() > 0.1
        got = torch.autograd.grad(loss, world.q_params)
        wanted = torch.autograd.grad(world.q().kl(world.exact()), world.q_params)
        assert max(float(value.abs().max()) for value in wanted) > 0.1
        for mine, exact in zip(got, wanted, strict=True):
            assert torch.allclose(mine, exact, rtol=1e-9, atol=1e-10)

    def test_the_gradient_for_the_model_is_that_of_log_p_less_that_of_the_kl(
        self, sizes, posterior, monkeypatch
    ):
        """So the model is pulled towards the data, and towards where q is a good posterior."""
        world = LinearWorld(sizes, posterior)
        loss = 2.0 * world.ladder.loss(world.expect(monkeypatch))
        got = torch.autograd.grad(loss, world.p_params)
        gap = world.q().kl(world.exact())
        wanted = torch.autograd.grad(gap - world.log_p(), world.p_params)
        for mine, exact in zip(got, wanted, strict=True):
            assert torch.allclose(mine, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("posterior", ["top_down", "bottom_up"])
def test_more_importance_samples_bring_the_bound_up_to_log_p(posterior):
    """Burda et al. 2016, Theorem 1, sampled; with a q wide enough the gap closes."""
    world, generator = LinearWorld([1, 2], posterior), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for rung in world.rungs:
            rung.q_log_std += 0.7
    copies, log_p = world.x.expand(4000, 2), world.log_p().item()
    means, errors = [], []
    for k in (1, 8, 64, 512):
        nats = world.ladder.log_prob(copies, samples=k, generator=generator).nats
        means.append(nats.mean().item())
        errors.append(nats.std().item() / 4000**0.5)
    elbo = world.log_p() - world.q().kl(world.exact())
    assert means[0] == pytest.approx(elbo.item(), abs=4 * errors[0])
    assert all(high - low > 4 * error for low, high, error in zip(means, means[1:], errors))
    assert log_p - 0.05 * (log_p - means[0]) < means[-1] < log_p + 3 * errors[-1]


def test_one_rung_is_the_vae():
    """Luo Eqs. 19-21: log p(x | z) − ½Σ(μ² + σ² − 1 − log σ²), whichever way q is drawn."""
    world = LinearWorld([2], "top_down")
    rung = world.rungs[0]
    rung.p_mean, rung.p_log_std = torch.zeros(1, 2).double(), torch.zeros(2).double()
    x, noise = randn(5, 2, seed=1), torch.Generator().manual_seed(4)
    mu, log_std = rung.posterior(x, None)
    z = mu + log_std.exp() * torch.randn(5, 2, generator=noise, dtype=torch.float64)
    kl = 0.5 * (mu**2 + (2.0 * log_std).exp() - 1.0 - 2.0 * log_std).sum(1)
    law = torch.distributions.Normal(z @ world.to_x.T + world.x_mean, world.x_log_std.exp())
    reconstruction = law.log_prob(x).sum(1)
    for posterior in ("top_down", "bottom_up"):
        world.posterior = posterior
        terms = world.ladder.elbo(x, generator=noise.manual_seed(4))
        assert torch.allclose(terms.reconstruction, reconstruction, rtol=1e-12)
        assert torch.allclose(terms.prior, kl, rtol=1e-12)
        assert torch.allclose(terms.nats, reconstruction - kl, rtol=1e-12)
        assert terms.matching.shape == (5, 0)


def test_a_linear_vae_with_the_exact_posterior_has_no_gap(monkeypatch):
    """Probabilistic PCA: with orthogonal loadings the posterior is diagonal and q can be it."""
    world = LinearWorld([2], "top_down")
    rung, noise_var = world.rungs[0], 0.36
    rung.p_mean, rung.p_log_std = torch.zeros(1, 2).double(), torch.zeros(2).double()
    rotation = torch.linalg.qr(randn(2, 2, seed=5))[0]
    world.to_x = rotation * torch.tensor([1.7, 0.4], dtype=torch.float64)
    world.x_log_std = torch.full((2,), 0.5 * math.log(noise_var), dtype=torch.float64)
    precision = 1.0 + (world.to_x**2).sum(0) / noise_var
    rung.q_in = (world.to_x / (noise_var * precision)).T
    rung.q_mean = -(rung.q_in @ world.x_mean)[None]
    rung.q_log_std = -0.5 * precision.log()
    terms = world.ladder.elbo(world.expect(monkeypatch))
    assert terms.nats.mean().item() == pytest.approx(world.log_p().item(), abs=1e-12)
    # the importance weights are then all p(x), whatever was drawn
    bound = world.ladder.log_prob(world.expect(monkeypatch), samples=3)
    assert torch.allclose(bound.nats, world.log_p().expand(4), rtol=1e-12)


# ---- finite ladders ----------------------------------------------------------------------------

K = 3  # values of each of the two latents
PATHS = torch.cartesian_prod(torch.arange(K), torch.arange(K))  # (z_2, z_1)


class Table(NamedTuple):
    """A law on 0..K−1 that stands where rungs say a Normal; its noise is the value it draws."""

    mean: Tensor
    log_probs: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        return noise.long()

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_probs.expand(len(z), K).gather(1, z).squeeze(1)

    def kl(self, other: "Table") -> Tensor:
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(1)


def table(*shape, seed):
    return randn(*shape, seed=seed).log_softmax(-1)


class TableRung:
    """Tables indexed by what is above (prior), and by the evidence and what is above (q)."""

    def __init__(self, prior: Tensor, posterior: Tensor) -> None:
        self.tables = prior, posterior

    def prior(self, above):
        rows = self.tables[0] if above is None else self.tables[0][above[:, 0]]
        return Table(torch.zeros(len(rows), 1), rows)

    def posterior(self, evidence, above):
        rows = self.tables[1][evidence[:, 0]]
        if rows.ndim == 3:
            rows = rows[torch.arange(len(rows)), above[:, 0]]
        return Table(torch.zeros(len(rows), 1), rows)

    def carry(self, z, above):
        return z


class FiniteWorld:
    """Two latents of three values over one pixel, in both posteriors; sums over all paths."""

    pixel = 77

    def __init__(self, posterior: str) -> None:
        self.p2, self.p1, self.px = table(1, K, seed=1), table(K, K, seed=2), table(K, 256, seed=3)
        z2, z1 = PATHS.T
        if posterior == "top_down":
            self.q2, self.q1 = table(256, K, seed=4), table(256, K, K, seed=5)
            self.log_q = self.q2[self.pixel, z2] + self.q1[self.pixel, z2, z1]
            self.paths = PATHS
        else:
            self.q2, self.q1 = table(K, K, seed=6), table(256, K, seed=7)
            self.log_q = self.q1[self.pixel, z1] + self.q2[z1, z2]
            self.paths = PATHS.flip(1)
        self.log_joint = self.p2[0, z2] + self.p1[z2, z1] + self.px[z1, self.pixel]
        self.log_p = self.log_joint.logsumexp(0)
        self.ladder = Ladder(
            [TableRung(self.p2, self.q2), TableRung(self.p1, self.q1)],
            lambda z: self.px[z[:, 0]],
            Categorical(),
            evidence=lambda shown, _: ((shown + 1.0) * 128.0).long(),
            posterior=posterior,
        )

    def pixels(self, count: int) -> Tensor:
        return torch.full((count, 1), self.pixel, dtype=torch.uint8)


@pytest.mark.parametrize("posterior", ["top_down", "bottom_up"])
class TestFinite:
    def test_the_gap_of_the_bound_is_the_kl_to_the_exact_posterior(self, posterior, monkeypatch):
        world = FiniteWorld(posterior)
        monkeypatch.setattr("marginals.ladder._randn", Draws(world.paths.double()))
        terms = world.ladder.elbo(world.pixels(K * K))
        elbo = (world.log_q.exp() * terms.nats).sum()
        gap = (world.log_q.exp() * (world.log_q - (world.log_joint - world.log_p))).sum()
        assert gap > 0.1
        assert (world.log_p - elbo).item() == pytest.approx(gap.item(), abs=1e-13)

    def test_importance_weighting_is_its_definition_and_rises_to_log_p(
        self, posterior, monkeypatch
    ):
        """E over all k-tuples of paths, no sampling: k = 1 is the ELBO, and every k is better."""
        world, bounds = FiniteWorld(posterior), []
        for k in (1, 2, 3, 4):
            tuples = torch.tensor([*itertools.product(range(K * K), repeat=k)])
            draws = world.paths[tuples].flatten(1).double()
            monkeypatch.setattr("marginals.ladder._randn", Draws(draws))
            nats = world.ladder.log_prob(world.pixels(len(tuples)), samples=k).nats
            log_q = world.log_q[tuples].sum(1)
            bounds.append((log_q.exp() * nats).sum().item())
            weights = (world.log_joint - world.log_q)[tuples]
            assert torch.allclose(nats, weights.exp().mean(1).log(), rtol=1e-12)
        elbo = (world.log_q.exp() * (world.log_joint - world.log_q)).sum().item()
        assert bounds[0] == pytest.approx(elbo, abs=1e-13)
        assert bounds == sorted(bounds) and bounds[-1] < world.log_p.item()
        gaps = [world.log_p.item() - bound for bound in bounds]
        assert gaps[3] < 0.6 * gaps[0]
