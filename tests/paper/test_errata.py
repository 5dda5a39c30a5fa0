"""The numbers in the errata against closed forms, other quadratures, and simulation."""

import math
import re

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.oracle import Mixture
from marginals.paper import errata_numbers as numbers
from marginals.paper.catalogue import load
from marginals.paper.errata import ERRATA, concerning, find, words
from marginals.paper.letters import columns
from marginals.paper.show import page
from marginals.scaling import VP
from marginals.schedule import Tabulated


@pytest.mark.parametrize("erratum", ERRATA, ids=lambda erratum: erratum.id)
def test_every_erratum_reads_as_text_with_its_numbers(erratum):
    text = erratum.explained()
    assert erratum.numbers() and "nan" not in text.lower()
    used = re.findall(r"(?<!\{)\{(\w+)[:}]", erratum.really.replace("{{", "").replace("}}", ""))
    assert used and set(used) <= set(erratum.numbers()), "a text without a computed number"
    block = words(erratum)
    assert all(len(line) <= 80 for line in block.splitlines()[1:]) and erratum.id in block


def test_find():
    assert [e.id for e in find(["e4", "1"])] == ["E4", "E1"]
    assert len(find([])) == 16
    with pytest.raises(MarginalsError, match="no erratum 'E17'"):
        find(["E17"])


def test_e1_against_simulation():
    found = numbers.first_bound()
    assert found["gap"] == pytest.approx(found["formula"], abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 400_000, generator=generator, dtype=torch.float64)
    x1 = math.sqrt(0.5) * 1.0 + math.sqrt(0.5) * noise[0]
    after_x1 = math.sqrt(0.5) * x1 + math.sqrt(0.5) * noise[1]
    other_x1 = math.sqrt(0.5) * 1.0 + math.sqrt(0.5) * noise[2]  # as Eq. 45 has it

    def term(x_t):
        log_p = -0.5 * math.log(2 * math.pi * 0.25) - (x_t - 0.7 * after_x1) ** 2 / 0.5
        log_q = -0.5 * math.log(2 * math.pi * 0.5) - (x_t - math.sqrt(0.5)) ** 2
        return (log_p - log_q).mean().item()

    assert found["eq44"] == pytest.approx(term(x1), abs=0.01)
    assert found["eq45"] == pytest.approx(term(other_x1), abs=0.02)


def test_e2_is_a_step_and_the_whole_walk():
    found = numbers.prior_terms()
    assert found["eq45"] == pytest.approx(-0.5 * math.log(0.02), abs=1e-12)
    table = Tabulated.ddpm()
    assert found["eq58"] == pytest.approx(-math.log(VP(table.lams[-1]).sigma), rel=1e-9)


def test_e3_the_best_decoder_leaves_a_difference_of_entropies():
    found = numbers.consistency()
    assert found["floor"] == pytest.approx(0.5 * math.log(0.5 / 0.1), abs=1e-12)


def test_e4_by_search():
    """The best Gaussian q for L-fold reconstruction minus KL, found by gradient descent."""
    parameters = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([parameters], lr=0.02)
    for _ in range(1500):
        mean, var = parameters[0], (2 * parameters[1]).exp()
        fit = -((1 - mean) ** 2 + var)
        loss = -(10 * fit - 0.5 * (var + mean**2 - 1 - var.log()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = numbers.missing_average(10)
    assert math.sqrt(1 / 3) / parameters[1].exp().item() == pytest.approx(found["ratio"], rel=1e-3)
    z = torch.tensor(1.0)  # log p(x = 1): x ~ N(0, 1.5)
    evidence = torch.distributions.Normal(0.0, math.sqrt(1.5)).log_prob(z).item()
    assert found["right"] == pytest.approx(evidence, abs=1e-6) and found["loss"] > 0.1


def test_e5_and_e6_by_sampling():
    found, heaps = numbers.posterior_means(400), numbers.two_heaps()
    lam = Tabulated.ddpm().lams[399]
    clean, _ = heaps.sample(200_000, seed=3)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(4), dtype=clean.dtype)
    level = VP(lam)
    estimate = heaps(level.alpha * clean + level.sigma * noise, lam)
    assert (estimate.x0 - clean).square().mean().item() == pytest.approx(found["mmse"], rel=0.02)
    assert (estimate.eps - noise).square().mean().sqrt().item() == pytest.approx(
        found["noise"], rel=0.02
    )


def test_e7_is_the_whole_price_of_a_perfect_network():
    """Tweedie: what the score's error hides is the posterior variance, so E7 and E8 must agree."""
    assert numbers.flattered_bound()["nats"] == pytest.approx(
        numbers.average_or_sum()["sum"], rel=1e-6
    )
    assert numbers.average_or_sum()["factor"] == 999


def test_e9_by_log_snr():
    lams, found = Tabulated.ddpm().lams, numbers.first_step()
    assert found["w2"] == pytest.approx(0.5 * math.expm1(lams[0] - lams[1]), rel=1e-9)
    assert found["w100"] == pytest.approx(0.5 * math.expm1(lams[98] - lams[99]), rel=1e-9)
    assert found["ratio"] > 50 and 0.4 < found["ratio_var"] < 0.5


def test_e10_and_e12_are_errors_where_none_is_needed():
    assert numbers.wrong_argument()["error"] > 0.1
    assert numbers.guided(gamma=3.0)["gap"] > 0.1
    assert numbers.guided(gamma=1.0)["gap"] < 1e-8  # plain conditioning is exact
    assert numbers.guided(gamma=0.0)["gap"] < 1e-8


def test_e11_the_variance_settles_where_the_formula_says():
    found = numbers.langevin(0.3)
    assert found["variance"] == pytest.approx(found["formula"], abs=1e-12)


def test_e13_products_against_sums_of_logarithms():
    found = numbers.last_level()
    linear = sum(math.log1p(-(1e-4 + (0.02 - 1e-4) * i / 999)) for i in range(1000))
    assert found["linear"] == pytest.approx(math.exp(linear), rel=1e-9)
    assert found["latent"] == pytest.approx(4.66e-3, rel=2e-3)
    assert found["cosine"] < 1e-8


def test_e15_and_e16():
    found = numbers.monotone()
    assert found["falls"] > 0 and found["stays"] == 0 and found["rises"] < 0
    losses = numbers.three_losses()
    assert losses["clean"] == pytest.approx(
        VP(math.log(99)).alpha ** 2 / VP(math.log(99)).sigma ** 2
    )


def test_the_example_is_a_distribution():
    x, dx = numbers.line()
    heaps = numbers.two_heaps()
    assert isinstance(heaps, Mixture)
    assert heaps.log_prob(x, 0.4).exp().sum().item() * dx == pytest.approx(1.0, abs=1e-10)


def test_every_equation_leads_to_all_its_errata():
    by_id = {entry.id: entry for entry in load()}
    assert concerning(by_id["45"]) == ["E1", "E2", "E3"]
    assert concerning(by_id["33"]) == ["E13"] and concerning(by_id["84"]) == ["E9"]
    assert concerning(by_id["1"]) == []
    assert "errata E1 E2 E3" in page(by_id["45"], list(by_id.values()), code=False)


def test_texts_fit_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert all(len(line) <= 50 for line in words(ERRATA[0]).splitlines()[1:])
    monkeypatch.setenv("COLUMNS", "200")
    assert columns() == 80
