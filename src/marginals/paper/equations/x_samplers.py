"""Extensions: fast samplers."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ...oracle import Gaussian
from ...sampling import sample
from ...scaling import FLOW, VE, VP, Level
from ...solvers import Row, Solver, Table, ddim, ddpm, dpmpp_2m, euler_maruyama, heun, signal_error
from ...solvers.rules import first_order
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_samplers import (
    consistency_scales,
    distilled_target,
    dpm_solver_1,
    dpm_solver_pp_1,
    exact_step,
    extrapolated,
    half_step,
    step_moments,
    unipc_step,
    unipc_weights,
)
from ..extra_worlds import flat_bumps, gauss, line, normal, numbers

PART = "Fast samplers"
DPM = "Lu et al. 2022 (DPM-Solver), arXiv 2206.00927"
DPMPP = "Lu et al. 2022 (DPM-Solver++), arXiv 2211.01095"
UNIPC = "Zhao et al. 2023 (UniPC), arXiv 2302.04867"


def _gaussian() -> Gaussian:
    cov = torch.tensor([[0.8, 0.3], [0.3, 0.4]], dtype=torch.float64)
    return Gaussian(numbers(0.6, -0.9), cov)


@equation(
    "X92",
    part=PART,
    source=DPMPP + ", section 4",
    latex=r"x_s = \frac{\sigma_s}{\sigma_t} x_t + \sigma_s \int_{\ell_t}^{\ell_s} e^{\ell}\, \hat "
    r"x_0(x_\ell, \ell)\, d\ell, \qquad \ell = \log \frac{\alpha}{\sigma}",
    says="Half of the flow can be solved exactly; only the network's guess along the way must be "
    "approximated.",
    home=(exact_step, half_step),
)
def _() -> Finding:
    oracle, x, t, s = _gaussian(), normal(4, 2), VP(-1.6), VP(1.1)
    nodes, weights = gauss(-0.8, -0.8 + half_step(t, s), 40)
    on_the_way = [oracle.flow(x, -1.6, 2.0 * ell) for ell in nodes.tolist()]
    pairs = zip(on_the_way, nodes.tolist(), strict=True)
    clean = torch.stack([oracle(y, 2.0 * ell).x0 for y, ell in pairs])
    found = exact_step(x, clean, weights * nodes.exp(), t, s)
    return equal(found, oracle.flow(x, -1.6, 1.1), "quadrature along the exact flow, and its end")


@equation(
    "X93",
    part=PART,
    source=DPM + ", Eq. 3.7",
    latex=r"x_s = \frac{\alpha_s}{\alpha_t} x_t - \sigma_s \left(e^{h} - 1\right) \hat\epsilon, "
    r"\qquad h = \ell_s - \ell_t",
    says="DPM-Solver's first order is DDIM without fresh noise, letter by letter.",
    home=(dpm_solver_1, first_order),
)
def _() -> Finding:
    oracle, x, pairs = flat_bumps(), normal(5, 2), []
    for t, s in ((VP(-2.1), VP(-0.3)), (FLOW(0.2), FLOW(1.7))):
        row = first_order(0, t, s, 0.0)
        clean = oracle(x, t.lam).x0
        eps = (x - t.alpha * clean) / t.sigma
        pairs += [(dpm_solver_1(x, eps, t, s), row.x[0] * x + row.d[0] * clean)]
        pairs += [(row.noise, 0.0), (half_step(t, s), 0.5 * (s.lam - t.lam))]
    return all_equal(pairs, "against the row of DDIM, in two units")


@equation(
    "X94",
    part=PART,
    source=DPMPP + ", section 4",
    latex=r"x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s \left(e^{-h} - 1\right) \hat x_0",
    says="Told by the clean guess instead of the noise, the same step never divides by little "
    "signal.",
    home=(dpm_solver_pp_1, first_order),
)
def _() -> Finding:
    x, clean, pairs = normal(5, 2), normal(5, 2), []
    for t, s in ((VP(-2.1), VP(-0.3)), (FLOW(0.2), FLOW(1.7)), (VE(-1.0), VE(2.0))):
        row = first_order(0, t, s, 0.0)
        eps = (x - t.alpha * clean) / t.sigma
        found = dpm_solver_pp_1(x, clean, t, s)
        pairs += [(found, row.x[0] * x + row.d[0] * clean), (found, dpm_solver_1(x, eps, t, s))]
    return all_equal(pairs, "against DDIM's row and the noise form, in three units")


@equation(
    "X95",
    part=PART,
    source=DPMPP + ", Algorithm 2",
    latex=r"D = \left(1 + \frac{1}{2r}\right) \hat x_0(x_i) - \frac{1}{2r} \hat x_0(x_{i-1}), "
    r"\qquad r = \frac{h_{i-1}}{h_i}",
    says="Remembering the last guess and extrapolating makes the same number of network calls far "
    "more exact.",
    home=(extrapolated, dpmpp_2m),
)
def _() -> Finding:
    pairs = []
    for scaling in (VP, VE):
        levels = [scaling(lam) for lam in (-2.2, -0.9, 0.7, 1.4, math.inf)]
        rows = dpmpp_2m().table(levels)
        x, guesses = normal(3, 2), [normal(3, 2) for _ in range(4)]
        steps = [half_step(a, b) for a, b in pairwise(levels[:4])]
        for i in range(4):
            moved = rows[i].x[i] * x + sum(c * guesses[j] for j, c in rows[i].d.items())
            if i in (1, 2):
                used = extrapolated(guesses[i], guesses[i - 1], steps[i - 1] / steps[i])
            else:
                used = guesses[i]  # no earlier guess, or the exact last step
            end = levels[i + 1]
            wanted = dpm_solver_pp_1(x, used, levels[i], end) if i < 3 else used * end.alpha
            pairs += [(moved, wanted), (rows[i].noise, 0.0)]
    first = dpmpp_2m().table([VP(-math.inf), VP(-1.0), VP(0.5), VP(1.0)])
    require([len(row.d) for row in first] == [1, 1, 2], "after pure noise there is no slope yet")
    return all_equal(pairs, "every row of the solver against the algorithm, in two units")


@equation(
    "X96",
    part=PART,
    source=UNIPC + ", Theorem 3.1",
    latex=r"\sum_m a_m r_m^{k-1} B(h) = \int_0^h e^{-(h - \tau)} \left(\frac{\tau}{h}\right)^k "
    r"d\tau, \qquad k = 1, \ldots, p",
    says="UniPC weighs guesses made at several times so that smooth changes along the step are "
    "followed exactly.",
    home=(unipc_weights, step_moments, unipc_step),
    note="B(h) = h or e^h − 1 makes no difference to the exact coefficients; it matters for their "
    "shortcut at p = 2 only. r = 1 gives the corrector.",
)
def _() -> Finding:
    t, s = VP(-0.7), VP(1.2)
    h = half_step(t, s)
    tau, nodes = gauss(0.0, h, 30)
    areas = [(nodes * (tau - h).exp() * (tau / h) ** k).sum() for k in range(5)]
    pairs = [(step_moments(h, 4), torch.stack(areas))]
    x, coefficients = normal(3), normal(4, 3)
    for ratios in (numbers(-0.9, 0.6, 1.0), numbers(-1.7, -0.8, 1.0)):
        # a guess that changes like a cubic along the step is transported exactly
        def guess(at: Tensor) -> Tensor:
            powers = torch.stack([at**k for k in range(4)], 1)
            return powers @ coefficients

        area = torch.tensordot(nodes * (tau - h).exp(), guess(tau), 1)
        found = unipc_step(x, coefficients[0], guess(ratios * h), ratios, t, s)
        pairs += [(found, s.sigma / t.sigma * x + s.alpha * area)]
        either = [unipc_weights(ratios, h, b) * b for b in (h, math.expm1(h), -math.expm1(-h))]
        pairs += [(either[0], either[1]), (either[1], either[2])]
    return all_equal(pairs, "moments by quadrature; a cubic guess transported exactly")


@equation(
    "X97",
    part=PART,
    source="this package, marginals.solvers.table",
    latex=r"\hat x_0 \equiv c \;\Rightarrow\; x_i = \alpha_i c + \sigma_i \cdot \text{noise}: "
    r"\quad \sum_j X_{ij} \alpha_j + \sum_j D_{ij} = \alpha_i",
    says="If the network always said the same picture, every solver would have to draw exactly "
    "that picture.",
    home=signal_error,
)
def _() -> Finding:
    pairs: list[tuple[Tensor | float, Tensor | float]] = []
    for scaling in (VP, VE, FLOW):
        levels = [scaling(lam) for lam in (-2.3, -0.8, 0.3, 1.9, math.inf)]
        for solver in (ddim(0.0), ddim(0.6), ddpm(), heun(), dpmpp_2m(), euler_maruyama()):
            rows = solver.table(levels)
            pairs += [(error, 0.0) for error in signal_error(levels, rows)]
        pairs += _spoilt(levels, heun().table(levels))
    return all_equal(pairs, "all solvers in three units, and tables that are wrong on purpose")


def _spoilt(levels: Sequence[Level[float]], rows: Table) -> list[tuple[float, float]]:
    """Changing a coefficient of a row by 0.1 shows up as what it does to the signal."""
    at = [levels[0], *(row.at for row in rows)]
    pairs = []
    for i, row in enumerate(rows):
        for j in row.x:
            wrong = [*rows[:i], row._replace(x={**row.x, j: row.x[j] + 0.1}), *rows[i + 1 :]]
            pairs.append((signal_error(levels, wrong)[i], 0.1 * at[j].alpha))
        for j in row.d:
            wrong = [*rows[:i], row._replace(d={**row.d, j: row.d[j] - 0.2}), *rows[i + 1 :]]
            pairs.append((signal_error(levels, wrong)[i], -0.2))
    return pairs


@equation(
    "X98",
    part=PART,
    source="Hairer, Nørsett & Wanner 1993, section II.3",
    latex=r"\left\lVert x_N - x(\lambda_N) \right\rVert = O(N^{-p}): \quad p = 1 \text{ (DDIM)}, "
    r"\; p = 2 \text{ (Heun, DPM-Solver++ 2M)}",
    says="Twice as many steps halve the error of a first-order solver and quarter that of a "
    "second-order one.",
    home=(heun, dpmpp_2m),
    status="limit",
    tolerance=0.1,
)
def _() -> Finding:
    oracle, x = _gaussian(), normal(8, 2)
    exact, worst = oracle.flow(x, -4.0, 4.0), 0.0
    for solver in (ddim(), heun(), dpmpp_2m()):
        errors = [_far(oracle, x, exact, solver, steps) for steps in (80, 160)]
        assert solver.order is not None
        worst = max(worst, abs(math.log2(errors[0] / errors[1]) - solver.order))
    return Finding(worst, "measured against declared orders, on an exact denoiser")


def _far(oracle: Gaussian, x: Tensor, exact: Tensor, solver: Solver, steps: int) -> float:
    lams = line(-4.0, 4.0, steps + 1).tolist()
    return (sample(oracle, x, lams, solver).x - exact).square().mean().sqrt().item()


@equation(
    "X99",
    part=PART,
    source="Salimans & Ho 2022, arXiv 2202.00512, Algorithm 2",
    latex=r"\tilde x_0 = \frac{x_s - \frac{\sigma_s}{\sigma_t} x_t}{\alpha_s - "
    r"\frac{\sigma_s}{\sigma_t} \alpha_t}",
    says="A student learns to do in one step what the teacher did in two: this is the guess it "
    "must make.",
    home=distilled_target,
)
def _() -> Finding:
    oracle, x = flat_bumps(), normal(5, 2)
    t, middle, s = VP(-1.8), VP(-0.7), VP(0.6)
    half = _move(first_order(0, t, middle, 0.0), x, oracle(x, t.lam).x0)
    end = _move(first_order(0, middle, s, 0.0), half, oracle(half, middle.lam).x0)
    target = distilled_target(x, end, t, s)
    once = _move(first_order(0, t, s, 0.0), x, target)
    return equal(once, end, "one step with the target against the teacher's two")


def _move(row: Row, x: Tensor, clean: Tensor) -> Tensor:
    return row.x[0] * x + row.d[0] * clean


@equation(
    "X100",
    part=PART,
    source="Song et al. 2023 (consistency models), arXiv 2303.01469, section 3",
    latex=r"f(x_t, t) = x_\epsilon \text{ for all } t, \qquad f = c_{\text{skip}} x + "
    r"c_{\text{out}} F, \; c_{\text{skip}}(\epsilon) = 1, \; c_{\text{out}}(\epsilon) = 0",
    says="A consistency model jumps from any point of a path to its clean end, and leaves clean "
    "pictures alone.",
    home=consistency_scales,
)
def _() -> Finding:
    sigma, least, std = numbers(0.002, 0.3, 2.1, 40.0), 0.002, 0.5
    skip, out = consistency_scales(sigma, least, std)
    away = sigma - least
    pairs = [
        (skip[0], 1.0),
        (out[0], 0.0),
        (skip * (away**2 / std**2 + 1.0), 1.0),
        (out * (sigma**2 / std**2 + 1.0).sqrt(), away),
    ]
    oracle = Gaussian(numbers(0.4, -1.0), torch.diag(numbers(0.3, 0.9)), VE)
    start = normal(4, 2)
    path = [oracle.flow(start, -5.0, lam) for lam in (-3.0, -0.4, 2.2)]
    ends = [oracle.flow(x, lam, 12.0) for x, lam in zip(path, (-3.0, -0.4, 2.2), strict=True)]
    pairs += [(end, oracle.flow(start, -5.0, 12.0)) for end in ends]
    return all_equal(pairs, "the boundary, and the exact flow from three points of one path")
