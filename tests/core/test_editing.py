"""Editing with a model that is exact: its network is the oracle of a mixture."""

import math

import pytest
import torch

from marginals.editing import (
    image_to_image,
    inpaint,
    interpolate,
    level_of,
    restore,
    reword,
    slerp,
)
from marginals.errors import MarginalsError
from marginals.formulations import ddpm, rectified_flow, v_diffusion
from marginals.generative import DataStats
from marginals.inverse import Average, Blur
from marginals.oracle import Mixture
from marginals.predict import V
from marginals.scaling import VE, VP
from marginals.solvers import ddim

SHAPE = (1, 4, 4)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ORACLE = Mixture(0.6 * randn(4, *SHAPE, seed=1), 0.3, labels=torch.tensor([0, 1, 1, 0]))
PICTURES, BLOBS = ORACLE.sample(5, seed=2)
COND, CLASSES = torch.tensor([0, 1, -1, 1, 0]), torch.tensor([0, 1, 1, 0])[BLOBS]


class Exact(torch.nn.Module):
    """A backbone that says v of the oracle, in VP units with the time of the model."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t, cond=None):
        return ORACLE(x, self.schedule.lam(t.double()), cond).read(V)


class Silent(torch.nn.Module):
    """v = 0 for every x: exact for data that are standard normal."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, t):
        return x * self.weight


def make(build=v_diffusion):
    model = build(torch.nn.Identity(), data=DataStats(SHAPE, 0.0, 0.6, classes=("a", "b")))
    model.net.backbone = Exact(model.net.label)
    model.net.prediction, model.net.input_scaling = V, VP
    return model


MODEL = make()


def test_the_model_of_these_tests_is_exact():
    x = randn(5, *SHAPE, seed=3)
    for lam in (-3.0, 0.5, 4.0):
        assert torch.allclose(MODEL.net(x, lam, COND).x0, ORACLE(x, lam, COND).x0, atol=1e-9)


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
def test_strength_is_the_share_of_noise(strength):
    for model in (MODEL, make(ddpm), make(rectified_flow), MODEL.convert(VE)):
        level = model.scaling(level_of(model, strength))
        assert level.sigma / (level.alpha + level.sigma) == pytest.approx(strength)
    assert level_of(MODEL, 1.0) == MODEL.lam_min and level_of(MODEL, 1e-9) == MODEL.lam_max


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_pictures_of_the_model_stay_pictures_of_the_model(strength, own):
    """If x0 is a draw, so is what is drawn anew from it: mean and variance stay. The model's own
    draws, too, though both begin with seed 0."""
    x0 = MODEL.sample(1000, steps=24).x if own else ORACLE.sample(1000, seed=4)[0]
    x = image_to_image(MODEL, x0, strength, steps=24)
    both = [torch.cat([part.flatten(1), part.flatten(1) ** 2], 1) for part in (x0, x)]
    error = (both[0].mean(0) - both[1].mean(0)).abs()
    noise = ((both[0].var(0) + both[1].var(0)) / 1000).sqrt()
    assert (error / noise).mean() < 1.6  # 0.8 for independent draws
    moved = (x - x0).square().mean().sqrt().item()
    assert moved < 0.45 if strength == 0.3 else moved > 0.2


def test_the_stronger_the_newer_and_hardly_any_noise_is_hardly_any_change():
    moved = [
        (image_to_image(MODEL, PICTURES, s) - PICTURES).square().mean().item()
        for s in (1e-3, 0.2, 0.5, 0.9)
    ]
    assert moved == sorted(moved) and moved[0] < 1e-5 and moved[-1] > 0.1
    start = image_to_image(MODEL, torch.zeros_like(PICTURES), 1.0, steps=8, seed=3)
    # from the far end the picture no longer counts
    assert torch.allclose(image_to_image(MODEL, PICTURES, 1.0, steps=8, seed=3), start, atol=0.05)


def test_what_is_painted_in_owes_nothing_to_the_noise_of_the_picture():
    """Of pictures without structure, the new half says nothing of the old one."""
    plain = v_diffusion(Silent(), data=DataStats(SHAPE))
    x = plain.sample(500, steps=8).x
    drawn = inpaint(plain, x, KNOWN, steps=8)
    old, new = x[..., 2:].flatten(), drawn[..., 2:].flatten()
    assert torch.equal(drawn[..., :2], x[..., :2])
    assert abs(float(torch.corrcoef(torch.stack([old, new]))[0, 1])) < 0.08


KNOWN = torch.tensor([[True, True, False, False]] * 4)


def test_a_hole_is_filled_by_what_belongs_there():
    cond = CLASSES.masked_fill(COND < 0, -1)
    x = inpaint(MODEL, PICTURES, KNOWN, cond=cond)
    assert torch.equal(x[..., :2], PICTURES[..., :2])
    again = inpaint(MODEL, PICTURES, KNOWN.expand(5, 1, 4, 4), cond=cond, batch=2)
    assert torch.allclose(x, again, atol=1e-9)
    fine = inpaint(MODEL, PICTURES, KNOWN, std=0.05)
    assert (fine - PICTURES)[..., :2].abs().max() < 0.3
    assert not torch.equal(fine[..., :2], PICTURES[..., :2])
    which = ORACLE.class_posterior(x, math.inf)
    told = cond >= 0
    assert (which[told].argmax(1) == cond[told]).all()


def test_the_known_half_finds_the_right_blob():
    x0, blob = ORACLE.sample(20, seed=5)
    x = inpaint(MODEL, x0, KNOWN)
    far = (x.flatten(1)[:, None] - ORACLE.means).square().sum(-1)
    assert (far.argmin(1) == blob).double().mean() > 0.9


@pytest.mark.parametrize("operator", [Average(2), Blur(1.0)], ids=repr)
def test_what_is_restored_measures_as_it_should(operator):
    y = operator(PICTURES)
    for method in ("mmps", "ddnm"):  # in so few steps
        x = restore(MODEL, y, operator, std=0.02, method=method, iterations=16, steps=10)
        assert (operator(x) - y).square().mean().sqrt() < 0.05, method


CALLS = {
    "image_to_image": lambda x, **o: image_to_image(MODEL, x, 0.7, steps=5, **o),
    "noisy": lambda x, **o: image_to_image(MODEL, x, 0.7, steps=5, solver=ddim(1.0), **o),
    "inpaint": lambda x, **o: inpaint(MODEL, x, KNOWN, steps=5, **o),
    "restore": lambda x, **o: restore(MODEL, Average(2)(x), Average(2), steps=5, **o),
    "masks": lambda x, **o: inpaint(MODEL, x, MASKS[: len(x)], steps=5, **o),
}
MASKS = randn(5, 1, 4, 4, seed=6) > 0


@pytest.mark.parametrize("name", CALLS)
def test_a_seed_is_a_picture_in_any_batch(name):
    about = {"cond": COND, "guidance": torch.tensor([1.0, 2.0, 1.0, 3.0, 0.5])}
    whole = CALLS[name](PICTURES, seed=7, **about)
    assert torch.allclose(whole, CALLS[name](PICTURES, seed=7, batch=2, **about), atol=1e-9)
    one = CALLS[name](PICTURES[:1], seed=7, cond=COND[:1], guidance=torch.ones(1))
    assert torch.allclose(whole[:1], one, atol=1e-9)
    assert not torch.allclose(whole, CALLS[name](PICTURES, seed=8, **about), atol=1e-2)


def test_the_way_between_two_pictures_has_them_at_its_ends():
    way = interpolate(MODEL, PICTURES[0], PICTURES[1], 5)
    assert way.shape == (5, *SHAPE)
    assert torch.allclose(way[0], PICTURES[0], atol=5e-3)
    assert torch.allclose(way[4], PICTURES[1], atol=5e-3)
    back = interpolate(MODEL, PICTURES[1], PICTURES[0], 5)
    assert torch.allclose(way, back.flip(0), atol=5e-3)
    noise = MODEL.encode(way[1:4]).flatten(1)
    ends = MODEL.encode(PICTURES[:2]).flatten(1).norm(dim=1)
    assert noise.norm(dim=1).min() > 0.9 * ends.min()  # a straight way would pass by 0.7


def test_great_circles():
    share = torch.tensor([0.0, 1.0 / 3.0, 1.0])
    found = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), share)
    wanted = torch.tensor([[2.0, 0.0], [3.0**0.5, 1.0], [0.0, 2.0]])
    assert torch.allclose(found, wanted, atol=1e-6)
    same = slerp(torch.tensor([2.0, 1.0]), torch.tensor([2.0, 1.0]), share)
    assert torch.allclose(same, torch.tensor([2.0, 1.0]).expand(3, 2))


def test_pictures_told_otherwise_come_from_the_same_noise():
    cond = CLASSES[:2]
    same = reword(MODEL, PICTURES[:2], cond, cond)
    assert torch.allclose(same, PICTURES[:2], atol=5e-3)
    other = reword(MODEL, PICTURES[:2], cond, 1 - cond)
    assert (ORACLE.class_posterior(other, math.inf).argmax(1) == 1 - cond).all()
    noise = MODEL.encode(PICTURES[:2], cond=cond)
    assert torch.allclose(other, MODEL.decode(noise, cond=1 - cond), atol=1e-9)
    guided = reword(MODEL, PICTURES[:2], cond, 1 - cond, guidance=2.0)
    assert not torch.allclose(guided, other, atol=1e-2)


def test_bytes_are_pictures_too():
    stored = torch.randint(0, 256, (2, *SHAPE), dtype=torch.uint8)
    x = inpaint(MODEL, stored, KNOWN, steps=3)
    assert torch.allclose(x[..., :2], (stored[..., :2].double() + 0.5) / 128.0 - 1.0)
    assert image_to_image(MODEL, stored, 0.2, steps=3).shape == stored.shape


def test_what_cannot_be_meant_is_refused():
    for strength in (0.0, 1.5, math.nan):
        with pytest.raises(MarginalsError, match="strength"):
            image_to_image(MODEL, PICTURES, strength)
    with pytest.raises(MarginalsError, match="at least 2"):
        interpolate(MODEL, PICTURES[0], PICTURES[1], 1)
    with pytest.raises(MarginalsError, match="shape"):
        image_to_image(MODEL, torch.zeros(2, 1, 8, 8), 0.5)
    with pytest.raises(MarginalsError, match="give cond"):
        image_to_image(MODEL, PICTURES, 0.5, guidance=2.0)
