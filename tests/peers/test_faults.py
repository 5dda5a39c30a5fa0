"""The list of what is wrong in the peers is measured again, and so is that ours is not."""

import pytest

from field import orders
from field.faults import CHECKS, needs
from field.ours import Plan, to_lams
from field.peers import versions
from marginals.solvers import adams, dpmpp_3m, lms, unipc

MEASURED = {"diffusers": "0.42.1", "azula": "0.11.1", "k-diffusion": "0.1.1.post1"}
"""The versions that docs/results/solvers-peers.md speaks of."""


@pytest.mark.parametrize("check", list(CHECKS))
def test_every_fault_on_the_list_is_there(check) -> None:
    """Each row of the table, measured with the version it was written for."""
    package = needs(check)
    if versions().get(package) != MEASURED[package]:
        pytest.skip(f"written for {package} {MEASURED[package]}, here: {versions().get(package)}")
    if check == "third_order_multistep" and "k-diffusion" not in versions():
        pytest.skip("k-diffusion is not installed (bench/README.md)")
    found = list(CHECKS[check]())
    assert found
    assert all(fault.found for fault in found), [fault for fault in found if not fault.found]


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (dpmpp_3m(), 3),
        (adams(3, "eps"), 3),
        (lms(4), 4),
        (adams(4, "flow", "t"), 4),
        (unipc(3, "bh1"), 4),
    ],
    ids=["dpmpp_3m", "adams eps", "lms", "adams flow", "unipc bh1"],
)
def test_ours_have_the_order_that_theirs_lack(solver, order) -> None:
    """On the same problem, in the same even and uneven steps."""

    def walk(denoise, x, sigmas):
        return Plan(solver, tuple(to_lams(sigmas)), 0).walk(denoise, x)

    for uneven in (False, True):
        assert orders.measured(walk, "stop", (96, 192, 384), uneven) == pytest.approx(
            order, abs=0.2
        )


def test_a_wrong_weight_shows_as_a_lower_order() -> None:
    """The measurement can fail: a second difference with half its weight makes order 2 of 3."""
    right = dpmpp_3m()

    def walk(denoise, x, sigmas):
        plan = Plan(right, tuple(to_lams(sigmas)), 0)
        lower = Plan(adams(2), plan.lams, 0)
        return 0.5 * (plan.walk(denoise, x) + lower.walk(denoise, x))

    assert orders.measured(walk, "stop") < 2.5
