"""What one solver step costs when the network is free.

The denoiser answers at once with a constant picture, so all that is timed is the solver: its
arithmetic, its bookkeeping, its Python. The yardstick is one bare `torch.lerp` of the same tensor,
the least any step could cost: read two tensors, write one.

    python bench/solver_step.py                 every solver
    python bench/solver_step.py --only "ddim;unipc:order=2"
    python bench/solver_step.py --peers FOLDER

where FOLDER was made by `pip install --target FOLDER diffusers` and, without its 77 dependencies,
`pip install --target FOLDER --no-deps k-diffusion`.

Everything takes turns in one process, in an order that is shuffled every round; the figures are
medians over the rounds of (time per step)/(time per lerp), with the quartiles as the spread. Time
is processor time, so that other programs on the machine count for less. A walk of ours is timed
whole, with its table and its final check for NaN; of diffusers only `step` is timed and
`set_timesteps` is not. k-diffusion's `sampling.py` is used alone, with empty stand-ins for the
packages (SDEs, ODEs, images) that its DPM++2M does not use.

The figure of a solver is per evaluation of the network (Heun has two of them a step, Langevin
three); the fresh noise of a stochastic one is in it, and said to be. "terms" is how many tensors
its table adds up per evaluation: each costs about one pass through memory, as a lerp does.
"""

import argparse
import importlib.util
import math
import random
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch

from marginals.denoiser import Estimate
from marginals.io import registry
from marginals.sampling import sample
from marginals.scaling import VE, VP, Scaling
from marginals.solvers import SOLVERS, Solver, dpmpp_2m, grid, karras

SHAPE, STEPS, LERPS = (64, 3, 32, 32), 20, 40
Walk = Callable[[], float]
"""Walk STEPS steps once; processor seconds per evaluation."""


class Free:
    """A denoiser that costs nothing: it always says the same picture."""

    def __init__(self, picture: torch.Tensor, scaling: Scaling) -> None:
        self.picture, self.scaling = picture, scaling

    def __call__(self, x, lam, cond=None) -> Estimate:
        return Estimate(x, lam, self.scaling, self.picture)


def lerp(x: torch.Tensor, picture: torch.Tensor) -> Walk:
    """The yardstick."""

    def walk() -> float:
        start = time.process_time()
        y = x
        for _ in range(LERPS):
            y = torch.lerp(y, picture, 0.1)
        return (time.process_time() - start) / LERPS

    return walk


def ours(solver: Solver, x: torch.Tensor, picture: torch.Tensor, scaling: Scaling) -> Walk:
    """One whole call of sample()."""
    lams, denoiser = grid(karras(-9.0, 9.0), STEPS), Free(picture, scaling)

    def walk() -> float:
        start = time.process_time()
        nfe = sample(denoiser, x, lams, solver).nfe
        return (time.process_time() - start) / nfe

    return walk


def diffusers(name: str, x: torch.Tensor, picture: torch.Tensor, **options) -> Walk:
    """A scheduler of diffusers that is handed x0."""
    import diffusers as package

    scheduler = getattr(package, name)(prediction_type="sample", **options)

    @torch.no_grad()
    def walk() -> float:
        scheduler.set_timesteps(STEPS)
        y = x * scheduler.init_noise_sigma
        start = time.process_time()
        for t in scheduler.timesteps:
            if name.startswith("Euler"):
                scheduler.scale_model_input(y, t)
            y = scheduler.step(picture, t, y).prev_sample
        return (time.process_time() - start) / STEPS

    return walk


def k_diffusion(folder: str, x: torch.Tensor, picture: torch.Tensor) -> Walk:
    """k-diffusion's sample_dpmpp_2m, loaded without the rest of its package."""
    parent = types.ModuleType("k_diffusion")
    parent.__path__ = []
    utils = types.ModuleType("k_diffusion.utils")
    stand_ins = {"k_diffusion": parent, "k_diffusion.utils": utils}
    for name, member in (("torchdiffeq", "odeint"), ("torchsde", "BrownianTree")):
        module = types.ModuleType(name)
        setattr(module, member, None)
        stand_ins[name] = module
    for name, module in stand_ins.items():
        sys.modules.setdefault(name, module)
    spec = importlib.util.spec_from_file_location(
        "k_diffusion.sampling", Path(folder) / "k_diffusion" / "sampling.py"
    )
    if spec is None or spec.loader is None:
        raise ImportError("k_diffusion/sampling.py is not in the folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sigmas = torch.tensor([math.exp(-0.5 * lam) for lam in grid(karras(-9.0, 9.0), STEPS)])

    def walk() -> float:
        y = x * sigmas[0]
        start = time.process_time()
        module.sample_dpmpp_2m(lambda x, sigma: picture, y, sigmas, disable=True)
        return (time.process_time() - start) / STEPS

    return walk


def peers(folder: str, x: torch.Tensor, picture: torch.Tensor) -> dict[str, Walk]:
    """The peers that can be imported; a line says which cannot."""
    sys.path.append(folder)
    makers: dict[str, Callable[[], Walk]] = {
        "diffusers DPM++2M": lambda: diffusers("DPMSolverMultistepScheduler", x, picture),
        "diffusers UniPC": lambda: diffusers("UniPCMultistepScheduler", x, picture),
        "diffusers Euler": lambda: diffusers("EulerDiscreteScheduler", x, picture),
        "k-diffusion DPM++2M": lambda: k_diffusion(folder, x, picture),
    }
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except (ImportError, OSError) as missing:
            print(f"{name}: not here ({missing})")
    return found


def measure(walks: dict[str, Walk], rounds: int) -> dict[str, list[float]]:
    """Seconds per step of every contestant, one value per round, all taking turns."""
    for walk in walks.values():
        walk()
    seconds: dict[str, list[float]] = {name: [] for name in walks}
    names = list(walks)
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            seconds[name].append(walks[name]())
    return seconds


def terms(solver: Solver) -> float:
    """Tensors added up per evaluation."""
    levels = [VP(lam) for lam in grid(karras(-9.0, 9.0), STEPS)]
    rows = solver.table(levels)
    return sum(len(row.x) + len(row.d) for row in rows) / len({j for row in rows for j in row.d})


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of one solver step, in bare lerps.")
    parser.add_argument("--only", default="", help="names with ; between; default all")
    parser.add_argument("--peers", default="", help="folder with diffusers and k-diffusion")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1, help="1 is fairest to measure")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    x, picture = torch.randn(2, *SHAPE)
    names = asked.only.split(";") if asked.only else list(SOLVERS)
    solvers = {name: registry.solver(name) for name in names}
    walks: dict[str, Walk] = {"lerp": lerp(x, picture)}
    walks |= {f"ours {name}": ours(solver, x, picture, VP) for name, solver in solvers.items()}
    walks["ours dpmpp_2m, VE"] = ours(dpmpp_2m(), x, picture, VE)
    if asked.peers:
        walks |= peers(asked.peers, x, picture)
    seconds = measure(walks, asked.rounds)
    unit = statistics.median(seconds["lerp"])
    print(f"{SHAPE} float32, {STEPS} steps, {asked.threads} thread(s), {asked.rounds} rounds")
    print(f"one lerp: {unit * 1e6:.0f} microseconds")
    ratios = {}
    for name, values in seconds.items():
        each = [v / b for v, b in zip(values, seconds["lerp"], strict=True)]
        low, ratios[name], high = statistics.quantiles(each, n=4)
        solver = solvers.get(name.removeprefix("ours "))
        about = "" if solver is None else f"   {terms(solver):4.1f} terms"
        about += ", and noise" if solver is not None and solver.stochastic else ""
        print(f"  {name:25s} {ratios[name]:6.2f} x lerp   ({low:.2f} .. {high:.2f}){about}")
    verdict(ratios)


def verdict(ratios: dict[str, float]) -> None:
    """The goals, for what was measured."""
    first = [ratios[f"ours {name}"] for name in ("ddim", "euler") if f"ours {name}" in ratios]
    if first:
        print(f"first order (goal <= 3): {max(first):.2f}")
    ours_2m = ratios.get("ours dpmpp_2m", ratios["ours dpmpp_2m, VE"])
    print(f"DPM++2M (goal <= 5):     {ours_2m:.2f}")
    others = {name: value for name, value in ratios.items() if name.endswith(" DPM++2M")}
    if others:
        best = min(others, key=others.__getitem__)
        print(f"{best} / ours (goal >= 3): {others[best] / ours_2m:.2f}")


if __name__ == "__main__":
    main()
