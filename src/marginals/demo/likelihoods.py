"""How probable are unseen pictures? Three routes on the same pictures, and what lies between them.

Everything here is in bits per dimension, less is better. Routes are compared picture by picture:
the difference of two routes has a far smaller standard error than either route, because a hard
picture is hard for both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from marginals.likelihood import Bound
from marginals.models import Model
from marginals.noise import stream_seed
from marginals.pixels import dequantise

__all__ = ["Difference", "Likelihoods", "Route", "cost", "difference", "measure"]

Tick = Callable[[int], None]


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
        pixels = "dequantised" if self.bound.density else "whole numbers"
        return f"{self.bound.kind}, {pixels}"

    def terms(self) -> dict[str, float]:
        """The parts of the mean in bits/dim; they add up to it. Pixel bins cost 7 bits."""
        bits = {
            name: float(-nats.mean() / (self.bound.dims * _LN2))
            for name, nats in self.bound.terms.items()
        }
        return bits | ({"pixel bins": 7.0} if self.bound.density else {})


_LN2 = 0.6931471805599453


@dataclass(frozen=True)
class Difference:
    """Mean of route a minus route b over the same pictures, and its standard error (bits/dim)."""

    mean: float
    stderr: float

    @property
    def z(self) -> float:
        """How many standard errors it is away from zero."""
        return self.mean / self.stderr if self.stderr > 0 else 0.0


@dataclass(frozen=True)
class Likelihoods:
    """The routes by name, the pictures they were measured on, and the ODE's step error."""

    routes: dict[str, Route]
    pictures: int
    levels: int
    """T of the shorter discrete-time bound; the longer one has 2T."""
    ode_error: float
    """Mean change of the exact route, in bits/dim, when it takes half as many steps."""


def difference(a: Bound, b: Bound) -> Difference:
    """Route a minus route b, picture by picture. The error is infinite for a single picture."""
    gap = a.bits_per_dim() - b.bits_per_dim()
    stderr = float(gap.std() / len(gap) ** 0.5) if len(gap) > 1 else float("inf")
    return Difference(float(gap.mean()), stderr)


def cost(pictures: int, levels: int, ode_steps: int) -> int:
    """Network evaluations that `measure` will tick off."""
    few = min(pictures, _CHECKED)
    return pictures * (5 * levels + 4 * ode_steps) + few * 2 * ode_steps


_CHECKED = 16
"""Pictures on which the ODE is solved again with half the steps."""


def measure(
    model: Model,
    pixels: Tensor,
    cond: Tensor | None,
    *,
    levels: int,
    ode_steps: int,
    seed: int,
    tick: Tick,
) -> Likelihoods:
    """All routes for stored pictures uint8 (B, C, H, W), dequantised once for all of them."""
    x = dequantise(
        pixels, torch.rand(pixels.shape, generator=_generator(seed, 0)).to(pixels.device)
    )

    def each(done: int, total: int) -> None:
        tick(len(x))

    def options(draw: int) -> dict[str, object]:
        return {"generator": _generator(seed, draw), "tick": each}

    routes = {
        "discrete": Route(
            "discrete",
            f"discrete-time ELBO, T = {levels}",
            model.discrete_elbo(x, cond, steps=levels, **options(1)),
            "Luo Eqs. 58, 85, 110, 130",
        ),
        "discrete_2": Route(
            "discrete_2",
            f"discrete-time ELBO, T = {2 * levels}",
            model.discrete_elbo(x, cond, steps=2 * levels, **options(2)),
            "Luo Eqs. 58, 85, 110, 130",
        ),
        "continuous": Route(
            "continuous",
            "continuous-time ELBO (T → ∞)",
            model.elbo(x, cond, samples=levels, **options(3)),
            "Luo Eq. 58 with T → ∞; Kingma et al. 2021",
        ),
        "ode": Route(
            "ode",
            "probability-flow ODE",
            model.log_prob(x, cond, steps=ode_steps, generator=_generator(seed, 4), tick=each),
            "Song et al. 2021, Eq. 39; score from Luo Eq. 151",
        ),
        "decoder": Route(
            "decoder",
            "continuous-time ELBO, 256-way decoder",
            model.elbo(pixels, cond, samples=levels, **options(5)),
            "Luo Eq. 58 with the decoder of Kingma et al. 2021",
        ),
    }
    error = _ode_error(model, x, cond, ode_steps, seed, routes["ode"].bound, tick)
    return Likelihoods(routes, len(x), levels, error)


def _ode_error(
    model: Model,
    x: Tensor,
    cond: Tensor | None,
    steps: int,
    seed: int,
    fine: Bound,
    tick: Tick,
) -> float:
    """Mean change in bits/dim when the first pictures take half as many steps, same probe."""
    few = min(len(x), _CHECKED)

    # the probe of the whole batch is drawn first, so that these pictures meet their own again
    def each(done: int, total: int) -> None:
        tick(few)

    coarse = model.log_prob(
        x[:few],
        None if cond is None else cond[:few],
        steps=max(1, steps // 2),
        generator=_generator(seed, 4),
        tick=each,
    )
    return float((coarse.bits_per_dim() - fine.bits_per_dim()[:few]).mean())


def _generator(seed: int, draw: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, draw))
