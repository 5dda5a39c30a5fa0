"""The training loop: one step is a function of (weights, images seen), and everything else is when
to log, to draw samples and to save."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from marginals.codec import Autoencoder
from marginals.data.captioned import styles_of
from marginals.data.pictures import PictureSource
from marginals.errors import MarginalsError
from marginals.io.checkpoint import save_model
from marginals.train import records
from marginals.train.config import SAMPLE_STEPS, TrainConfig
from marginals.train.engine import Engine
from marginals.train.feed import Feed
from marginals.train.latents import measure
from marginals.train.levels import LevelMeter
from marginals.train.progress import Event, EventKind, Listener
from marginals.train.rungs import explain, rungs, silent
from marginals.train.snapshots import Snapshots, probe_loss
from marginals.train.state import TrainState
from marginals.train.stop import Diverged, Stop, Stopped

__all__ = ["Trainer", "learning_rate"]

_CHECK_EVERY = 16  # steps between looks at the losses where a look would stall the device
_EMA_BEHIND = 0.1  # share of the loss by which the average may be worse before we warn


def learning_rate(config: TrainConfig, images_seen: int) -> float:
    """The rate of the step that starts at `images_seen`: up, level, down (a trapezoid).

    The warm-up is at most a tenth of the run; the fall takes its last part `config.decay` and would
    reach 0 at its end.
    """
    assert config.images is not None
    warmup = min(config.warmup, config.images // 10)
    rise = min(1.0, (images_seen + config.batch) / warmup) if warmup else 1.0
    falling = config.decay * config.images
    left = max(config.images - images_seen, 0)
    return config.lr * rise * (min(1.0, left / falling) if falling else 1.0)


class Trainer:
    """Runs a `TrainState` to its number of images, inside a run folder."""

    def __init__(
        self,
        state: TrainState,
        optimizer: Optimizer,
        feed: Feed,
        engine: Engine,
        folder: Path,
        listener: Listener,
    ) -> None:
        self.state, self.optimizer, self.feed, self.engine = state, optimizer, feed, engine
        self.folder, self.listener = folder, listener
        config = state.config
        assert config.images is not None
        self.total: int = config.images
        self.log_every = config.log_every or max(self.total // 100, 1)
        self.save_every = config.save_every or max(self.total // 10, 1)
        self.sample_every = (
            max(self.total // 6, 1) if config.sample_every is None else config.sample_every
        )
        steps = config.sample_steps or SAMPLE_STEPS
        shown = self.feed.examples(config.samples)
        self.snapshots = Snapshots(folder, config.samples, steps, config.seed, shown)
        self.meter = LevelMeter()
        self._saved: int | None = None
        self._logged_at = (state.images_seen, time.monotonic())
        self._last_log: dict[str, Any] = {}

    def run(self, stop: Stop) -> None:
        """Train to the end.

        Raises Stopped after writing a checkpoint when `stop` asks for it, Diverged when a loss is
        not finite, MarginalsError when the disk does not take a file. Checkpoints stay whole.
        """
        done = ""
        try:
            self._run(stop)
            if sentence := silent(self._last_log.get("rungs", {})):
                self.warn(sentence)
            done = (
                f"done after {self.state.images_seen} images; next: {self._next()}  or  "
                f"marginals eval {self.folder}"
            )
        finally:
            self.emit("end", done, self._last_log)

    def _run(self, stop: Stop) -> None:
        state = self.state
        self.emit("start", explain(self.state.model))
        if state.images_seen == 0:
            self.snapshot()
            self.checkpoint()
        self._saved = state.images_seen
        while state.images_seen < self.total:
            self.step()
            stopping = self.engine.any(stop.requested)
            done = state.images_seen >= self.total
            saving = self._crossed(self.save_every) or done or stopping
            if self._crossed(self.log_every) or saving:
                self.log()
            if self.sample_every and (self._crossed(self.sample_every) or done):
                self.snapshot()
            if saving:
                self.checkpoint()
            if stopping and not done:
                raise Stopped(self._where("Stopped", f"continue with: {self._resume_command()}"))

    def step(self) -> None:
        """One step on one batch; afterwards `images_seen` has moved on by the batch."""
        state, config = self.state, self.state.config
        began, worked = time.monotonic(), time.process_time()
        batch = self.feed(state.images_seen)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, state.images_seen)
        state.at_progress()
        losses, lam = self.engine.losses(batch.x, batch.cond, batch.generator)
        norm = self.engine.gradients(losses.mean(), self.optimizer, config.clip)
        self.meter.add(state.images_seen, losses, lam, norm)
        step = state.images_seen // config.batch
        if self.engine.device.type == "cpu" or step % _CHECK_EVERY == 0:
            self._check()
        self.optimizer.step()
        state.images_seen += config.batch
        state.ema.update(state.model, config.batch, state.images_seen)
        state.seconds += time.monotonic() - began
        state.cpu_seconds += time.process_time() - worked
        self.emit("step")

    def log(self) -> None:
        """Write what happened since the last entry: loss, loss by level or by rung, speed."""
        self._check()
        state, images, now = self.state, self.state.images_seen, time.monotonic()
        before, then = self._logged_at
        if images == before:
            return
        entry = {
            "images": images,
            **self.meter.take(),
            **rungs(state.ema.model, self.feed),
            "lr": learning_rate(state.config, images - state.config.batch),
            "images_per_second": round((images - before) / max(now - then, 1e-9), 1),
            "seconds": round(state.seconds, 2),
            "cpu_seconds": round(state.cpu_seconds, 2),
        }
        self._logged_at, self._last_log = (images, now), entry
        if self.engine.is_main:
            with self._writing():
                records.append(self.folder / "log.jsonl", entry)
        self.emit("log", values=entry)

    def snapshot(self) -> None:
        """A row of samples from the average, and one from the raw weights if they are better."""
        if not (self.engine.is_main and self.sample_every):
            return
        model, ema, images = self.state.model, self.state.ema.model, self.state.images_seen
        batch = self.feed(0)
        raw, average = (probe_loss(m, batch.x, batch.cond, self.feed.seed) for m in (model, ema))
        try:
            self.snapshots.draw(ema, images, shown=batch.x)
            if average - raw > _EMA_BEHIND * abs(raw):
                self.snapshots.draw(model, images, "raw", shown=batch.x)
                self.warn(
                    f"the average of the weights lags behind them (loss {average:.4f} against "
                    f"{raw:.4f}): samples look noisier than the model is; shorten ema_half_life"
                )
        except MarginalsError as error:
            self.warn(f"no samples at {images} images: {error}")
        self.emit("snapshot", values={"probe_raw": raw, "probe_average": average})

    def checkpoint(self) -> None:
        """Write state.safetensors, then model.safetensors made from it."""
        self._check()
        if self.engine.is_main:
            with self._writing():
                self.state.save(self.folder / "state.safetensors")
                save_average(self.state, self.folder, self.feed.source)
        self.engine.barrier()
        self._saved = self.state.images_seen
        self.emit("checkpoint")

    def emit(self, kind: EventKind, text: str = "", values: dict[str, Any] | None = None) -> None:
        if self.engine.is_main:
            self.listener(Event(kind, self.state.images_seen, self.total, text, values or {}))

    def warn(self, sentence: str) -> None:
        self.emit("warning", f"warning: {sentence}")

    def _check(self) -> None:
        try:
            self.meter.check()
        except Diverged as error:
            raise Diverged(
                f"Training stopped: {error}; {self._kept()}; train again with a lower lr "
                f"(it was {self.state.config.lr:g}) or a smaller clip"
            ) from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A write that fails also says which checkpoint is left."""
        try:
            yield
        except MarginalsError as error:
            raise MarginalsError(f"{error}; {self._kept()}") from error

    def _crossed(self, every: int) -> bool:
        images, batch = self.state.images_seen, self.state.config.batch
        return images // every > (images - batch) // every

    def _where(self, verb: str, rest: str) -> str:
        return f"{verb} after {self.state.images_seen} of {self.total} images; {rest}"

    def _kept(self) -> str:
        if self._saved is None:
            return "no checkpoint was written yet"
        return f"the checkpoint of {self._saved} images in {self.folder} is whole"

    def _next(self) -> str:
        """The command that makes something of the run."""
        if not self.state.model.draws:
            return f"marginals sample MODEL --classifier {self.folder} --label NAME"
        if isinstance(self.state.model, Autoencoder):
            return f"marginals train --codec {self.folder} --model flow"
        if self.state.model.data and self.state.model.data.text:
            return f'marginals generate "..." --model {self.folder}'
        return f"marginals sample {self.folder}"

    def _resume_command(self) -> str:
        return f"marginals train --resume {self.folder}"


def save_average(state: TrainState, folder: Path, source: PictureSource) -> None:
    """Write the averaged weights as `folder`/model.safetensors, the file for use."""
    config = state.config
    measure(state.ema.model, source)
    extra = {
        "images_seen": state.images_seen,
        "seed": config.seed,
        "ema": {"half_life": config.ema_half_life, "ramp": config.ema_ramp},
        "model": config.model,
        "label_dropout": config.label_dropout,
        "trained_on": config.data,
        "data": state.data,
    }
    if state.ema.model.data and state.ema.model.data.text and (styles := styles_of(source)):
        extra["styles"] = list(styles)
    save_model(folder / "model.safetensors", state.ema.model, extra)
