"""Editing: a model's walks, begun at a picture, told of one, or gone there and back.

    image_to_image(model, pictures, 0.5, cond=3)      # the rough of a picture, drawn anew
    inpaint(model, pictures, known)                   # the rest of a picture
    restore(model, small, Average(4))                 # super-resolution, deblurring
    interpolate(model, one, other, 7)                 # what lies between two pictures
    reword(model, pictures, 3, 5)                     # the same noise, told something else

Pictures are floats (B, C, H, W) in [−1, 1] or uint8; what comes out is float. Picture i has seed
``seed + i``, with streams of noise that no drawn picture has, and is the same in any batch.
``cond``, ``guidance``, ``solver``, ``batch`` and ``callback`` mean what they mean in
:meth:`.models.Model.sample`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser
from .density import FINE, decode, encode
from .errors import MarginalsError
from .generative import Labels, check_count
from .inverse import Mask, Observed, Operator
from .models import Guidance, Model
from .noise import item_noise
from .sampling import Progress, sample
from .schedule import Logit
from .solvers import Solver, auto, grid, straight

_OWN = 1 << 62
"""Added to seeds: a picture that the model drew with seed s must not meet the noise that made it
when it is edited with seed s, or it would be no draw of the model any more."""

Told = Callable[[Denoiser, slice], Denoiser]
"""Wraps the denoiser of a batch, which is a slice of all pictures."""


def level_of(model: Model, strength: float) -> float:
    """λ at which x is (1 − s)·picture + s·noise, up to units: s = ``strength`` is the time of
    rectified flow, and means the same for every model. Kept within the ends of the walk."""
    if not 0.0 < strength <= 1.0:
        raise MarginalsError(
            f"strength goes from 0 (hardly changed) to 1 (drawn anew), without 0, not {strength}."
        )
    return min(max(float(Logit().lam(float(strength))), model.lam_min), model.lam_max)


def image_to_image(
    model: Model,
    pictures: Tensor,
    strength: float,
    *,
    steps: int = 20,
    solver: Solver | None = None,
    seed: int = 0,
    cond: Labels = None,
    guidance: Guidance = 1.0,
    batch: int = 256,
    callback: Callable[[Progress], None] | None = None,
) -> Tensor:
    """Noise is added up to a level, and the model takes it off again (SDEdit, Meng et al. 2022):
    the more noise, the more is drawn anew. If the pictures are draws of the model, so are the
    results, at every strength.

    ``strength``: the share of noise at the start, in (0, 1] (:func:`level_of`). ``steps`` are all
    taken from there.
    """
    x0, lam = model._centres(pictures).to(model.device, model.dtype), level_of(model, strength)
    level = model.scaling(lam)
    noise = item_noise(_seeds(seed, len(x0)), x0.shape[1:]).to(x0)
    start = level.alpha * x0 + level.sigma * noise
    lams = grid(straight(lam, model.lam_max), steps) if lam < model.lam_max else [lam, math.inf]
    about: dict[str, Any] = {"solver": solver, "seed": seed, "cond": cond, "guidance": guidance}
    about |= {"batch": batch, "callback": callback}
    return _walk(model, start, lams, **about)


def restore(
    model: Model,
    y: Tensor,
    operator: Operator,
    std: float = 0.0,
    *,
    steps: int = 20,
    solver: Solver | None = None,
    seed: int = 0,
    cond: Labels = None,
    guidance: Guidance = 1.0,
    batch: int = 256,
    callback: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Tensor:
    """Pictures of which y = A·x0 + std·noise is known, (B, ...): super-resolution, deblurring.

    They are drawn from the model's posterior as nearly as :class:`.inverse.Observed` knows it;
    ``settings`` (``method``, ``iterations``) go there.
    """
    y = y.to(model.device, model.dtype)
    settings = {"data_std": model.ends.prior.std or 1.0} | settings

    def told(denoiser: Denoiser, part: slice) -> Denoiser:
        here = operator
        if isinstance(here, Mask) and here.known.ndim == y.ndim and len(here.known) == len(y):
            here = Mask(here.known[part])
        return Observed(denoiser, here, y[part], std, **settings)

    lams = grid(straight(model.lam_min, model.lam_max), steps)
    start = model.start(_seeds(seed, len(y)), lams[0])
    about: dict[str, Any] = {"solver": solver, "seed": seed, "cond": cond, "guidance": guidance}
    about |= {"batch": batch, "callback": callback}
    return _walk(model, start, lams, told=told, **about)


def inpaint(model: Model, pictures: Tensor, known: Tensor, **options: Any) -> Tensor:
    """The pictures where ``known`` is True, and the model's guess of the rest given that.

    ``known``: bool, (H, W), (C, H, W) or (B, C, H, W). ``options`` are those of :func:`restore`;
    with ``std`` the known part is allowed to differ by noise of that size, and is drawn with the
    rest; without, it is put back exactly.
    """
    x0 = model._centres(pictures).to(model.device, model.dtype)
    known = known.to(model.device).bool()
    drawn = restore(model, x0 * known, Mask(known), **options)
    return drawn if options.get("std", 0.0) > 0 else torch.where(known, x0, drawn)


def interpolate(
    model: Model,
    one: Tensor,
    other: Tensor,
    n: int,
    *,
    cond: Labels = None,
    guidance: float = 1.0,
    tolerance: float = FINE,
) -> Tensor:
    """n pictures on the way from ``one`` to ``other`` (C, H, W), both included.

    Both are encoded to the noise from which the ODE makes them; the way goes over the great circle
    between the two (Song et al. 2021, DDIM, Eq. 67), since a straight one would pass through noise
    of too small a size. ``cond``: what the model is told of all of them.
    """
    if n < 2:
        raise MarginalsError(f"Two ends are at least 2 pictures, not {n}.")
    denoiser, ends = model.guided(guidance), model.ends
    pair = model._centres(torch.stack([one, other])).to(model.device, model.dtype)
    with model._evaluating():
        noise = encode(denoiser, pair, ends, tolerance=tolerance, cond=model._labels(2, cond))
        way = slerp(noise[0], noise[1], torch.linspace(0.0, 1.0, n, dtype=torch.float64))
        return decode(denoiser, way, ends, tolerance=tolerance, cond=model._labels(n, cond))


def slerp(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """(sin((1 − u)θ)·one + sin(uθ)·other)/sin θ for every u of ``share`` (n,), θ the angle between
    the two: on the great circle if they are equally long (Shoemake 1985)."""
    a, b = one.double().flatten(), other.double().flatten()
    angle = torch.atan2(
        (a / a.norm() - b / b.norm()).norm(), (a / a.norm() + b / b.norm()).norm()
    ).mul(2.0)
    u = share.to(one.device).double().reshape(-1, *[1] * one.ndim)
    if angle < 1e-6:
        return torch.lerp(one.double(), other.double(), u).to(one)
    weights = ((1.0 - u) * angle).sin(), (u * angle).sin()
    return ((weights[0] * one + weights[1] * other) / angle.sin()).to(one)


def reword(
    model: Model,
    pictures: Tensor,
    before: Labels,
    after: Labels,
    *,
    guidance: float = 1.0,
    tolerance: float = FINE,
) -> Tensor:
    """The same noise, told something else: the pictures are encoded to the noise from which the ODE
    makes them if it is told ``before`` (inversion; Song et al. 2021), and decoded ``after``.

    What the condition does not speak of tends to stay. ``guidance``: γ of the way back; the way
    to the noise has none, because guided fields amplify its errors (Mokady et al. 2023). With
    before = after and γ = 1 the pictures come back, up to the ``tolerance``.
    """
    x0, ends = model._centres(pictures).to(model.device, model.dtype), model.ends
    old, new = model._labels(len(x0), before), model._labels(len(x0), after)
    with model._evaluating():
        noise = encode(model.net, x0, ends, tolerance=tolerance, cond=old)
        return decode(model.guided(guidance), noise, ends, tolerance=tolerance, cond=new)


def _seeds(seed: int, count: int) -> range:
    return range(_OWN + seed, _OWN + seed + count)


def _walk(
    model: Model,
    start: Tensor,
    lams: list[float],
    *,
    solver: Solver | None,
    cond: Labels,
    guidance: Guidance,
    seed: int,
    batch: int,
    callback: Callable[[Progress], None] | None,
    told: Told | None = None,
) -> Tensor:
    """Walk all states from ``lams[0]``, a batch at a time."""
    check_count(len(start), batch)
    model._check_guidance(guidance, len(start), cond)
    model._refuse_noise(solver)
    labels, parts = model._labels(len(start), cond), []
    for first in range(0, len(start), batch):
        part = slice(first, first + batch)
        x = start[part]
        denoiser = model.guided(guidance, part)
        rule = solver or auto(guided=denoiser is not model.net)
        denoiser = denoiser if told is None else told(denoiser, part)
        some = None if labels is None else labels[part]
        seeds = _seeds(seed + first, len(x))
        with model._evaluating():
            result = sample(denoiser, x, lams, rule, cond=some, seeds=seeds, callback=callback)
        parts.append(result.x)
    return torch.cat(parts)
