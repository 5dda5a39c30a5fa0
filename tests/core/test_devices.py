"""A training step never waits for the device: on one that holds no numbers, nothing may be read.

The device "meta" knows shapes and types only. Reading a value from it is an error, and so is mixing
its tensors with those of the CPU; what passes here neither stalls an accelerator nor mixes devices.
"""

import pytest
import torch

import marginals
from marginals.decoders import Bernoulli, Categorical, DiscretisedLogistic, GaussianDecoder
from marginals.generative import DataStats
from marginals.mixture import LogisticMixture
from marginals.nn import GridLatents, UNet, VectorLatents
from marginals.rung import KlObjective

STATS = DataStats((1, 8, 8), -0.3, 0.8, ("a", "b"))
LAWS = (LogisticMixture(), DiscretisedLogistic(), Categorical(), GaussianDecoder(), Bernoulli())


def ladder(kind, decoder):
    options = {"widths": [8], "blocks": 1, "num_classes": 2}
    network = (
        GridLatents(1, 8, decoder.params, top=4, latents=[2], rungs=[1], **options)
        if kind == "grids"
        else VectorLatents(1, 8, decoder.params, latents=[4, 2], **options)
    )
    objective = KlObjective(free_bits=0.1, warmup=100)
    return marginals.hvae(network, decoder=decoder, objective=objective, data=STATS)


def unet(**options):
    return UNet(1, 8, width=8, mults=(1,), blocks=1, patch=2, num_classes=2, **options)


MODELS = {
    f"{kind}, {type(law).__name__}": lambda kind=kind, law=law: ladder(kind, law)
    for kind in ("grids", "vectors")
    for law in LAWS
} | {
    "vdm": lambda: marginals.vdm(unet(fourier=(0, 8)), data=STATS),
    "vdm, T steps": lambda: marginals.vdm(unet(), data=STATS, steps=8),
    "vdm, learned ends": lambda: marginals.vdm(unet(), data=STATS, learn_ends=True),
    "ddpm": lambda: marginals.ddpm(unet(), data=STATS, steps=6),
    "iddpm": lambda: marginals.iddpm(unet(outputs=2), data=STATS, steps=6),
    "v": lambda: marginals.v_diffusion(unet(), data=STATS),
    "edm": lambda: marginals.edm(unet(), data=STATS),
    "flow": lambda: marginals.rectified_flow(unet(), data=STATS),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_training_loss_reads_nothing_from_the_device(name):
    model = MODELS[name]().to("meta")
    x = torch.zeros(6, 1, 8, 8, dtype=torch.uint8, device="meta")
    cond = torch.zeros(6, dtype=torch.long, device="meta")
    losses, _ = model.losses(x, cond, generator=torch.Generator().manual_seed(0))
    losses.mean().backward()
    assert losses.shape == (6,) and losses.device.type == "meta"
    assert all(p.grad is not None for p in model.parameters())
