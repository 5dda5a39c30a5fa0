"""The extension equations X1, X2, ...: each passes its own check, and they are numbered through."""

import importlib
import pkgutil

import pytest

from marginals.paper import equations
from marginals.paper.equation import CATALOGUE, run

for _module in pkgutil.iter_modules(equations.__path__):
    if _module.name.startswith("x_"):
        importlib.import_module(f"{equations.__name__}.{_module.name}")

MINE = sorted(
    (e for e in CATALOGUE.entries.values() if e.id.startswith("X")), key=lambda e: e.order
)


def test_they_are_numbered_without_gaps():
    assert [entry.id for entry in MINE] == [f"X{i}" for i in range(1, len(MINE) + 1)]
    assert len(MINE) >= 65


def test_each_says_where_it_comes_from():
    assert all(entry.source and "Luo 2022" not in entry.source for entry in MINE)


@pytest.mark.parametrize("entry", MINE, ids=lambda entry: entry.id)
def test_the_check_passes(entry):
    result = run(entry)
    assert result.ok, result
