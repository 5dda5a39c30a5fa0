"""Small worlds of finite tables, and expectations over them written out by hand.

The checks of Luo Eqs. 1-29 compare :mod:`marginals.paper.finite` with these plain loops.
"""

from collections.abc import Callable
from itertools import pairwise
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from .finite import Ladder


class World(NamedTuple):
    """p(z) (Z,), p(x | z) (Z, X), q(z | x) (X, Z): no two numbers alike, q with one zero."""

    prior: Tensor
    likelihood: Tensor
    q: Tensor


def _rows(draw: torch.Generator, *shape: int) -> Tensor:
    """Random tables whose rows add up to one, every entry well above zero."""
    table = 0.15 + torch.rand(*shape, generator=draw, dtype=torch.float64)
    return table / table.sum(-1, keepdim=True)


def some_world(seed: int = 0, values: int = 4, latents: int = 5) -> World:
    """A latent-variable model whose encoder is wrong."""
    draw = torch.Generator().manual_seed(seed)
    world = World(_rows(draw, latents), _rows(draw, latents, values), _rows(draw, values, latents))
    world.q[1, 2] = 0.0
    world.q[1] /= world.q[1].sum()
    return world


def some_ladder(sizes: tuple[int, ...] = (3, 4, 2, 5), seed: int = 0) -> Ladder:
    """A Markov hierarchy; ``sizes``: how many values x, z_1, ..., z_T have."""
    draw = torch.Generator().manual_seed(seed)
    pairs = list(pairwise(sizes))
    return Ladder(
        _rows(draw, sizes[-1]),
        tuple(_rows(draw, above, below) for below, above in pairs),
        tuple(_rows(draw, below, above) for below, above in pairs),
    )


def joint_by_hand(world: World) -> list[list[float]]:
    """p(x, z) = p(z)·p(x | z), a list of rows."""
    prior, likelihood = world.prior.tolist(), world.likelihood.tolist()
    values = range(len(likelihood[0]))
    return [[p * row[x] for p, row in zip(prior, likelihood)] for x in values]


def evidence_by_hand(world: World) -> list[float]:
    """p(x), by adding up."""
    return [sum(row) for row in joint_by_hand(world)]


def mean_by_hand(q: Tensor, value: Callable[[int, int], float]) -> Tensor:
    """Σ_z q(z | x)·value(x, z), (X,), term by term; terms with q = 0 are left out."""
    rows = enumerate(q.tolist())
    return torch.tensor(
        [sum(w * value(x, z) for z, w in enumerate(row) if w > 0.0) for x, row in rows],
        dtype=torch.float64,
    )


def posterior_by_hand(world: World) -> Tensor:
    """p(z | x) = p(x, z)/p(x), (X, Z)."""
    p = evidence_by_hand(world)
    return _double([[v / p[x] for v in row] for x, row in enumerate(joint_by_hand(world))])


def elbo_by_hand(world: World, q: Tensor) -> Tensor:
    """Σ_z q(z | x)·[log p(x, z) − log q(z | x)], (X,)."""
    joint, weight = joint_by_hand(world), q.tolist()
    return mean_by_hand(q, lambda x, z: log(joint[x][z]) - log(weight[x][z]))


def gap_by_hand(world: World, q: Tensor) -> Tensor:
    """Σ_z q(z | x)·[log q(z | x) − log p(z | x)], (X,)."""
    true, weight = posterior_by_hand(world).tolist(), q.tolist()
    return mean_by_hand(q, lambda x, z: log(weight[x][z]) - log(true[x][z]))


def worlds() -> list[tuple[World, Tensor, Tensor]]:
    """Two worlds, each with p(x, z) (X, Z) and log p(x) (X,), both added up by hand."""
    two = [some_world(1), some_world(2, values=3, latents=6)]
    return [(w, _double(joint_by_hand(w)), _double(evidence_by_hand(w)).log()) for w in two]


def _double(numbers: list) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)
