"""What the likelihoods say, in sentences that are computed from the numbers.

Theory makes three predictions: a bound with T steps is looser than the bound in continuous time, by
an amount that halves when T doubles; no bound is better than an exact value of the same model; and
with a perfect denoiser all routes meet. Each sentence here looks at the measured differences with
their standard errors and says what they show, also where they show something else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from marginals.demo.likelihoods import Difference, Likelihoods, difference
from marginals.demo.views import Shown

__all__ = ["Gap", "explain", "likeness_words", "order_words"]

_CLEAR = 2.0
"""Standard errors from which on a difference counts as seen."""

_SMALL = 0.005
"""Bits per pixel value below which an error of the integration is not worth a remark."""


@dataclass(frozen=True)
class Gap:
    """The difference of two routes on the same pictures, and what it means."""

    title: str
    gap: Difference
    as_theory: bool
    words: str


def explain(found: Likelihoods) -> list[Gap]:
    """Every gap between neighbouring routes, in the order in which they are read."""
    bound = {key: route.bound for key, route in found.routes.items()}
    short = difference(bound["discrete"], bound["continuous"])
    long = difference(bound["discrete_2"], bound["continuous"])
    levels = found.levels
    return [
        Gap(f"T = {levels} against continuous time", short, *_discretisation(short, levels)),
        Gap(f"T = {2 * levels} against continuous time", long, *_halving(short, long, levels)),
        Gap(
            "continuous-time ELBO against the exact ODE",
            (exact := difference(bound["continuous"], bound["ode"])),
            *_variational(exact, found.ode_error),
        ),
        Gap(
            "dequantised against whole-number pixels",
            (whole := difference(bound["continuous"], bound["decoder"])),
            *_dequantisation(whole),
        ),
    ]


def order_words(found: Likelihoods) -> str:
    """The plain truth before all numbers: are the bounds above the exact value, and do they come
    closer to it with more steps?"""
    bound = {key: found.routes[key].bound for key in ("discrete", "discrete_2", "continuous")}
    exact = found.routes["ode"].bound
    gaps = [difference(each, exact) for each in bound.values()]
    values = [each.mean for each in bound.values()]
    theory = (
        "The bounds (the chain in T steps, the same in continuous time) must lie above the exact "
        "value, and come closer to it with more steps and with a better network. "
    )
    numbers = (
        f"{values[0]:.3f} with T = {found.levels}, {values[1]:.3f} with T = {2 * found.levels}, "
        f"{values[2]:.3f} in continuous time; exact: {exact.mean:.3f}."
    )
    below = sum(_clear(gap) and gap.mean < 0 for gap in gaps)
    if below:
        which = "one of them does not" if below == 1 else f"{below} of them do not"
        return f"{theory}Here {which} lie above it: {numbers} The reason stands below."
    if not values[0] > values[1] > values[2]:
        few = "Here none is clearly below it, but more steps do not bring them closer: "
        return theory + few + numbers
    touching = sum(not _clear(gap) for gap in gaps)
    if touching:
        within = f"{'one' if touching == 1 else touching} cannot be told from it"
        return f"{theory}Here they come closer, and {within} on these pictures: {numbers}"
    return f"{theory}Here they do: {numbers}"


def likeness_words(shown: Sequence[Shown]) -> str:
    """Do walks without fresh noise end alike, and walks with fresh noise elsewhere? Measured as the
    mean root mean square difference to Heun's pictures, the most accurate of the sheets."""
    reference = next(each.x for each in shown if each.view.key == "heun")
    plain = [each for each in shown if each.view.guidance == 1.0 and each.view.key != "heun"]
    away = {each.view.key: _distance(each.x, reference) for each in plain}
    smooth = [away[each.view.key] for each in plain if not each.view.solver.stochastic]
    random = [away[each.view.key] for each in plain if each.view.solver.stochastic]
    facts = (
        f"Against Heun's pictures (black to white is 2), those of the other walks without fresh "
        f"noise (DDIM, Euler, DPM-Solver++, rectified flow) differ by {_range(smooth)}, those of "
        f"the walks that add fresh noise (DDPM, reverse SDE, Langevin) by {_range(random)}. "
    )
    if max(smooth) < min(random):
        return facts + (
            "So it should be: without fresh noise there is one smooth path from each noise to its "
            "picture, and the methods only follow it more or less exactly; with fresh noise every "
            "walk ends in another picture of the same kind."
        )
    return facts + (
        "Walks without fresh noise should all end near one another. Here they do not all: some "
        "take too few steps to follow this network's path."
    )


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).flatten(1).square().mean(1).sqrt().mean())


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def measured(gap: Difference) -> str:
    """'0.123 ± 0.004 bits per pixel value'."""
    stderr = f"± {gap.stderr:.3f} " if gap.stderr < float("inf") else "(error unknown) "
    return f"{gap.mean:+.3f} {stderr}bits per pixel value".replace("-", "−")


def _clear(gap: Difference) -> bool:
    return abs(gap.z) > _CLEAR


def _discretisation(gap: Difference, levels: int) -> tuple[bool, str]:
    if not _clear(gap):
        return True, (
            f"Walking in {levels} steps costs nothing that these pictures could show "
            f"({measured(gap)})."
        )
    if gap.mean > 0:
        return True, (
            f"The chain of {levels} steps is looser by {measured(gap)}, as theory says: every step "
            "is charged with the error at its noisier end, where the picture is harder to see."
        )
    return False, (
        f"The chain of {levels} steps is tighter by {measured(gap)}. Theory says it should be "
        "looser whenever the network sees the clean picture better at lower noise, so somewhere "
        "this one does not: more training at those levels would mend it."
    )


def _halving(short: Difference, long: Difference, levels: int) -> tuple[bool, str]:
    if not (_clear(short) and _clear(long)):
        return True, (
            f"With twice the steps the difference is {measured(long)}; it is too small against its "
            "error for a ratio."
        )
    ratio = short.mean / long.mean
    spread = abs(ratio) * (1.0 / short.z**2 + 1.0 / long.z**2) ** 0.5
    if abs(ratio - 2.0) < 0.5 + _CLEAR * spread:
        return True, (
            f"Twice the steps leave {measured(long)}: the gap shrinks by a factor of {ratio:.2f} "
            "where theory says about 2. It is the price of finite steps and goes away as 1/T."
        )
    return False, (
        f"Twice the steps leave {measured(long)}: a factor of {ratio:.2f}, not the 2 of an error "
        "that falls as 1/T. The steps are still too coarse for that law, or the network's error "
        "changes too fast from level to level."
    )


def _variational(gap: Difference, ode_error: float) -> tuple[bool, str]:
    signed = f"{ode_error:+.3f}".replace("-", "−")
    error = (
        ""
        if abs(ode_error) < _SMALL
        else (
            f" (Half as many ODE steps would change the exact value by {signed}, so its "
            f"own error is about {abs(ode_error) / 15:.4f}.)"
        )
    )
    if not _clear(gap):
        return True, (
            f"The bound and the exact value differ by {measured(gap)}: on these pictures they are "
            f"one number.{error}"
        )
    if gap.mean > 0:
        return True, (
            f"The bound lies {measured(gap)} above the exact value, on the side theory asks for. "
            "With a perfect denoiser they would be equal; the gap measures how far this network is "
            f"from perfect, and that the two describe slightly different models.{error}"
        )
    return False, (
        f"The bound is better than the exact value by {measured(gap)}. This is not the order a "
        "perfect denoiser gives, and it is no contradiction: the bound is about the random walk "
        "(SDE), the exact value about the smooth one (ODE). The two are the same model only for "
        f"a perfect denoiser; this network's errors hurt the ODE more.{error}"
    )


def _dequantisation(gap: Difference) -> tuple[bool, str]:
    if not _clear(gap):
        return True, (
            f"Spreading the pixels over their bins costs nothing visible ({measured(gap)})."
        )
    if gap.mean > 0:
        return True, (
            f"Coding the stored whole numbers directly is cheaper by {measured(gap)}: a density "
            "has to describe the random position inside every bin as well, the decoder does not."
        )
    return False, (
        f"Coding the stored whole numbers costs {measured(gap)} more than the dequantised density, "
        "although it has less to describe: at the clean end of the walk the network is more at "
        "home with dequantised pictures, which it was trained on."
    )
