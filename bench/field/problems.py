"""Problems whose truth is known: a denoiser in VE units, starting noise, and where the
probability-flow ODE takes it.

The truth is a Runge–Kutta solution of fourth order in λ from the same noise, in float64, with so
many steps that halving them changes nothing that is measured (``accuracy`` says by how much it
does). Truths are kept in a folder, so that only the first run waits for them.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from marginals.denoiser import Denoiser, Rescaled
from marginals.noise import item_noise
from marginals.oracle import Mixture
from marginals.scaling import VE

from .grids import GRIDS, START
from .peers import Denoise

HELD_OUT = 1 << 20
"""The seed of the first noise measured on. Whoever fits something uses seeds below."""
NEARLY_ZERO = 1e-5
"""Where the truth's last Runge–Kutta step ends; what is left is removed by one denoising."""


Of = Callable[[slice], Denoise]


@dataclass(frozen=True)
class Problem:
    """``of(part)``: the denoiser (x, σ) → x̂0, in VE units, of these samples; ``start``: (B, ...)
    noise times 80; ``truth``: its end; ``denoiser``: the same as an object of the core; ``mark``:
    another mark, another truth; ``screen``: samples that say who is measured on all of them;
    ``budgets``: evaluations, if not all that are asked for; ``guided``: whether the denoiser is."""

    name: str
    of: Of
    denoiser: Denoiser
    start: Tensor
    truth: Tensor
    accuracy: float
    steps: int
    mark: str
    about: str
    screen: int
    grids: tuple[str, ...]
    budgets: tuple[int, ...] = ()
    guided: bool = False


class Counter:
    """A denoiser that counts how often it is asked."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise, self.calls = denoise, 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        return self.denoise(x, sigma)


def runge_kutta(
    denoise: Denoise, x: Tensor, sigma: float, stop: float, steps: int
) -> Iterator[tuple[float, Tensor]]:
    """The classical method on dx/dλ = −½·(x − x̂0), λ = −2·log σ; every (σ, x) it passes."""
    first, last = -2.0 * math.log(sigma), -2.0 * math.log(stop)
    h = (last - first) / steps

    def slope(x: Tensor, lam: float) -> Tensor:
        return -0.5 * (x - denoise(x, math.exp(-0.5 * lam)))

    for i in range(steps):
        lam = first + i * h
        k1 = slope(x, lam)
        k2 = slope(x + 0.5 * h * k1, lam + 0.5 * h)
        k3 = slope(x + 0.5 * h * k2, lam + 0.5 * h)
        k4 = slope(x + h * k3, lam + h)
        x = x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        yield math.exp(-0.5 * (lam + h)), x


@torch.no_grad()
def end_of_flow(denoise: Denoise, x: Tensor, steps: int) -> Tensor:
    """From σ = 80 to σ = 0: Runge–Kutta to 1e-5, then one denoising."""
    end = x
    for _, state in runge_kutta(denoise, x, START, NEARLY_ZERO, steps):
        end = state
    return denoise(end, NEARLY_ZERO)


def mixture_denoise(mixture: Mixture) -> Denoise:
    """The mixture's x̂0 in VE units with two matrix products, for components of one size: ten times
    faster than the core's, which gives the variance too and holds for any. Checked against it."""
    means, var0 = mixture.means, mixture.std[0].item() ** 2
    bias, log_w = 0.5 * means.square().sum(1), mixture.log_weights

    def denoise(x: Tensor, sigma: float) -> Tensor:
        flat = x.flatten(1)
        var = var0 + sigma**2
        share = torch.softmax((flat @ means.T - bias) / var + log_w, -1)
        gain = var0 / var
        return ((1.0 - gain) * (share @ means) + gain * flat).view_as(x)

    if not bool((mixture.std == mixture.std[0]).all()):
        raise ValueError("this formula is for components of one size")
    exact = Rescaled(mixture, VE)
    for sigma in (20.0, 1.0, 0.1):
        x = mixture.sample(8, seed=3)[0] + sigma * item_noise(range(8), mixture.shape).double()
        gap = (denoise(x, sigma) - exact(x, -2.0 * math.log(sigma)).x0).abs().max()
        if gap > 1e-10:
            raise ArithmeticError(f"the two formulas of the mixture differ by {gap:.1e}")
    return denoise


def _of_mixture(name: str, mixture: Mixture, count: int, cache: Path, about: str) -> Problem:
    denoise, start = mixture_denoise(mixture), noise(count, mixture.shape)
    return solved(name, lambda part: denoise, Rescaled(mixture, VE), start, cache, about)


def digits(count: int, cache: Path) -> Problem:
    """64 dimensions: every 8x8 training digit with standard deviation 0.15."""
    from oracle import digits_mixture  # the sibling script bench/oracle.py

    mixture = digits_mixture()
    about = (
        f"{len(mixture.means)} digits of 64 pixels, standard deviation 0.15 each; exact denoiser"
    )
    return _of_mixture("digits", mixture, count, cache, about)


def ring(count: int, cache: Path) -> Problem:
    """Two dimensions: eight narrow Gaussians on a circle."""
    angle = torch.arange(8, dtype=torch.float64) * (2.0 * math.pi / 8)
    mixture = Mixture(torch.stack([angle.cos(), angle.sin()], 1), 0.1)
    about = "8 Gaussians of standard deviation 0.1 on the unit circle; exact denoiser"
    return _of_mixture("ring", mixture, count, cache, about)


def grid_2d(count: int, cache: Path) -> Problem:
    """Two dimensions: twenty-five very narrow Gaussians of uneven weights on a square grid."""
    line = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)
    means = torch.cartesian_prod(line, line)
    mixture = Mixture(means, 0.03, weights=torch.arange(1.0, 26.0))
    about = "25 Gaussians of standard deviation 0.03 and uneven weights on a grid; exact denoiser"
    return _of_mixture("grid", mixture, count, cache, about)


def solved(
    name: str,
    of: Of,
    denoiser: Denoiser,
    start: Tensor,
    cache: Path,
    about: str,
    *,
    exact: Of | None = None,
    steps: int = 3000,
    check: int = 64,
    screen: int = 128,
    grids: Sequence[str] = tuple(GRIDS),
) -> Problem:
    """The problem with its truth: solved by ``exact`` (default ``of``) or read from a file."""
    exact = of if exact is None else exact
    probe = exact(slice(0, 4))(start[:4] / START, 1.0)  # another denoiser has another truth
    text = json.dumps([name, len(start), steps, [round(v, 9) for v in probe.flatten().tolist()]])
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = cache / f"truth-{name.replace(' ', '-')}-{mark}.pt"
    if file.exists():
        kept = torch.load(file, weights_only=True)
    else:
        few = slice(0, check)
        truth = end_of_flow(exact(slice(0, len(start))), start, steps)
        again = end_of_flow(exact(few), start[few], steps // 2)
        kept = {"truth": truth, "accuracy": (again - truth[few]).abs().max().item()}
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(kept, file)
    truth, accuracy = kept["truth"], kept["accuracy"]
    return Problem(
        name, of, denoiser, start, truth, accuracy, steps, mark, about, screen, tuple(grids)
    )


def noise(count: int, shape: Sequence[int]) -> Tensor:
    """Where the walks on held-out seeds start."""
    return START * item_noise(range(HELD_OUT, HELD_OUT + count), shape, dtype=torch.float64)
