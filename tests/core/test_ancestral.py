"""DDPM's chain: its bound term by term, its three variances, its samples, its ladder."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

import marginals
from marginals import VE, VP, MarginalsError
from marginals.ancestral import (
    State,
    ancestral,
    chain_elbo,
    diffusion_rungs,
    last_step,
    step_back,
)
from marginals.chain import posterior_variance, step_variance
from marginals.decoders import GaussianDecoder, discretised_gaussian
from marginals.denoiser import Net
from marginals.gaussian import Normal, Prior
from marginals.ladder import Ladder
from marginals.likelihood import Ends, discrete_elbo
from marginals.nn import UNet
from marginals.objective import Objective
from marginals.oracle import Gaussian, Mixture
from marginals.sampling import sample
from marginals.schedule import Tabulated
from marginals.solvers import ddpm, grid, uniform_lam

F64 = torch.float64
LAMS = grid(uniform_lam(-5.0, 6.0), 12, final=False)
KINDS = ["small", "large"]


def mixture(scaling=VP):
    means = torch.tensor([[-0.6, 0.4], [0.5, -0.3], [0.2, 0.7]])
    return Mixture(means, [0.3, 0.2, 0.4], torch.tensor([1.0, 2.0, 1.0]), scaling=scaling)


def speaking(outputs=2):
    """A network that says something about the variance, and is not blank."""
    torch.manual_seed(1)
    net = UNet(1, 4, width=8, mults=(1,), blocks=1, outputs=outputs)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return Net(net.double())


def test_with_small_variance_the_matching_terms_are_those_of_the_snr_form():
    """Eq. 58 by general Gaussian KLs = Eqs. 110, 130; what is known of the noise is put back."""
    x0 = mixture().sample(8, seed=1)[0]
    options = {"generator": None}
    torch.manual_seed(5)
    mine = chain_elbo(mixture(), x0, LAMS, dtype=F64, **options)
    torch.manual_seed(5)
    ends = Ends(LAMS[0], LAMS[-1])
    theirs = discrete_elbo(mixture(), x0, ends, steps=12, dtype=F64, **options)
    torch.manual_seed(5)
    for i, (t, s) in enumerate(itertools.pairwise(LAMS)):
        square = torch.randn(8, 2, dtype=F64).square().sum(1) - 2.0
        known = 0.5 * math.expm1(s - t) * torch.sigmoid(torch.tensor(t, dtype=F64)) ** 2 * square
        assert torch.allclose(mine.matching[:, i], theirs.matching[:, i] + known, rtol=1e-10)
    assert torch.equal(mine.prior, theirs.prior)


@pytest.mark.parametrize("kind", [*KINDS, "learned"])
def test_a_ladder_of_diffusion_rungs_has_the_bound_of_the_chain(kind):
    """The same states through both: the rungs draw x_s from the one above, so a chain is made to
    look at those."""
    net, x0 = speaking(), torch.randn(3, 1, 4, 4, dtype=F64)
    visited = []

    class Watched:
        scaling = VP

        def __call__(self, x, lam, cond=None):
            visited.append((x, lam))
            return net(x, lam, cond)

    levels = [VP(v) for v in LAMS]

    def decode(state):
        end = last_step(net(state.x, LAMS[-1]), levels[-1], levels[-2], kind)
        return torch.cat([end.mean, end.log_std.expand_as(end.mean)], 1)

    rungs = diffusion_rungs(Watched(), LAMS, Prior(), kind)
    ladder = Ladder(
        rungs, decode, GaussianDecoder(), root=lambda n, cond: State(x0.new_empty(n, 1, 4, 4), cond)
    )
    terms = ladder.elbo(x0)
    level = levels[0]
    assert torch.allclose(terms.prior, Prior().kl_from(x0, level), rtol=1e-12)
    for i, (x, lam) in enumerate(visited):
        t, s = VP(lam), levels[i + 1]
        out = net(x, lam)
        gain = t.alpha * s.sigma**2 / (s.alpha * t.sigma**2)
        mean_gap = (s.alpha - gain * t.alpha) * (x0 - out.x0)
        small, large = posterior_variance(t, s), step_variance(t, s)
        mix = (
            out.mix
            if kind == "learned"
            else torch.tensor({"small": 0.0, "large": 1.0}[kind], dtype=F64)
        )
        var = (mix * math.log(large) + (1 - mix) * math.log(small)).exp()
        kl = 0.5 * ((small + mean_gap**2) / var - 1 + var.log() - math.log(small))
        kl = kl.expand_as(x0).flatten(1).sum(1)
        assert torch.allclose(terms.matching[:, i], kl, rtol=1e-9, atol=1e-12)
    assert len(visited) == terms.matching.shape[1] == 12


def test_the_bound_is_a_bound_whatever_the_variance_and_tight_for_the_right_one():
    """Gaussian data of unit variance: "large" is exactly right, whatever the number of steps."""
    oracle = Gaussian(torch.zeros(2), torch.eye(2))
    x = torch.randn(4000, 2, dtype=F64)
    truth = oracle.log_prob(x).mean().item()
    nats = {}
    for kind in KINDS:
        terms = chain_elbo(oracle, x, grid(uniform_lam(-12.0, 9.0), 6, final=False), variance=kind)
        nats[kind] = terms.nats.mean().item()
    inner = nats["large"]
    assert nats["small"] < inner - 0.5
    assert inner < truth + 0.02


@pytest.mark.parametrize("scaling", [VP, VE], ids=["VP", "VE"])
def test_the_bound_has_no_units(scaling):
    x0 = mixture().sample(5)[0]
    torch.manual_seed(0)
    here = chain_elbo(mixture(scaling), x0, LAMS, variance="large")
    torch.manual_seed(0)
    vp = chain_elbo(mixture(), x0, LAMS, variance="small")
    torch.manual_seed(0)
    same = chain_elbo(mixture(scaling), x0, LAMS, variance="small")
    assert torch.allclose(same.nats, vp.nats, rtol=1e-9)
    assert (here.nats != vp.nats).all()


@pytest.mark.parametrize("kind", [*KINDS, "learned"])
def test_ddpms_decoder_gives_probabilities(kind):
    """Over all 256 values of one pixel the masses of the last step sum to one."""
    net = speaking()
    x = torch.randn(1, 1, 4, 4, dtype=F64)
    levels = [VP(6.0), VP(4.0)]
    end = last_step(net(x, 6.0), *levels, kind)
    mean, std = end.mean[..., :1, :1], end.log_std.exp().expand_as(x)[..., :1, :1]
    values = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    mass = discretised_gaussian(values, mean.expand(256, 1, 1, 1), std).exp().sum()
    assert mass.item() == pytest.approx(1.0, abs=1e-9)
    assert std.min() > 0


def test_whole_pixels_are_rated_as_such():
    chain = Tabulated.ddpm(20)
    pixels = torch.randint(0, 256, (3, 1, 4, 4), dtype=torch.uint8)
    terms = chain_elbo(speaking(), pixels, chain.lams[::-1], variance="learned", dtype=F64)
    assert not terms.density and terms.nfe == 20
    assert terms.matching.shape == (3, 19) and (terms.matching > 0).all()
    assert torch.allclose(
        terms.nats, terms.reconstruction - terms.prior - terms.matching.sum(1), rtol=1e-12
    )
    assert (terms.reconstruction < 0).all()


def test_small_ancestral_sampling_is_the_solver_ddpm():
    start = torch.randn(4, 2, dtype=F64)
    walk = sample(mixture(), start, [*LAMS, math.inf], ddpm(), seeds=range(7, 11))
    mine = ancestral(mixture(), start, LAMS, variance="small", seeds=range(7, 11))
    assert torch.allclose(mine.x, walk.x, atol=1e-12)
    assert mine.nfe == walk.nfe


def test_each_variance_is_right_for_its_data():
    """Unit Gaussian data keep their variance with "large"; "small" loses some. A point needs
    none: with "small" it is found exactly."""
    unit = Gaussian(torch.zeros(2), torch.eye(2))
    start, few = torch.randn(8000, 2, dtype=F64), grid(uniform_lam(-9.0, 7.0), 4, final=False)
    spread = {kind: ancestral(unit, start, few, variance=kind).x.var().item() for kind in KINDS}
    assert spread["large"] == pytest.approx(1.0, abs=0.04)
    assert spread["small"] < 0.9


def test_a_step_with_learned_variance_draws_with_it():
    net, x = speaking(), torch.randn(2, 1, 4, 4, dtype=F64)
    law = step_back(net(x, -1.0), VP(2.0), "learned")
    assert isinstance(law, Normal) and law.log_std.shape == x.shape
    low, high = (step_back(net(x, -1.0), VP(2.0), kind).log_std for kind in KINDS)
    mix = net(x, -1.0).mix
    assert torch.allclose(law.log_std, low + mix * (high - low), rtol=1e-9)
    one = ancestral(net, x, [-3.0, -1.0, 2.0], variance="learned").x
    assert one.shape == x.shape and not torch.equal(one, ancestral(net, x, [-3.0, -1.0, 2.0]).x)


def test_what_is_impossible_is_refused():
    x = torch.randn(2, 2, dtype=F64)
    with pytest.raises(MarginalsError, match="rising order"):
        ancestral(mixture(), x, [3.0, 1.0])
    with pytest.raises(MarginalsError, match="finite"):
        chain_elbo(mixture(), x, [-1.0, math.inf])
    with pytest.raises(MarginalsError, match="nothing of the variance"):
        chain_elbo(mixture(), x, LAMS, variance="learned")
    with pytest.raises(MarginalsError, match="root"):
        diffusion_rungs(mixture(), LAMS)[0].prior(None)


def improved(steps=30):
    torch.manual_seed(0)
    net = UNet(1, 4, width=8, mults=(1,), blocks=1, outputs=2)
    return marginals.iddpm(net, data=marginals.DataStats((1, 4, 4)), steps=steps)


def test_the_cosine_chain_is_the_published_one():
    """ᾱ_t of Nichol & Dhariwal's Eq. 17 until the cut, and no β above 0.999."""
    lams = torch.tensor(Tabulated.cosine(1000).lams, dtype=F64)
    t = torch.arange(1001, dtype=F64) / 1000
    f = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    bar = torch.sigmoid(lams)
    assert torch.allclose(bar[:990], (f / f[0])[1:991], rtol=1e-9)
    betas = 1 - bar[1:] / bar[:-1]
    assert betas.max() <= 0.999 + 1e-12 and betas.min() > 0


def test_the_bound_in_the_hybrid_loss_is_the_bound_of_the_chain():
    """Every level once: simple + share·T·term, where the terms add up to chain_elbo's matching."""
    model = improved()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.double()
    chain, steps = model.schedule, 30
    x0 = torch.rand(1, 1, 4, 4, dtype=F64) - 0.5
    eps = torch.randn(steps, 1, 4, 4, dtype=F64)
    u = (torch.arange(steps, dtype=F64) + 0.5) / steps
    lam = model.objective.levels.sample(u)
    assert lam.tolist() == list(chain.lams)
    many = x0.expand(steps, 1, 4, 4)
    whole = model.objective(model.net, many, lam, eps)
    plain = Objective(model.objective.weighting, model.objective.levels)
    terms = (whole - plain(model.net, many, lam, eps)) * 16 / (0.001 * steps)
    draws = iter(eps.flip(0).unsqueeze(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_, **__: next(draws))
        bound = chain_elbo(model.net, x0, chain.lams[::-1], variance="learned", dtype=F64)
    assert torch.allclose(terms[1:].flip(0), bound.matching[0], rtol=1e-6)
    assert torch.allclose(-terms[0], bound.reconstruction[0], rtol=1e-6)


def test_the_bound_teaches_the_variance_and_leaves_the_mean_alone():
    model = improved()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    x = torch.randint(0, 256, (16, 1, 4, 4), dtype=torch.uint8)
    gradients = []
    for share in (0.0, 10.0):
        model.objective = replace(model.objective, share=share)
        model.zero_grad()
        model.loss(x, generator=torch.Generator().manual_seed(0)).backward()
        gradients.append(model.net.backbone.leave.weight.grad.clone())
    none, some = gradients
    assert torch.equal(none[0], some[0])  # the filter that says ε
    assert none[1].abs().max() == 0 and some[1].abs().max() > 0  # the one that says the variance


def test_a_learned_variance_beats_both_fixed_ones():
    """Data of standard deviation 0.6: the right variance is between small and large, and differs
    from level to level."""
    torch.manual_seed(0)
    model = improved(steps=8)
    model.objective = replace(model.objective, share=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        x = 0.6 * torch.randn(64, 1, 4, 4, generator=generator)
        optimizer.zero_grad()
        model.loss(x, generator=generator).backward()
        optimizer.step()
    x = 0.6 * torch.randn(256, 1, 4, 4, generator=generator)
    nats = {}
    for kind in (*KINDS, "learned"):
        generator.manual_seed(1)
        nats[kind] = model.chain_elbo(x, variance=kind, generator=generator).nats.mean().item()
    assert nats["learned"] > max(nats["small"], nats["large"]) + 0.3


def test_iddpm_is_a_model_like_the_others():
    model = improved(steps=6)
    x = torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8)
    model.loss(x).backward()
    assert model.sample(2, steps=3).x.shape == (2, 1, 4, 4)
    assert not model.chain_elbo(x).density
    assert model.elbo(x, samples=2).nats.shape == (4,)
    drawn = model.ancestral(3, seed=4)
    assert drawn.nfe == 6 and "learned" in drawn.solver
    assert torch.allclose(model.ancestral(3, seed=4, batch=1).x, drawn.x, atol=1e-5)
    with pytest.raises(MarginalsError, match="chain of its own"):
        marginals.vdm(UNet(1, 4, width=8, mults=(1,), blocks=1)).chain_elbo(x)
