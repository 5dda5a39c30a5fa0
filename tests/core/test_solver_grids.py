"""Grids of levels: always as many steps as asked, between the ends asked, at the papers' places."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_law

from marginals.errors import MarginalsError
from marginals.scaling import FLOW, VP
from marginals.schedule import Cosine, LinearBeta, Logit, Tabulated, Truncated
from marginals.solvers import grid, karras, uniform_lam, uniform_time
from marginals.solvers.grids import (
    GRIDS,
    BetaTime,
    Powered,
    Trailing,
    beta_time,
    shifted_grid,
    straight,
    trailing,
)

LOW, HIGH = -8.0, 9.0
MADE = {name: make() for name, make in GRIDS.items()} | {
    "karras, rho 3": GRIDS["karras"](3.0),
    "flow, shift 3": GRIDS["flow"](3.0),
    "cosine, shift 2": GRIDS["cosine"](2.0),
    "trailing cosine, shift 2": GRIDS["trailing"](Cosine(), 2.0),
    "uniform_t, DDPM's table": GRIDS["uniform_t"](Tabulated.ddpm()),
    "beta 2, 0.7": GRIDS["beta"](2.0, 0.7),
    "auto 0.7": GRIDS["auto"](0.7),
    "powered cosine": lambda low, high: Truncated(Powered(Cosine(), 2.5), high, low),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_grid_has_the_steps_and_the_ends_asked_for(name, steps):
    schedule = MADE[name](LOW, HIGH)
    for final in (True, False):
        lams = grid(schedule, steps, final=final)
        assert len(lams) == steps + 1
        assert all(a < b for a, b in pairwise(lams))
        assert lams[0] == pytest.approx(LOW, abs=1e-9)
        assert lams[-1] == (math.inf if final else pytest.approx(HIGH, abs=1e-9))
    if steps > 1 and not isinstance(schedule, Trailing):
        assert grid(schedule, steps)[-2] == pytest.approx(HIGH, abs=1e-9)


@pytest.mark.parametrize("name", MADE)
def test_a_grid_is_a_schedule(name):
    """Its time has an inverse and a slope, like every schedule's."""
    schedule = MADE[name](LOW, HIGH)
    t = torch.linspace(0.03, 0.97, 41, dtype=torch.float64)
    assert torch.allclose(schedule.t(schedule.lam(t)), t, atol=1e-9)
    numeric = (schedule.lam(t + 1e-6) - schedule.lam(t - 1e-6)) / 2e-6
    if "table" not in name:  # a tabulated schedule has corners
        assert torch.allclose(schedule.dlam(t), numeric, rtol=1e-4)


def test_trailing_is_diffusers():
    """Timesteps T, T − T/N, …, T/N, then the data: t_i = 1 − i/N of the schedule's time."""
    clock = LinearBeta()
    low, high = clock.lam(1.0), clock.lam(1e-6)
    lams = grid(trailing(clock)(low, high), 8)
    times = [clock.t(lam) for lam in lams[:-1]]
    assert times == pytest.approx([1.0 - i / 8 for i in range(8)], abs=1e-5)
    assert lams[-1] == math.inf
    # the other spacing spends a step on the way from the cleanest level to the data
    assert grid(uniform_time(clock)(low, high), 8)[-2] == pytest.approx(high, rel=1e-9)


def test_a_shift_moves_levels_by_twice_its_logarithm():
    """λ − 2·log s between the same ends; on flow's time it is Esser et al. 2024, Eq. 23."""
    plain = GRIDS["flow"]()(LOW + 2 * math.log(3.0), HIGH + 2 * math.log(3.0))
    moved = shifted_grid(GRIDS["flow"](), 3.0)(LOW, HIGH)
    t = torch.linspace(0.0, 1.0, 23, dtype=torch.float64)
    assert torch.allclose(moved.lam(t), plain.lam(t) - 2 * math.log(3.0), atol=1e-12)
    assert torch.allclose(moved.lam(t), GRIDS["flow"](3.0)(LOW, HIGH).lam(t), atol=1e-9)
    wide = GRIDS["flow"](3.0)(-60.0, 60.0)
    times = np.array([FLOW(lam).sigma for lam in wide.lam(t).tolist()])
    even = t.numpy()
    assert np.allclose(times, 3.0 * even / (1.0 + 2.0 * even), atol=1e-9)
    for same in (karras, uniform_lam):  # have no level of their own
        assert torch.allclose(
            shifted_grid(same, 5.0)(LOW, HIGH).lam(t), same(LOW, HIGH).lam(t), atol=1e-9
        )


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_the_default_is_even_in_a_root_of_flows_time(power):
    """t^(1/power) in equal steps; where the ends are pure noise and data, t_i = (1 − i/N)^power and
    the last step is the whole way from 1/N^power to the data."""
    lams = grid(straight(LOW, HIGH, power), 8, final=False)
    times = np.array([FLOW(lam).sigma for lam in lams])
    assert np.allclose(np.diff(times ** (1.0 / power), 2), 0.0, atol=1e-12)
    *wide, last = grid(straight(-150.0, 150.0, power), 8)
    expected = [(1.0 - i / 8) ** power for i in range(8)]
    assert [FLOW(lam).sigma for lam in wide] == pytest.approx(expected, abs=1e-9)
    assert last == math.inf
    assert straight(LOW, HIGH, power) == GRIDS["auto"](power)(LOW, HIGH)
    assert straight(LOW, HIGH) == straight(LOW, HIGH, 1.35) == GRIDS["auto"]()(LOW, HIGH)


def test_a_power_above_one_moves_levels_to_the_data():
    base, t = Cosine(), torch.linspace(0.01, 0.99, 23, dtype=torch.float64)
    assert torch.allclose(Powered(base, 2.0).lam(t), base.lam(t * t), atol=1e-12)
    assert bool((Powered(base, 2.0).lam(t) > base.lam(t)).all())
    assert torch.allclose(Powered(base, 1.0).lam(t), base.lam(t), atol=1e-12)
    assert Powered(base).lam(0.0) == base.lam(0.0) and Powered(base).lam(1.0) == base.lam(1.0)


def test_cosine_is_even_in_the_angle():
    lams = grid(GRIDS["cosine"]()(LOW, HIGH), 6, final=False)
    angles = [math.atan2(VP(lam).sigma, VP(lam).alpha) for lam in lams]
    assert np.allclose(np.diff(angles, 2), 0.0, atol=1e-12)


def test_exponential_has_equal_ratios():
    sigma = np.exp(-0.5 * np.array(grid(GRIDS["exponential"]()(LOW, HIGH), 6, final=False)))
    assert np.allclose(sigma[1:] / sigma[:-1], sigma[1] / sigma[0], rtol=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (2.0, 0.7), (0.3, 5.0), (30.0, 20.0)])
def test_beta_is_the_quantile_function_of_its_law(a, b):
    clock = beta_time(Logit(), a, b)(LOW, HIGH)
    t = torch.tensor([1e-4, 0.03, 0.2, 0.5, 0.77, 0.99], dtype=torch.float64)
    low, high = Logit().t(LOW), Logit().t(HIGH)
    share = (Logit().t(clock.lam(t)) - high) / (low - high)
    assert np.allclose(share, beta_law.ppf(t.numpy(), a, b), rtol=1e-8, atol=1e-12)
    assert clock.lam(0.0) == pytest.approx(HIGH) and clock.lam(1.0) == pytest.approx(LOW)


BAD = {
    "shift": lambda: shifted_grid(karras, 0.0),
    "infinite shift": lambda: GRIDS["cosine"](math.inf),
    "beta": lambda: BetaTime(Logit(), 0.0, 1.0),
    "big beta": lambda: BetaTime(Logit(), 1.0, 1000.0),
    "power 0": lambda: Powered(Logit(), 0.0),
    "power 11": lambda: GRIDS["auto"](11.0)(LOW, HIGH),
    "power NaN": lambda: Powered(Logit(), math.nan),
    "rho": lambda: GRIDS["karras"](-1.0)(LOW, HIGH),
    "empty": lambda: GRIDS["trailing"]()(3.0, 3.0),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_impossible_grids_are_refused(make):
    with pytest.raises(MarginalsError):
        make()
