"""Kill a training run at random moments, resume it, and compare it with one that was never killed.

    python bench/resume.py                     20 kills, every process a fresh one
    python bench/resume.py --kills 3 --fork    quicker: processes are forked, not started anew

After every `kill -9` both checkpoints must load. At the end the weights, the optimiser's moments,
the loss log and the sample strip must be those of the undisturbed run, bit for bit. Exit code 0
only if all of it holds.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from marginals.io.checkpoint import load_model
from marginals.io.tensors import read_tensors
from marginals.train import Event, Run, TrainConfig, resume, train
from marginals.train.state import read_state_header

TOO_SHORT = "the run ended before it could be killed often enough; give it more images"

Start = Callable[[Path], int]
"""Starts a training process on a run folder and returns its process id."""


def child(folder: Path, images: int) -> None:
    """Train in `folder`, or go on where it was left. Touches `folder`.started when steps begin."""

    def note(event: Event) -> None:
        if event.kind == "start":
            mark(folder).touch()

    if (folder / "config.yaml").exists():
        resume(folder, on_event=note)
        return
    config = TrainConfig(
        data="digits", network="tiny", network_options={"width": 16}, images=images, batch=32,
        save_every=96, sample_every=images // 4, samples=2, sample_steps=2, log_every=32,
        threads=1, out=str(folder),
    )  # fmt: skip
    train(config, on_event=note)


def mark(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.started"


def fresh(images: int) -> Start:
    """Every process starts from nothing, as a person would start it."""

    def start(folder: Path) -> int:
        words = [sys.executable, __file__, "--child", str(folder), "--images", str(images)]
        return subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}).pid

    return start


def forked(images: int) -> Start:
    """Every process is a copy of this one, which has already imported everything."""

    def start(folder: Path) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            child(folder, images)
            code = 0
        finally:
            os._exit(code)

    return start


def finish(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise SystemExit(f"the training process failed with status {status}")


def wait_for_steps(folder: Path, pid: int) -> bool:
    """Wait until the process trains; False if it ended before."""
    while not mark(folder).exists():
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    return True


def check(folder: Path) -> int:
    """Both checkpoints load whole and hold numbers; returns the images seen."""
    if not (folder / "state.safetensors").exists():
        return 0
    seen = int(read_state_header(folder / "state.safetensors")["images_seen"])
    tensors = read_tensors(folder / "state.safetensors")
    if (folder / "model.safetensors").exists():
        tensors |= load_model(folder).state_dict()
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise SystemExit(f"the checkpoint of {seen} images holds NaN")
    return seen


def same(one: Path, other: Path) -> dict[str, bool]:
    """What is bit-identical between two finished runs."""
    a, b = (read_tensors(run / "state.safetensors") for run in (one, other))
    logs = [[{k: e[k] for k in ("images", "loss", "levels", "gradient")} for e in Run(r).log()]
            for r in (one, other)]  # fmt: skip
    return {
        "weights, average, moments": a.keys() == b.keys()
        and all(torch.equal(a[name], b[name]) for name in a),
        "model file": (one / "model.safetensors").read_bytes()
        == (other / "model.safetensors").read_bytes(),
        "loss log": logs[0] == logs[1],
        "sample strip": _pictures(one) == _pictures(other),
    }


def _pictures(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (run / "samples").iterdir()}


def bench(kills: int, start: Start, seed: int, work: Path) -> bool:
    reference, victim = work / "reference", work / "victim"
    began = time.monotonic()
    pid = start(reference)
    wait_for_steps(reference, pid)
    stepping = time.monotonic()
    finish(pid)
    length = time.monotonic() - stepping
    print(f"never killed: {stepping - began:.1f} s to start, {length:.1f} s to train")
    print("kill   after s   images in checkpoint   loads")
    chance = random.Random(seed)
    done = 0
    while done < kills:
        mark(victim).unlink(missing_ok=True)
        pid = start(victim)
        if not wait_for_steps(victim, pid):
            raise SystemExit(TOO_SHORT)
        delay = chance.uniform(0, 0.7 * length / kills)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if (seen := check(victim)) >= (Run(victim).config.images or 0):
            raise SystemExit(TOO_SHORT)
        done += 1
        print(f"{done:4d} {delay:9.2f} {seen:22d}   yes", flush=True)
    finish(start(victim))
    verdict = same(reference, victim)
    for what, identical in verdict.items():
        print(f"{what}: {'bit-identical' if identical else 'DIFFERENT'}")
    return all(verdict.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=19200, help="length of the run")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments of the kills")
    parser.add_argument("--fork", action="store_true", help="fork processes, for a quick look")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.images)
        return 0
    start = (forked if given.fork else fresh)(given.images)
    with tempfile.TemporaryDirectory() as work:
        return 0 if bench(given.kills, start, given.seed, Path(work)) else 1


if __name__ == "__main__":
    sys.exit(main())
