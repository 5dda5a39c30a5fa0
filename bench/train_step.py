"""How much of the machine a training step of our U-Net uses.

One step = forward, mean squared error against a random target, backward, AdamW. Its arithmetic is
counted exactly (`torch.utils.flop_counter`), its time is measured, and the quotient is set against
the fastest matrix product the same threads reach in the same run:

    utilisation = (FLOPs of the step / seconds of the step) / (FLOPs of A @ B / seconds of A @ B)

torch has two ways to multiply matrices on a processor, `A @ B` and the 1x1 convolution, and on some
machines the second is far faster. Both are measured; the honest denominator is the better one.
All contestants take turns, so that a busy machine is unfair to none of them.

    python bench/train_step.py --threads 2 --repeats 7

On a machine that others use at the same time, wall seconds measure the others too. With
`--clock cpu` the seconds are processor time divided by threads; set OMP_WAIT_POLICY=passive with
it, or threads that spin while they wait are counted as working.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from marginals.nn import PRESETS, UNet

Work = tuple[str, Callable[[], Any], int]
SIZES = (512, 1024, 1536, 2048)


def products(size: int) -> list[Work]:
    """A @ B at this size, in both of torch's spellings; 2 size^3 operations."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    picture = a.view(-1, 8, 8, size).permute(0, 3, 1, 2)  # rows are pixels: channels_last
    kernel = b.view(size, size, 1, 1)
    return [
        (f"matmul {size}", lambda: a @ b, 2 * size**3),
        (f"1x1 conv {size}", lambda: F.conv2d(picture, kernel), 2 * size**3),
    ]


def training_step(name: str, net: nn.Module, call: Callable, args: argparse.Namespace) -> Work:
    """One AdamW step on a fixed random batch, with its operations counted by running it once."""
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
    x = torch.randn(args.batch, 3, args.size, args.size)
    target, t = torch.randn_like(x), torch.rand(args.batch)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = (call(net, x, t) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    return name, step, counter.get_total_flops()


def contestants(args: argparse.Namespace) -> list[Work]:
    """Our preset, and the U-Net of diffusers at about the same size if it is installed."""
    ours = UNet(3, args.size, **PRESETS[args.preset])
    works = [training_step(f"marginals {args.preset}", ours, lambda net, x, t: net(x, t), args)]
    sizes = [ours]
    try:
        from diffusers.models.unets.unet_2d import UNet2DModel  # pyright: ignore
    except ImportError as missing:
        print(f"diffusers is left out: {missing}")
    else:
        theirs = UNet2DModel(
            sample_size=args.size,
            in_channels=3,
            out_channels=3,
            layers_per_block=2,
            block_out_channels=(64, 128, 128),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )
        works.append(training_step("diffusers", theirs, lambda n, x, t: n(x, 999 * t).sample, args))
        sizes.append(theirs)
    for (name, _, flops), net in zip(works, sizes, strict=True):
        millions = sum(p.numel() for p in net.parameters()) / 1e6
        print(
            f"{name}: {millions:.2f} M parameters, {flops / args.batch / 1e6:.0f} MFLOP per image"
        )
    return works


def measure(works: list[Work], args: argparse.Namespace) -> dict[str, list[float]]:
    """Operations per second of each, one after the other, in rounds after a warm-up round."""
    wall = args.clock == "wall"
    now = time.perf_counter if wall else lambda: time.process_time() / args.threads
    rates: dict[str, list[float]] = {name: [] for name, _, _ in works}
    for round_ in range(args.repeats + 1):
        for name, run, flops in works:
            start = now()
            run()
            seconds = now() - start
            if round_:
                rates[name].append(flops / seconds)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--preset", default="base", choices=sorted(PRESETS))
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--bf16", action="store_true", help="autocast the networks to bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {args.threads} threads, batch {args.batch}, {args.clock} time"
    )

    nets = contestants(args)
    gemms = [work for size in SIZES for work in products(size)]
    rates = measure(gemms + nets, args)
    best = {name: max(r) for name, r in rates.items()}
    for name, _, _ in gemms:
        print(f"{name:>16}: {best[name] / 1e9:7.1f} GFLOP/s")
    matmul = max(best[name] for name, _, _ in gemms if name.startswith("matmul"))
    peak = max(best[name] for name, _, _ in gemms)
    print("utilisation, best (median, worst) of the rounds; images per second, best (median)")
    for name, _, flops in nets:
        spread = sorted(rates[name], reverse=True)
        middle = statistics.median(spread)
        for label, base in (("A @ B", matmul), ("the best product", peak)):
            shares = ", ".join(f"{r / base:.2f}" for r in (spread[0], middle, spread[-1]))
            print(f"{name:>16}: {shares} of {label}")
        images = args.batch / flops
        print(f"{name:>16}: {images * spread[0]:.0f} ({images * middle:.0f}) images/s")


if __name__ == "__main__":
    main()
