"""A training step on the device: it mixes nothing with the CPU, and it does not wait."""

import copy
from contextlib import nullcontext

import pytest
import torch

import marginals
from marginals.classifier import NoisyClassifier
from marginals.codec import autoencoder
from marginals.coupling import MinibatchOT
from marginals.data.augment import Augment
from marginals.data.captioned import Captioned
from marginals.data.pictures import Pictures
from marginals.decoders import Bernoulli, Categorical, DiscretisedLogistic, GaussianDecoder
from marginals.distill import reflow, student
from marginals.formulations import score_sde
from marginals.generative import DataStats
from marginals.latent import Latent
from marginals.mixture import LogisticMixture
from marginals.nn import MLP, DiT, GridLatents, ImageCodec, VectorLatents
from marginals.nn.classifier import PictureClassifier
from marginals.objective import ModeTime, NormalLevels
from marginals.rung import KlObjective
from marginals.train.captions import Captions
from marginals.train.config import TrainConfig
from marginals.train.ema import Ema
from marginals.train.feed import Feed
from marginals.train.latents import encoded
from marginals.train.levels import LevelMeter
from marginals.train.optimizer import make_optimizer

DIT = {"patch": 4, "width": 16, "depth": 2, "heads": 2}
NEW = DIT | {
    "shared": True, "qk_norm": True, "rope": True, "swiglu": True, "registers": 2, "skip": True
}  # fmt: skip
LADDER = {"widths": [8], "blocks": 1, "num_classes": 2}


def ladder(kind, law, small):
    network = (
        GridLatents(1, 8, law.params, top=4, latents=[2], rungs=[1], **LADDER)
        if kind == "grids"
        else VectorLatents(1, 8, law.params, latents=[4, 2], **LADDER)
    )
    objective = KlObjective(free_bits=0.1, warmup=100)
    return marginals.hvae(network, decoder=law, objective=objective, data=small.stats)


def codec(small, **options):
    network = ImageCodec(
        channels=1, size=8, latents=2, widths=(8, 8), blocks=(1, 1),
        params=DiscretisedLogistic().params,
    )  # fmt: skip
    return autoencoder(network, data=DataStats((1, 8, 8), -0.3, 0.8), **options)


def latent(small):
    inside = codec(small)
    inside.measure(small.pixels(32))
    shape = inside.latent_shape
    net = DiT(shape[0], shape[-1], num_classes=2, **(DIT | {"patch": 1}))
    data = DataStats(shape, classes=("a", "b"))
    return Latent(inside.codec(), marginals.rectified_flow(net, data=data), small.stats)


MODELS = {
    "ddpm": lambda s: marginals.ddpm(s.unet(), data=s.stats),
    "iddpm": lambda s: marginals.iddpm(s.unet(outputs=2), data=s.stats),
    "vdm": lambda s: marginals.vdm(s.unet(fourier=(0, 8)), data=s.stats),
    "vdm, T steps": lambda s: marginals.vdm(s.unet(), data=s.stats, steps=8),
    "vdm, learned ends": lambda s: marginals.vdm(s.unet(), data=s.stats, learn_ends=True),
    "vdm, fixed": lambda s: marginals.vdm(s.unet(), data=s.stats, learned=False),
    "v": lambda s: marginals.v_diffusion(s.unet(), data=s.stats),
    "edm": lambda s: marginals.edm(s.unet(), data=s.stats),
    "flow": lambda s: marginals.rectified_flow(s.unet(), data=s.stats),
    "flow, mode": lambda s: marginals.rectified_flow(s.unet(), data=s.stats, levels=ModeTime()),
    "flow, normal": lambda s: marginals.rectified_flow(
        s.unet(), data=s.stats, levels=NormalLevels(0, 2)
    ),
    **{
        f"score, {kind}": lambda s, kind=kind: score_sde(s.unet(), kind, data=s.stats)
        for kind in ("vp", "ve", "sub_vp")
    },
    "flow, attention": lambda s: marginals.rectified_flow(
        s.unet(attention=(0,), mults=(1, 2)), data=s.stats
    ),
    "flow, mlp": lambda s: marginals.rectified_flow(MLP(64, num_classes=2), data=s.stats),
    "flow, dit": lambda s: marginals.rectified_flow(DiT(1, 8, num_classes=2, **DIT), data=s.stats),
    "iddpm, dit": lambda s: marginals.iddpm(
        DiT(1, 8, num_classes=2, outputs=2, **NEW), data=s.stats
    ),
    "student": lambda s: student(MODELS["v"](s), 2, evaluations=2, guidance=2.0),
    "reflow": lambda s: reflow(MODELS["flow"](s), evaluations=2),
    "classifier": lambda s: NoisyClassifier(
        PictureClassifier(1, 8, num_classes=2, width=8, mults=(1,), blocks=1),
        data=s.stats,
    ),
    "latent": latent,
    "autoencoder": codec,
    **{
        f"{kind}, {type(law).__name__}": lambda s, kind=kind, law=law: ladder(kind, law, s)
        for kind in ("grids", "vectors")
        for law in (
            LogisticMixture(), DiscretisedLogistic(), Categorical(), GaussianDecoder(), Bernoulli()
        )
    },
}  # fmt: skip
TOLD = {
    "unet": lambda s: s.unet(num_classes=0, text_width=27, attention=(0,)),
    "dit": lambda s: DiT(1, 8, text_width=27, **DIT),
    "dit, new": lambda s: DiT(1, 8, text_width=27, **NEW),
    "dit, guess": lambda s: DiT(1, 8, text_width=27, guess=16, **NEW),
}
WAITING = ("student", "reflow")  # their teacher walks: which pictures are on which segment?


def steps(model, feed, device, no_waits, count=3, **options):
    """Some steps as `marginals.train.loop` takes them; all but the first must not wait."""
    model.to(device)
    model.train()
    config, meter = TrainConfig(data="digits", batch=6, images=60, **options), LevelMeter()
    optimizer, ema = make_optimizer(config, model), Ema(model, 1000.0)
    before = copy.deepcopy(ema.model)

    def step(seen):
        batch = feed(seen)
        losses, lam = model.losses(batch.x, batch.cond, generator=batch.generator)
        optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(list(model.parameters()), 1.0)
        meter.add(seen, losses, lam, norm)
        optimizer.step()
        ema.update(model, 6, seen + 6)

    step(0)
    with no_waits():
        for i in range(1, count):
            step(6 * i)
    means = meter.take()
    moved = [
        float((a - b).abs().max())
        for a, b in zip(ema.model.parameters(), before.parameters(), strict=True)
        if a.numel()
    ]
    assert 0 < means["loss"] < 1e4 and max(moved) > 0
    assert all(p.device == device for p in ema.model.parameters())


def feed_of(source, device, captions=None, flip=True, shift=1):
    return Feed(
        source, batch=6, seed=0, augment=Augment(flip=flip, shift=shift), conditional=True,
        captions=captions, label_dropout=0.2, device=device,
    )  # fmt: skip


def labelled(small):
    labels = torch.arange(32) % 2
    return Pictures(small.pixels(32), labels, ("a", "b"))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in WAITING])
def test_a_step_stays_on_the_device_and_does_not_wait(name, small, device, no_waits):
    model = MODELS[name](small)
    steps(model, feed_of(labelled(small), device), device, no_waits)


@pytest.mark.parametrize("name", TOLD)
def test_a_step_with_texts(name, small, device, no_waits):
    words = [("red crab", "a crab"), ("blue",), ()] * 10
    source = Captioned(small.pixels(30), tuple(words))
    captions = Captions(source.captions, small.letters)
    model = marginals.rectified_flow(TOLD[name](small), data=small.told)
    steps(model, feed_of(source, device, captions), device, no_waits)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_optimisers(optimizer, small, device, no_waits):
    model = MODELS["flow, dit"](small)
    steps(model, feed_of(labelled(small), device), device, no_waits, optimizer=optimizer)


@pytest.mark.parametrize("name", WAITING)
def test_a_student_follows_its_teacher_on_the_device(name, small, device):
    steps(MODELS[name](small), feed_of(labelled(small), device), device, nullcontext)


@pytest.mark.parametrize("within_class", [False, True])
def test_optimal_transport_costs_one_look(within_class, small, device, request):
    model = marginals.rectified_flow(
        small.unet(), data=small.stats, coupling=MinibatchOT(within_class)
    )
    steps(model, feed_of(labelled(small), device), device, nullcontext)


def test_latents_encoded_once_are_fed_without_a_wait(small, device, no_waits):
    model = latent(small).to(device)
    source = encoded(labelled(small), model, device)
    steps(model, feed_of(source, device, flip=False, shift=0), device, no_waits)


def test_pictures_that_stay_in_main_memory_are_sent_without_a_wait(
    small, device, no_waits, monkeypatch
):
    monkeypatch.setattr("marginals.train.feed.FITS_ON_GPU", 0)
    feed = feed_of(labelled(small), device)
    assert feed.source.images.device.type == "cpu"
    steps(MODELS["flow"](small), feed, device, no_waits)
