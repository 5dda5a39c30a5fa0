"""Luo Eqs. 1-58: every entry holds, and so do the exact fixtures they stand on."""

import math
from functools import partial
from importlib import import_module

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from marginals.paper import dense, finite, first_bound, linear, second_bound, tables
from marginals.paper.equation import CATALOGUE, run

MODULES = {
    "elbo": range(1, 17),
    "vae": range(17, 23),
    "hvae": range(23, 30),
    "vdm_model": range(30, 34),
    "consistency": range(34, 46),
    "denoising": range(46, 58),
    "denoising_bound": range(58, 59),
}
double = partial(torch.tensor, dtype=torch.float64)
ENTRIES = [(name, str(number)) for name, numbers in MODULES.items() for number in numbers]


@pytest.mark.parametrize(("module", "id"), ENTRIES)
def test_holds(module, id):
    written = import_module(f"marginals.paper.equations.{module}")
    entry = CATALOGUE.entries[id]
    assert entry.check.__module__ == written.__name__
    result = run(entry)
    assert result.ok, result


def test_pages_follow_the_numbers():
    for module in MODULES:
        import_module(f"marginals.paper.equations.{module}")
    pages = [CATALOGUE.entries[id].page or 0 for _, id in ENTRIES]
    assert pages == sorted(pages)
    assert (pages[0], pages[-1]) == (2, 10)


def test_the_dense_laws_are_what_torch_says():
    chain, x0 = dense.some_chain(4)
    laws = dense.forward_law(chain, x0), dense.model_posterior(chain, x0)
    known = [MultivariateNormal(*law) for law in laws]
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    for law, truth in zip(laws, known, strict=True):
        assert torch.allclose(law.log_prob(x), truth.log_prob(x), atol=1e-12)
    assert torch.allclose(laws[0].kl(laws[1]), kl_divergence(*known), atol=1e-12)


def test_quadratic_functions_average_exactly_over_the_paths_and_others_do_not():
    chain, x0 = dense.some_chain(4)
    law = dense.forward_law(chain, x0)
    paths = linear.paths(chain, x0)
    assert paths.shape == (8, 5, 3)
    x = paths[:, 1:]
    assert torch.allclose(x.mean(0).T, law.mean, atol=1e-12)
    second = torch.einsum("nid,njd->dij", x, x) / len(x)
    assert torch.allclose(second - law.mean[:, :, None] * law.mean[:, None], law.cov)
    fourth = (x[:, 0] - law.mean[:, 0]).pow(4).mean(0)
    assert not torch.allclose(fourth, 3.0 * law.cov[:, 0, 0] ** 2)


def test_an_expectation_over_too_few_variables_is_nan():
    chain, x0 = dense.some_chain(3)
    path = linear.paths(chain, x0, [1, 2])
    assert linear.log_up(chain, path, 2).isfinite().all()
    assert linear.log_up(chain, path, 3).isnan().all()
    assert linear.paths(chain, x0, [0, 1]).shape[0] == 2  # x_0 needs no drawing


def test_eq_45_misses_eq_44_by_the_number_in_the_errata():
    """α = (½, ½), c_2 = 0.7, s_2² = ¼: 0.7·√½·½/¼ nats."""
    half, one = double([0.5, 0.5]), double([[1.0], [1.0]])
    gain, var = double([[0.9], [0.7]]), double([[0.3], [0.25]])
    chain = linear.Chain(half, gain, 0.0 * one, var, 0.0 * one[0], one[0])
    for start in (-1.0, 0.3):
        x0 = double([start])
        missed = first_bound.line_45(chain, x0) - first_bound.line_44(chain, x0)
        assert missed.item() == pytest.approx(-0.7 * math.sqrt(0.5) * 0.5 / 0.25, abs=1e-12)


def test_eq_45_prefers_a_wrong_decoder():
    """For data of unit variance the best c_2 is √α_2 by Eq. 44, but α_1·√α_2 by Eq. 45."""
    alphas, one = double([0.6, 0.7]), double([[1.0], [1.0]])
    best = {}
    for name in ("line_44", "line_45"):
        gain = double([[0.8], [0.5]]).requires_grad_()
        chain = linear.Chain(alphas, gain, 0.0 * one, 0.4 * one, 0.0 * one[0], one[0])
        line = getattr(first_bound, name)
        # the mean over data of variance one: x_0 = ±1, since the bound is quadratic in x_0
        nats = 0.5 * (line(chain, one[0]) + line(chain, -one[0]))
        (slope,) = torch.autograd.grad(nats, gain, create_graph=True)
        (curvature,) = torch.autograd.grad(slope[1, 0], gain)
        best[name] = (gain[1, 0] - slope[1, 0] / curvature[1, 0]).item()  # one Newton step
    assert best["line_44"] == pytest.approx(math.sqrt(0.7), abs=1e-9)
    assert best["line_45"] == pytest.approx(0.6 * math.sqrt(0.7), abs=1e-9)


def test_the_second_form_is_the_less_noisy_one():
    """One random path at a time: the terms of Eq. 58 vary less than those of Eq. 44."""
    torch.manual_seed(0)
    chain, x0 = dense.some_chain(4)
    walks = MultivariateNormal(*dense.forward_law(chain, x0)).sample((4000,)).mT
    path = torch.cat([x0.expand(4000, 1, -1), walks], 1)
    first = first_bound.line_40(chain, path)
    second = linear.log_down(chain, path, 1)
    for t in range(2, 5):
        law = second_bound.posterior(path[:, t], path[:, 0], chain.levels[t], chain.levels[t - 1])
        second = second - law.kl(linear.down(chain, path[:, t], t))
    second = second - second_bound.prior_matching(chain, x0)
    spread = [(line.std() / len(line) ** 0.5).item() for line in (first, second)]
    truth = dense.bound(chain, x0).item()
    assert abs(first.mean().item() - truth) < 4.0 * spread[0]
    assert abs(second.mean().item() - truth) < 4.0 * spread[1]
    assert spread[1] < spread[0]


def test_eq_58_on_tables_needs_bayes_with_x_kept():
    """Averaging the step back over x as well gives another, wrong number."""
    ladder = tables.some_ladder((3, 4, 2))
    right = finite.ladder_denoising_bound(ladder)
    assert torch.allclose(right, finite.ladder_elbo(ladder), atol=1e-12)
    pair = ladder.up[0].unsqueeze(2) * ladder.up[1]  # q(z_1, z_2 | x)
    forgetful = pair.sum(0) / pair.sum((0, 1))  # q(z_1 | z_2) for x uniform
    paid = pair.sum(1) @ (forgetful * (forgetful / ladder.down[1].T).log()).sum(0)
    wrong = finite.reconstruction(ladder.down[0], ladder.up[0]) - paid
    wrong = wrong - finite.kl(pair.sum(1), ladder.top)
    assert ((wrong - right).abs() > 1e-3).any()


def test_a_perfect_way_back_leaves_no_gap():
    chain = dense.perfect_chain(5, mean=-0.3, std=1.3)
    for start in (-2.0, 0.1):
        x0 = double([start])
        assert dense.gap(chain, x0).item() == pytest.approx(0.0, abs=1e-12)
        law = torch.distributions.Normal(x0.new_tensor(-0.3), x0.new_tensor(1.3))
        assert linear.elbo(chain, x0).item() == pytest.approx(law.log_prob(x0).item(), abs=1e-12)


def test_expectations_skip_what_never_happens():
    """0·log 0 counts as 0, and a cause that is impossible but guessed costs infinitely much."""
    q = double([[0.0, 1.0]])
    assert finite.kl(q, q).item() == 0.0
    assert finite.kl(q, double([[1.0, 0.0]])).item() == math.inf
