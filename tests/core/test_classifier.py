"""Classifiers of noisy pictures against the exact posterior of a labelled mixture."""

import math

import pytest
import torch
from torch import nn

from marginals.classifier import NoisyClassifier, require_pair
from marginals.coupling import MinibatchOT
from marginals.denoiser import Rescaled
from marginals.errors import MarginalsError
from marginals.formulations import edm, rectified_flow, v_diffusion
from marginals.generative import DataStats
from marginals.nn import MLP
from marginals.nn.embed import fourier_features
from marginals.objective import WalkLevels
from marginals.oracle import Mixture
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP, units
from marginals.solvers import ddim, dpmpp_2m

MEANS = torch.tensor([[-1.0, 0.5], [1.2, 0.0], [0.3, -1.5]])
STD, WEIGHTS, LABELS = [0.5, 0.4, 0.6], torch.tensor([1.0, 2.0, 1.5]), torch.tensor([0, 1, 1])
ORACLE = Mixture(MEANS, STD, WEIGHTS, LABELS)
PRIOR = torch.tensor([1.0, 3.5], dtype=torch.float64) / 4.5
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
COND = torch.tensor([0, 1, 1, 0, 1])
LAMS = [-9.0, -3.0, 0.4, 6.0, torch.tensor([-3.0, -1.0, 0.0, 2.0, 4.0], dtype=torch.float64)]
SCALINGS = [VP, VE, FLOW, SUB_VP]


class Exact(nn.Module):
    """log p(class | x) of the oracle, read off x in VP units and the time that it is told."""

    def __init__(self, label):
        super().__init__()
        self.label = label

    def forward(self, x, t):
        return ORACLE.class_posterior(x, self.label.lam(t)).log()


def exact(**options) -> NoisyClassifier:
    classifier = NoisyClassifier(nn.Identity(), **options)
    classifier.body = Exact(classifier.label)
    return classifier


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [nn.Linear(18, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x, t):
        return self.layers(torch.cat([x, fourier_features(0.1 * t, 16).to(x)], 1))


@pytest.fixture(scope="module")
def trained() -> NoisyClassifier:
    """800 steps of Adam on 512 points each: a second of one core."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = NoisyClassifier(Small())
    x, which = ORACLE.sample(20_000, seed=1)
    x, labels, steps = x.float(), LABELS[which], 800
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, 2.0 * (steps - step) / steps)
        chosen = torch.randint(len(x), (512,), generator=generator)
        optimizer.zero_grad()
        classifier.loss(x[chosen], labels[chosen], generator).backward()
        optimizer.step()
    return classifier


def noisy(count: int, lam: float) -> torch.Tensor:
    x0, _ = ORACLE.sample(count, seed=9)
    _, alpha, sigma = VP(lam)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3), dtype=x0.dtype)
    return alpha * x0 + sigma * noise


@torch.no_grad()
def divergence(p, log_q):
    """E[KL(p ‖ q)] in nats."""
    return float((p * (p.log() - log_q)).sum(1).mean())


# what is learned


@pytest.mark.parametrize("lam", [-4.0, -2.0, 0.0, 2.0, 4.0, 8.0])
def test_training_finds_the_posterior_at_every_level(trained, lam):
    """The KL from the exact posterior is what the loss exceeds its least value by. A class is worth
    H(y) = 0.53 nats; one hundredth of that, 0.005, must be all that is missing, and where there is
    something to know, a twentieth of what the prior misses (measured: 0.0004 to 0.004)."""
    x = noisy(4000, lam)
    p = ORACLE.class_posterior(x, lam)
    missing = divergence(p, trained(x.float(), lam).double().log_softmax(1))
    assert missing < 0.005
    if lam >= -2.0:
        assert missing < 0.05 * divergence(p, PRIOR.log())


def test_it_guides_to_the_class(trained):
    """γ = 1 gives the conditional model (Luo Eq. 165) as nearly as the classifier is exact; with
    more, the class is more certain. The denoiser is exact, so nothing else errs."""
    lams = [-8.0 + 0.5 * i for i in range(40)]
    start = torch.randn(2000, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    cond = torch.zeros(2000, dtype=torch.long)

    def walk(denoiser, labels=cond):
        return sample(denoiser, start.float(), lams, dpmpp_2m(), cond=labels).x.double()

    def share(x):
        return float(ORACLE.class_posterior(x, lams[-1])[:, 0].mean())

    plain, wanted = share(walk(ORACLE, cond - 1)), walk(ORACLE)
    one, three = (walk(trained.guide(scale)(ORACLE)) for scale in (1.0, 3.0))
    assert abs(plain - float(PRIOR[0])) < 0.03
    assert torch.allclose(one.mean(0), wanted.mean(0), atol=0.1)
    assert torch.allclose(one.std(0), wanted.std(0), atol=0.1)
    assert 0.97 < share(one) < share(three) > 0.999


def test_the_loss_is_minus_the_log_of_the_posterior():
    classifier = exact()
    x0, eps = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(4)).double()
    for lam in LAMS:
        _, alpha, sigma = VP(lam)
        if isinstance(lam, torch.Tensor):
            alpha, sigma = alpha[:, None], sigma[:, None]
        wanted = ORACLE.class_posterior(alpha * x0 + sigma * eps, lam).log()
        wanted = -wanted.gather(1, COND[:, None])[:, 0]
        assert torch.allclose(classifier.cross_entropy(x0, eps, lam, COND), wanted, rtol=1e-9)


def test_losses_are_those_of_their_levels_and_nothing_is_learned_without_a_label():
    classifier = exact(levels=WalkLevels((-2.0, 1.0)))
    x0, which = ORACLE.sample(64, seed=3)
    labels = LABELS[which].clone()
    losses, lam = classifier.losses(x0, labels, torch.Generator().manual_seed(7))
    assert sorted(set(lam.tolist())) == [-2.0, 1.0]  # its own, each as often as the other
    assert int((lam == 1.0).sum()) == 32
    generator = torch.Generator().manual_seed(7)
    torch.rand(1, generator=generator, dtype=torch.float64)  # the levels come first
    eps = torch.randn(x0.shape, generator=generator).double()
    assert torch.allclose(losses, classifier.cross_entropy(x0, eps, lam, labels), rtol=1e-12)
    labels[::2] = -1
    hidden, _ = classifier.losses(x0, labels, torch.Generator().manual_seed(7))
    assert torch.equal(hidden[::2], torch.zeros(32)) and torch.equal(hidden[1::2], losses[1::2])


def test_stored_pixels_are_spread_over_their_bins():
    seen = []

    class Body(nn.Module):
        def forward(self, x, t):
            seen.append(x)
            return x.flatten(1)[:, :2]

    classifier = NoisyClassifier(Body(), levels=WalkLevels((60.0,)))
    x = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    classifier.losses(x, torch.tensor([1]), torch.Generator().manual_seed(0))
    bins = (seen[0] + 1.0) * 128.0 - x
    assert bool(((bins > -1e-3) & (bins < 1.0 + 1e-3)).all()) and float(bins.std()) > 0.1


# units


@pytest.mark.parametrize("lam", LAMS, ids=str)
@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_it_is_the_same_classifier_in_all_units(scaling, lam):
    factor = units(lam, VP, scaling)
    factor = factor[:, None] if isinstance(factor, torch.Tensor) else factor
    for classifier in (exact(), NoisyClassifier(Small().double())):
        wanted = classifier(X, lam)
        got = classifier.in_units(scaling)(X * factor, lam)
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lam", LAMS, ids=str)
@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_with_the_exact_classifier_scale_one_is_the_conditional_model(scaling, lam):
    """∇ log p(x) + ∇ log p(y | x) = ∇ log p(x | y) (Luo Eqs. 163-165), in the units of the
    model."""
    model = Rescaled(ORACLE, scaling)
    got, wanted = exact().guide(1.0)(model)(X, lam, COND), model(X, lam, COND)
    assert got.scaling == scaling
    assert torch.allclose(got.x0, wanted.x0, rtol=1e-9, atol=1e-10)
    assert torch.allclose(got.score, wanted.score, rtol=1e-9, atol=1e-10)


def small(make, **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        body = MLP(2, num_classes=options.pop("num_classes", 0), width=16, depth=1)
        for p in body.parameters():  # a fresh network answers 0
            p.data = p.data + 0.1 * torch.randn_like(p)
    return make(body, data=DataStats((2,), **options)).double()


@pytest.mark.parametrize("make", [v_diffusion, edm, rectified_flow])
def test_one_classifier_guides_every_model_alike_in_all_units(make):
    classifier, model = NoisyClassifier(Small().double()), small(make)
    options = {"steps": 6, "solver": ddim(), "seed": 3}
    plain = model.sample(4, **options).x  # it knows no classes
    options["cond"] = 1
    for scale in (2.0, lambda lam: 2.0):
        guide = {"guidance": classifier.guide(scale), **options}
        wanted = model.sample(4, **guide).x
        for scaling in SCALINGS:
            got = model.convert(scaling).sample(4, **guide).x
            assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(wanted, plain, atol=1e-3)
    off = {"guidance": classifier.guide(0.0), **options}
    assert torch.allclose(model.sample(4, **off).x, plain, rtol=1e-12, atol=1e-12)


def test_the_model_is_told_the_class_only_if_asked():
    """Dhariwal & Nichol's ADM-G guides a conditional model further."""
    model = small(v_diffusion, num_classes=2, classes=("a", "b"))
    classifier = NoisyClassifier(Small().double(), data=DataStats((2,), classes=("a", "b")))
    told, untold = (model.net(X, 0.3, c).x0 for c in (COND, torch.full_like(COND, -1)))
    guided = [classifier.guide(0.0, conditional=c)(model.net)(X, 0.3, COND).x0 for c in (1, 0)]
    assert torch.equal(guided[0], told) and torch.equal(guided[1], untold)
    assert not torch.allclose(told, untold)


def test_a_level_beyond_its_range_is_told_as_its_end():
    classifier = exact()
    for lam, end in ((12.5, 12.0), (math.inf, 12.0), (-40.0, -12.0)):
        assert torch.equal(classifier(X, lam), classifier(X, end))


# refusals


def test_it_draws_nothing_and_bounds_nothing():
    classifier = exact()
    assert not classifier.draws
    with pytest.raises(MarginalsError, match="draws no pictures: give it to a diffusion model"):
        classifier.sample(3)
    with pytest.raises(MarginalsError, match="nothing of a picture's probability"):
        classifier.elbo(X)
    with pytest.raises(MarginalsError, match="learns from labels"):
        classifier.losses(X)


def test_latents_are_no_pictures():
    classifier = exact(data=DataStats((1, 8, 8), classes=("a", "b")))
    with pytest.raises(MarginalsError, match=r"shape \(1, 8, 8\), not of shape \(2,\) \(latents"):
        small(v_diffusion).sample(2, steps=2, cond=1, guidance=classifier.guide(1.0))


@pytest.mark.parametrize(
    ("stats", "make", "says"),
    [
        (DataStats((2,), classes=("a", "b")), v_diffusion, ""),
        (DataStats((2,)), edm, ""),
        (DataStats((3,), classes=("a", "b")), v_diffusion, "makes pictures of shape"),
        (DataStats((2,), classes=("b", "a")), v_diffusion, "other classes"),
        (DataStats((2,), text="minilm"), v_diffusion, "told texts"),
    ],
)
def test_only_models_of_the_same_pictures_are_guided(stats, make, says):
    classifier = exact(data=DataStats((2,), classes=("a", "b")))
    model = make(MLP(stats.shape[0], width=8, depth=1), data=stats)
    if not says:
        require_pair(model, classifier)
        return
    with pytest.raises(MarginalsError, match=says):
        require_pair(model, classifier)


def test_a_flow_without_a_score_is_not_guided():
    classifier = exact(data=DataStats((2,), classes=("a", "b")))
    model = rectified_flow(MLP(2, width=8, depth=1), data=DataStats((2,)), coupling=MinibatchOT())
    with pytest.raises(MarginalsError, match=r"corrects the score, and this model has none"):
        require_pair(model, classifier)
    with pytest.raises(MarginalsError, match="this one does not walk"):
        require_pair(classifier, classifier)
