"""The contest itself, on a problem small enough to be solved here; needs no peer."""

import itertools
import math

import pytest
import torch

from field.contest import Entrant, Store, against, best, hold
from field.entrants import from_us
from field.figures import measure
from field.grids import ENDS, GRIDS, START, STOP, sigmas, takes
from field.peers import Peer, two_a_step
from field.problems import HELD_OUT, NEARLY_ZERO, mixture_denoise, noise, solved
from marginals.denoiser import Rescaled
from marginals.noise import item_noise
from marginals.oracle import Gaussian, Mixture
from marginals.scaling import VE


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """One Gaussian in three dimensions."""
    mixture = Mixture(torch.tensor([[0.5, -1.0, 0.0]]), 0.3)
    says = mixture_denoise(mixture)
    cache = tmp_path_factory.mktemp("truth")
    denoiser, start = Rescaled(mixture, VE), noise(6, (3,))
    denoiser, start = Rescaled(mixture, VE), noise(6, (3,))
    return solved("one", lambda part: says, denoiser, start, cache, "", steps=800, check=2)


def test_the_truth_is_true(problem) -> None:
    """Against the closed form, to what the two solutions of the truth differ by."""
    mean, std = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64), 0.3
    flow = Gaussian(mean, std**2 * torch.eye(3, dtype=torch.float64), VE).flow
    lams = [-2.0 * math.log(s) for s in (START, NEARLY_ZERO)]
    assert (problem.truth - flow(problem.start, *lams)).abs().max() < 1e-8
    assert problem.accuracy < 1e-6
    assert torch.equal(
        problem.start, START * item_noise(range(HELD_OUT, HELD_OUT + 6), (3,)).double()
    )


@pytest.mark.parametrize("end", ENDS)
def test_grids_go_where_they_say(end) -> None:
    for grid in (grid for grid in GRIDS if takes(grid, end)):
        for steps in (1, 2, 7):
            levels = sigmas(grid, steps, end)
            assert len(levels) == steps + 1 and levels[0] == START
            assert all(a > b for a, b in itertools.pairwise(levels))
            assert levels[-1] == pytest.approx(STOP if end == "stop" else 0.0, abs=1e-12)


def test_a_budget_is_the_most_that_fits() -> None:
    peer = Peer("", "heun", lambda denoise, x, sigmas: x, 2, two_a_step)
    assert [peer.steps(nfe, "zero") for nfe in (1, 2, 5, 8)] == [1, 1, 3, 4]
    assert [peer.steps(nfe, "stop") for nfe in (1, 2, 5, 8)] == [0, 1, 2, 4]


def test_a_contest_counts_ranks_and_remembers(problem, tmp_path) -> None:
    store = Store(tmp_path / "errors.pt", problem)
    entrants = [e for e in from_us(6, ("flow",)) if ":" not in e.name]
    exact = Entrant("peer", "truth", "", 6, "truth", lambda denoise, x: problem.truth[: len(x)])
    places = hold(store, [*entrants, exact], finalists=5)
    assert len(places) == 6 and best(places, "peer").error.rmse == 0.0
    ours = [place for place in places if place.entrant.side == "ours"]
    assert [p.error.rmse for p in ours] == sorted(p.error.rmse for p in ours)
    assert all(0 < place.error.nfe <= 6 for place in ours)
    again = Store(tmp_path / "errors.pt", problem)
    assert hold(again, entrants, finalists=5)[0].error == ours[0].error and again.new == 0
    assert against(ours[-1], ours[0])[0] == pytest.approx(ours[-1].error.rmse / ours[0].error.rmse)


def test_the_least_mean_takes_part_and_may_be_another(problem, tmp_path) -> None:
    """One sample far off is most of a root mean square and little of a mean."""

    def off(*sizes: float) -> Entrant:
        far = torch.tensor(sizes).double()[:, None]
        name = str(sizes)
        return Entrant("peer", name, "", 6, name, lambda denoise, x: problem.truth[: len(x)] + far)

    even, spike = off(*[2.0] * 6), off(*[0.1] * 5, 6.0)
    store = Store(tmp_path / "errors.pt", problem)
    places = hold(store, [even, spike], finalists=1)
    assert len(places) == 2
    assert best(places, "peer").entrant is even and best(places, "peer", "mean").entrant is spike
    assert best(places, "peer", "mean").error.mean == pytest.approx(6.5 / 6.0)


def test_whoever_asks_too_often_is_refused(problem, tmp_path) -> None:
    def greedy(denoise, x):
        for _ in range(7):
            x = denoise(x, 1.0)
        return x

    with pytest.raises(AssertionError, match="asked 7 times with a budget of 6"):
        hold(
            Store(tmp_path / "e.pt", problem), [Entrant("peer", "greedy", "", 6, "greedy", greedy)]
        )


def test_figures() -> None:
    """By hand: squared errors 0 and 4 have RMSE √2 and a mean of 1; what broke down is last."""
    error = measure(torch.tensor([0.0, 4.0]), 3)
    assert error.rmse == pytest.approx(math.sqrt(2.0)) and error.mean == 1.0 and error.nfe == 3
    assert math.isinf(measure(torch.tensor([0.0, math.nan]), 3).rmse)
