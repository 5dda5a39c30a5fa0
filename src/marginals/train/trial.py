"""A short timed trial on throw-away copies: how fast, how much memory, how many images fit."""

import copy
import resource
import statistics
import sys
import time
from dataclasses import dataclass

import torch

from marginals.generative import Generative
from marginals.latent import walked
from marginals.train.config import SAMPLE_STEPS, TrainConfig
from marginals.train.engine import Engine
from marginals.train.feed import Feed
from marginals.train.optimizer import make_optimizer

__all__ = ["Trial", "run_trial"]

_STRIPS = 7  # rows of samples that a run draws by default
_MARGIN = 0.97  # of the time is promised to steps; the rest is for checkpoints and surprises


@dataclass(frozen=True)
class Trial:
    """What one step and one row of samples cost on this machine."""

    seconds_per_image: float
    cpu_seconds_per_image: float
    """The same in processor time, which other programs hardly lengthen."""
    seconds_per_strip: float
    seconds: float
    """What the trial itself took."""
    memory: int
    """Peak bytes: of the process, or of the GPU."""

    def images_in(self, minutes: float, batch: int, strips: int = _STRIPS) -> int:
        """How many images can be trained on in that time, in whole batches, at least one."""
        left = 60.0 * minutes * _MARGIN - strips * self.seconds_per_strip - self.seconds
        return max(int(left / self.seconds_per_image) // batch, 1) * batch


def run_trial(
    config: TrainConfig, model: Generative, feed: Feed, engine: Engine, seconds: float
) -> Trial:
    """Time steps for about `seconds` (at least three) on a copy of the model."""
    began = time.monotonic()
    twin = engine.place(copy.deepcopy(model))
    optimizer = make_optimizer(config, twin)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # full steps without a warm-up could end in NaN
    optimizer = engine.setup(twin, optimizer)

    def step(images: int) -> None:
        batch = feed(images)
        losses, _ = engine.losses(batch.x, batch.cond, batch.generator)
        engine.gradients(losses.mean(), optimizer, config.clip)
        optimizer.step()
        if engine.device.type != "cpu":
            torch.cuda.synchronize()

    for _ in range(2):  # the first steps also load kernels and fill caches
        step(0)
    times: list[float] = []
    work: list[float] = []
    while len(times) < 3 or time.monotonic() - began < seconds:
        then, worked = time.monotonic(), time.process_time()
        step(len(times) * config.batch)
        times.append(time.monotonic() - then)
        work.append(time.process_time() - worked)
    strip = _time_strip(config, twin) if config.sample_every != 0 else 0.0
    wall = statistics.median(times) / config.batch
    cpu = sorted(work)[len(work) // 4] / config.batch  # what shared caches lengthen least
    return Trial(wall, cpu, strip, time.monotonic() - began, _peak_memory(engine.device))


@torch.no_grad()
def _time_strip(config: TrainConfig, model: Generative) -> float:
    """Seconds for a row of samples: of a walk one solver step, times their number."""
    then = time.monotonic()
    labels = _no_labels(config.samples, model)
    if walked(model) is None:
        model.sample(config.samples, cond=labels)
        return time.monotonic() - then
    model.sample(config.samples, steps=1, cond=labels)
    return (time.monotonic() - then) * (config.sample_steps or SAMPLE_STEPS)


def _no_labels(count: int, model: Generative) -> torch.Tensor | None:
    return torch.full((count,), -1) if model.data and model.data.classes else None


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
