"""UniPC: predictor and corrector from one formula, at one evaluation a step (Zhao et al. 2023)."""

from typing import Literal

from ..errors import MarginalsError
from .frames import Frame, weights
from .multistep import multistep
from .table import Solver


def unipc(order: int = 3, variant: Literal["bh1", "bh2"] = "bh2", corrector: bool = True) -> Solver:
    """UniPC-p with data prediction: order p + 1 with its corrector, p without it (UniP-p).

    UniP-p continues the last p estimates x̂0 by a polynomial in λ; when the estimate at the new
    level is there, UniC-p redoes the step with it. The next step starts from the corrected state
    and uses the estimate made at the predicted one, so a step costs one evaluation.

    The paper's linear system Σ_m ρ_m·r_m^(k−1) = k!·φ_(k+1)/B(h) makes the weights those of the
    exact integral (Adams in the x0 frame, with corrector): B(h) cancels. It matters only where two
    estimates are weighed, for which its code takes ρ = ½: B is h (bh1) or 1 − e^(−h) (bh2), with h
    half the step in λ. UniP-2 with bh2 is DPM-Solver++(2M).
    """
    if order not in (1, 2, 3):
        raise MarginalsError(f"UniPC has order 1, 2 or 3, not {order}")
    if variant not in ("bh1", "bh2"):
        raise MarginalsError(f"UniPC's variant is bh1 or bh2, not {variant!r}")

    def weigh(frame: Frame, nodes: tuple[float, ...], t: float, s: float) -> tuple[float, ...]:
        if len(nodes) != 2:
            return weights(frame, "lam", nodes, t, s)
        total = frame.total(t, s)
        scale = 0.5 * (s - t) if variant == "bh1" else total
        if nodes[0] == t:  # predictor: the second estimate is at an earlier level
            share = 0.5 * scale * (s - t) / (nodes[1] - t)
            return total - share, share
        return 0.5 * scale, total - 0.5 * scale  # corrector: the first estimate is at s

    rule = multistep(Frame("x0"), order, weigh, corrector)
    about = "predict, then correct with the next estimate"
    return Solver("unipc", rule, order + corrector, False, about)
