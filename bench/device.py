"""The same model on a CPU and on a GPU: do they agree, and how fast is each?

    python bench/device.py                       # about a minute; says so where there is no GPU

Agreement: noise comes from the CPU on every device, so one seed draws one picture, up to rounding.
Printed is the largest difference of a pixel (of [-1, 1]) between the two, for the emoji model and
for a U-Net, and of a likelihood in bits/dim. Speed: pictures per second of whole training steps
(data, noise, loss, gradients, optimiser, average) and of sampling. Nothing is written.
"""

import argparse
import copy
import time

import torch

import marginals
from marginals.data import load
from marginals.generative import DataStats, Generative
from marginals.io.checkpoint import load_model
from marginals.io.shipped import find
from marginals.train import TrainConfig
from marginals.train.ema import Ema
from marginals.train.engine import Engine
from marginals.train.optimizer import make_optimizer
from marginals.train.setup import compile_backbone, make_feed, make_model

RUNS = (
    ("U-Net base, fp32", {"network": "base"}),
    ("U-Net base, bf16", {"network": "base", "precision": "bf16"}),
    ("U-Net base, bf16, compiled", {"network": "base", "precision": "bf16", "compile": True}),
    ("DiT dit-demo, bf16, muon", {"network": "dit-demo", "precision": "bf16", "optimizer": "muon"}),
)


def devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def unet() -> Generative:
    """A small U-Net whose answers are not zero, as those of a fresh one are."""
    torch.manual_seed(0)
    net = marginals.nn.UNet(1, 28, **marginals.nn.PRESETS["demo"])
    for parameter in net.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    stats = DataStats((1, 28, 28), mean=-0.4, std=0.7)
    return marginals.v_diffusion(net, data=stats)


def agreement() -> None:
    emoji, small, held = load_model(find("emoji")).float(), unet(), load("fashion")[1].images[:4]
    states = torch.randn(4, 5, 384, generator=torch.Generator().manual_seed(0))
    found: dict[str, list[torch.Tensor]] = {"emoji": [], "U-Net": [], "bits/dim": []}
    for device in devices():
        drawing, walking = (copy.deepcopy(m).to(device) for m in (emoji, small))
        told = {"cond": states.to(device), "guidance": 3.0, "steps": 12, "seed": 0}
        found["emoji"].append(drawing.sample(4, **told).x.cpu())
        found["U-Net"].append(walking.sample(4, steps=12, seed=0).x.cpu())
        generator = torch.Generator().manual_seed(0)
        likelihood = walking.log_prob(held.to(device), generator=generator)
        found["bits/dim"].append(likelihood.bits_per_dim().cpu())
    for name, answers in found.items():
        if len(answers) > 1:
            print(f"{name}: CPU and GPU differ by {(answers[0] - answers[1]).abs().max():.1e}")
        else:
            print(f"{name}: finite on the CPU: {bool(answers[0].isfinite().all())}; no GPU here")


def training(name: str, options: dict, batch: int, seconds: float) -> None:
    """Pictures per second of the trainer's own steps on the best device."""
    config = TrainConfig(images=10**6, batch=batch, data="fashion", **options)
    engine, source = Engine(config.precision), load("fashion")[0]
    model = make_model(config, source, None)
    feed = make_feed(config, source, model, engine)
    engine.place(model)
    ema, optimizer = Ema(model, 20_000), make_optimizer(config, model)
    wrapped = engine.setup(model, optimizer)
    if config.compile and (failed := compile_backbone(model, feed, engine)):
        print(failed)

    def step(images: int) -> None:
        drawn = feed(images)
        losses, _ = engine.losses(drawn.x, drawn.cond, drawn.generator)
        engine.gradients(losses.mean(), wrapped, config.clip)
        wrapped.step()
        ema.update(model, batch, images + batch)

    for warm in range(3):
        step(warm * batch)
    wait()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step(steps * batch)
        steps += 1
    wait()
    rate = steps * batch / (time.perf_counter() - began)
    print(f"training, {name}, batch {batch} on {engine.device}: {rate:,.0f} pictures/s", flush=True)


def drawing(count: int) -> None:
    emoji = load_model(find("emoji"))
    states = torch.randn(count, 5, 384, generator=torch.Generator().manual_seed(0))
    for device in devices():
        model = copy.deepcopy(emoji).to(device)
        told = {"cond": states.to(device), "guidance": 3.0, "steps": 12, "seed": 0, "batch": count}
        model.sample(count, **told)
        wait()
        began = time.perf_counter()
        model.sample(count, **told)
        wait()
        rate = count / (time.perf_counter() - began)
        print(f"emoji, {count} at a time on {device}: {rate:,.1f} pictures/s (12 steps, γ = 3)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0, help="for every speed")
    parser.add_argument("--count", type=int, default=64, help="pictures drawn at a time")
    args = parser.parse_args()
    if torch.cuda.is_available():
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    agreement()
    drawing(args.count)
    for name, options in RUNS:
        training(name, options, args.batch, args.seconds)


if __name__ == "__main__":
    main()
