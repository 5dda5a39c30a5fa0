"""Luo Eqs. 59–151: every entry is there, in its part and on its page, and holds."""

from importlib import import_module

import pytest
import torch

from marginals.paper.equation import CATALOGUE, run
from marginals.paper.fixtures import OnALine, bars, chains, network, steps

MODULES = {
    "forward": range(59, 71),
    "reverse": range(71, 86),
    "matching": range(86, 93),
    "clean_view": range(93, 101),
    "noise_levels": range(101, 115),
    "noise_view": range(115, 131),
    "score_view": range(131, 143),
    "score_loss": range(143, 152),
}
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
    pages = [CATALOGUE.entries[id].page for _, id in ENTRIES]
    assert pages == sorted(pages)
    assert pages[0] == 11
    assert pages[-1] == 17


def test_fixture_chains_end_in_noise_and_never_gain_signal():
    for alphas in chains().values():
        bar = bars(alphas)
        assert len(bar) == len(alphas) + 1
        assert (bar.diff() < 0).all()
        assert 0.0 < bar[-1] < 0.2
    assert bars(chains()["ddpm"])[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)
    assert (1.0 - steps(noise=0.02).prev).min() >= 0.02


def test_fixture_line_is_the_distribution_it_says_it_is():
    line = OnALine()
    assert line.mass.sum().item() == pytest.approx(1.0, abs=1e-12)
    x, share = line.places(0.3)
    mean, second = (line.mass * line.x0).sum(), (line.mass * line.x0**2).sum()
    assert share.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (share * x).sum().item() == pytest.approx(0.3**0.5 * mean.item(), abs=1e-12)
    assert (share * x**2).sum().item() == pytest.approx(0.3 * second.item() + 0.7, abs=1e-12)
    assert line.oracle().log_prob(x, torch.inf).isfinite().all()


def test_fixture_networks_depend_on_the_picture_and_on_the_level():
    x, lam = torch.ones(2, 3).double(), torch.tensor([-1.0, 2.0]).double()
    out = network(0)(x, lam)
    assert (out[0] - out[1]).abs().min() > 1e-3
    assert (network(0)(2 * x, lam) - out).abs().min() > 1e-3
