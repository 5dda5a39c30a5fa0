"""Steps that choose their own size, for every picture by itself.

The denoiser takes one level per picture, so each picture of a batch walks the probability-flow ODE
(:mod:`.angle`) with its own step size and stops when it arrives; its result does not depend on the
pictures beside it. The methods are in :mod:`.steppers`.

The error of a step is the larger of the state's root mean square error, relative to ``atol`` +
``rtol``·RMS(y), and the log density's error per dimension, relative to ``atol`` + ``rtol``; y has
unit variance, so the two tolerances are the same kind of number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .angle import AngleFlow
from .denoiser import Denoiser
from .errors import MarginalsError
from .sampling import SampleResult, check_finite
from .steppers import Method, Step, Walker, dopri5

Advance = Callable[[float], None]
"""Called with the share of the way that the slowest picture has walked, from 0 to 1."""

MAX_EVALUATIONS = 20_000
"""More than this per picture means that a tolerance is out of reach of the arithmetic."""


@dataclass(frozen=True)
class Arrival:
    """``y`` at the end, the change of log density along the way (B, K), and the network
    evaluations of every picture (B,)."""

    y: Tensor
    log: Tensor
    calls: Tensor


_SHRINK, _GROW = 0.2, 3.0


def _begin(flow: AngleFlow, y: Tensor, start: float, memory: int) -> Walker:
    phi = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    rows = torch.arange(len(y), device=y.device)
    slope, log_slope = flow(y, phi, rows)
    before = range(memory - 1, -1, -1)  # places for slopes yet unknown
    return Walker(
        rows, phi, y, torch.zeros_like(log_slope), tuple(phi - j for j in before),
        (slope,) * memory, (log_slope,) * memory, torch.ones_like(rows),
    )  # fmt: skip


def _error(step: Step, at: Walker, dims: int, rtol: float, atol: float) -> Tensor:
    """Size of the error relative to the tolerance, (B,); infinite where it is not a number."""
    scale = atol + rtol * at.y.detach().flatten(1).double().square().mean(1).sqrt()
    error = step.y_error.detach().flatten(1).double().square().mean(1).sqrt() / scale
    if step.log_error.shape[1]:
        change = step.log_error.detach().abs().amax(1) / dims
        error = torch.maximum(error, change / (atol + rtol))
    return error.nan_to_num(nan=math.inf)


def _accept(at: Walker, step: Step, end: Tensor, fine: Tensor) -> Walker:
    """The state after the steps that were good enough; the others stay where they were."""

    def either(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(fine.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    def pushed(values: tuple[Tensor, ...], new: Tensor) -> tuple[Tensor, ...]:
        return tuple(either(a, b) for a, b in zip((*values[1:], new), values, strict=True))

    return replace(
        at,
        phi=either(end, at.phi),
        y=either(step.y, at.y),
        log=either(step.log, at.log),
        angles=pushed(at.angles, end),
        slopes=pushed(at.slopes, step.slope),
        logs=pushed(at.logs, step.log_slope),
        known=(at.known + fine.long()).clamp(max=len(at.angles)),
    )


def _change(
    error: Tensor, before: Tensor, power: Tensor, fine: Tensor, safety: float, i: float, p: float
) -> Tensor:
    """The factor of the next step: PI control after a good one, plain shrinking after a bad one."""
    error = error.clamp(min=1e-8)
    good = safety * error ** (-i * power) * before ** (p * power)
    bad = (safety * error**-power).clamp(_SHRINK, 0.9)
    return torch.where(fine, good.clamp(_SHRINK, _GROW), bad)


def _check_moving(calls: Tensor, size: Tensor) -> None:
    if int(calls.max()) > MAX_EVALUATIONS or float(size.min()) < 1e-12:
        raise MarginalsError(
            "The walk with steps of adaptive size makes no headway: ask for a larger tolerance, or "
            "use float64; or the network's output is not finite."
        )


def integrate(
    flow: AngleFlow,
    y: Tensor,
    start: float,
    end: float,
    method: Method,
    *,
    rtol: float = 0.0,
    atol: float = 1e-3,
    advance: Advance | None = None,
) -> Arrival:
    """Walk y (B, ...) from angle ``start`` to ``end``, in either direction.

    The number of steps is not known beforehand, so the device is asked once per step which pictures
    have arrived. Raises MarginalsError for impossible tolerances and where the slopes are not
    finite.
    """
    if not (rtol >= 0 and atol > 0 and math.isfinite(rtol + atol)):
        raise MarginalsError(f"Tolerances must be positive numbers: rtol {rtol}, atol {atol}.")
    at = _begin(flow, y, start, method.memory)
    sign, dims, count = math.copysign(1.0, end - start), y[0].numel(), len(y)
    calls = torch.ones(count, dtype=torch.long, device=y.device)
    # the first step doubles or halves σ/α; the error decides about the next
    size = torch.full_like(at.phi, min(abs(end - start), 2.0 * min(start, 0.5 * math.pi - start)))
    size = torch.where(size > 0, size, 1e-3 * abs(end - start))
    before, done = torch.ones_like(size), []
    while len(at.rows):
        left = (end - at.phi).abs()
        last = size >= 0.95 * left
        h = torch.where(last, left, size)
        target = torch.where(last, torch.full_like(h, end), at.phi + sign * h)
        step = method.propose(flow, at, target)
        calls[at.rows] += method.calls
        error = _error(step, at, dims, rtol, atol)
        fine = error <= 1.0
        power = 1.0 / (at.known + 1 if method.ramps else torch.full_like(h, method.order))
        size = h * _change(error, before, power, fine, *method.control)
        before = torch.where(fine, error.clamp(min=1e-4), before)
        at = _accept(at, step, target, fine)
        arrived = fine & last
        if bool(arrived.any()):
            done.append(at.pick(arrived))
            at, size, before = at.pick(~arrived), size[~arrived], before[~arrived]
        if len(at.rows):
            way = (at.phi - start).abs().min() / abs(end - start)
            _check_moving(calls, size / abs(end - start))
        else:
            way = 1.0
        if advance is not None:
            advance(float(way))
    order = torch.cat([part.rows for part in done]).argsort()
    y, log = (torch.cat([getattr(part, name) for part in done])[order] for name in ("y", "log"))
    return Arrival(y, log, calls)


@torch.no_grad()
def sample_adaptive(
    denoiser: Denoiser,
    x: Tensor,
    lam_from: float,
    lam_to: float,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    method: Method | None = None,
    std: float = 1.0,
    cond: Tensor | None = None,
    final: bool = True,
    advance: Advance | None = None,
) -> SampleResult:
    """Walk x (B, ...) along the probability-flow ODE from level ``lam_from`` to ``lam_to``.

    Every picture has its own step sizes (``method``: :func:`dopri5` by default, or :func:`adams`),
    so picture i is the same in any batch. x in and out is in ``denoiser.scaling`` units. ``std``:
    standard deviation of the data, in whose units the tolerances count. ``final``: one more
    evaluation replaces the state at ``lam_to`` by x̂0, as the last step of a grid does. ``nfe`` is
    that of the slowest picture.
    """
    if not math.isfinite(lam_to):
        raise MarginalsError(
            "A walk with adaptive steps ends at a finite noise level; final=True then takes off "
            "the noise that is left."
        )
    method = dopri5() if method is None else method
    flow = AngleFlow(denoiser, std, cond)
    y, _ = flow.enter(x, lam_from)
    found = integrate(
        flow, y, flow.angle(lam_from), flow.angle(lam_to), method,
        rtol=rtol, atol=atol, advance=advance,
    )  # fmt: skip
    out = flow.leave(found.y, lam_to)
    if final:
        out = denoiser(out, lam_to, cond).x0
    check_finite(out, f"with {method.name}")
    nfe = int(found.calls.max()) + int(final)
    return SampleResult(out, nfe, (float(lam_from), float(lam_to)), method.name)
