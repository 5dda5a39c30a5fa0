"""`marginals paper ...` as a person types it."""

import json
import sys

import pytest

from marginals.cli import main
from marginals.paper import equation
from marginals.paper.equation import Equation, Finding


def said(capsys) -> str:
    return capsys.readouterr().out


def test_list_by_section(capsys):
    assert main(["paper", "list", "--section", "classifier-free"]) == 0
    out = said(capsys)
    assert [line.split()[0] for line in out.splitlines()[1:5]] == ["167", "168", "169", "170"]
    assert "4 of Luo's 170 equations" in out
    assert main(["paper", "list", "--section", "nowhere"]) == 2
    assert "Evidence Lower Bound" in capsys.readouterr().err


def test_list_is_one_line_each(capsys):
    assert main(["paper", "list"]) == 0
    out = said(capsys)
    assert "170 of Luo's 170 equations" in out
    assert max(map(len, out.splitlines())) <= 84


def test_list_uses_the_whole_terminal(capsys, monkeypatch):
    widths = []
    for columns in ("60", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["paper", "list"]) == 0
        widths.append(max(map(len, said(capsys).splitlines())))
    assert widths[0] <= 64 and 100 < widths[1] <= 124


def test_one_extension_is_not_many(capsys):
    assert main(["paper", "check", "58", "X1"]) == 0
    assert "and 1 extension in" in said(capsys)
    assert main(["paper", "check", "X1", "X2"]) == 0
    assert "and 2 extensions in" in said(capsys)


def test_numbers_may_have_commas_between_them(capsys):
    assert main(["paper", "show", "58,45,", "X1", "--no-code"]) == 0
    out = said(capsys)
    assert out.index("Equation 58,") < out.index("Equation 45,") < out.index("Extension X1")
    assert main(["paper", "show", ","]) == 2
    assert "no equation ','" in capsys.readouterr().err


def test_site_overwrites_nothing_of_others(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("marginals.commands.paper._run_all", lambda entries: [])
    page = tmp_path / "index.html"
    page.write_text("<title>My holidays</title>")
    assert main(["paper", "site", "--out", str(tmp_path)]) == 2
    assert "page of someone else" in capsys.readouterr().err
    assert page.read_text() == "<title>My holidays</title>"
    assert main(["paper", "site", "--out", str(page)]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err


def test_show_has_maths_words_code_check_and_neighbours(capsys):
    assert main(["paper", "show", "58"]) == 0
    out = said(capsys)
    assert "Equation 58, page" in out and "denoising matching" in out and "∑" in out
    assert "marginals/likelihood.py:" in out and "def discrete_elbo(" in out
    assert "✓ error" in out and "before    57" in out and "after     59" in out
    assert main(["paper", "show", "58", "--no-code"]) == 0
    assert "def discrete_elbo(" not in said(capsys)


def test_show_wants_a_number(capsys):
    assert main(["paper", "show"]) == 2
    assert "paper show 58" in capsys.readouterr().err
    assert main(["paper", "show", "1000"]) == 2
    assert "Luo's are 1 to 170" in capsys.readouterr().err


def test_check_some(capsys):
    assert main(["paper", "check", "45", "58", "X1"]) == 0
    out = said(capsys)
    assert out.count("✓") == 3 and "all passed" in out
    assert main(["paper", "check", "45", "--all"]) == 2


def test_check_as_json(capsys):
    assert main(["paper", "check", "109-111", "--json"]) == 0
    about = json.loads(said(capsys))
    assert about["luo"] == about["luo_checked"] == 3 and about["failed"] == []
    first = about["equations"][0]
    assert first["id"] == "109" and first["ok"] and first["error"] <= first["tolerance"]
    assert ":" in first["homes"][0]


def test_a_failing_check_is_exit_code_1_and_infinite_errors_are_json(capsys, monkeypatch):
    entry = equation.CATALOGUE.entries["58"]
    broken = Equation(**{**vars(entry), "check": lambda: Finding(float("inf"), "all wrong")})
    monkeypatch.setitem(equation.CATALOGUE.entries, "58", broken)
    assert main(["paper", "check", "58"]) == 1
    assert "FAILED: 58" in said(capsys)
    assert main(["paper", "check", "58", "--json"]) == 1
    assert json.loads(said(capsys))["equations"][0]["error"] is None


def test_an_exception_is_a_failed_check(capsys, monkeypatch):
    def explode() -> Finding:
        raise RuntimeError("the fixture is gone")

    entry = equation.CATALOGUE.entries["58"]
    monkeypatch.setitem(
        equation.CATALOGUE.entries, "58", Equation(**{**vars(entry), "check": explode})
    )
    assert main(["paper", "check", "58"]) == 1
    assert "the fixture is gone" in said(capsys)


def test_errata_and_translate(capsys):
    assert main(["paper", "errata", "E4"]) == 0
    assert "divide by L" in said(capsys)
    assert main(["paper", "translate", "posterior", "--lam", "2"]) == 0
    assert "chain.posterior_variance" in said(capsys)
    assert main(["paper", "translate", "nonsense"]) == 2


def test_mutate_reports_what_survives(capsys):
    assert main(["paper", "mutate", "85", "--count", "6"]) == 0
    assert "6 errors planted in" in said(capsys).splitlines()[-1]
    assert main(["paper", "mutate", "85", "--count", "6", "--json"]) == 0
    about = json.loads(said(capsys))
    assert about["planted"] == 6 and about["caught"] + len(about["survivors"]) == 6


def test_without_the_extra_the_remedy_is_named(capsys, monkeypatch):
    from marginals.paper.mathml import mathml

    mathml.cache_clear()
    monkeypatch.setitem(sys.modules, "latex2mathml", None)
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    assert main(["paper", "show", "58"]) == 2
    assert "pip install 'marginals[paper]'" in capsys.readouterr().err
    assert main(["paper", "check", "58"]) == 0  # checking needs no typesetting


@pytest.mark.parametrize("name", ["list", "show", "check", "errata", "translate", "site", "mutate"])
def test_help(name: str, capsys):
    with pytest.raises(SystemExit) as done:
        main(["paper", name, "--help"])
    assert done.value.code == 0 and "Examples" in said(capsys)


def test_the_group_lists_its_commands(capsys):
    assert main(["paper"]) == 0
    out = said(capsys)
    assert all(f"paper {name}" in out for name in ("show", "check", "errata", "mutate"))
