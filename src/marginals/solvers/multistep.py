"""Multistep solvers: one evaluation a step, the past extrapolated (Adams–Bashforth methods).

Every one of them is a frame (:mod:`.frames`), an order, and the coordinate in which the last
predictions are continued by a polynomial:

    lms                      eps frame, in r               (k-diffusion's LMS; DEIS ρAB)
    deis                     eps frame, in the time of a schedule   (DEIS tAB)
    dpm_2m, dpm_3m           eps frame, in λ               (DPM-Solver, multistep)
    dpmpp_2m, dpmpp_3m       x0 frame, in λ                (DPM-Solver++; exponential Adams)
    adams(order, frame, coordinate)                        all others

With noise (η > 0, x0 frame) they solve the SDE whose strength η goes from the ODE (0) to the
reverse SDE (1) and beyond. A *corrector* (Adams–Moulton) redoes a step when the next evaluation is
there: the same polynomial with one point more, without a further evaluation (UniPC does this, and
so does SA-Solver for the SDE).

The first steps have no past and are of lower order: order k is reached where they are short. A step
from λ = −∞ is the exact one of first order, and so is one to λ = ∞, unless the frame and the
coordinate are finite there (eps, v, flow; r, angle, t, a schedule's time) and ``last`` asks for
more.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import MarginalsError
from ..scaling import Level
from ..schedule import LinearBeta, NoiseSchedule
from .frames import (
    Coordinate,
    Frame,
    FrameName,
    add,
    advance,
    check_coordinate,
    infinite,
    levels_of,
    reaches_data,
    weights,
)
from .table import Row, Solver, Table

Weigh = Callable[[Frame, tuple[float, ...], float, float], tuple[float, ...]]
"""(frame, levels of the known predictions, newest first, λ_t, λ_s) → their weights."""


def adams(
    order: int = 3,
    frame: FrameName = "x0",
    coordinate: Coordinate = "lam",
    *,
    eta: float = 0.0,
    corrector: bool = False,
    last: int = 1,
) -> Solver:
    """Adams–Bashforth of ``order`` in any frame and coordinate, exactly integrated.

    X_s = X_t + Σ_j P_j·∫ℓ_j(c(w)) dw over the last ``order`` predictions (frame, coordinate: see
    :mod:`.frames`). ``corrector`` adds the Adams–Moulton step that uses the next evaluation as
    well (order + 1). ``last`` is the order of the step to λ = ∞: above 1 for the frames and
    coordinates that are finite there. ``eta`` > 0 is the SDE, of weak order 2 at most: fresh noise
    reaches the estimate one step late, and is made up for in the steps after it.
    """
    if not 1 <= order <= 4:
        raise MarginalsError(f"Adams methods have order 1 to 4 here, not {order}")
    check_coordinate(coordinate)

    def exact(frame: Frame, nodes: tuple[float, ...], t: float, s: float) -> tuple[float, ...]:
        return weights(frame, coordinate, nodes, t, s)

    chosen = Frame(frame, eta)
    reached = order + corrector
    if eta:
        reached = min(reached, 2)
    about = "continue the last predictions by a polynomial"
    if not 1 <= last <= order or (last > 1 and not reaches_data(chosen, coordinate)):
        raise MarginalsError(
            f"the last step has order 1 to {order}, and order 1 in the frame x0 or the coordinates "
            f"lam and kappa, which are infinite at the data; not {last}"
        )
    rule = multistep(chosen, order, exact, corrector, last=last)
    return Solver("adams", rule, reached, eta > 0, about)


def multistep(
    frame: Frame, order: int, weigh: Weigh, corrector: bool = False, *, last: int = 1
) -> Callable[[Sequence[Level[float]]], Table]:
    """The rule of a multistep solver with the weights of ``weigh``; ``last`` is the order of a step
    to λ = ∞, above 1 only if w and the coordinate are finite there.

    The corrected state is a sum of the predicted one and of predictions, and the next step starts
    from it: so both are one row, from predicted state to predicted state.
    """

    def rule(levels: Sequence[Level[float]]) -> Table:
        rows: Table = []
        at, past = {0: levels[0]}, [0]
        now = Row(levels[0], {0: 1.0}, {})  # the corrected state, which is never made itself

        def shares(nodes: Sequence[int], t: Level[float], s: Level[float]) -> dict[int, float]:
            values = weigh(frame, levels_of(at, nodes), t.lam, s.lam)
            return dict(zip(nodes, values, strict=True))

        for t, s in itertools.pairwise(levels):
            known = past[: last if infinite(s) else order]
            if infinite(t) or (infinite(s) and last == 1):
                first = Frame("x0", frame.eta)
                row, used = advance(first, at, now, s, {past[0]: first.total(t.lam, s.lam)}), None
            else:
                used = shares(known, t, s)
                row = advance(frame, at, now, s, used)
            rows.append(_noisy(frame, row, t))
            at[len(rows)] = s
            now = Row(s, {len(rows): 1.0}, {})
            if used is None:
                past = [len(rows)]
                continue
            if corrector and s is not levels[-1]:
                better = shares([len(rows), *known], t, s)
                now = add(frame, at, now, {j: c - used.get(j, 0.0) for j, c in better.items()})
            past = [len(rows), *known]
        return rows

    return rule


def _noisy(frame: Frame, row: Row, t: Level[float]) -> Row:
    """The row with the noise of the SDE."""
    noise = frame.noise(t, row.at) if frame.eta else 0.0
    return row._replace(noise=noise, path=(t.lam, frame.eta**2)) if noise else row


def _named(solver: Solver, name: str, about: str) -> Solver:
    return replace(solver, name=name, about=about)


def simplified(coordinate: Coordinate = "lam") -> Weigh:
    """Two predictions weighed as Lu et al. do: D = (1 + c)·P_0 − c·P_1 with c half the ratio of the
    steps, times the weight of one. Of the same order as the exact integral."""

    def weigh(frame: Frame, nodes: tuple[float, ...], t: float, s: float) -> tuple[float, ...]:
        if len(nodes) != 2:
            return weights(frame, coordinate, nodes, t, s)
        total, c = frame.total(t, s), 0.5 * (s - t) / (t - nodes[1])
        return (1.0 + c) * total, -c * total

    return weigh


def dpmpp_3m() -> Solver:
    """DPM-Solver++(3M): the last three clean estimates, a parabola in λ (Lu et al. 2022b).

    This is the exact integral, of order 3. The code of the paper, and with it diffusers and
    k-diffusion, multiplies the second difference (half the second derivative) by the factor that
    belongs to the second derivative, and is of order 2.
    """
    return _named(adams(3), "dpmpp_3m", "a parabola through the last three estimates")


def dpm_2m() -> Solver:
    """DPM-Solver(2M): as DPM-Solver++(2M), but it is ε̂ that is extrapolated (Lu et al. 2022)."""
    rule = multistep(Frame("eps"), 2, simplified())
    return Solver("dpm_2m", rule, 2, False, "remember the last noise and extrapolate")


def dpm_3m() -> Solver:
    """DPM-Solver(3M): a parabola in λ through the last three ε̂."""
    return _named(adams(3, "eps"), "dpm_3m", "a parabola through the last three noises")


def lms(order: int = 4) -> Solver:
    """Linear multistep (k-diffusion's LMS): ε̂ as a polynomial in r = σ/α, Adams–Bashforth on
    dx/dσ = ε̂, down to σ = 0. It is also DEIS's ρAB (Zhang & Chen 2023)."""
    about = "the last noises, a polynomial in σ"
    return _named(adams(order, "eps", "r", last=order), "lms", about)


def abm(
    order: int = 3, frame: FrameName = "flow", coordinate: Coordinate = "t", last: int = 2
) -> Solver:
    """Adams–Bashforth–Moulton: the textbook's predictor and corrector, by default on rectified
    flow's dX/dt = ε̂ − x̂0, at one evaluation a step.

    UniPC is the same in the x0 frame and in λ. A velocity is finite from pure noise to the data,
    and so is its time, so the last step, to λ = ∞, need not be of first order.
    """
    last = min(last, order)
    about = "predict, correct, in rectified flow's time"
    return _named(adams(order, frame, coordinate, corrector=True, last=last), "abm", about)


def deis(order: int = 3, schedule: NoiseSchedule | None = None) -> Solver:
    """DEIS tAB (Zhang & Chen 2023): ε̂ as a polynomial in the time of a schedule, by default that
    of the VP process with linear β, which the paper used."""
    clock = LinearBeta() if schedule is None else schedule
    about = "the last noises, a polynomial in time"
    return _named(adams(order, "eps", clock, last=order), "deis", about)


def sde_dpmpp_2m(eta: float = 1.0) -> Solver:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b), from the ODE (η = 0: dpmpp_2m) to the SDE (η = 1).

    x_s = (σ_s/σ_t)·e^(−η²h/2)·x_t + α_s·(1 − e^(−(1 + η²)h/2))·D + σ_s·√(1 − e^(−η²h))·z, with
    the D of dpmpp_2m and h the step in λ. k-diffusion's ``eta`` is our η².
    """
    rule = multistep(Frame("x0", eta), 2, simplified())
    about = "dpmpp_2m with noise: ODE (eta 0) to SDE (1)"
    return Solver("sde_dpmpp_2m", rule, 2, eta > 0, about)


def sde_dpmpp_3m(eta: float = 1.0) -> Solver:
    """The same with a parabola through the last three estimates, exactly integrated."""
    about = "dpmpp_3m with noise: ODE (eta 0) to SDE (1)"
    return _named(adams(3, eta=eta), "sde_dpmpp_3m", about)


def sa(order: int = 2, eta: float = 1.0) -> Solver:
    """Stochastic Adams with corrector (SA-Solver, Xue et al. 2023), η from ODE to SDE.

    The corrector redoes a step, with the same noise, when the estimate has answered to it.
    """
    about = "extrapolate, add noise, correct"
    return _named(adams(order, eta=eta, corrector=True), "sa", about)
