"""Every view walks one denoiser from the same noise; with an exact one we know where it ends."""

import pytest
import torch

from marginals.demo import agreement
from marginals.demo.judge import Judged, langevin_words
from marginals.demo.story import tell
from marginals.demo.views import VIEWS, labels_for, show, views_for, walk
from marginals.metrics.classifier import Share
from marginals.scaling import VP

STD, MEANS = 0.25, (-0.4, 0.4)


def nothing(done):
    pass


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.key)
def test_walks_end_in_the_distribution(exact, view):
    labels = torch.arange(64) % 2
    x = walk(exact(), view, 64, 0, labels, nothing).x
    for label in (0, 1):
        entries = x[labels == label]  # 2048 independent pixels: standard error of the mean 0.006
        if view.guidance == 1.0:
            assert abs(entries.mean() - MEANS[label]) < 0.03
            assert abs(entries.std() / STD - 1) < 0.12
        else:  # guidance pushes the classes apart
            assert abs(entries.mean()) > abs(MEANS[label]) + 0.05


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.key)
def test_the_cost_is_counted_not_claimed(exact, view):
    model, ticks, calls = exact(), [], []
    model.net.backbone.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    walk(model, view, 3, 0, torch.tensor([0, 1, 0]), ticks.append)
    assert sum(calls) == sum(ticks) == 3 * view.evaluations(model)


def test_views_start_from_the_same_noise(exact):
    """One Euler step to pure data from the first level shows where each walk began."""
    model = exact()
    starts = []
    for view in VIEWS:
        twin = model.convert(view.scaling)
        level = view.scaling(model.lam_min)
        starts.append(twin.start(range(4)) / level.sigma)
    for other in starts[1:]:
        torch.testing.assert_close(other, starts[0])


def test_smooth_walks_meet_and_random_ones_do_not(exact):
    model = exact()
    shown = show(model, VIEWS, 4, 0, torch.tensor([0, 1, 0, 1]), nothing)
    heun = next(each.x for each in shown if each.view.key == "heun")
    away = {each.view.key: float((each.x - heun).square().mean().sqrt()) for each in shown}
    assert max(away[k] for k in ("ddim", "euler", "dpmpp_2m", "rectified_flow")) < 0.05
    assert min(away[k] for k in ("ddpm", "euler_maruyama", "langevin")) > 0.15


def test_without_classes_there_is_no_guidance_and_no_label(exact):
    model = exact(classes=0)
    assert labels_for(model, 10, 2) is None
    assert all(view.guidance == 1.0 for view in views_for(model))
    assert len(views_for(model)) == len(VIEWS) - 1
    assert labels_for(exact(), 3, 2).tolist() == [0, 1, 0, 0, 1, 0]


def test_the_story_shows_one_noise_at_many_levels(exact):
    x0 = torch.full((1, 1, 8, 8), 0.3)
    story = tell(exact(), x0, torch.tensor([1]), 0)
    levels = [VP(lam) for lam in story.lams]
    noises = [(x - a * x0[0]) / s for x, (_, a, s) in zip(story.noisy, levels)]
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], atol=2e-4, rtol=0)
    assert abs(story.cleaned[0] - 0.3).max() < 0.02  # almost no noise: almost the picture
    assert abs(story.cleaned[-1] - MEANS[1]).max() < 0.02  # almost only noise: the average


def test_views_agree_on_an_exact_model(exact):
    x0 = torch.full((2, 1, 8, 8), 0.1)
    checks, conversions = agreement.agree(exact(), x0, torch.tensor([0, 1]), 0, nothing)
    assert [check.agrees for check in checks] == [True] * 4
    assert conversions.shape == (5, 5) and float(conversions.max()) < 1e-9


def test_agreement_ticks_what_it_announces(exact):
    ticks = []
    agreement.agree(exact(), torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), 0, ticks.append)
    assert sum(ticks) == agreement.cost(2)


def test_a_velocity_of_the_wrong_sign_is_noticed(exact, monkeypatch):
    from marginals.denoiser import Estimate

    right = Estimate.velocity
    monkeypatch.setattr(Estimate, "velocity", lambda self, schedule: -right(self, schedule))
    x0 = torch.zeros(2, 1, 8, 8)
    checks, _ = agreement.agree(exact(), x0, torch.tensor([0, 1]), 0, nothing)
    assert [check.agrees for check in checks] == [True, True, True, False]


def test_a_wrong_change_of_units_is_noticed(exact, monkeypatch):
    from marginals import denoiser

    right = denoiser.units
    wrong = lambda lam, old, new: right(lam, old, new) * (1.0 if old == new else 1.001)  # noqa: E731
    monkeypatch.setattr(denoiser, "units", wrong)
    x0 = torch.zeros(2, 1, 8, 8)
    checks, _ = agreement.agree(exact(), x0, torch.tensor([0, 1]), 0, nothing)
    assert not checks[1].agrees and not checks[2].agrees


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(4, 4, 0.510, 1.0), (0, 10, 0.0, 0.278), (10, 20, 0.299, 0.701)],
)
def test_few_samples_are_never_certain(hits, count, low, high):
    """Wilson intervals as the tables of statistics books have them."""
    judged = Judged(VIEWS[0], Share.of(hits, count), torch.zeros(count, 1, 1, 1))
    assert judged.range == pytest.approx((low, high), abs=6e-4)
    assert judged.hits == f"{hits} of {count}" and judged.share.stderr > 0


@pytest.mark.parametrize(
    ("hits", "grain", "said"),
    [(90, 0.5, ""), (30, 0.5, "stay noisier"), (30, 0.0, "not noisier")],
)
def test_langevin_is_explained_only_where_it_scores_lower(hits, grain, said):
    views = {view.key: view for view in VIEWS}
    flat = torch.zeros(100, 1, 8, 8)
    rough = grain * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    words = langevin_words(
        [
            Judged(views["heun"], Share.of(90, 100), flat),
            Judged(views["langevin"], Share.of(hits, 100), rough),
        ]
    )
    assert bool(words) == bool(said) and said in words
