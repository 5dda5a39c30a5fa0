"""Fitted tables: every deterministic multistep solver is one, in every scaling; what is no walk or
moves a constant picture is refused."""

import json
import math
from itertools import pairwise

import pytest
import torch

from marginals.denoiser import Rescaled
from marginals.errors import MarginalsError
from marginals.io.header import decode, encode
from marginals.oracle import Mixture
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP, units
from marginals.solvers import SOLVERS, FittedTable, abm, adams, auto, ddim, grid, heun, straight
from marginals.solvers.table import signal_error

SCALINGS = {"vp": VP, "ve": VE, "flow": FLOW, "sub_vp": SUB_VP}
each_scaling = pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
MIXTURE = Mixture(torch.tensor([[-1.5, 0.3], [1.0, -0.8], [0.7, 1.4]]), [0.5, 0.3, 0.4])
NOISE = torch.randn(8, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
LAMS = [-7.0, -4.5, -1.0, 0.0, 2.0, 4.0, 6.5, math.inf]
ONE_EACH = ["auto", "ddim", "euler", "dpm_2m", "dpm_3m", "dpmpp_2m", "dpmpp_3m", "lms", "deis"]
ONE_EACH += ["adams", "abm", "unipc"]
SEVERAL = {"dpm_2": 2, "dpm_3": 3, "dpmpp_2s": 2, "dpmpp_3s": 3}
"""Evaluations of every step but the last, which is one of first order; all at rising levels."""
TWICE = ["heun", "rk4"]  # ask twice at one level
NUMBERS = FittedTable((-3.0, 1.5), (0.25, 0.0), ((0.75,), (-0.4, 1.4)))


def walk(solver, lams, scaling):
    x = NOISE * units(lams[0], VP, scaling)
    return sample(Rescaled(MIXTURE, scaling), x, lams, solver)


@each_scaling
@pytest.mark.parametrize("name", [*ONE_EACH, *SEVERAL])
def test_a_table_walks_like_the_solver_it_was_made_of(name, scaling):
    solver = SOLVERS[name]
    table = FittedTable.of(solver, LAMS)
    wanted, got = walk(solver, LAMS, scaling), walk(table.solver, table.levels, scaling)
    assert (got.x - wanted.x).abs().max() < 1e-10
    steps = len(LAMS) - 1
    evaluations = steps if name in ONE_EACH else SEVERAL[name] * (steps - 1) + 1
    assert got.nfe == wanted.nfe == len(table.lams) == evaluations
    if name in ONE_EACH:
        assert table.levels == tuple(LAMS)


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 13, 40, 41])
def test_the_default_walk_is_a_table_for_every_number_of_steps(steps):
    lams = grid(straight(-8.0, 9.0), steps)
    table = FittedTable.of(auto(), lams)
    wanted, got = walk(auto(), lams, VP), walk(table.solver, table.levels, VP)
    assert (got.x - wanted.x).abs().max() < 1e-10 and table.levels == tuple(lams)


@pytest.mark.parametrize(
    ("steps", "order", "last"),
    [(2, 2, 2), (7, 2, 2), (8, 3, 2), (40, 3, 2), (41, 4, 3), (60, 4, 3)],
)
def test_the_default_has_the_order_that_suits_its_steps(steps, order, last):
    at = [VP(lam) for lam in grid(straight(-8.0, 9.0), steps)]
    assert auto().table(at) == abm(order, "flow", "angle", last=last).table(at)
    assert auto().evaluations(at) == steps


@pytest.mark.parametrize(
    ("steps", "order", "last"),
    [(2, 1, 1), (6, 1, 1), (7, 2, 1), (16, 2, 1), (17, 3, 2), (41, 4, 3)],
)
def test_guided_walks_of_few_steps_have_a_low_order(steps, order, last):
    at = [VP(lam) for lam in grid(straight(-8.0, 9.0), steps)]
    assert auto(guided=True).table(at) == abm(order, "flow", "angle", last=last).table(at)


def test_ddim_keeps_the_share_of_the_noise():
    """y_s = (r_s/r_t)·y_t + (1 − r_s/r_t)·x̂0 with r = σ/α, in VE units."""
    table = FittedTable.of(ddim(), LAMS)
    ratios = [math.exp(-0.5 * (s - t)) for t, s in pairwise(LAMS)]
    assert table.keep == pytest.approx(ratios, abs=1e-14)
    for i, row in enumerate(table.shares):
        assert row == pytest.approx([0.0] * i + [1.0 - ratios[i]], abs=1e-14)


@pytest.mark.parametrize("name", [name for name, s in SOLVERS.items() if s.stochastic])
def test_noise_has_no_table(name):
    with pytest.raises(MarginalsError, match="deterministic and to end at λ = ∞"):
        FittedTable.of(SOLVERS[name], LAMS)


@pytest.mark.parametrize("name", ["auto", "dpmpp_2m", "heun"])
def test_walks_that_stop_before_the_data_have_no_table(name):
    with pytest.raises(MarginalsError, match="to end at λ = ∞"):
        FittedTable.of(SOLVERS[name], LAMS[:-1])


@pytest.mark.parametrize("name", TWICE)
def test_a_level_is_asked_at_once(name):
    with pytest.raises(MarginalsError, match=f"{name} .* more than once at a level"):
        FittedTable.of(SOLVERS[name], LAMS)
    if name == "heun":  # whose step to the data is Euler's
        assert FittedTable.of(heun(), [0.0, math.inf]).shares == ((1.0,),)


def test_walks_that_move_a_constant_picture_have_no_table():
    with pytest.raises(MarginalsError, match="constant picture"):
        FittedTable.of(adams(2, "v", "angle"), LAMS)


@each_scaling
@pytest.mark.parametrize("table", [NUMBERS, FittedTable.of(auto(), LAMS)], ids=["free", "auto"])
def test_a_constant_picture_is_carried_exactly(table, scaling):
    at = [scaling(lam) for lam in table.levels]
    rows = table.solver.table(at)
    assert max(map(abs, signal_error(at, rows))) < 1e-14
    assert table.solver.evaluations(at) == len(table.lams) and not table.solver.stochastic


def test_the_walk_is_the_formula():
    """y ← k_i·y + Σ_j w_ij·D_j in picture units, written out."""
    y, clean = NOISE * units(NUMBERS.lams[0], VP, VE), []
    for lam, keep, row in zip(NUMBERS.lams, NUMBERS.keep, NUMBERS.shares, strict=True):
        clean.append(Rescaled(MIXTURE, VE)(y, lam).x0)
        y = keep * y + sum(w * d for w, d in zip(row, clean, strict=True))
    assert (walk(NUMBERS.solver, NUMBERS.levels, VP).x - y).abs().max() < 1e-12


WRONG = {
    "empty": ((), (), ()),
    "keep too short": ((0.0, 1.0), (0.0,), ((1.0,), (0.5, 0.5))),
    "rows too few": ((0.0, 1.0), (0.3, 0.0), ((0.7,),)),
    "row too long": ((0.0, 1.0), (0.3, 0.0), ((0.4, 0.3), (0.5, 0.5))),
    "row too short": ((0.0, 1.0), (0.3, 0.0), ((0.7,), (1.0,))),
    "NaN level": ((0.0, math.nan), (0.3, 0.0), ((0.7,), (0.5, 0.5))),
    "last level": ((0.0, math.inf), (0.3, 0.0), ((0.7,), (0.5, 0.5))),
    "NaN kept": ((0.0, 1.0), (math.nan, 0.0), ((0.7,), (0.5, 0.5))),
    "infinite share": ((0.0, 1.0), (0.3, 0.0), ((math.inf,), (0.5, 0.5))),
    "falling": ((1.0, 0.0), (0.3, 0.0), ((0.7,), (0.5, 0.5))),
    "equal": ((1.0, 1.0), (0.3, 0.0), ((0.7,), (0.5, 0.5))),
    "a constant moves": ((0.0, 1.0), (0.3, 0.0), ((0.7 + 1e-7,), (0.5, 0.5))),
    "a constant fades": ((0.0, 1.0), (0.3, 0.0), ((0.7 - 1e-7,), (0.5, 0.5))),
    "a constant moves at the end": ((0.0, 1.0), (0.3, 0.0), ((0.7,), (0.5, 0.6))),
    "noise is left": ((0.0, 1.0), (0.3, 0.1), ((0.7,), (0.5, 0.4))),
}
SAYS = {
    "empty": "as many rows", "keep too short": "as many rows", "rows too few": "as many rows",
    "row too long": "i \\+ 1", "row too short": "i \\+ 1", "NaN level": "finite",
    "last level": "finite", "NaN kept": "finite", "infinite share": "finite",
    "falling": "must rise", "equal": "must rise",
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_such_walk_is_refused(case):
    with pytest.raises(MarginalsError, match=SAYS.get(case, "constant picture")):
        FittedTable(*WRONG[case])


@pytest.mark.parametrize(
    "lams",
    [
        (-3.0, 1.5, 9.0),
        (-3.0, 1.5 + 1e-12, math.inf),
        (-3.0, math.inf),
        (-3.0, 1.5, 2.0, math.inf),
        (-2.9, 1.5, math.inf),
    ],
)
def test_no_other_levels_will_do(lams):
    with pytest.raises(MarginalsError, match="the 2 levels it was fitted for"):
        walk(NUMBERS.solver, lams, VP)


@pytest.mark.parametrize("table", [NUMBERS, FittedTable.of(auto(), LAMS)], ids=["free", "auto"])
def test_a_table_survives_json(table):
    text = json.dumps(encode(table), allow_nan=False)
    assert decode(json.loads(text)) == table
