"""Every defined route to the likelihood of a model, on the same stored pictures, in bits/dim.

What may be compared with what is decided by *what has the probability* (`Bound.of`):

* whole-number pixels: P of the stored values 0..255 themselves, from a discretised decoder;
* dequantised pixels: a density of pixels spread evenly over their bins, times the bins' volume. Its
  mean log is at most log P of the whole-number pixels (Theis et al. 2016), so a dequantised number
  is never flattering: a fair upper limit beside the first kind, looser by what the flow wastes;
* black-and-white pixels: another question altogether.

A diffusion model has both ELBOs, the probability-flow ODE and the 256-way decoder; DDPM has its own
chain of T steps with its own decoder; a ladder has its ELBO and the importance-weighted bound. A
latent model has one bound, the codec's around that of the model inside.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from marginals.density import TICKS
from marginals.generative import Generative
from marginals.ladder import Ladder
from marginals.latent import Latent
from marginals.metrics.measured import Effort, Measured, Route
from marginals.models import Model
from marginals.noise import stream_seed
from marginals.pixels import dequantise
from marginals.schedule import Tabulated

__all__ = [
    "Effort",
    "Measured",
    "Route",
    "measure",
    "routes",
    "statement",
    "together",
]

Tick = Callable[[int], object]

_BATCH = 64
"""Pictures at once: the ODE's gradients need memory."""

_ROUND, _MOST = 32, 4096
"""Levels of a round, and at most, of a bound that goes on until its error bar is small enough."""


def routes(
    model: Generative, pixels: Tensor, cond: Tensor | None, effort: Effort, seed: int, tick: Tick
) -> list[Route]:
    """All routes of a model for stored pictures, uint8 (B, C, H, W); `tick` gets evaluations."""
    if isinstance(model, Latent):
        plans = _latent_plans(model, pixels, cond, effort, seed, tick)
    elif isinstance(model, Ladder):
        plans = _ladder_plans(model, pixels, cond, effort, seed, tick)
    else:
        assert isinstance(model, Model)
        plans = _diffusion_plans(model, pixels, cond, effort, seed, tick)
    return [plan() for key, plan in plans.items() if effort.takes(key)]


def cost(model: Generative, effort: Effort) -> int:
    """Network evaluations per picture that `routes` will tick off."""
    levels = effort.levels
    costs = dict.fromkeys(("elbo", "iwae"), effort.importance)
    if isinstance(model, Latent):
        costs = {"latent": _MOST if effort.target is not None else levels}
    if isinstance(model, Model):
        costs = {"discrete": levels, "discrete_2": 2 * levels, "continuous": levels}
        if effort.target is not None:
            costs |= {"continuous": _MOST}
        ode = TICKS if effort.ode_steps is None else 4 * effort.ode_steps
        costs |= {"ode": ode, "decoder": costs["continuous"], "chain": len(_lams(model))}
    return sum(each for key, each in costs.items() if effort.takes(key))


def measure(
    model: Generative,
    pixels: Tensor,
    cond: Tensor | None,
    effort: Effort,
    *,
    seed: int = 0,
    progress: bool = True,
) -> list[Measured]:
    """All routes over many pictures, uint8 (N, C, H, W), in batches of 64, with one bar."""
    parts: list[list[Route]] = []
    total = len(pixels) * cost(model, effort)
    unit = " evaluations"
    with tqdm(desc="likelihood", total=total, unit=unit, disable=not progress) as bar:
        for i, part in enumerate(pixels.split(_BATCH)):
            classes = None if cond is None else cond[i * _BATCH : (i + 1) * _BATCH]
            parts.append(routes(model, part, classes, effort, seed + i, bar.update))
    return [together([batch[i] for batch in parts]) for i in range(len(parts[0]))]


_MEANS = {
    "whole-number pixels": "the probability of the stored values 0..255 themselves",
    "dequantised pixels": "a density of the pixels spread evenly over their 256 bins; on average "
    "at most the probability of the stored values, so its bits are an upper limit for those too",
    "black-and-white pixels": "the probability of pixels cut to black and white; its bits compare "
    "with nothing of 256 values",
}


_WHOLE = (
    "a model that learned whole-number pixels as such (vdm) never saw a value between two of them, "
    "so its numbers of dequantised pixels are large: they ask about pictures it does not know"
)


def statement(model: Generative, measured: Sequence[Measured]) -> list[str]:
    """Sentences on what the numbers are numbers of, and so on what compares with what."""
    of = dict.fromkeys(route.of for route in measured)
    whole = isinstance(model, Model) and not model.objective.dequantise
    return [f"{what}: {_MEANS[what]}" for what in of] + ([_WHOLE] if whole else [])


def together(parts: Sequence[Route]) -> Measured:
    """One route over the pictures of all batches; means are over pictures, not over batches."""
    first = parts[0]
    bits = torch.cat([part.bound.bits_per_dim().cpu() for part in parts])
    weights = [len(part.bound.nats) / len(bits) for part in parts]

    def mean(tables: list[dict[str, float]]) -> dict[str, float]:
        columns = zip(*(table.values() for table in tables), strict=True)
        sums = (sum(w * v for w, v in zip(weights, column, strict=True)) for column in columns)
        return dict(zip(tables[0], sums, strict=True))

    about = first.bound
    nfe = round(sum(w * part.bound.nfe for w, part in zip(weights, parts, strict=True)))
    noises = [part.bound.noise_bits for part in parts]
    noise = sum((w * n) ** 2 for w, n in zip(weights, noises, strict=True) if n is not None) ** 0.5
    return Measured(
        first.key, first.title, about.kind, about.of, nfe, bits,
        mean([part.terms() for part in parts]), mean([part.paid() for part in parts]),
        None if None in noises else noise,
    )  # fmt: skip


def _meter(tick: Tick, pictures: int) -> Callable[[int, int], None]:
    """From (evaluations done, in all) of one picture to the evaluations of all of them."""
    said = 0

    def report(done: int, total: int) -> None:
        nonlocal said
        tick(pictures * (done - said))
        said = done

    return report


Plans = dict[str, Callable[[], Route]]


def _diffusion_plans(
    model: Model, pixels: Tensor, cond: Tensor | None, effort: Effort, seed: int, tick: Tick
) -> Plans:
    """On pictures dequantised once for all routes but the last two, which rate whole numbers."""
    x, levels = dequantised(pixels, seed), effort.levels

    def options(draw: int) -> dict[str, Any]:
        return {"generator": generator(seed, draw), "tick": _meter(tick, len(x))}

    many: dict[str, Any] = {"samples": levels}
    if effort.target is not None:
        many = {"target": effort.target, "samples": _ROUND, "most": _MOST}

    def discrete(key: str, steps: int, draw: int) -> Route:
        bound = model.discrete_elbo(x, cond, steps=steps, **options(draw))
        title = f"discrete-time ELBO, T = {steps}"
        return Route(key, title, bound, "Luo Eqs. 58, 85, 110, 130")

    def continuous() -> Route:
        bound = model.elbo(x, cond, **many, **options(3))
        source = "Luo Eq. 58 with T → ∞; Kingma et al. 2021"
        return Route("continuous", "continuous-time ELBO (T → ∞)", bound, source)

    def ode() -> Route:
        how = {"steps": effort.ode_steps, "probes": effort.probes, "tolerance": effort.tolerance}
        bound = model.log_prob(x, cond, **how, **options(4))
        source = "Song et al. 2021, Eq. 39; score from Luo Eq. 151"
        return Route("ode", "probability-flow ODE", bound, source)

    def decoder() -> Route:
        bound = model.elbo(pixels, cond, **many, **options(5))
        source = "Luo Eq. 58 with the decoder of Kingma et al. 2021"
        return Route("decoder", "continuous-time ELBO, 256-way decoder", bound, source)

    def chain() -> Route:
        """The bound that DDPM's paper reports."""
        bound, steps = model.chain_elbo(pixels, cond, **options(6)), len(_lams(model))
        source = "Luo Eqs. 58, 84–94; Ho et al. 2020, Eqs. 5, 13"
        return Route("chain", f"its own chain and decoder, T = {steps}", bound, source)

    plans: Plans = {
        "discrete": lambda: discrete("discrete", levels, 1),
        "discrete_2": lambda: discrete("discrete_2", 2 * levels, 2),
        "continuous": continuous,
        "ode": ode,
        "decoder": decoder,
    }
    if _lams(model):
        plans["chain"] = chain
    return plans


def _ladder_plans(
    model: Ladder, pixels: Tensor, cond: Tensor | None, effort: Effort, seed: int, tick: Tick
) -> Plans:
    k, x = effort.importance, dequantised(pixels, seed) if model.decoder.density else pixels

    def options(draw: int) -> dict[str, Any]:
        each = {"generator": generator(seed, draw), "tick": _meter(tick, len(pixels))}
        return each | {"samples": k}

    def elbo() -> Route:
        return Route("elbo", "ELBO", model.elbo(x, cond, **options(1)), "Luo Eqs. 15, 19, 29")

    def iwae() -> Route:
        bound, title = model.log_prob(x, cond, **options(2)), f"importance-weighted, k = {k}"
        return Route("iwae", title, bound, "Burda et al. 2016, Eq. 8")

    return {"elbo": elbo, "iwae": iwae}


def _latent_plans(
    model: Latent, pixels: Tensor, cond: Tensor | None, effort: Effort, seed: int, tick: Tick
) -> Plans:
    """One bound: that of the codec's encoder and decoder around the inner model's."""
    x = dequantised(pixels, seed) if model.codec.density else pixels
    many: dict[str, Any] = {"samples": effort.levels}
    if effort.target is not None:
        many = {"target": effort.target, "samples": _ROUND, "most": _MOST}
    many |= {"generator": generator(seed, 1), "tick": _meter(tick, len(pixels))}

    def latent() -> Route:
        title = "ELBO of the pictures through their latents"
        return Route("latent", title, model.elbo(x, cond, **many), "Luo Eqs. 19, 58 on latents")

    return {"latent": latent}


def _lams(model: Model) -> tuple[float, ...]:
    """The levels of the model's own chain; () for models that have none."""
    return model.schedule.lams if isinstance(model.schedule, Tabulated) else ()


def dequantised(pixels: Tensor, seed: int) -> Tensor:
    """Stored pictures spread over their bins: the same noise for every route of a seed."""
    noise = torch.rand(pixels.shape, generator=generator(seed, 0))
    return dequantise(pixels, noise.to(pixels.device))


def generator(seed: int, draw: int) -> torch.Generator:
    """The stream of one route of a seed."""
    return torch.Generator().manual_seed(stream_seed(seed, draw))
