"""The exact log density of pictures under the probability-flow ODE, and the map to noise and back.

    log p(x0) = log prior(x_min) + ∫ tr(∂v̂/∂y) dφ + units          (Song et al. 2021, Eq. 39)

along the path that starts at the picture, taken as x at λ_max, and ends at λ_min. "Exact" is said
of the quantity: no bound is taken. The number has the error of the steps, about ``tolerance`` nats
per dimension, and with probes the noise of the trace, which is unbiased in nats.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from .adaptive import Arrival, integrate
from .angle import AngleFlow
from .bound import Bound, fingerprint
from .denoiser import Denoiser
from .errors import MarginalsError
from .gaussian import Ends
from .ode import Tick, exact_trace, hutchinson, solve
from .scaling import VP, units
from .schedule import Logit, Truncated
from .solvers.grids import grid
from .steppers import adams

TOLERANCE = 3e-3
"""Nats per dimension. On the 64-dimensional mixture of digits the largest error is then below
1e-3, with about 30 evaluations a picture (``bench/likelihood_oracle.py``)."""

FINE = 1e-4
"""Of encoding and decoding: an error in the noise grows where pictures part ways."""

TICKS = 40
"""Ticks of an adaptive walk, each a share of the way: its evaluations are not known before."""


def ode_log_prob(
    denoiser: Denoiser,
    x: Tensor,
    ends: Ends,
    *,
    tolerance: float = TOLERANCE,
    steps: int | None = None,
    cond: Tensor | None = None,
    exact: bool = False,
    probes: int = 1,
    gaussian: bool = False,
    grad: bool = False,
    batch: int | None = None,
    generator: torch.Generator | None = None,
    tick: Tick | None = None,
) -> Bound:
    """log p of float pictures (B, ...) under the flow; whole-number pixels are to be dequantised.

    By default every picture takes steps of its own size (:func:`.adaptive.adams`) until the error
    of each is below ``tolerance``; ``steps`` asks for that many Runge–Kutta steps of 4 evaluations
    instead, equal in flow time and the same for all. ``exact``: the whole trace (D backward passes,
    small D); otherwise Hutchinson's estimate, averaged over ``probes`` of random signs, or of
    normal numbers if ``gaussian``; with several, ``noise`` is its standard error. ``batch``:
    pictures at once, which changes the memory and nothing else. ``grad``: ``nats`` can be
    differentiated with respect to x and the network's parameters (adaptive steps only; the sizes
    of the steps count as given).
    """
    _check(x, probes, steps, grad, batch)
    signs = None if exact else _probes(x, probes, gaussian, generator)
    size, parts = batch or len(x), []
    for first in range(0, len(x), size):
        rows = slice(first, first + size)
        part = x[rows] if grad else x[rows].detach()
        labels = None if cond is None else cond[rows]
        some = None if signs is None else signs[:, rows]
        meter = _chunked(tick, first // size, -(-len(x) // size))
        if steps is None:
            parts.append(_adaptive(denoiser, part, ends, labels, some, tolerance, grad, meter))
        else:
            parts.append(_fixed(denoiser, part, ends, labels, some, steps, meter))
    return replace(_joined(parts), pictures=fingerprint(x))


def _check(x: Tensor, probes: int, steps: int | None, grad: bool, batch: int | None) -> None:
    if x.dtype == torch.uint8:
        raise MarginalsError(
            "A density needs real numbers: spread whole-number pixels over their bins first with "
            "marginals.pixels.dequantise."
        )
    if probes < 1 or (batch is not None and batch < 1):
        raise MarginalsError(f"At least 1 probe and 1 picture at once: {probes}, {batch}.")
    if grad and steps is not None:
        raise MarginalsError("Gradients need adaptive steps: leave out steps, or grad.")


def _probes(x: Tensor, count: int, gaussian: bool, generator: torch.Generator | None) -> Tensor:
    """(K, B, ...): mean 0, covariance I."""
    shape = (count, *x.shape)
    if gaussian:
        return torch.randn(shape, generator=generator).to(x)
    return torch.randint(0, 2, shape, generator=generator).to(x) * 2.0 - 1.0


def _chunked(tick: Tick | None, chunk: int, chunks: int) -> Tick | None:
    if tick is None or chunks == 1:
        return tick
    return lambda done, total: tick(chunk * total + done, chunks * total)


def _flow(denoiser: Denoiser, ends: Ends, cond: Tensor | None) -> AngleFlow:
    return AngleFlow(denoiser, ends.prior.std if ends.prior.std > 0 else 1.0, cond)


def _walk(
    flow: AngleFlow, y: Tensor, ends: Ends, tolerance: float, *, back: bool, tick: Tick | None
) -> Arrival:
    clean, noisy = flow.angle(ends.lam_max), flow.angle(ends.lam_min)
    start, end = (noisy, clean) if back else (clean, noisy)
    said = 0

    def advance(way: float) -> None:
        nonlocal said
        while tick is not None and said < int(way * TICKS + 1e-9):
            said += 1
            tick(said, TICKS)

    return integrate(flow, y, start, end, adams(), atol=tolerance, advance=advance)


def _adaptive(
    denoiser: Denoiser,
    x: Tensor,
    ends: Ends,
    cond: Tensor | None,
    probes: Tensor | None,
    tolerance: float,
    grad: bool,
    tick: Tick | None,
) -> Bound:
    flow = replace(_flow(denoiser, ends, cond), probes=probes, exact=probes is None, graph=grad)
    with torch.set_grad_enabled(grad):
        alpha, dims = flow.scaling(ends.lam_max).alpha, x[0].numel()
        found = _walk(flow, x * alpha, ends, tolerance, back=False, tick=tick)
        last = flow.leave(found.y, ends.lam_min)
        factor = units(ends.lam_min, flow.scaling, denoiser.scaling)
        return _summed(
            denoiser, ends, last, found.log.T, math.log(factor), math.log(alpha), dims, found.calls
        )


def _fixed(
    denoiser: Denoiser,
    x: Tensor,
    ends: Ends,
    cond: Tensor | None,
    probes: Tensor | None,
    steps: int,
    tick: Tick | None,
) -> Bound:
    def traces(v: Tensor, leaf: Tensor) -> Tensor:
        if probes is None:
            return exact_trace(v, leaf).unsqueeze(0)
        return torch.stack([hutchinson(probe, keep=True)(v, leaf) for probe in probes])

    # equal steps in flow time: the denoiser changes fastest around λ = 0, and slowly at both ends
    lams = grid(Truncated(Logit(), ends.lam_max, ends.lam_min), steps, final=False)[::-1]
    alpha, dims = VP(ends.lam_max).alpha, x[0].numel()
    last, change, nfe = solve(denoiser, x * alpha, lams, cond=cond, divergence=traces, tick=tick)
    factor = units(ends.lam_min, VP, denoiser.scaling)
    calls = torch.full((len(x),), nfe, device=x.device)
    return _summed(
        denoiser, ends, last * factor, change, math.log(factor), math.log(alpha), dims, calls
    )


def _summed(
    denoiser: Denoiser,
    ends: Ends,
    last: Tensor,
    change: Tensor,
    noisy_unit: float,
    clean_unit: float,
    dims: int,
    calls: Tensor,
) -> Bound:
    """``last``: x at λ_min; ``change`` (K, B) = log q(x_min) − log q(x_max) along the path, so it
    is subtracted; the units are those of the walk at its two ends, per dimension."""
    prior = ends.prior.log_prob(last, denoiser.scaling(ends.lam_min)) + dims * noisy_unit
    unit = torch.full_like(prior.detach(), dims * clean_unit)
    terms = {"prior": prior, "divergence": -change.mean(0), "units": unit}
    noise = change.detach().std(0) / len(change) ** 0.5 if len(change) > 1 else None
    nats, nfe = prior - change.mean(0) + unit, round(calls.double().mean().item())
    return Bound(nats, "exact", True, dims, nfe, terms, noise=noise, calls=calls)


def _joined(parts: list[Bound]) -> Bound:
    """The bounds of several chunks of a batch as one."""
    if len(parts) == 1:
        return parts[0]
    calls = torch.cat([part.calls for part in parts if part.calls is not None])
    noise = [part.noise for part in parts if part.noise is not None]
    return replace(
        parts[0],
        nats=torch.cat([part.nats for part in parts]),
        nfe=round(calls.double().mean().item()),
        terms={name: torch.cat([part.terms[name] for part in parts]) for name in parts[0].terms},
        noise=torch.cat(noise) if noise else None,
        calls=calls,
    )


@torch.no_grad()
def encode(
    denoiser: Denoiser,
    x: Tensor,
    ends: Ends,
    *,
    tolerance: float = FINE,
    cond: Tensor | None = None,
) -> Tensor:
    """The noise from which the ODE makes these float pictures: (B, ...), standard normal if the
    model is right (x at λ_min, less its mean, over its standard deviation under the prior)."""
    flow = _flow(denoiser, ends, cond)
    y = x * flow.scaling(ends.lam_max).alpha
    last = flow.leave(_walk(flow, y, ends, tolerance, back=False, tick=None).y, ends.lam_min)
    mean, var = ends.prior.moments(denoiser.scaling(ends.lam_min))
    return (last - mean) / var**0.5


@torch.no_grad()
def decode(
    denoiser: Denoiser,
    noise: Tensor,
    ends: Ends,
    *,
    tolerance: float = FINE,
    cond: Tensor | None = None,
) -> Tensor:
    """The pictures that the ODE makes of standard normal noise; undoes :func:`encode`."""
    flow = _flow(denoiser, ends, cond)
    y, _ = flow.enter(ends.prior.start(noise, denoiser.scaling(ends.lam_min)), ends.lam_min)
    y = _walk(flow, y, ends, tolerance, back=True, tick=None).y
    return y / flow.scaling(ends.lam_max).alpha
