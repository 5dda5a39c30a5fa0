"""The shape of the house: imports point one way and files stay short (docs/architecture.md)."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "marginals"
FILES = sorted(SRC.rglob("*.py"))

# A layer may import itself, the layers named here, and nothing else.
MAY_IMPORT = {
    "errors": set(),
    "nn": {"errors"},
    "core": {"errors"},
    "io": {"errors", "core", "nn"},
    "data": {"errors", "core", "io"},
    "metrics": {"errors", "core", "nn", "io", "data"},
    "text": {"errors", "core", "nn", "io", "data"},
    "train": {"errors", "core", "nn", "io", "data", "metrics", "text"},
    "compare": {"errors", "core", "nn", "io", "data", "metrics", "train"},
    "demo": {"errors", "core", "nn", "io", "data", "metrics", "train"},
    "paper": {"errors", "core", "nn", "io"},
    "commands": {
        "errors",
        "core",
        "nn",
        "io",
        "data",
        "metrics",
        "text",
        "train",
        "compare",
        "demo",
        "paper",
    },
    "cli": {"errors", "commands"},
}
MAX_LINES = 320


def module_name(path: Path) -> str:
    """src/marginals/io/atomic.py -> marginals.io.atomic, a package by its own name."""
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def layer(module: str) -> str | None:
    """The layer of a module; None for the package itself, which only holds names and a version."""
    parts = module.split(".")
    if len(parts) == 1:
        return None
    return parts[1] if parts[1] in MAY_IMPORT else "core"


def imported(path: Path, *, for_types: bool) -> set[str]:
    """Modules of this package that a file imports anywhere in it, inside functions too.

    `for_types` includes the imports under `if TYPE_CHECKING`, which never happen at run time.
    """
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    hidden = set() if for_types else _only_for_types(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level]
            home = ".".join([*(base if node.level else []), *filter(None, [node.module])])
            # `from package import module` names a module; `from module import thing` a thing
            found |= {
                f"{home}.{a.name}" if f"{home}.{a.name}" in MODULES else home for a in node.names
            }
    return {name for name in found if name in MODULES}


def _only_for_types(tree: ast.Module) -> set[ast.AST]:
    tests = [
        n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    ]
    return {node for test in tests for child in test.body for node in ast.walk(child)}


def test_the_layers_are_all_there():
    """A renamed folder would turn the rule below into one about nothing."""
    assert {layer(m) for m in MODULES} - {None} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", [m for m in MODULES if layer(m)])
def test_imports_point_one_way(module: str):
    here = layer(module)
    assert here is not None
    for other in imported(MODULES[module], for_types=True):
        there = layer(other)
        assert there in {None, here} | MAY_IMPORT[here], f"{module} must not import {other}"


def test_the_picture_shows_every_room_and_every_module_of_the_core():
    """A new module of the core appears in docs/architecture.md, and no module that is gone."""
    text = (SRC.parents[1] / "docs" / "architecture.md").read_text()
    picture = text.split("core, bottom to top")[1].split("```")[0]
    shown = set(re.findall(r"^     (\w+)/?\s", picture, re.M))
    tops = {m.split(".")[1] for m in MODULES if layer(m) == "core"}
    assert shown == tops
    assert all(re.search(rf"\b{name}\b", text) for name in MAY_IMPORT)


def test_no_two_modules_import_each_other():
    graph = {m: imported(p, for_types=False) - {m, "marginals"} for m, p in MODULES.items()}
    # A package's __init__ gathers its modules, which name it when they import one another.
    packages = {m for m, p in MODULES.items() if p.name == "__init__.py"}
    graph = {m: deps - packages for m, deps in graph.items() if m not in packages}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


def test_the_command_line_starts_without_torch():
    """Modules of cli and commands import torch (or what does) only inside functions."""
    for module, path in MODULES.items():
        if layer(module) in {"cli", "commands"}:
            top = [
                n
                for n in ast.parse(path.read_text()).body
                if isinstance(n, ast.Import | ast.ImportFrom)
            ]
            names = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
            names |= {n.module or "" for n in top if isinstance(n, ast.ImportFrom)}
            assert not {n for n in names if n.split(".")[0] in {"torch", "numpy", "PIL"}}, module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_files_stay_short(path: Path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines; say it shorter or split it"
