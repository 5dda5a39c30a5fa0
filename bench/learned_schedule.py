"""What the learned noise schedule is good for: the loss's mean stays, its variance falls.

    python bench/learned_schedule.py                    # about two minutes of processor time
    python bench/learned_schedule.py --images 100000    # a better network, the same conclusion

A VDM is trained on Fashion-MNIST with a learned schedule. Then its averaged network is held fixed
and the loss is drawn many times over held-out pictures, once with the levels of the straight line
that the schedule started from and once with those it has learned. Three kinds of variance are
printed: of one draw; of a batch of 64 with independent times; and of a batch of 64 with
low-discrepancy times, which is what training uses and which already removes part of it. How low the
first could go with so many bins is known from the second moment in each: p(λ) ∝ √E[e² | λ].
"""

import argparse
import copy
import math
import time

import torch
from torch import Tensor

from marginals import Model, vdm
from marginals.data.load import load
from marginals.data.order import indices
from marginals.data.pictures import PictureSource
from marginals.generative import DataStats
from marginals.learned import LearnedSchedule
from marginals.nn import PRESETS, UNet
from marginals.objective import Elbo, Objective, UniformTime, spread_uniform
from marginals.pixels import to_float
from marginals.schedule import NoiseSchedule
from marginals.train.ema import Ema

BATCH = 64


def network(source: PictureSource) -> Model:
    """The VDM that `marginals train --model vdm` would build."""
    channels, size, _ = source.shape
    x = to_float(source.batch(torch.arange(5000))[0])
    stats = DataStats(tuple(source.shape), x.mean().item(), x.std().item(), tuple(source.classes))
    options = PRESETS["demo"] | {"fourier": list(range(9)), "num_classes": len(source.classes)}
    torch.manual_seed(0)
    return vdm(UNet(channels, size, **options), data=stats)


def train(source: PictureSource, images: int) -> Model:
    """The averaged model after so many pictures."""
    model = network(source)
    optimizer, ema = torch.optim.Adam(model.parameters(), lr=4e-3), Ema(model, images / 10)
    for seen in range(0, images, BATCH):
        pixels, labels = source.batch(indices(len(source), 0, seen, BATCH))
        rate = min(1.0, (seen + BATCH) / 5000, 2.0 * (1.0 - seen / images))
        optimizer.param_groups[0]["lr"] = 4e-3 * rate
        optimizer.zero_grad()
        model.loss(pixels, labels, torch.Generator().manual_seed(seen)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model, BATCH, seen + BATCH)
    return ema.model.eval()


@torch.no_grad()
def draws(
    model: Model, schedule: NoiseSchedule, source: PictureSource, count: int, spread: bool
) -> tuple[Tensor, Tensor]:
    """`count` batches of losses in bits/dim, (count, BATCH), and their levels."""
    objective = Objective(Elbo(), UniformTime(schedule))
    losses, lams = [], []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        pixels, labels = source.batch(indices(len(source), 1, i * BATCH, BATCH))
        u = torch.rand(BATCH, generator=generator, dtype=torch.float64)
        lam = schedule.lam(spread_uniform(BATCH, generator) if spread else u)
        eps = torch.randn(pixels.shape, generator=generator)
        loss = objective(model.net, to_float(pixels), lam, eps, labels)
        losses.append(loss.double() / math.log(2.0))
        lams.append(lam)
    return torch.stack(losses), torch.stack(lams)


def best(schedule: LearnedSchedule, losses: Tensor, lams: Tensor) -> LearnedSchedule:
    """The schedule with these bins and the least variance, from losses drawn with ``schedule``."""
    place = (schedule.lam_max - lams.flatten()) / (schedule.lam_max - schedule.lam_min)
    k = (place * schedule.knots).long().clamp(0, schedule.knots - 1)
    error = losses.flatten() * schedule.density(lams.flatten())
    second = torch.zeros(schedule.knots, dtype=torch.float64)
    count = second.index_add(0, k, torch.ones_like(error)).clamp(min=1)
    second = second.index_add(0, k, error.square()) / count
    made = LearnedSchedule(schedule.lam_max, schedule.lam_min, schedule.knots, floor=1e-6)
    made.assign(second.sqrt())
    return made


def report(name: str, one: Tensor, spread: Tensor) -> float:
    """A line about one schedule; the variance of one draw."""
    values = torch.cat([one.flatten(), spread.flatten()])
    error = (spread.mean(1).var() / len(spread)).sqrt().item()
    print(
        f"  {name:20s} mean {spread.mean():.4f} ± {error:.4f}"
        f"   variance of one draw {one.var():7.3f}"
        f"   of 64 draws {one.mean(1).var():.4f}"
        f"   of 64 spread draws {spread.mean(1).var():.5f}"
    )
    assert bool(values.isfinite().all())
    return one.var().item()


def main() -> None:
    """Train, hold still, measure."""
    about = "What the learned noise schedule is good for: mean and variance of the loss."
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--images", type=int, default=20_000, help="pictures to train on")
    parser.add_argument("--batches", type=int, default=300, help="batches of 64 to measure with")
    options = parser.parse_args()
    source, held_out = load("fashion")
    began = time.process_time()
    model = train(source, options.images)
    print(f"trained on {options.images} pictures in {time.process_time() - began:.0f} CPU seconds")
    learned = model.schedule
    assert isinstance(learned, LearnedSchedule)
    straight = copy.deepcopy(learned)
    torch.nn.init.zeros_(straight.logits)
    print(f"diffusion loss on held-out pictures, bits/dim, {options.batches} batches of 64")

    def measured(schedule: NoiseSchedule) -> tuple[Tensor, Tensor, Tensor]:
        one, lams = draws(model, schedule, held_out, options.batches, spread=False)
        return one, draws(model, schedule, held_out, options.batches, spread=True)[0], lams

    one, spread, lams = measured(straight)
    before = report("straight line", one, spread)
    ideal = best(straight, one, lams)
    after = report("learned", *measured(learned)[:2])
    least = report("best with these bins", *measured(ideal)[:2])
    print(f"  the learned interior divides the variance of one draw by {before / after:.2f}")
    print(f"  (the best possible division with {learned.knots} bins is {before / least:.2f})")
    widths = learned.widths() * learned.knots
    print("time spent per unit of λ, straight line = 1, from the clean end to the noisy end")
    print("  " + " ".join(f"{w:.2f}" for w in widths.tolist()))


if __name__ == "__main__":
    main()
