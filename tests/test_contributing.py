"""The code in CONTRIBUTING.md runs from top to bottom, with the assertions it makes."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def python_blocks() -> list[tuple[str, int, str]]:
    """(section, line number, code) of every Python block."""
    blocks = []
    for match in re.finditer(r"^```python\n(.*?)^```$", TEXT, re.M | re.S):
        before = TEXT[: match.start(1)]
        section = re.findall(r"^## (.*)$", before, re.M)[-1]
        blocks.append((section, before.count("\n"), match[1]))
    return blocks


def test_every_recipe_is_there_and_checks_itself():
    checked = {section for section, _, code in python_blocks() if "assert " in code}
    recipes = {"A prediction", "A noise schedule", "A solver", "A backbone", "A decoder", "A rung"}
    assert checked == recipes


def test_the_recipes_work():
    names: dict = {"__name__": "contributing"}
    for _, line, code in python_blocks():
        exec(compile("\n" * line + code, "CONTRIBUTING.md", "exec"), names)


def test_the_files_named_exist():
    root = Path(__file__).parents[1]
    for name in re.findall(r"`([\w/]+\.py)`", TEXT):
        assert (root / "src" / "marginals" / name).exists() or (root / name).exists(), name
