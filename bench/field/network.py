"""A small class-conditional network on 8x8 digits, plain and with classifier-free guidance.

It is trained once, a few minutes on one core, and kept in the work folder. In the contest it runs
in float32, for its truth in float64; the difference is a thousand times below what is measured.
"""

import copy
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from marginals.denoiser import Denoiser, Rescaled
from marginals.guidance import Guided
from marginals.io.checkpoint import load_diffusion
from marginals.noise import stream_seed
from marginals.scaling import VE
from marginals.train.config import TrainConfig
from marginals.train.run import train

from .peers import Denoise
from .problems import HELD_OUT, Problem, noise, solved

CLASSES, MOST, STEPS = 10, 256, 300
BUDGETS = (5, 8, 10, 15)
GRIDS = ("karras", "exponential", "vp", "cosine", "flow", "flow shift 3")


def trained(folder: Path) -> Path:
    """The run folder, made if it is not there."""
    if not (folder / "model.safetensors").exists():
        print(f"training the network into {folder}")
        train(
            TrainConfig(
                data="digits", model="v", network="tiny", images=60_000, lr=2e-3, threads=1,
                save_every=60_000, sample_every=60_000, out=str(folder),
            )
        )  # fmt: skip
    return folder


def labels(count: int) -> Tensor:
    """One class per held-out noise, decided by its seed."""
    seeds = range(HELD_OUT, HELD_OUT + count)
    return torch.tensor([stream_seed(seed, 1) % CLASSES for seed in seeds])


def network(count: int, cache: Path, *, guidance: float = 1.0) -> Problem:
    """Its own classes; with ``guidance`` γ = 3 the field is far from smooth."""
    count = min(count, MOST)
    model = load_diffusion(trained(cache / "network"))
    fast = Rescaled(Guided(model.net.float().eval(), guidance), VE)
    exact = Rescaled(Guided(copy.deepcopy(model.net).double().eval(), guidance), VE)
    cond = labels(count)

    def of(denoiser: Denoiser, dtype: torch.dtype, part: slice) -> Denoise:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            return denoiser(x.to(dtype), -2.0 * math.log(sigma), cond[part]).x0.to(x)

        return denoise

    size = sum(p.numel() for p in model.net.parameters())
    problem = solved(
        "network" if guidance == 1.0 else f"network, guidance {guidance:g}",
        partial(of, fast, torch.float32),
        fast,
        noise(count, (1, 8, 8)),
        cache,
        f"U-Net of {size:,} parameters trained on 8x8 digits with their classes, γ = {guidance:g}",
        exact=partial(of, exact, torch.float64),
        steps=STEPS,
        check=32,
        screen=24,
        grids=GRIDS,
    )
    return replace(problem, budgets=BUDGETS, guided=guidance != 1.0)
