"""Frames: weights against numerical integrals, and solvers that are members of one family."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from marginals.denoiser import Estimate
from marginals.errors import MarginalsError
from marginals.learned import LearnedSchedule
from marginals.predict import EPS, VELOCITY, X0, V
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP, units
from marginals.schedule import Cosine, LinearBeta
from marginals.solvers import (
    Frame,
    abm,
    adams,
    ddim,
    deis,
    dpmpp_2m,
    dpmpp_3m,
    euler,
    heun,
    lms,
    rk4,
    sde,
    sde_dpmpp_2m,
    unipc,
)
from marginals.solvers.frames import weights
from marginals.solvers.multistep import multistep, simplified

LAMS = [-7.0, -4.5, -1.0, 0.0, 2.0, 6.5]
NODES = (-1.0, -4.5, -7.0, 0.3)  # the last: a node at the end of the step, as correctors have
FRAMES = [Frame("x0"), Frame("eps"), Frame("v"), Frame("flow"), Frame("x0", 1.0), Frame("x0", 0.4)]
each_frame = pytest.mark.parametrize("frame", FRAMES, ids=lambda f: f"{f.name}-{f.eta:g}")

MEASURES = {  # w(λ), and its size at the step's end by which the weights are divided
    "x0": (lambda lam: math.exp(0.5 * lam), lambda s: math.exp(0.5 * s)),
    "eps": (lambda lam: math.exp(-0.5 * lam), lambda s: 1.0),
    "v": (lambda lam: math.atan(math.exp(-0.5 * lam)), lambda s: 1.0),
    "flow": (lambda lam: 1.0 / (1.0 + math.exp(0.5 * lam)), lambda s: 1.0),
}
COORDINATES = {
    "lam": lambda lam: lam,
    "kappa": lambda lam: math.exp(0.5 * lam),
    "r": lambda lam: math.exp(-0.5 * lam),
    "angle": lambda lam: math.atan(math.exp(-0.5 * lam)),
    "t": lambda lam: 1.0 / (1.0 + math.exp(0.5 * lam)),
    LinearBeta(): LinearBeta().t,
    Cosine(): Cosine().t,
}


def measure(frame):
    if frame.eta:
        rate = 0.5 * (1.0 + frame.eta**2)
        return lambda lam: math.exp(rate * lam), lambda s: math.exp(rate * s)
    return MEASURES[frame.name]


@each_frame
@pytest.mark.parametrize("coordinate", COORDINATES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize(("t", "s"), [(-1.0, 0.3), (-1.0, 7.5)])
def test_weights_are_the_integrals_of_lagranges_polynomials(frame, coordinate, count, t, s):
    w, size = measure(frame)
    c, nodes = COORDINATES[coordinate], NODES[:count]

    def integrand(j, lam):
        slope = (w(lam + 1e-5) - w(lam - 1e-5)) / 2e-5
        return slope * math.prod(
            (c(lam) - c(m)) / (c(nodes[j]) - c(m)) for m in nodes if m != nodes[j]
        )

    got = weights(frame, coordinate, nodes, t, s)
    for j, value in enumerate(got):
        want = quad(lambda lam, j=j: integrand(j, lam), t, s, epsabs=1e-11, epsrel=1e-9)[0]
        assert value == pytest.approx(want / size(s), rel=1e-7, abs=1e-9)


@each_frame
def test_weights_add_up_to_the_way_in_w(frame):
    w, size = measure(frame)
    for t, s in ((-12.0, -11.0), (-1.0, -1.0 + 1e-9), (-0.5, 0.5), (3.0, 15.0)):
        at = [t, t - 0.5, t - 2.0]
        for k in (1, 2, 3):
            got = math.fsum(weights(frame, "lam", tuple(at[:k]), t, s))
            assert got == pytest.approx(frame.total(t, s), rel=1e-13)
        assert frame.total(t, s) == pytest.approx((w(s) - w(t)) / size(s), rel=2e-7)


@pytest.mark.parametrize("name", ["eps", "v", "flow"])
@pytest.mark.parametrize("coordinate", ["r", "angle", "t", LinearBeta()], ids=str)
def test_weights_of_the_last_step_to_the_data(name, coordinate):
    """∫ over w from w(t) down to 0, the polynomial in a coordinate that is finite there."""
    w, _ = MEASURES[name]
    back = {
        "eps": lambda v: -2.0 * math.log(v),
        "v": lambda v: -2.0 * math.log(math.tan(v)),
        "flow": lambda v: 2.0 * math.log((1.0 - v) / v),
    }[name]
    c, nodes = COORDINATES[coordinate], (2.0, 0.5, -1.0)
    for j, value in enumerate(weights(Frame(name), coordinate, nodes, 2.0, math.inf)):

        def basis(v, j=j):
            here = c(back(v))
            rest = [m for m in nodes if m != nodes[j]]
            return math.prod((here - c(m)) / (c(nodes[j]) - c(m)) for m in rest)

        want = quad(basis, w(2.0), 0.0, epsrel=1e-9)[0]
        assert value == pytest.approx(want, rel=1e-7, abs=1e-9)


def test_weights_of_the_x0_frame_are_the_phi_functions():
    """∫ e^(−(h − u)) (u/h)^k/k! du = h·φ_(k+1): the exponential integrator in closed form, to
    rounding (h is half the step in λ)."""
    t, s, before = 1.0, 2.4, -0.5
    h, r = 0.5 * (s - t), (t - before) / (s - t)
    phi1 = -math.expm1(-h)
    phi2 = 1.0 + math.expm1(-h) / h
    slope = phi2 / r
    assert weights(Frame("x0"), "lam", (t, before), t, s) == pytest.approx(
        (phi1 + slope, -slope), rel=1e-14
    )


@each_frame
def test_a_share_of_the_way_in_w(frame):
    w, _ = measure(Frame(frame.name))
    if frame.eta:
        return
    for t, s in ((-9.0, -7.0), (-2.0, 3.0), (4.0, 12.0)):
        for share in (0.0, 0.2, 0.5, 1.0):
            there = frame.inverse(t, s, share)
            assert w(there) == pytest.approx(w(t) + share * (w(s) - w(t)), rel=1e-12)


class Says:
    """A denoiser whose reading as one prediction is always the same picture."""

    def __init__(self, prediction, picture, scaling):
        self.prediction, self.picture, self.scaling = prediction, picture, scaling

    def __call__(self, x, lam, cond=None):
        return Estimate(x, lam, self.scaling, self.picture, self.prediction)


OWN = {"x0": X0, "eps": EPS, "v": V, "flow": VELOCITY}


@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=["vp", "ve", "flow", "sub_vp"])
@pytest.mark.parametrize("name", OWN)
def test_a_frame_is_where_its_prediction_is_the_velocity(scaling, name):
    """If the prediction is constant, X moves on a straight line in w: every order is exact."""
    x, picture = torch.randn(2, 3, 2, dtype=torch.float64)
    denoiser, (w, _) = Says(OWN[name], picture, scaling), MEASURES[name]
    first, last = LAMS[0], LAMS[-1]
    # X = x·(A/α): x/σ, x/α, VP and FLOW units
    unit = {
        "x0": lambda lam: 1.0 / scaling(lam).sigma,
        "eps": lambda lam: 1.0 / scaling(lam).alpha,
        "v": lambda lam: units(lam, scaling, VP),
        "flow": lambda lam: units(lam, scaling, FLOW),
    }[name]
    want = (x * unit(first) + (w(last) - w(first)) * picture) / unit(last)
    solvers = [adams(k, name, c) for k in (1, 3) for c in ("lam", "angle")]
    solvers += [adams(2, name, corrector=True), rk4(name)]
    solvers += [heun(), lms(), deis()] if name == "eps" else []
    solvers += [unipc(), dpmpp_2m()] if name == "x0" else []
    for solver in solvers:
        got = sample(denoiser, x, LAMS, solver).x
        assert torch.allclose(got, want, rtol=1e-11, atol=1e-12), solver.name


@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=["vp", "ve", "flow", "sub_vp"])
def test_first_order_is_ddim_in_the_frames_where_a_constant_picture_is_straight(scaling):
    at = [scaling(lam) for lam in [*LAMS, math.inf]]
    for name in ("x0", "eps", "flow"):
        for row, want in zip(adams(1, name).table(at), ddim().table(at), strict=True):
            assert row.x == pytest.approx(want.x, rel=1e-13, abs=1e-15)
            assert row.d == pytest.approx(want.d, rel=1e-12)
    turned, straight = adams(1, "v").table(at), ddim().table(at)
    assert max(abs(a.x[i] - b.x[i]) for i, (a, b) in enumerate(zip(turned, straight))) > 0.02


def same(rows, wanted):
    for row, want in zip(rows, wanted, strict=True):
        assert row.at == want.at and row.noise == pytest.approx(want.noise, rel=1e-13)
        assert row.x == pytest.approx(want.x, rel=1e-12)
        assert row.d == pytest.approx(want.d, rel=1e-11, abs=1e-14)
    return True


@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=["vp", "ve", "flow", "sub_vp"])
def test_names_of_the_same_table(scaling):
    at = [scaling(lam) for lam in [*LAMS, math.inf]]
    assert same(euler().table(at), ddim().table(at))
    assert same(sde(0.0).table(at), ddim(0.0).table(at))
    assert same(sde(1.0).table(at), ddim(1.0).table(at))
    assert same(sde_dpmpp_2m(0.0).table(at), dpmpp_2m().table(at))
    assert same(unipc(2, "bh2", corrector=False).table(at), dpmpp_2m().table(at))
    assert same(unipc(3, corrector=False).table(at)[2:], dpmpp_3m().table(at)[2:])
    # Heun is the trapezium of the ε frame in r: one Adams–Moulton correction of Euler
    trapezium = weights(Frame("eps"), "r", (at[1].lam, at[0].lam), at[0].lam, at[1].lam)
    assert trapezium[0] == pytest.approx(trapezium[1])


def test_adams_of_a_schedule_is_deis():
    at = [VP(lam) for lam in LAMS]
    at = [*at, VP(math.inf)]
    assert same(adams(3, "eps", LinearBeta(), last=3).table(at), deis().table(at))
    assert same(adams(2, "eps", Cosine(), last=2).table(at), deis(2, Cosine()).table(at))
    assert same(adams(4, "eps", "r", last=4).table(at), lms().table(at))
    wanted = adams(3, "flow", "t", corrector=True, last=2)
    assert same(wanted.table(at), abm().table(at))


def test_equal_steps_give_the_coefficients_of_the_textbook():
    """Adams–Bashforth 3/2, −1/2 · 23/12, −16/12, 5/12 · 55, −59, 37, −9 over 24 for equal steps in
    w, and Adams–Moulton 5, 8, −1 over 12."""
    sigma = np.linspace(9.0, 4.0, 6)
    lam = tuple(float(v) for v in -2.0 * np.log(sigma))
    step = sigma[4] - sigma[3]
    eps = Frame("eps")
    books = {2: [36, -12], 3: [46, -32, 10], 4: [55, -59, 37, -9]}  # over 24
    for k, book in books.items():
        got = weights(eps, "r", lam[3 - k + 1 : 4][::-1], lam[3], lam[4])
        assert got == pytest.approx([step * b / 24 for b in book], rel=1e-12)
    moulton = weights(eps, "r", (lam[4], lam[3], lam[2]), lam[3], lam[4])
    assert moulton == pytest.approx([step * b for b in (5 / 12, 8 / 12, -1 / 12)], rel=1e-12)


def test_the_past_begins_anew_after_an_infinite_level():
    at = [VP(lam) for lam in (-math.inf, -3.0, -1.0, 1.0, math.inf)]
    assert adams(4, "x0").table(at)[-1].d == {3: 1.0} == adams(4, "v", "lam").table(at)[-1].d
    for last in (2, 3, 4):
        assert len(adams(4, "v", "angle", last=last).table(at)[-1].d) == min(last, 3)
    assert len(lms().table(at)[-1].d) == 3  # w and c are finite at the data
    for solver in (adams(4), lms(), unipc(), adams(2, "v"), adams(2, "flow", corrector=True)):
        rows = solver.table(at)
        assert all(math.isfinite(c) for row in rows for c in (*row.x.values(), *row.d.values()))
        assert all(0 not in row.d for row in rows[1:])  # λ = −∞ has no place in a polynomial


def test_the_time_of_a_schedule_that_learns_is_not_remembered():
    clock = LearnedSchedule()
    nodes = (-1.0, -4.0)
    before = weights(Frame("eps"), clock, nodes, -1.0, 2.0)
    assert before == weights(Frame("eps"), clock, nodes, -1.0, 2.0)
    with torch.no_grad():
        for parameter in clock.parameters():
            parameter += 0.7 * torch.randn_like(parameter)
    assert before != weights(Frame("eps"), clock, nodes, -1.0, 2.0)


def test_simplified_weights_are_the_midpoint_of_the_extrapolation():
    """(1 + c, −c) times the way in w is what a straight line through both gives at the middle."""
    total, c = Frame("x0").total(1.0, 2.0), 0.5 * 1.0 / 0.4
    got = simplified()(Frame("x0"), (1.0, 0.6), 1.0, 2.0)
    assert got == pytest.approx(((1 + c) * total, -c * total))
    rows = multistep(Frame("eps"), 2, simplified())([VE(lam) for lam in LAMS])
    assert len(rows) == 5 and set(rows[3].d) == {2, 3}


BAD = {
    "frame": lambda: Frame("z"),  # type: ignore[arg-type]
    "eta": lambda: Frame("x0", -0.1),
    "much eta": lambda: Frame("x0", 3.5),
    "noise in another frame": lambda: adams(2, "eps", eta=1.0),
    "coordinate": lambda: adams(2, "eps", "q"),  # type: ignore[arg-type]
    "order": lambda: adams(0),
    "high order": lambda: adams(5),
    "last of x0": lambda: adams(3, "x0", "t", last=2),
    "last in lam": lambda: adams(3, "eps", "lam", last=2),
    "last above order": lambda: adams(2, "eps", "r", last=3),
    "no last": lambda: adams(2, "eps", "r", last=0),
    "unipc": lambda: unipc(4),
    "variant": lambda: unipc(2, "bh3"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_impossible_members_are_refused(make):
    with pytest.raises(MarginalsError):
        make()
