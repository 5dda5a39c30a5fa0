"""How probable are unseen pictures? Three routes on the same pictures, and what lies between them.

Everything here is in bits per dimension, less is better. Routes are compared picture by picture:
the difference of two routes has a far smaller standard error than either route, because a hard
picture is hard for both.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from marginals.likelihood import Bound
from marginals.metrics.routes import Effort, Route, dequantised, generator, routes
from marginals.models import Model

__all__ = ["Difference", "Likelihoods", "Route", "cost", "difference", "measure"]

Tick = Callable[[int], None]


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


_KEYS = ("discrete", "discrete_2", "continuous", "ode", "decoder")
"""The routes that every diffusion model has."""

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
    effort = Effort(levels=levels, ode_steps=ode_steps, only=_KEYS)
    taken = {route.key: route for route in routes(model, pixels, cond, effort, seed, tick)}
    x = dequantised(pixels, seed)
    error = _ode_error(model, x, cond, ode_steps, seed, taken["ode"].bound, tick)
    return Likelihoods(taken, len(x), levels, error)


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
        generator=generator(seed, 4),
        tick=each,
    )
    return float((coarse.bits_per_dim() - fine.bits_per_dim()[:few]).mean())
