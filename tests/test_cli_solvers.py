"""`marginals solvers`, and the names of solvers and grids with options."""

import re

import pytest

from marginals import cli
from marginals.errors import MarginalsError
from marginals.io import registry
from marginals.scaling import VE, VP
from marginals.solvers import MAKERS, SOLVERS, ddim, grid, unipc
from marginals.solvers.grids import GRIDS


def run(capsys, *words):
    code = cli.main(["solvers", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_list_names_every_solver_and_grid_within_80_columns(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    assert all(len(line) <= 80 for line in out.splitlines())
    for name, solver in SOLVERS.items():
        order = "-" if solver.order is None else str(solver.order)
        (line,) = re.findall(rf"^{name} +(\S+) +(\d+)  (.*)$", out, re.M)
        assert line[0] == order and line[2] == solver.about
        assert int(line[1]) >= 1
    assert re.search(r"^heun +2 +2 ", out, re.M) and re.search(r"^unipc +4 +1 ", out, re.M)
    assert all(re.search(rf"^  {name}\b", out, re.M) for name in GRIDS)
    before, after = out.split("\nstochastic\n")
    assert "\nheun " in before and "\nedm " in after and "\nedm " not in before


@pytest.mark.parametrize("name", [*SOLVERS, "ddim:eta=0.5", "unipc:order=2,variant=bh1"])
def test_every_table_prints_within_80_columns(capsys, name):
    code, out, _ = run(capsys, "--table", name, "--steps", 5)
    assert code == 0 and out.startswith(f"{name}: 5 steps of auto, ")
    assert all(len(line) <= 80 for line in out.splitlines()), out


def number(text):
    return float(text.replace("−", "-"))


@pytest.mark.parametrize(("units", "scaling"), [("ve", VE), ("vp", VP)])
def test_printed_coefficients_are_the_tables(capsys, units, scaling):
    _, out, _ = run(
        capsys, "--table", "dpmpp_2m", "--steps", 4, "--levels", "flow", "--scaling", units
    )
    lams = grid(registry.levels("flow")(-2 * 4.382026634673881, -2 * -6.214608098422191), 4)
    rows = SOLVERS["dpmpp_2m"].table([scaling(lam) for lam in lams])
    lines = re.findall(r"^ +x(\d) .*?= (.*)$", out, re.M)
    assert len(lines) == len(rows) == 4
    for (index, text), row in zip(lines, rows, strict=True):
        x = {int(j): number(c) for c, j in re.findall(r"(\S+)·x(\d)", text)}
        d = {int(j): number(c) for c, j in re.findall(r"(\S+)·D(\d)", text)}
        assert x == pytest.approx({j: c for j, c in row.x.items() if c}, rel=1e-4)
        assert d == pytest.approx(row.d, rel=1e-4) and int(index) >= 1
    assert f"4 evaluations, {units} units" in out


def test_noise_and_moves_by_norms_are_in_the_table(capsys):
    assert "·z" in run(capsys, "--table", "ddpm", "--steps", 3)[1]
    assert "z is fresh noise" not in run(capsys, "--table", "heun", "--steps", 3)[1]
    assert "by norms (snr 0.16)" in run(capsys, "--table", "langevin_adaptive", "--steps", 2)[1]


@pytest.mark.parametrize("name", ["heun", "sde:eta=0.5"])
def test_order_is_measured_and_drawn(capsys, tmp_path, name):
    pytest.importorskip("matplotlib")
    png = tmp_path / "order.png"
    code, out, _ = run(capsys, "--order", name, "--plot", png)
    solver = registry.solver(name)
    declared, measured = re.findall(r"declared order (\d), measured (\S+)", out)[0]
    assert code == 0 and int(declared) == solver.order
    assert float(measured) == pytest.approx(solver.order, abs=0.15)
    assert png.read_bytes().startswith(b"\x89PNG") and str(png) in out
    assert all(len(line) <= 80 for line in out.splitlines() if str(png) not in line)


MISTAKES = {
    "unknown": (["--table", "dpmp_2m"], "mean 'dpmpp_2m'"),
    "unknown option": (["--order", "ddim:et=0.5"], "OPTION=VALUE with one of eta"),
    "no options": (["--table", "heun:order=2"], "it has none at all: write heun"),
    "not a number": (["--table", "unipc:order=two"], "must be a whole number, not 'two'"),
    "not a float": (["--table", "ddim:eta=x"], "must be a number, not 'x'"),
    "not a flag": (["--table", "adams:corrector=perhaps"], "must be true or false"),
    "out of range": (["--table", "ddim:eta=2"], "not 2.0"),
    "no order": (["--order", "langevin"], "has no order"),
    "two questions": (["--order", "heun", "--table", "heun"], "one at a time"),
    "steps alone": (["--steps", 3], "--steps belongs to --table"),
    "steps of order": (["--order", "heun", "--levels", "karras"], "--levels belongs to --table"),
    "plot alone": (["--table", "heun", "--plot", "x.png"], "--plot belongs to --order"),
    "grid": (["--table", "heun", "--levels", "karas"], "mean 'karras'"),
    "schedule": (["--table", "heun", "--levels", "trailing:schedule=q"], "no schedule 'q'"),
    "no steps": (["--table", "heun", "--steps", 0], "--steps"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(capsys, case):
    words, sentence = MISTAKES[case]
    code, out, err = run(capsys, *words)
    assert code == 2 and out == "" and sentence in err and len(err.splitlines()) == 1


def test_names_with_options_are_the_solvers_they_say():
    at = [VP(lam) for lam in (-5.0, -2.0, 0.0, 1.0, 4.0)]
    half, bh1 = registry.solver("ddim:eta=0.5"), registry.solver("unipc: order=2, variant=bh1")
    assert half.table(at) == ddim(0.5).table(at) and half.name == "ddim:eta=0.5"
    assert bh1.table(at) == unipc(2, "bh1").table(at)
    assert registry.solver("UniPC").name == "unipc"
    assert registry.solver("adams:corrector=yes").order == 4
    assert registry.solver("deis:schedule=cosine,order=2").order == 2
    assert registry.solver("DPM++_2M").name == "dpmpp_2m"
    for name in MAKERS:
        assert registry.solver(name).table(at) == SOLVERS[name].table(at)


def test_grids_by_name():
    assert grid(registry.levels("karras:rho=3")(-6.0, 6.0), 4) == pytest.approx(
        grid(GRIDS["karras"](3.0)(-6.0, 6.0), 4)
    )
    assert registry.levels("exponential")(-6.0, 6.0) == registry.levels("uniform_lam")(-6.0, 6.0)
    assert len(grid(registry.levels("trailing:schedule=flow,shift=2")(-6.0, 6.0), 5)) == 6
    with pytest.raises(MarginalsError, match="choose one of"):
        registry.levels("zzz")
    assert registry.schedule("ddpm").lam(1.0) == pytest.approx(-10.12, abs=0.01)
