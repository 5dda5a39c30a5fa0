"""Where a peer is not what it says: one measurement each, made here and now.

A fault holds for the version it was measured with; :func:`all_faults` measures whatever is
installed. ``found`` is whether the measurement still shows it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import orders
from .peers import Peer, all_peers

FINE = (400, 800, 1600)


@dataclass(frozen=True)
class Fault:
    """``says``: what name or documentation promise; ``does``: what was measured; ``why``: the line
    behind it."""

    package: str
    what: str
    says: str
    does: str
    why: str
    found: bool


def _peer(package: str, name: str) -> Peer:
    return next(p for p in all_peers()[0] if (p.package, p.name) == (package, name))


def _slope(package: str, name: str, steps: tuple[int, ...] = FINE) -> float:
    return orders.measured(_peer(package, name).walk, "stop", steps)


def third_order_multistep() -> Iterator[Fault]:
    """The exact weight of D2, half the second derivative times h², is −2·(φ − ½), not −(φ − ½)."""
    why = (
        "D2 is a second divided difference, half a second derivative, but gets the weight of a"
        " whole one; diffusers' own singlestep version has the factor 2"
    )
    for package, name in (
        ("diffusers", "EDM DPM-Solver++ 3M"),
        ("k-diffusion", "dpmpp_3m_sde, eta 0"),
    ):
        slope = _slope(package, name)
        yield Fault(package, name, "order 3", f"order {slope:.2f}", why, slope < 2.5)
    for name in ("DPM-Solver++ 3M", "DPM-Solver 3M"):  # these step in float32: coarse steps
        slope = _slope("diffusers", name, (48, 96, 192))
        yield Fault("diffusers", name, "order 3", f"order {slope:.2f}", why, slope < 2.5)


def fixed_weights() -> Iterator[Fault]:
    """Adams–Bashforth weights for equal steps, while the step they multiply is one of σ/α."""
    why = "the weights 55, −59, 37, −9 are for equal steps of σ/α, which its grid does not have"
    slope = _slope("diffusers", "iPNDM")
    does = f"order {slope:.2f}"
    yield Fault("diffusers", "iPNDM", "“a fourth-order … scheduler”", does, why, slope < 3.0)


def reab() -> Iterator[Fault]:
    """√(α_s² + σ_t²) stands where its own docstring has √(α_s² + σ_s²)."""
    why = "the factor of the integral is sqrt(alpha_s**2 + sigma_t**2); its docstring has sigma_s"
    for order in (2, 3, 4):
        slope = _slope("azula", f"REAB {order}", (96, 192, 384))
        yield Fault("azula", f"REABSampler, order {order}", f"order {order}", f"order {slope:.2f}",
                    why, slope < order - 0.5)  # fmt: skip
    x = orders.start()
    picture = torch.ones_like(x)
    levels = orders.grid(10, "stop", False)
    end = _peer("azula", "REAB 2").walk(lambda y, sigma: picture, x, levels)
    exact = picture + levels[-1] / levels[0] * (x - picture)
    gap = (end - exact).abs().max().item()
    yield Fault("azula", "REABSampler, a denoiser that always says 1", "exact, at any step",
                f"off by {gap:.2f} after 10 steps", why, gap > 1e-3)  # fmt: skip


def _made(name: str, steps: int, **options: Any) -> Any:
    import diffusers

    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(steps)
    return scheduler


def _runs(scheduler: Any, x: torch.Tensor) -> torch.Tensor:
    """The loop of a pipeline, for x̂0 = 0.3."""
    for t in scheduler.timesteps:
        x = scheduler.step(torch.full_like(x, 0.3), t, x).prev_sample
    return x


def bh1_at_zero() -> Iterator[Fault]:
    end = _runs(_made("UniPCMultistepScheduler", 10, solver_type="bh1", prediction_type="sample"),
                torch.randn(1, 1, 2, 2))  # fmt: skip
    bad = not bool(end.isfinite().all())
    yield Fault("diffusers", "UniPC, solver_type bh1, all else default", "a sample",
                "NaN" if bad else "a sample",
                "B(h) = −h is infinite in the last step, to σ = 0, the default", bad)  # fmt: skip


def wasted_last_step() -> Iterator[Fault]:
    grids = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
    for name, more in (
        ("DEISMultistepScheduler", {}),
        ("UniPCMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
    ):
        for grid in grids:
            levels = _made(name, 10, **grid, **more).sigmas
            same = bool(levels[-1] == levels[-2])
            text = ", ".join([*grid, *(f"{k}={v}" for k, v in more.items())])
            does = f"9 steps: the last goes from σ = {levels[-2]:.4f} to {levels[-1]:.4f}"
            yield Fault("diffusers", f"{name}, {text}", "10 steps for 10 evaluations", does,
                        "the last level is appended twice", same)  # fmt: skip


def told_another_level() -> Iterator[Fault]:
    """The network is told a whole time step, whose level is not the one x is at."""
    names = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")
    for name in names:
        for grid in ("use_karras_sigmas", "use_exponential_sigmas"):
            s = _made(name, 20, **{grid: True})
            trained = np.sqrt((1.0 - s.alphas_cumprod.numpy()) / s.alphas_cumprod.numpy())
            told = trained[s.timesteps.numpy().clip(0)]
            ratio = told / s.sigmas.numpy()[: len(told)]
            worst = float(np.abs(np.log(ratio)).max())
            yield Fault("diffusers", f"{name}, {grid}, 20 steps", "the network knows the level",
                        f"σ differs by up to {100 * math.expm1(worst):.0f} %",
                        "time steps become whole numbers (rounded, or cut off by a cast to int64)",
                        worst > 0.01)  # fmt: skip


def ddim_stride() -> Iterator[Fault]:
    """prev_timestep = t − 1000 // steps, whatever the next time step is."""
    for spacing, steps in (("linspace", 10), ("linspace", 50), ("trailing", 30), ("trailing", 300)):
        s = _made("DDIMScheduler", steps, timestep_spacing=spacing)
        times = s.timesteps.tolist()
        goes = [t - 1000 // steps for t in times[:-1]]
        off = max(abs(a - b) for a, b in zip(goes, times[1:], strict=True))
        yield Fault("diffusers", f"DDIM, {spacing}, {steps} steps",
                    "each step ends where the next begins", f"up to {off} of 1000 time steps away",
                    "the step is taken from a stride, not from the grid", off > 0)  # fmt: skip


def shifted_twice() -> Iterator[Fault]:
    for name in ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"):
        last = _made(name, 10, shift=3.0).sigmas[-2].item()
        once = 3.0 * 0.001 / (1.0 + 2.0 * 0.001)
        yield Fault("diffusers", f"{name}, shift 3", f"the last level before 0 is {once:.4f}",
                    f"{last:.4f}", "the ends of the grid are shifted levels, and are shifted again",
                    abs(last / once - 1.0) > 0.01)  # fmt: skip


def sde_third_order() -> Iterator[Fault]:
    """With its noise set to zero an SDE step of a denoiser that only looks at σ follows the mean of
    the reverse SDE, which is known."""
    for order in (2, 3):
        errors = [_sde_error(order, n) for n in (48, 96, 192)]
        slope = math.log2(errors[0] / errors[-1]) / 2.0
        if order == 2:
            control = slope
        else:
            yield Fault("diffusers", "DPM-Solver++ 3M, sde-dpmsolver++, its mean", "order 3",
                        f"order {slope:.2f} (2M: {control:.2f})",
                        "the weight of D2 has the wrong sign of ½, and does not vanish with h",
                        slope < 1.5)  # fmt: skip


def _sde_error(order: int, steps: int) -> float:
    from diffusers import DPMSolverMultistepScheduler

    from .of_diffusers import plain, vp

    scheduler = DPMSolverMultistepScheduler(
        solver_order=order, algorithm_type="sde-dpmsolver++", solver_type="heun",
        prediction_type="sample", final_sigmas_type="sigma_min",
    )  # fmt: skip
    levels = orders.grid(steps, "stop", False)
    scheduler.set_timesteps(steps)
    calls = plain(scheduler, torch.tensor(levels, dtype=torch.float64))
    scheduler.set_begin_index(0)
    x = orders.start() * vp(levels[0])
    quiet = torch.zeros(4, 5, 1, 1)
    for sigma, t in zip(calls, scheduler.timesteps, strict=True):
        out = orders.of_level(x, sigma)[..., None, None]
        x = scheduler.step(out, t, x[..., None, None], variance_noise=quiet).prev_sample[..., 0, 0]
    gap = x / vp(levels[-1]) - orders.truth(orders.of_level, 2.0)
    return gap.square().mean().sqrt().item()


CHECKS: dict[str, Callable[[], Iterator[Fault]]] = {
    check.__name__: check
    for check in (
        third_order_multistep, sde_third_order, fixed_weights, bh1_at_zero, wasted_last_step,
        told_another_level, ddim_stride, shifted_twice, reab,
    )
}  # fmt: skip
"""By name; :func:`needs` says what has to be installed."""


def needs(check: str) -> str:
    """The package a check measures (with diffusers', k-diffusion's copy of a formula)."""
    return "azula" if check == "reab" else "diffusers"
