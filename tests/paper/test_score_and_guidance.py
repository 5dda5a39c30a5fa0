"""Luo Eqs. 152-170: every equation of the last two sections passes its own check."""

import pytest

from marginals.paper.equation import CATALOGUE, run
from marginals.paper.equations import guidance as _guidance
from marginals.paper.equations import langevin as _langevin
from marginals.paper.equations import score_based as _score_based

MODULES = {module.__name__ for module in (_guidance, _langevin, _score_based)}
MINE = [
    entry
    for entry in CATALOGUE.entries.values()
    if entry.check and entry.check.__module__ in MODULES
]


def test_all_nineteen_are_there():
    assert {entry.id for entry in MINE} == {str(number) for number in range(152, 171)}


@pytest.mark.parametrize("entry", MINE, ids=lambda entry: entry.id)
def test_the_check_passes(entry):
    result = run(entry)
    assert result.ok, result
