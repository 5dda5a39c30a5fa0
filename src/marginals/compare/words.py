"""What each model of a comparison is bad at: sentences computed from the numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from marginals.train.rungs import SILENT

__all__ = ["best_route", "gap", "order", "spent", "weakness"]

EXPECTED = ("vae", "hvae", "ddpm", "vdm")
"""Each is the one before it with more levels of latents, or with a better loss for the bits."""

Row = Mapping[str, Any]

_LOOSE = 0.02  # bits/dim between the ELBO and the importance-weighted bound worth a word
_CLEAN = 5.0  # above this λ lie the last bits of the pixels
_TRAINED_ON_THE_BOUND = ("vdm",)  # all other diffusion models weigh the cleanest levels less
_WORTH = 0.05  # bits/dim by which a model must pay more there to be told


def best_route(row: Row) -> Row:
    """The lowest number that limits −log2 P of the whole-number pixels."""
    fair = [route for route in row["routes"] if not route["of"].startswith("black")]
    whole = [route for route in fair if route["of"].startswith("whole")]
    return min(whole or fair or row["routes"], key=lambda route: route["bits_per_dim"])


def gap(a: Row, b: Row) -> tuple[float, float]:
    """Best route of a minus best route of b, picture by picture: mean and its standard error."""
    pairs = zip(best_route(a)["bits"], best_route(b)["bits"], strict=True)
    differences = [one - other for one, other in pairs]
    n = len(differences)
    mean = sum(differences) / n
    if n < 2:
        return mean, math.inf
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    return mean, math.sqrt(variance / n)


def weakness(row: Row, rows: Sequence[Row]) -> str:
    """What this model does worst, compared with the best of the others, and why if it shows."""
    regrets = {name: regret for name, regret in _regrets(row, rows).items() if regret[0] > 0}
    said = []
    if regrets:
        worst = max(regrets.values(), key=lambda regret: regret[0])
        said.append(worst[1])
    said += [text for text in (_dead(row), _loose(row), _clean(row, rows)) if text]
    return "; ".join(said) or "nothing that was measured here is done better by another"


def order(rows: Sequence[Row]) -> list[str]:
    """Whether likelihood improves from VAE to VDM, as their bounds let one expect: each with the
    one before it, and with the best before it where that is another."""
    known = sorted(
        (row for row in rows if row["model"] in EXPECTED),
        key=lambda row: EXPECTED.index(row["model"]),
    )
    lines = []
    for i, after in enumerate(known[1:], 1):
        best = min(known[:i], key=lambda row: best_route(row)["bits_per_dim"])
        lines.append(_step(after, known[i - 1], rows))
        if best is not known[i - 1] and gap(after, best)[0] > 2 * gap(after, best)[1]:
            lines.append(_step(after, best, rows))
    return lines


def _step(after: Row, before: Row, rows: Sequence[Row]) -> str:
    """One model against one that should be worse."""
    mean, error = gap(after, before)
    change = f"{abs(mean):.3f} ± {error:.3f} bits/dim"
    if mean < -2 * error:
        return f"{after['model']} needs {change} less than {before['model']}, as expected"
    if mean <= 2 * error:
        return f"{after['model']} and {before['model']} cannot be told apart ({change})"
    why = _clean(after, rows) or _loose(after) or _single_pixels(after)
    return (
        f"{after['model']} needs {change} more than {before['model']}, a surprise"
        f"{f': {why}' if why else ''}"
    )


def spent(rows: Sequence[Row], minutes: float) -> list[str]:
    """A sentence where the timed trials misjudged the training time by more than a twentieth."""
    wanted = 60.0 * minutes
    if all(abs(row["seconds"] / wanted - 1.0) <= 0.05 for row in rows):
        return []
    seconds = ", ".join(f"{row['model']} {row['seconds']:.0f} s" for row in rows)
    return [f"the budget is {wanted:.0f} s each, judged by a timed trial; the runs took {seconds}"]


def _regrets(row: Row, rows: Sequence[Row]) -> dict[str, tuple[float, str]]:
    """For each column, how far behind its best this model is (1 = the farthest), in words."""
    columns = {"bits": _bits(row, rows), "frechet": _frechet(row, rows), "time": _time(row, rows)}
    return {name: found for name, found in columns.items() if found is not None}


def _share(values: Sequence[float], mine: float) -> float:
    low, high = min(values), max(values)
    return (mine - low) / (high - low) if high > low else 0.0


def _bits(row: Row, rows: Sequence[Row]) -> tuple[float, str] | None:
    best = min(rows, key=lambda other: best_route(other)["bits_per_dim"])
    if best is row:
        return None
    mean, error = gap(row, best)
    share = _share([best_route(r)["bits_per_dim"] for r in rows], best_route(row)["bits_per_dim"])
    words = f"likelihood: {mean:.2f} ± {error:.2f} bits/dim more than {best['model']}"
    return (share, words) if mean > 2 * error else None


def _frechet(row: Row, rows: Sequence[Row]) -> tuple[float, str] | None:
    known = [r for r in rows if "distance" in r["frechet"]]
    if row not in known or len(known) < 2:
        return None
    best = min(known, key=lambda r: r["frechet"]["distance"])
    mine, floor = row["frechet"]["distance"], row["frechet"]["floor"]
    share = _share([r["frechet"]["distance"] for r in known], mine)
    words = (
        f"samples: Fréchet distance {mine:.0f}, where {best['model']} has "
        f"{best['frechet']['distance']:.0f} and other real pictures {floor:.0f}"
    )
    return share, words


def _time(row: Row, rows: Sequence[Row]) -> tuple[float, str] | None:
    best = min(rows, key=lambda r: r["seconds_per_sample"])
    times = row["seconds_per_sample"] / max(best["seconds_per_sample"], 1e-9)
    if times < 1.5:
        return None
    share = _share(
        [math.log(r["seconds_per_sample"]) for r in rows], math.log(row["seconds_per_sample"])
    )
    steps = "evaluation" if row["evaluations"] == 1 else "evaluations"
    words = (
        f"speed: a sample takes {row['evaluations']} {steps} and {times:.0f} times as long as one "
        f"of {best['model']}"
    )
    return share, words


def _paid(row: Row, key: str) -> dict[str, float]:
    return next((route["paid"] for route in row["routes"] if route["key"] == key), {})


def _dead(row: Row) -> str:
    """Rungs that carry nothing."""
    rungs = [name for name, nats in _paid(row, "elbo").items() if abs(nats) < SILENT]
    if not rungs:
        return ""
    what = "rung " + rungs[0] if len(rungs) == 1 else "rungs " + ", ".join(sorted(rungs))
    return f"{what} of its latents {'carries' if len(rungs) == 1 else 'carry'} nothing"


def _loose(row: Row) -> str:
    """A posterior that is far from the true one."""
    by_key = {route["key"]: route["bits_per_dim"] for route in row["routes"]}
    if "iwae" not in by_key or by_key["elbo"] - by_key["iwae"] < _LOOSE:
        return ""
    lost = by_key["elbo"] - by_key["iwae"]
    return f"its ELBO loses {lost:.2f} bits/dim or more to an inexact posterior"


def _clean(row: Row, rows: Sequence[Row]) -> str:
    """What a diffusion model pays for the last of the noise, beyond what another one pays.

    The bits of the pixels given x at λ = 5: every level above it, and the reconstruction. The same
    thing for all models, wherever their walks end.
    """
    mine, known = _last_bits(row), []
    for other in rows:
        if (bits := _last_bits(other)) is not None:
            known.append((bits, other["model"]))
    if mine is None or len(known) < 2:
        return ""
    least, whose = min(known)
    if mine - least < _WORTH:
        return ""
    because = (
        "" if row["model"] in _TRAINED_ON_THE_BOUND else ", because its loss hardly looks there"
    )
    return (
        f"from λ = {_CLEAN:g} on, where little noise is left, the pixels cost it {mine:.2f} "
        f"bits/dim and {whose} {least:.2f}{because}"
    )


def _single_pixels(row: Row) -> str:
    """The share of a diffusion model's bits that a decoder of pixels has as a formula."""
    bits = _last_bits(row)
    if bits is None:
        return ""
    whole = next(route for route in row["routes"] if route["key"] == "decoder")["bits_per_dim"]
    return (
        f"{bits:.2f} of its {whole:.2f} bits/dim are paid from λ = {_CLEAN:g} on, for the values "
        "of single pixels, which a VAE's decoder has as a formula and a denoiser must learn"
    )


def _last_bits(row: Row) -> float | None:
    route = next((route for route in row["routes"] if route["key"] == "decoder"), None)
    if route is None:
        return None
    nats = sum(value for lam, value in route["paid"].items() if float(lam) > _CLEAN)
    return nats / (row["dims"] * math.log(2)) + route["terms"]["reconstruction"]
