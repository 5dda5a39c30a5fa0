"""One step along the probability-flow ODE, and how far it can be trusted: Dormand–Prince and Adams.

A method proposes the state of every picture at an angle of its own and says how wrong that may be;
:mod:`.adaptive` decides whether to take it. Both methods carry (y, log density change).

* :func:`dopri5`: Runge–Kutta of order 5 with an error estimate of order 4 (Dormand & Prince 1980);
  the last slope of a step is the first of the next, so a step costs 6 evaluations.
* :func:`adams`: the last three slopes extrapolated by a polynomial give the new state; one
  evaluation there, and the polynomial through all four gives it again, better by one order
  (Adams–Bashforth–Moulton with the evaluation kept: PEC). One evaluation a step. It is what
  likelihoods use: the same polynomial integrates the state and the log density.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .angle import AngleFlow, spread


@dataclass(frozen=True)
class Walker:
    """Pictures on their way: ``phi`` (B,), ``y`` (B, ...), ``log`` (B, K), and the slopes that the
    method remembers, newest last, each with its angle; ``known`` (B,) of them are real."""

    rows: Tensor
    phi: Tensor
    y: Tensor
    log: Tensor
    angles: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    logs: tuple[Tensor, ...]
    known: Tensor

    def pick(self, keep: Tensor) -> "Walker":
        """Only some of the pictures."""
        return Walker(
            self.rows[keep],
            self.phi[keep],
            self.y[keep],
            self.log[keep],
            tuple(each[keep] for each in self.angles),
            tuple(each[keep] for each in self.slopes),
            tuple(each[keep] for each in self.logs),
            self.known[keep],
        )


@dataclass(frozen=True)
class Step:
    """What a method proposes: the state after the step, the error of the state and of the log
    density, and the slope at the new place, to be remembered."""

    y: Tensor
    log: Tensor
    y_error: Tensor
    log_error: Tensor
    slope: Tensor
    log_slope: Tensor


@dataclass(frozen=True)
class Method:
    """``propose(flow, walker, end)`` → Step to the angles ``end``; ``memory`` slopes are kept;
    ``calls`` evaluations a step; the error estimate falls as h^``order``, or as h^(known + 1) while
    a method of several steps (``ramps``) knows fewer slopes."""

    name: str
    propose: Callable[[AngleFlow, Walker, Tensor], Step]
    memory: int
    calls: int
    order: int
    ramps: bool = False
    control: tuple[float, float, float] = (0.9, 0.85, 0.2)
    """Safety factor and the exponents I and P of the step size control (Hairer & Wanner 1996,
    IV.2), in units of 1/order: h ← h·safety·error^(−I)·(error before)^P."""


# Dormand & Prince 1980, RK5(4)7M: rows of a, and b − b̂
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def _dopri_step(flow: AngleFlow, at: Walker, end: Tensor) -> Step:
    h = end - at.phi
    k, g, y, log = [at.slopes[-1]], [at.logs[-1]], at.y, at.log
    for row, c in zip(_A, _C, strict=True):
        share = torch.outer(h, h.new_tensor(row))
        y, log = at.y + spread(share, k), at.log + spread(share, g)
        slope, log_slope = flow(y, at.phi + c * h, at.rows)
        k.append(slope)
        g.append(log_slope)
    error = torch.outer(h, h.new_tensor(_E))
    return Step(y, log, spread(error, k), spread(error, g), k[-1], g[-1])


_GAUSS = 3.0**-0.5


def polynomial_weights(nodes: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Weights w (B, k) with ∫ f = Σ w_j·f(nodes_j) over [start, end] for polynomials f of degree
    k − 1 ≤ 3: Lagrange's polynomials, integrated by Gauss's two points. Nodes may lie anywhere."""
    half, middle = 0.5 * (end - start), 0.5 * (end + start)
    total = torch.zeros_like(nodes)
    apart = nodes.unsqueeze(2) - nodes.unsqueeze(1) + torch.eye(nodes.shape[1]).to(nodes)
    others = ~torch.eye(nodes.shape[1], dtype=torch.bool, device=nodes.device)
    for place in (-_GAUSS, _GAUSS):
        gap = (middle + place * half).unsqueeze(1) - nodes
        ratio = torch.where(others, gap.unsqueeze(1) / apart, 1.0)
        total = total + half.unsqueeze(1) * ratio.prod(2)
    return total


def _adams_weights(at: Walker, end: Tensor, new: bool) -> Tensor:
    """Weights of the remembered slopes, and of the slope at ``end`` if ``new``; slopes that are
    not yet known weigh nothing."""
    memory = len(at.angles)
    nodes = torch.stack([*at.angles, end] if new else at.angles, 1)
    total = torch.zeros_like(nodes)
    for known in range(1, memory + 1):
        last = nodes[:, memory - known :]
        weights = polynomial_weights(last, at.phi, end)
        padded = torch.cat([torch.zeros_like(nodes[:, : memory - known]), weights], 1)
        total = torch.where((at.known == known).unsqueeze(1), padded, total)
    return total


def _adams_step(flow: AngleFlow, at: Walker, end: Tensor) -> Step:
    ahead = _adams_weights(at, end, new=False)
    y = at.y + spread(ahead, list(at.slopes))
    log = at.log + spread(ahead, list(at.logs))
    slope, log_slope = flow(y, end, at.rows)
    back = _adams_weights(at, end, new=True)
    better = at.y + spread(back, [*at.slopes, slope])
    log_better = at.log + spread(back, [*at.logs, log_slope])
    return Step(better, log_better, better - y, log_better - log, slope, log_slope)


def dopri5() -> Method:
    """Dormand–Prince 5(4), first same as last: order 5, 6 evaluations a step."""
    return Method("dopri5", _dopri_step, memory=1, calls=6, order=5)


def adams() -> Method:
    """Adams–Bashforth 3 corrected by Adams–Moulton 4: order 4, 1 evaluation a step."""
    return Method("adams", _adams_step, 3, 1, order=4, ramps=True, control=(0.8, 1.0, 0.0))
