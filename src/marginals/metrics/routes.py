"""Every defined route to the likelihood of a model, on the same stored pictures, in bits/dim.

What may be compared with what is decided by *what has the probability* (`Bound.of`):

* whole-number pixels: P of the stored values 0..255 themselves, from a discretised decoder;
* dequantised pixels: a density of pixels spread evenly over their bins, times the bins' volume. Its
  mean log is at most log P of the whole-number pixels (Theis et al. 2016), so a dequantised number
  is never flattering: a fair upper limit beside the first kind, looser by what the flow wastes;
* black-and-white pixels: another question altogether.

A diffusion model has both ELBOs, the probability-flow ODE and the 256-way decoder; DDPM has its own
chain of T steps with its own decoder; a ladder has its ELBO and the importance-weighted bound.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from marginals.bound import Bound, Terms
from marginals.generative import Generative
from marginals.ladder import Ladder
from marginals.models import Model
from marginals.noise import stream_seed
from marginals.pixels import dequantise
from marginals.schedule import Tabulated

__all__ = [
    "Effort",
    "Measured",
    "Route",
    "diffusion_routes",
    "measure",
    "routes",
    "statement",
    "together",
]

Tick = Callable[[int], object]

_LN2 = 0.6931471805599453
_BATCH = 64
"""Pictures at once: the ODE's gradients need memory."""


@dataclass(frozen=True)
class Effort:
    """How much work each route may do per picture."""

    levels: int = 64
    """Noise levels of the ELBOs (T of the discrete one; there is also one with 2T)."""
    ode_steps: int = 20
    """Runge-Kutta steps of the exact route, four evaluations each."""
    importance: int = 64
    """k of the importance-weighted bound of ladders, and walks of their ELBO."""
    chain: bool = True
    """Whether a model with a tabulated chain (DDPM) is measured by all its T steps too."""


@dataclass(frozen=True)
class Route:
    """One way to the likelihood; ``bound`` holds the numbers of every picture."""

    key: str
    title: str
    bound: Bound
    equations: str

    @property
    def kind(self) -> str:
        """What kind of number it is, in the words of the table."""
        return f"{self.bound.kind}, {self.bound.of.removesuffix(' pixels')}"

    def terms(self) -> dict[str, float]:
        """The parts of the mean in bits/dim; they add up to it. Pixel bins cost 7 bits."""
        bits = {
            name: float(-nats.mean() / (self.bound.dims * _LN2))
            for name, nats in self.bound.terms.items()
        }
        return bits | ({"pixel bins": 7.0} if self.bound.density else {})

    def paid(self) -> dict[str, float]:
        """Nats paid at every latent, mean over pictures: by λ, or by the number of the rung."""
        if not isinstance(self.bound, Terms):
            return {}
        nats = self.bound.matching.mean(0).tolist()
        paid = {f"{at:g}": value for at, value in zip(self.bound.at.tolist(), nats, strict=True)}
        if self.key == "elbo":  # of a ladder, whose top rung is a latent like the others
            paid = {str(len(paid) + 1): float(self.bound.prior.mean())} | paid
        return paid


@dataclass(frozen=True)
class Measured:
    """One route over all pictures, in bits/dim; less is better."""

    key: str
    title: str
    kind: str
    """"bound": the truth is at most this. "exact": it is this."""
    of: str
    """What has this probability."""
    evaluations: int
    bits: Tensor
    """(N,), one number per picture."""
    terms: dict[str, float]
    """The parts of the mean; they add up to it."""
    paid: dict[str, float]
    """Nats per picture at every level of noise (by λ) or at every rung (by its number, 1 beside
    the picture)."""

    @property
    def mean(self) -> float:
        return float(self.bits.mean())

    @property
    def stderr(self) -> float | None:
        """Standard error of the mean over pictures; None for a single one."""
        return float(self.bits.std() / len(self.bits) ** 0.5) if len(self.bits) > 1 else None

    def as_json(self) -> dict[str, Any]:
        """Everything but the numbers of single pictures."""
        return {
            "route": self.title,
            "bits_per_dim": self.mean,
            "stderr": self.stderr,
            "kind": self.kind,
            "of": self.of,
            "evaluations": self.evaluations,
            "terms": self.terms,
            **({"rungs": self.paid} if self.key == "elbo" else {}),
        }


def routes(
    model: Generative, pixels: Tensor, cond: Tensor | None, effort: Effort, seed: int, tick: Tick
) -> list[Route]:
    """All routes of a model for stored pictures, uint8 (B, C, H, W); `tick` gets evaluations."""
    if isinstance(model, Ladder):
        return list(_ladder_routes(model, pixels, cond, effort, seed, tick))
    assert isinstance(model, Model)
    return list(diffusion_routes(model, pixels, cond, effort, seed, tick))


def cost(model: Generative, effort: Effort) -> int:
    """Network evaluations per picture that `routes` will tick off."""
    if isinstance(model, Ladder):
        return 2 * effort.importance
    chain = len(model.schedule.lams) if _has_chain(model, effort) else 0  # type: ignore[union-attr]
    return 5 * effort.levels + 4 * effort.ode_steps + chain


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


def statement(measured: Sequence[Measured]) -> list[str]:
    """Sentences on what the numbers are numbers of, and so on what compares with what."""
    of = dict.fromkeys(route.of for route in measured)
    return [f"{what}: {_MEANS[what]}" for what in of]


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
    return Measured(
        first.key, first.title, about.kind, about.of, about.nfe, bits,
        mean([part.terms() for part in parts]), mean([part.paid() for part in parts]),
    )  # fmt: skip


def diffusion_routes(
    model: Model, pixels: Tensor, cond: Tensor | None, effort: Effort, seed: int, tick: Tick
) -> Iterator[Route]:
    """On pictures dequantised once for all routes but the last, which rates whole numbers."""
    x = dequantised(pixels, seed)

    def options(draw: int) -> dict[str, Any]:
        return {"generator": generator(seed, draw), "tick": lambda done, total: tick(len(x))}

    luo = "Luo Eqs. 58, 85, 110, 130"
    for draw, key, steps in ((1, "discrete", effort.levels), (2, "discrete_2", 2 * effort.levels)):
        bound = model.discrete_elbo(x, cond, steps=steps, **options(draw))
        yield Route(key, f"discrete-time ELBO, T = {steps}", bound, luo)
    bound = model.elbo(x, cond, samples=effort.levels, **options(3))
    source = "Luo Eq. 58 with T → ∞; Kingma et al. 2021"
    yield Route("continuous", "continuous-time ELBO (T → ∞)", bound, source)
    bound = model.log_prob(x, cond, steps=effort.ode_steps, **options(4))
    yield Route("ode", "probability-flow ODE", bound, "Song et al. 2021, Eq. 39; Luo Eq. 151")
    bound = model.elbo(pixels, cond, samples=effort.levels, **options(5))
    source = "Luo Eq. 58 with the decoder of Kingma et al. 2021"
    yield Route("decoder", "continuous-time ELBO, 256-way decoder", bound, source)


def _ladder_routes(
    model: Ladder, pixels: Tensor, cond: Tensor | None, effort: Effort, seed: int, tick: Tick
) -> Iterator[Route]:
    def options(draw: int) -> dict[str, Any]:
        each = {"generator": generator(seed, draw), "tick": lambda done, total: tick(len(pixels))}
        return each | {"samples": effort.importance}

    yield Route("elbo", "ELBO", model.elbo(pixels, cond, **options(1)), "Luo Eqs. 15, 19, 29")
    bound = model.log_prob(pixels, cond, **options(2))
    title = f"importance-weighted bound, k = {effort.importance}"
    yield Route("iwae", title, bound, "Burda et al. 2016, Eq. 8")


def _has_chain(model: Model, effort: Effort) -> bool:
    return effort.chain and isinstance(model.schedule, Tabulated)


def dequantised(pixels: Tensor, seed: int) -> Tensor:
    """Stored pictures spread over their bins: the same noise for every route of a seed."""
    noise = torch.rand(pixels.shape, generator=generator(seed, 0))
    return dequantise(pixels, noise.to(pixels.device))


def generator(seed: int, draw: int) -> torch.Generator:
    """The stream of one route of a seed."""
    return torch.Generator().manual_seed(stream_seed(seed, draw))
