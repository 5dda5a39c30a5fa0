"""The same quantity in six dialects: Luo, DDPM, VDM, EDM, DPM-Solver, flow matching.

Everything is a function of one number, λ = log(α²/σ²), or of two for a step of a chain: from the
level λ back to the cleaner level λ + 1. Each spelling comes with the code of this package that
computes it; the code is run for the value that is shown, and a test holds every value to the
paper's own formula.
"""

import math
import textwrap
from dataclasses import dataclass
from typing import Any

from marginals import chain
from marginals.errors import MarginalsError
from marginals.paper.letters import columns
from marginals.predict import EPS, SCORE, VELOCITY, X0, VPrediction
from marginals.scaling import FLOW, VE, VP
from marginals.schedule import Karras, LinearBeta, Logit, LogLinear, Tabulated

DIALECTS = {
    "Luo": "Luo 2022: t = 1..T, data at t = 0; α_t is one step's 1 − β_t, not the signal",
    "DDPM": "Ho et al. 2020: Luo's letters and β_t = 1 − α_t; programs count t from 0",
    "VDM": "Kingma et al. 2021: α_t is the signal itself, γ = −log SNR, t from 0 to 1",
    "EDM": "Karras et al. 2022: the picture is not shrunk, noise level σ, data of std ½",
    "DPM-Solver": "Lu et al. 2022: α_t is the signal, λ = log(α/σ) is half of ours",
    "flow matching": "Lipman et al. 2023: a straight line; t = 0 is noise and t = 1 is data",
}
"""Who speaks it, and what to beware of."""


@dataclass(frozen=True)
class Spelling:
    """A symbol of one dialect, and the code that computes it from ``lam``."""

    dialect: str
    symbol: str
    code: str

    def value(self, lam: float) -> tuple[float, ...]:
        """What the code gives at the level λ (steps go back to λ + 1): one number, or two."""
        found = eval(self.code, dict(NAMES), {"lam": lam, "before": lam + 1.0})
        return tuple(map(float, found)) if isinstance(found, tuple) else (float(found),)


@dataclass(frozen=True)
class Quantity:
    """One thing with several names."""

    name: str
    what: str
    spellings: tuple[Spelling, ...]


NAMES: dict[str, Any] = {
    "chain": chain,
    "math": math,
    "VP": VP,
    "VE": VE,
    "FLOW": FLOW,
    "X0": X0,
    "EPS": EPS,
    "SCORE": SCORE,
    "VELOCITY": VELOCITY,
    "VPrediction": VPrediction,
    "Karras": Karras,
    "LinearBeta": LinearBeta,
    "LogLinear": LogLinear,
    "Logit": Logit,
    "Tabulated": Tabulated,
    "gamma": 3.0,
}
"""What the code may use: the package's own objects, and a guidance strength γ = 3."""


def _quantity(name: str, what: str, *spellings: tuple[str, str, str]) -> Quantity:
    return Quantity(name, what, tuple(Spelling(*spelling) for spelling in spellings))


QUANTITIES: tuple[Quantity, ...] = (
    _quantity(
        "signal",
        "what the clean picture is multiplied by",
        ("Luo", "√ᾱ_t", "VP(lam).alpha"),
        ("DDPM", "√ᾱ_t", "VP(lam).alpha"),
        ("VDM", "α_t", "VP(lam).alpha"),
        ("EDM", "1", "VE(lam).alpha"),
        ("DPM-Solver", "α_t", "VP(lam).alpha"),
        ("flow matching", "t", "FLOW(lam).alpha"),
    ),
    _quantity(
        "noise level",
        "the standard deviation of the noise in the noisy picture",
        ("Luo", "√(1 − ᾱ_t)", "VP(lam).sigma"),
        ("DDPM", "√(1 − ᾱ_t)", "VP(lam).sigma"),
        ("VDM", "σ_t", "VP(lam).sigma"),
        ("EDM", "σ", "VE(lam).sigma"),
        ("DPM-Solver", "σ_t", "VP(lam).sigma"),
        ("flow matching", "1 − t", "FLOW(lam).sigma"),
    ),
    _quantity(
        "signal-to-noise ratio",
        "signal² over noise²: the same number in every dialect",
        ("Luo", "SNR(t) = ᾱ_t/(1 − ᾱ_t)", "chain.snr(VP(lam))"),
        ("DDPM", "ᾱ_t/(1 − ᾱ_t)", "chain.snr(VP(lam))"),
        ("VDM", "SNR(t) = α_t²/σ_t²", "chain.snr(VP(lam))"),
        ("EDM", "1/σ²", "chain.snr(VE(lam))"),
        ("DPM-Solver", "e^(2λ)", "chain.snr(VP(lam))"),
        ("flow matching", "t²/(1 − t)²", "chain.snr(FLOW(lam))"),
    ),
    _quantity(
        "log signal-to-noise ratio",
        "its logarithm: our λ, and everybody's own multiple of it",
        ("Luo", "ω_η(t) = −log SNR", "-lam"),
        ("VDM", "γ_η(t) = −log SNR", "-lam"),
        ("EDM", "ln σ", "math.log(VE(lam).sigma)"),
        ("EDM", "c_noise = ¼ ln σ", "0.25 * math.log(VE(lam).sigma)"),
        ("DPM-Solver", "λ_t = log(α_t/σ_t)", "0.5 * lam"),
        ("flow matching", "log t/(1 − t)", "0.5 * lam"),
    ),
    _quantity(
        "time",
        "how far along the way, with each paper's usual schedule",
        ("Luo", "t of T = 1000", "1000 * Tabulated.ddpm().t(lam)"),
        ("DDPM", "t, programs: t − 1", "1000 * Tabulated.ddpm().t(lam)"),
        ("VDM", "t, γ on a line", "LogLinear(13.3, -5.0).t(lam)"),
        ("EDM", "place on the grid, ρ = 7", "Karras().t(lam)"),
        ("DPM-Solver", "t, linear β", "LinearBeta().t(lam)"),
        ("flow matching", "t, data at 1", "1 - Logit().t(lam)"),
    ),
    _quantity(
        "signal kept by one step",
        "what a step from λ + 1 to λ multiplies by",
        ("Luo", "√α_t", "chain.step_signal(VP(lam), VP(before))"),
        ("DDPM", "√(1 − β_t)", "chain.step_signal(VP(lam), VP(before))"),
        ("VDM", "α_(t|s) = α_t/α_s", "chain.step_signal(VP(lam), VP(before))"),
        ("EDM", "1", "chain.step_signal(VE(lam), VE(before))"),
    ),
    _quantity(
        "noise added by one step",
        "the variance a step from λ + 1 to λ adds",
        ("Luo", "1 − α_t", "chain.step_variance(VP(lam), VP(before))"),
        ("DDPM", "β_t", "chain.step_variance(VP(lam), VP(before))"),
        ("VDM", "σ²_(t|s) = σ_t² − α²_(t|s) σ_s²", "chain.step_variance(VP(lam), VP(before))"),
        ("EDM", "σ_t² − σ_s²", "chain.step_variance(VE(lam), VE(before))"),
    ),
    _quantity(
        "posterior variance",
        "what is unknown about the cleaner step once picture and noisier step are known",
        ("Luo", "σ_q²(t)", "chain.posterior_variance(VP(lam), VP(before))"),
        ("DDPM", "β̃_t", "chain.posterior_variance(VP(lam), VP(before))"),
        ("VDM", "σ²_Q(s, t)", "chain.posterior_variance(VP(lam), VP(before))"),
        ("EDM", "σ_s²(σ_t² − σ_s²)/σ_t²", "chain.posterior_variance(VE(lam), VE(before))"),
    ),
    _quantity(
        "weight of the noise error",
        "what the bound charges for ‖ε − ε̂‖² in one step, in nats",
        ("Luo", "Eq. 130", "chain.weight_eps(VP(lam), VP(before))"),
        ("DDPM", "β_t²/(2 β̃_t α_t (1 − ᾱ_t))", "chain.weight_eps(VP(lam), VP(before))"),
        ("VDM", "½ expm1(γ_t − γ_s)", "chain.weight_expm1(VP(lam), VP(before))"),
    ),
    _quantity(
        "network output",
        "the pair (a, b) in output = a · picture + b · noise",
        ("Luo", "x̂_θ", "X0.row(lam)"),
        ("Luo", "ε̂_θ", "EPS.row(lam)"),
        ("Luo", "s_θ", "SCORE.row(lam)"),
        ("DDPM", "ε_θ", "EPS.row(lam)"),
        ("VDM", "ε̂_θ", "EPS.row(lam)"),
        ("EDM", "F_θ", "tuple(-part for part in VPrediction(0.5).row(lam))"),
        ("DPM-Solver", "ε_θ, or x_θ in ++", "EPS.row(lam)"),
        ("flow matching", "u_θ = picture − noise", "tuple(-part for part in VELOCITY.row(lam))"),
    ),
    _quantity(
        "guidance strength",
        "how far classes are exaggerated; here for Luo's γ = 3",
        ("Luo", "γ (1: none)", "gamma"),
        ("DPM-Solver", "guidance scale s = γ", "gamma"),
        ("DDPM", "w = γ − 1 (Ho & Salimans; 0: none)", "gamma - 1"),
    ),
)
"""The table."""


def find(name: str | None) -> list[Quantity]:
    """The quantities whose name, meaning or symbols contain ``name``; all by default."""
    if name is None:
        return list(QUANTITIES)
    asked = name.lower()
    by_name = [q for q in QUANTITIES if asked in q.name]
    symbols = [q for q in QUANTITIES if any(name in s.symbol for s in q.spellings)]
    if not (found := by_name or symbols):
        known = ", ".join(quantity.name for quantity in QUANTITIES)
        raise MarginalsError(f"there is no quantity {name!r}; there are {known}")
    return found


def shown(values: tuple[float, ...]) -> str:
    """Numbers to four figures; a pair in brackets."""
    text = ", ".join(f"{value:.4g}" for value in values)
    return text if len(values) == 1 else f"({text})"


def words(quantity: Quantity, lam: float) -> str:
    """A block for the terminal: dialect, symbol, value at λ, code."""
    lines = [textwrap.fill(f"{quantity.name}: {quantity.what}", columns())]
    for spelling in quantity.spellings:
        value = shown(spelling.value(lam))
        lines.append(f"  {spelling.dialect:<14}{spelling.symbol:<28}{value:>18}   {spelling.code}")
    return "\n".join(lines)


def key(lam: float) -> str:
    """Who speaks which dialect, and at which level the values are."""
    pairs = (f"{name:<14}{text}" for name, text in DIALECTS.items())
    lines = [textwrap.fill(pair, columns(), subsequent_indent=" " * 14) for pair in pairs]
    step = "steps go from λ + 1 (s, cleaner) to λ (t)"
    return "\n".join([*lines, f"\nvalues at λ = log(α²/σ²) = {lam:g}; {step}"])
