"""Kinds of guidance, each held against the closed forms of a labelled mixture."""

import math
from functools import partial

import pytest
import torch

from marginals.denoiser import Net, Rescaled
from marginals.errors import MarginalsError
from marginals.formulations import v_diffusion
from marginals.generative import DataStats
from marginals.guidance import ClassifierGuided, Clipped, Guided, weight_at
from marginals.oracle import Mixture
from marginals.predict import EPS, VELOCITY, X0, V
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.solvers import dpmpp_2m, heun

MEANS = torch.tensor([[-1.0, 0.5], [1.2, 0.0], [0.3, -1.5]])
STD, WEIGHTS, LABELS = [0.5, 0.4, 0.6], torch.tensor([1.0, 2.0, 1.5]), torch.tensor([0, 1, 1])
ORACLE = Mixture(MEANS, STD, WEIGHTS, LABELS)
BAD = Mixture(0.7 * MEANS, [0.9, 0.8, 1.0], WEIGHTS, LABELS)
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
COND = torch.tensor([0, 1, 1, 0, 1])
LAMS = [-3.0, 0.4, 4.0, torch.tensor([-3.0, -1.0, 0.0, 2.0, 4.0], dtype=torch.float64)]
WALK = [-6.0, -2.0, -0.5, 1.0, 3.0, math.inf]


class Counted:
    """The oracle, with a note of every call."""

    def __init__(self, inner=ORACLE):
        self.inner, self.scaling, self.calls = inner, inner.scaling, []

    def __call__(self, x, lam, cond=None):
        self.calls.append((len(x), lam))
        return self.inner(x, lam, cond)


def close(a, b, tolerance=1e-10):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def exact_classifier(mixture):
    return lambda x, lam: mixture.class_posterior(x, lam).log()


# weights: of a picture, of a level


@pytest.mark.parametrize("lam", LAMS, ids=str)
def test_a_weight_for_every_picture_is_a_loop_over_them(lam):
    weight = torch.tensor([0.0, 1.0, 2.5, -1.0, 7.0])
    got = Guided(ORACLE, weight)(X, lam, COND).x0
    for i, one in enumerate(weight.tolist()):
        level = lam if isinstance(lam, float) else lam[i : i + 1]
        wanted = Guided(ORACLE, one)(X[i : i + 1], level, COND[i : i + 1]).x0
        assert close(got[i : i + 1], wanted)


def test_a_weight_may_depend_on_the_level():
    def weight(lam):
        return 1.0 + 0.5 * lam

    got = Guided(ORACLE, weight)(X, LAMS[3], COND)
    for i, lam in enumerate(LAMS[3].tolist()):
        one = Guided(ORACLE, 1.0 + 0.5 * lam)(X[i : i + 1], lam, COND[i : i + 1])
        assert close(got.x0[i : i + 1], one.x0)
        assert close(Guided(ORACLE, weight)(X, lam, COND).x0[i : i + 1], one.x0)


def test_outside_the_interval_the_plain_model_walks_and_is_asked_once():
    counted = Counted()
    guided = Guided(counted, 3.0, interval=(-1.0, 2.0))
    result = sample(guided, X, WALK, heun(), cond=COND)
    assert result.nfe == len(counted.calls)
    for rows, lam in counted.calls:
        assert rows == (10 if -1.0 <= lam <= 2.0 else 5)
    assert {rows for rows, _ in counted.calls} == {5, 10}
    for lam in (-1.001, 2.001, math.inf, -math.inf):
        assert torch.equal(guided(X, lam, COND).x0, ORACLE(X, lam, COND).x0)
    for lam in (-1.0, 0.3, 2.0):
        assert torch.equal(guided(X, lam, COND).x0, Guided(ORACLE, 3.0)(X, lam, COND).x0)
    nowhere = sample(Guided(ORACLE, 3.0, interval=(40.0, 50.0)), X, WALK, dpmpp_2m(), cond=COND)
    assert torch.equal(nowhere.x, sample(ORACLE, X, WALK, dpmpp_2m(), cond=COND).x)


def test_levels_of_their_own_are_inside_or_outside_one_by_one():
    lam = torch.tensor([-2.0, -1.0, 0.5, 2.0, 2.1], dtype=torch.float64)
    for weight in (3.3, torch.tensor([3.3, 2.0, 1.5, 0.0, 4.0], dtype=torch.float64)):
        got = Guided(ORACLE, weight, interval=(-1.0, 2.0))(X, lam, COND).x0
        plain, full = ORACLE(X, lam, COND).x0, Guided(ORACLE, weight)(X, lam, COND).x0
        assert close(got, torch.cat([plain[:1], full[1:4], plain[4:]]), 1e-13)
    found = weight_at(3.3, lam, (-1.0, 2.0))
    assert isinstance(found, torch.Tensor) and found.tolist() == [1.0, 3.3, 3.3, 3.3, 1.0]


# two denoisers; what the weak side is told


@pytest.mark.parametrize("lam", LAMS, ids=str)
@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
def test_autoguidance_extrapolates_from_a_worse_model_told_the_same(lam, scaling):
    strong = Rescaled(ORACLE, scaling)
    got = Guided(strong, 2.5, weak=BAD)(X, lam, COND)  # the weak one speaks other units
    bad = Rescaled(BAD, scaling)(X, lam, COND)
    assert close(got.x0, bad.x0 + 2.5 * (strong(X, lam, COND).x0 - bad.x0))
    assert got.scaling == scaling
    itself = Guided(strong, 2.5, weak=strong)
    assert close(itself(X, lam, COND).x0, strong(X, lam, COND).x0, 1e-14)
    assert close(itself(X, lam).x0, strong(X, lam).x0, 1e-14)  # without classes as well
    none = Guided(strong, 0.0, weak=BAD)(X, lam, COND)
    assert close(none.x0, bad.x0)


def test_the_weak_model_may_speak_another_prediction():
    class Body(torch.nn.Module):
        def __init__(self, gain):
            super().__init__()
            self.gain = gain

        def forward(self, x, t, cond):
            return torch.tanh(self.gain * x + cond[:, None].to(x)) + t[:, None]

    strong, weak = Net(Body(1.0), prediction=V), Net(Body(0.3), prediction=EPS, scaling=VE)
    for lam in LAMS:
        got = Guided(strong, 1.8, weak=weak)(X, lam, COND)
        parts = strong(X, lam, COND), Rescaled(weak, VP)(X, lam, COND)
        for reading in (X0, EPS, VELOCITY):
            wanted = 1.8 * parts[0].read(reading) - 0.8 * parts[1].read(reading)
            assert close(got.read(reading), wanted, 1e-9)


def test_a_negative_is_what_the_weak_side_is_told():
    for negative in (torch.tensor([0]), torch.tensor([0, 0, 0, 0, 0])):
        counted = Counted()
        got = Guided(counted, 2.0, negative=negative)(X, 0.3, COND).x0
        other = torch.zeros(5, dtype=torch.long)
        wanted = 2.0 * ORACLE(X, 0.3, COND).x0 - ORACLE(X, 0.3, other).x0
        assert close(got, wanted) and counted.calls == [(10, 0.3)]
        away = Guided(ORACLE, 2.0, negative=negative)(X, 0.3).x0  # nothing asked for
        assert close(away, 2.0 * ORACLE(X, 0.3).x0 - ORACLE(X, 0.3, other).x0)
    null = torch.full_like(COND, -1)
    small = Guided(ORACLE, 2.0, weak=BAD, negative=null)(X, 0.3, COND).x0
    assert close(small, 2.0 * ORACLE(X, 0.3, COND).x0 - BAD(X, 0.3).x0)


def test_texts_of_two_lengths_are_padded_to_one():
    class Told(torch.nn.Module):
        def forward(self, x, t, cond):
            return x + cond.sum((1, 2))[:, None] + 0.01 * cond.shape[1]

    net = Net(Told(), prediction=X0)
    said, negative = torch.ones(5, 2, 3).double(), 2.0 * torch.ones(1, 4, 3).double()
    got = Guided(net, 3.0, negative=negative)(X, 0.0, said).x0
    assert close(got, 3.0 * (X + 6.0) - 2.0 * (X + 24.0) + 0.04)


# rescaling and clipping


def test_rescaling_gives_back_the_spread_of_the_conditional_estimate():
    pictures = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    oracle = Mixture(pictures, 0.3, labels=torch.tensor([0, 1, 1]))
    x = 2.0 * torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    plain = oracle(x, -1.0, COND).x0
    wild = Guided(oracle, 6.0)(x, -1.0, COND).x0
    full = Guided(oracle, 6.0, rescale=1.0)(x, -1.0, COND).x0
    half = Guided(oracle, 6.0, rescale=0.4)(x, -1.0, COND).x0
    spread = [part.flatten(1).std(1) for part in (plain, wild, full)]
    assert (spread[1] > 2.0 * spread[0]).any() and close(spread[2], spread[0])
    assert close(half, 0.4 * full + 0.6 * wild)
    assert close(full / wild, (full / wild)[:, :1, :1, :1].expand_as(wild))


def test_rescaling_leaves_a_picture_of_one_colour():
    flat = Mixture(torch.tensor([0.2, -0.4])[:, None, None, None].expand(2, 1, 3, 3), 0.0,
                   labels=torch.tensor([0, 1]))  # fmt: skip
    x = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    got = Guided(flat, 3.0, rescale=1.0)(x, 0.0, torch.tensor([0, 1])).x0
    assert close(got, Guided(flat, 3.0)(x, 0.0, torch.tensor([0, 1])).x0)


def test_clipping_and_dynamic_thresholding():
    class Wild:
        scaling = VP

        def __call__(self, x, lam, cond=None):
            from marginals.denoiser import Estimate

            return Estimate(x, lam, VP, 3.0 * x)

    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    x[0] *= 0.01
    assert torch.equal(Clipped(Wild())(x, 0.0).x0, (3.0 * x).clamp(-1, 1))
    assert torch.equal(Clipped(Wild(), 0.5)(x, 0.0).x0, (3.0 * x).clamp(-0.5, 0.5))
    got = Clipped(Wild(), quantile=0.9)(x, 0.0).x0
    assert torch.equal(got[0], 3.0 * x[0])  # nothing beyond the bound: as it was
    for i in (1, 2, 3):
        s = (3.0 * x[i]).abs().flatten().sort().values[68 - 1]  # 0.9·75 = 67.5, rounded up
        assert s > 1 and close(got[i], (3.0 * x[i]).clamp(-s, s) / s)
        assert ((got[i].abs() < 1).sum() == 67) and got[i].abs().max() == 1
    assert close(Clipped(Wild(), quantile=1.0)(x, 0.0).x0[1], x[1] / x[1].abs().max())


# classifier guidance


@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
@pytest.mark.parametrize("lam", LAMS, ids=str)
def test_an_exact_classifier_at_scale_one_is_the_conditional_model(scaling, lam):
    """Luo Eqs. 163-165; and at any scale it is classifier-free guidance (Eqs. 166-170)."""
    own = Mixture(MEANS, STD, WEIGHTS, LABELS, scaling=scaling)
    with torch.no_grad():  # as in a walk
        one = ClassifierGuided(own, exact_classifier(own))(X, lam, COND)
        more = ClassifierGuided(own, exact_classifier(own), 3.5)(X, lam, COND)
        twice = ClassifierGuided(own, exact_classifier(own), 1.0, conditional=True)(X, lam, COND)
    assert close(one.score, own.score(X, lam, COND), 1e-9)
    assert close(one.x0, own(X, lam, COND).x0, 1e-9)
    assert close(more.x0, Guided(own, 3.5)(X, lam, COND).x0, 1e-9)
    assert close(twice.x0, Guided(own, 2.0)(X, lam, COND).x0, 1e-9)  # the class counts twice
    assert not one.x0.requires_grad


@pytest.mark.parametrize("prediction", [EPS, V, VELOCITY, X0], ids=repr)
def test_a_classifier_changes_eps_by_sigma_times_its_slope_whatever_is_predicted(prediction):
    """ε̂ − σ·s·∇ log p(y | x) (Dhariwal & Nichol 2021, Algorithm 2)."""
    net = Net(torch.nn.Linear(2, 2).double(), prediction=prediction)
    net.backbone.forward = lambda x, t, cond=None: torch.tanh(x)

    def classifier(x, lam):
        return torch.stack([x[:, 0] ** 2, x[:, 1].sin(), x.sum(1)], 1)

    cond = torch.tensor([0, 1, -1, 2, 0])
    scale = torch.tensor([2.0, 0.5, 9.0, 1.0, 0.0], dtype=torch.float64)
    x = X.clone().requires_grad_()
    chosen = classifier(x, 0.0).log_softmax(1).gather(1, cond.clamp(min=0)[:, None])
    (slope,) = torch.autograd.grad(chosen.sum(), x)
    got = ClassifierGuided(net, classifier, scale)(X, 0.7, cond)
    moved = net(X, 0.7).eps - VP(0.7).sigma * scale[:, None] * slope
    wanted = torch.where(cond[:, None] >= 0, moved, net(X, 0.7).eps)
    assert close(got.eps, wanted) and got.prediction == prediction
    assert torch.equal(ClassifierGuided(net, classifier)(X, 0.7).out, net(X, 0.7).out)


def test_walks_with_a_classifier_are_walks_of_the_conditional_model():
    guided = ClassifierGuided(ORACLE, exact_classifier(ORACLE))
    got, wanted = (sample(d, X, WALK, dpmpp_2m(), cond=COND).x for d in (guided, ORACLE))
    assert close(got, wanted, 1e-8)


# what guided samples are not


def _noised_tilt(weight, lam, x):
    """The score at x (N,) of the noised law ∝ p(x0)·p(y | x0)^γ of a line, by quadrature."""
    x0 = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    mixture = LINE
    log_p = mixture.log_prob(x0[:, None])
    log_p = log_p + weight * mixture.class_posterior(x0[:, None], math.inf)[:, 1].log()
    level = VP(lam)
    gap = level.alpha * x0 - x[:, None]
    joint = log_p - 0.5 * (gap / level.sigma) ** 2
    share = joint.softmax(1)
    return (share * gap).sum(1) / level.sigma**2, joint.logsumexp(1).softmax(0)


LINE = Mixture(
    torch.tensor([[-1.2], [0.4], [1.5]]), [0.5, 0.4, 0.6], labels=torch.tensor([0, 1, 0])
)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0, 3.0])
def test_the_guided_field_is_not_the_score_of_the_noised_tilted_law(weight):
    """It is for γ = 0 and 1. For others the two agree at the clean end only."""
    x = torch.linspace(-3, 3, 201, dtype=torch.float64)
    label, gaps = torch.ones(201, dtype=torch.long), []
    for lam in (-1.0, 7.0):
        score, density = _noised_tilt(weight, lam, x)
        guided = Guided(LINE, weight)(x[:, None], lam, label).score[:, 0]
        power = (density * score**2).sum()
        gaps.append(((density * (guided - score) ** 2).sum() / power).item())
    if weight in (0.0, 1.0):
        assert max(gaps) < 1e-10
    else:  # of the score's own mean square
        assert gaps[0] > 0.03 and gaps[1] < 0.02


def test_guided_samples_are_not_draws_from_the_tilted_law():
    x0 = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    noise = torch.erfinv(torch.linspace(-1, 1, 402, dtype=torch.float64)[1:-1]) * math.sqrt(2.0)
    lams = [*torch.linspace(-10, 10, 81).tolist(), math.inf]
    label = torch.ones(400, dtype=torch.long)
    gaps = {}
    for weight in (1.0, 3.0):
        share = LINE.log_prob(x0) + weight * LINE.class_posterior(x0, math.inf)[:, 1].log()
        share = share.softmax(0)
        mean = (share * x0[:, 0]).sum()
        std = (share * (x0[:, 0] - mean) ** 2).sum().sqrt()
        x = sample(Guided(LINE, weight), noise[:, None], lams, dpmpp_2m(), cond=label).x
        gaps[weight] = abs(x.std().item() / std.item() - 1.0)
    assert gaps[1.0] < 0.02  # equal weights of the ends of the quantiles are left out
    assert gaps[3.0] > 0.1


# through a model


class _Body(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.8, dtype=torch.float64))

    def forward(self, x, t, cond=None):
        shift = 0.0 if cond is None else cond.to(x)[:, None]
        return torch.tanh(self.gain * x + shift) + t[:, None]


def _model():
    stats = DataStats((2,), classes=("a", "b", "c"))
    return v_diffusion(_Body(), data=stats)


def test_a_model_is_sampled_with_any_guidance_and_any_batch():
    model, cond = _model(), torch.tensor([0, 1, 2, 1, 0])
    weights = torch.tensor([1.0, 2.0, 3.0, 0.5, 2.0])
    whole = model.sample(5, cond=cond, guidance=weights, steps=4).x
    parts = model.sample(5, cond=cond, guidance=weights, steps=4, batch=2).x
    assert close(whole, parts, 1e-12)
    for i, weight in enumerate(weights.tolist()):
        alone = torch.tensor([weight])
        one = model.sample(1, cond=cond[i : i + 1], guidance=alone, steps=4, seed=i).x
        assert close(whole[i : i + 1], one, 1e-12)
    wrapped = partial(Guided, weight=2.0, interval=(-1.0, 2.5))
    got = model.sample(5, cond=cond, guidance=wrapped, steps=4).x
    lams = model.sample(5, cond=cond, guidance=wrapped, steps=4).lams
    wanted = sample(Guided(model.net, 2.0, interval=(-1.0, 2.5)), model.start(range(5), lams[0]),
                    lams, _auto(), cond=cond).x  # fmt: skip
    assert close(got, wanted, 1e-12)
    clipped = model.sample(
        5, cond=cond, steps=4, guidance=lambda net: Clipped(Guided(net, 9.0), 0.3)
    )
    assert clipped.x.abs().max() <= 0.3 + 1e-12
    assert not close(model.sample(5, cond=cond, guidance=9.0, steps=4).x, clipped.x)


def _auto():
    from marginals.solvers import auto

    return auto(guided=True)


def test_adaptive_steps_take_one_weight_and_refuse_one_for_each():
    model = _model()
    one = model.sample(3, cond=1, guidance=2.0, tolerance=1e-4)
    same = model.sample(3, cond=1, guidance=partial(Guided, weight=2.0), tolerance=1e-4)
    assert torch.equal(one.x, same.x)
    with pytest.raises(MarginalsError, match="fixed steps"):
        Guided(model.net, torch.ones(3))(X, 0.0, COND)


def test_what_cannot_be_meant_is_refused():
    model = _model()
    with pytest.raises(MarginalsError, match="noisier first"):
        Guided(ORACLE, 2.0, interval=(2.0, -1.0))
    with pytest.raises(MarginalsError, match="share"):
        Guided(ORACLE, 2.0, rescale=1.5)
    with pytest.raises(MarginalsError, match="5 pictures cannot have 2"):
        Guided(ORACLE, torch.ones(2))(X, 0.0, COND)
    with pytest.raises(MarginalsError, match="negative"):
        Guided(ORACLE, 2.0, negative=torch.tensor([0, 1]))(X, 0.0, COND)
    with pytest.raises(MarginalsError, match="finite level"):
        ClassifierGuided(ORACLE, exact_classifier(ORACLE))(X, -math.inf, COND)
    with pytest.raises(MarginalsError, match="bound"):
        Clipped(ORACLE, quantile=1.2)
    with pytest.raises(MarginalsError, match="4 pictures need 4 weights"):
        model.sample(4, cond=1, guidance=torch.ones(3))
    with pytest.raises(MarginalsError, match="give cond"):
        model.sample(4, guidance=torch.ones(4))
