"""Walks from noise to pictures on the device: solvers, guidance, chains, editing, fitting."""

import math
from functools import partial

import pytest
import torch

import marginals
from marginals import distill
from marginals.adaptive import sample_adaptive
from marginals.classifier import NoisyClassifier
from marginals.coupling import straightness
from marginals.editing import image_to_image, inpaint, interpolate, restore, reword
from marginals.fitting import AllNumbers, LevelsOnly, first_table, fit, nearest_start
from marginals.guidance import Clipped, Guided
from marginals.inverse import Average, Blur, Mask, Matrix
from marginals.nn.classifier import PictureClassifier
from marginals.paths import errors, follow
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.solvers import SOLVERS, grid, sde, straight
from marginals.steppers import adams, dopri5


@pytest.fixture
def model(small, device):
    """A flow that has learned a little, so that it says something."""
    return trained(marginals.rectified_flow(small.unet(), data=small.stats), device)


def trained(model, device):
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator) * 0.05
        weight.data = weight.data + noise
    return model.to(device).eval()


def judge(small, device):
    body = PictureClassifier(1, 8, num_classes=2, width=8, mults=(1,), blocks=1)
    return trained(NoisyClassifier(body, data=small.stats), device)


def fine(x, device, count=3):
    assert x.device == device and x.shape == (count, 1, 8, 8)
    assert math.isfinite(float(x.sum()))


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver(name, model, device):
    fine(model.sample(3, steps=4, solver=SOLVERS[name], cond=1).x, device)


@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
def test_every_scaling(scaling, model, device):
    fine(model.convert(scaling).sample(3, steps=4).x, device)


@pytest.mark.parametrize("solver", ["auto", "ddpm", "unipc", "langevin_adaptive"])
def test_a_walk_only_waits_for_its_last_look(solver, model, device, no_waits, monkeypatch):
    """The picture is looked at once, at the end, for NaN."""
    monkeypatch.setattr("marginals.sampling.check_finite", lambda x, how: x)
    start, cond = model.start(range(3)), torch.tensor([0, 1, -1]).to(device)
    lams = grid(straight(model.lam_min, model.lam_max), 4)
    guided = Clipped(Guided(model.net, 2.0, interval=(-3.0, 3.0)), quantile=0.9)
    with no_waits():
        found = sample(guided, start, lams, SOLVERS[solver], cond=cond)
    fine(found.x, device)


GUIDANCE = {
    "weight": lambda m, s, d: 2.0,
    "one each": lambda m, s, d: torch.tensor([1.0, 2.0, 3.0]),
    "interval": lambda m, s, d: partial(Guided, weight=2.0, interval=(-1.0, 2.5)),
    "of the level": lambda m, s, d: partial(Guided, weight=lambda lam: 1.0 + abs(lam)),
    "rescaled": lambda m, s, d: partial(Guided, weight=3.0, rescale=0.7),
    "weak": lambda m, s, d: partial(Guided, weight=2.0, weak=m.net),
    "negative": lambda m, s, d: partial(Guided, weight=2.0, negative=torch.tensor([0], device=d)),
    "clipped": lambda m, s, d: Clipped,
    "thresholded": lambda m, s, d: lambda net: Clipped(Guided(net, 3.0), quantile=0.9),
    "classifier": lambda m, s, d: judge(s, d).guide(2.0),
}


@pytest.mark.parametrize("how", GUIDANCE)
def test_guidance(how, model, small, device):
    guidance = GUIDANCE[how](model, small, device)
    fine(model.sample(3, steps=4, cond=[0, 1, -1], guidance=guidance).x, device)
    if how not in ("one each", "of the level"):
        fine(model.sample(3, tolerance=0.05, cond=[0, 1, -1], guidance=guidance).x, device)


@pytest.mark.parametrize("method", [dopri5(), adams()], ids=["dopri5", "adams"])
def test_adaptive_steps(method, model, device):
    start = model.start(range(3))
    fine(sample_adaptive(model.net, start, -12.0, 12.0, atol=0.05, method=method).x, device)


def test_brownian_paths_and_straightness(model, device):
    start, lams = model.start(range(3), -8.0), grid(straight(-8.0, 8.0), 4)
    fine(sample(model.net, start, lams, sde(), brownian=True).x, device)
    assert straightness(model.net, start, -8.0, 8.0, steps=4).device == device


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_ancestral(variance, small, device):
    model = marginals.iddpm(small.unet(outputs=2), data=small.stats, steps=6)
    fine(trained(model, device).ancestral(3, cond=1, variance=variance).x, device)


def test_texts(small, device):
    net = small.unet(num_classes=0, text_width=27, attention=(0,))
    model = trained(marginals.rectified_flow(net, data=small.told), device)
    states = small.letters(["a crab", "", "two"])
    fine(model.sample(3, steps=3, cond=states, guidance=2.0).x, device)


def test_students_and_reflow(model, device):
    fine(distill.student(model, 2, evaluations=2).to(device).sample(3, cond=0).x, device)
    fine(distill.reflow(model, evaluations=2).to(device).sample(3, steps=2).x, device)


def test_pictures_are_those_of_the_cpu(model, small, device):
    """Up to rounding: a GPU rounds the products of convolutions to 10 bits (TF32)."""
    there = model.sample(3, steps=4, solver=SOLVERS["ddpm"], cond=1, guidance=2.0).x.cpu()
    here = model.to("cpu").sample(3, steps=4, solver=SOLVERS["ddpm"], cond=1, guidance=2.0).x
    torch.testing.assert_close(there, here, atol=2e-3, rtol=0.0)


# ---- editing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_device", [True, False])
def test_editing(on_device, model, small, device):
    pictures = small.pixels(3)
    known = torch.arange(8) < 4
    if on_device:
        pictures, known = pictures.to(device), known.to(device)
    options = {"steps": 3, "cond": 1, "guidance": 2.0}
    fine(image_to_image(model, pictures, 0.5, **options), device)
    fine(inpaint(model, pictures, known.expand(8, 8), **options), device)
    fine(inpaint(model, pictures, known.expand(3, 1, 8, 8), std=0.1, **options), device)
    fine(reword(model, pictures, 0, 1, tolerance=0.05), device)
    fine(interpolate(model, pictures[0], pictures[1], 3, cond=1, tolerance=0.05), device)


OPERATORS = {
    "mask": Mask(torch.arange(64).reshape(1, 8, 8) % 3 > 0),
    "average": Average(2),
    "blur": Blur(1.0),
    "matrix": Matrix(torch.eye(64)[::3], (1, 8, 8)),
}


@pytest.mark.parametrize("method", ["mmps", "pigdm", "dps", "ddnm"])
@pytest.mark.parametrize("name", OPERATORS)
def test_inverse_problems(name, method, model, small, device):
    operator = OPERATORS[name]
    y = operator(small.pixels(3) / 128.0 - 1.0)
    found = restore(model, y, operator, 0.2, steps=3, method=method, cond=1, guidance=2.0)
    fine(found, device)


# ---- fitting -------------------------------------------------------------------------------------


def test_fitting_a_solver(model, device):
    net, cond = model.net, torch.tensor([0, 1, 0, 1], device=device)
    paths = follow(net, model.start(range(4), -8.0), -8.0, 8.0, cond=cond, steps=8)
    assert paths.end.device == device
    table = first_table(-8.0, 8.0, 2)
    for family in (AllNumbers(table), LevelsOnly(SOLVERS["auto"], table.levels)):
        found = fit(net, paths, family, rounds=1)
        assert math.isfinite(errors(net, paths, found.solver, found.levels).mean)
    assert nearest_start(net, paths, -8.0, 8.0, 2)[1].lams
