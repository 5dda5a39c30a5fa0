"""Tests beside other libraries. They need the packages themselves (bench/README.md has the one
command); without them every test here is skipped, and says so."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from field.peers import Peer, all_peers

_FOUND, _MISSING = all_peers()


def pytest_collection_modifyitems(items) -> None:
    """What the peers are warned of, by numpy and themselves, is theirs to mend."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.fixture
def peer():
    """(package, name) → the sampler; skips the test where the package is not installed."""

    def find(package: str, name: str) -> Peer:
        if package in _MISSING:
            pytest.skip(f"{package} is not installed (bench/README.md): {_MISSING[package]}")
        return next(p for p in _FOUND if (p.package, p.name) == (package, name))

    return find
