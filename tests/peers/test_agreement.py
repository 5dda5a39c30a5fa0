"""The same solver on the same levels gives the same numbers in other libraries, where theirs are
right: to 1e-9 in float64, to float32's rounding where theirs steps in it whatever it is given."""

import itertools

import pytest
import torch

from field import orders
from field.ours import Plan, to_lams
from marginals.solvers import (
    Solver,
    adams,
    ddim,
    dpm_2,
    dpm_2m,
    dpm_3,
    dpmpp_2m,
    dpmpp_2s,
    euler,
    heun,
    lms,
    sde_dpmpp_2m,
    unipc,
)

EXACT, SINGLE = 1e-9, 2e-5
OFF = "lower_order_final off"
STOP: list[tuple[str, str, Solver, float]] = [
    ("k-diffusion", "euler", euler(), EXACT),
    ("k-diffusion", "heun", heun(), EXACT),
    ("k-diffusion", "dpm_2", dpm_2(), EXACT),
    ("k-diffusion", "lms 2", lms(2), EXACT),
    ("k-diffusion", "lms 3", lms(3), EXACT),
    ("k-diffusion", "lms 4", lms(4), EXACT),
    ("k-diffusion", "dpmpp_2m", dpmpp_2m(), EXACT),
    ("k-diffusion", "dpmpp_2m_sde midpoint, eta 0", sde_dpmpp_2m(0.0), EXACT),
    ("k-diffusion", "dpmpp_2m_sde heun, eta 0", adams(2), EXACT),
    ("k-diffusion", "dpmpp_2s", dpmpp_2s(), EXACT),
    ("k-diffusion", "dpmpp_sde, eta 0", dpmpp_2s(), EXACT),
    ("azula", "DDIM", ddim(), EXACT),
    ("azula", "Euler", euler(), EXACT),
    ("azula", "Heun", heun(), EXACT),
    *[("azula", f"zAB {k}", lms(k), EXACT) for k in (2, 3, 4)],
    *[("azula", f"vAB {k}", adams(k, "flow", "t"), EXACT) for k in (2, 3, 4)],
    *[("azula", f"zEAB {k}", adams(k, "eps"), EXACT) for k in (2, 3, 4)],
    *[("azula", f"xEAB {k}", adams(k), EXACT) for k in (2, 3, 4)],
    ("diffusers", "EDM DPM-Solver++ 2M", dpmpp_2m(), EXACT),
    ("diffusers", f"DPM-Solver++ 2M, {OFF}, midpoint", dpmpp_2m(), SINGLE),
    ("diffusers", f"DPM-Solver++ 2M, {OFF}, heun", adams(2), SINGLE),
    ("diffusers", f"DPM-Solver 2M, {OFF}, midpoint", dpm_2m(), SINGLE),
    ("diffusers", f"DPM-Solver 2M, {OFF}, heun", adams(2, "eps"), SINGLE),
    ("diffusers", f"DEIS 2M, {OFF}", adams(2, "eps"), EXACT),
    ("diffusers", f"DEIS 3M, {OFF}", adams(3, "eps"), EXACT),
    ("diffusers", "LMS 4", lms(4), EXACT),
    ("diffusers", "DDIM", ddim(), EXACT),
    ("diffusers", "UniPC 1, bh1", unipc(1, "bh1"), EXACT),
    ("diffusers", "UniPC 1, bh2", unipc(1, "bh2"), EXACT),
    *[
        ("diffusers", f"UniPC {k}, {bh}, {OFF}", unipc(k, bh), EXACT)
        for k in (2, 3)
        for bh in ("bh1", "bh2")
    ],
]
ZERO: list[tuple[str, str, Solver, float]] = [
    ("k-diffusion", "euler", euler(), EXACT),
    ("k-diffusion", "heun", heun(), EXACT),
    ("k-diffusion", "dpm_2", dpm_2(), EXACT),
    ("k-diffusion", "dpmpp_2m", dpmpp_2m(), EXACT),
    ("k-diffusion", "dpmpp_2s", dpmpp_2s(), EXACT),
    ("diffusers", "Euler", euler(), SINGLE),
    ("diffusers", "Heun", heun(), EXACT),
    ("diffusers", "KDPM2", dpm_2(), EXACT),
    ("diffusers", "EDM Euler", euler(), SINGLE),
    ("diffusers", "DDIM", ddim(), EXACT),
]


def _gap(theirs, solver: Solver, end: str) -> float:
    levels = orders.grid(18, end, uneven=True)
    ours = Plan(solver, tuple(to_lams(levels)), 0).walk(orders.to_the_last, orders.start())
    return (theirs.walk(orders.to_the_last, orders.start(), levels) - ours).abs().max().item()


@pytest.mark.parametrize(
    ("package", "name", "solver", "close"), STOP, ids=[f"{row[0]} {row[1]}" for row in STOP]
)
def test_the_same_solver_ends_in_the_same_place(peer, package, name, solver, close) -> None:
    """18 uneven steps from σ = 20 to 0.05."""
    assert _gap(peer(package, name), solver, "stop") < close


@pytest.mark.parametrize(
    ("package", "name", "solver", "close"), ZERO, ids=[f"{row[0]} {row[1]}" for row in ZERO]
)
def test_and_with_a_last_step_to_the_data(peer, package, name, solver, close) -> None:
    """The same with one step more, from 0.05 to 0."""
    assert _gap(peer(package, name), solver, "zero") < close


def test_dpm_solver_3_is_k_diffusions(peer) -> None:
    """Its step alone: the samplers that use it mix it with lower orders."""
    peer("k-diffusion", "euler")
    from field.peers import k_diffusion_sampling

    sampling = k_diffusion_sampling()
    levels = orders.grid(12, "stop", uneven=True)
    made = sampling.DPMSolver(lambda x, sigma: orders.to_the_last(x, sigma[0].item()))
    x = orders.start()
    times = -torch.tensor(levels, dtype=torch.float64).log()
    for t, s in itertools.pairwise(times):
        x, _ = made.dpm_solver_3_step(x, t, s)
    ours = Plan(dpm_3(), tuple(to_lams(levels)), 0).walk(orders.to_the_last, orders.start())
    assert (x - ours).abs().max() < EXACT


def test_a_wrong_pair_is_noticed(peer) -> None:
    """The comparison can fail: two solvers of one order that differ are far apart here."""
    assert _gap(peer("k-diffusion", "dpmpp_2m"), adams(2), "stop") > 1e-4
    assert _gap(peer("k-diffusion", "dpmpp_2m"), dpmpp_2m(), "stop") < EXACT
