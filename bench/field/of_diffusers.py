"""diffusers' deterministic schedulers, each on any grid.

A scheduler is made, asked for as many steps as the grid has, and then given the grid's levels in
float64 in place of the ones it computed (in float32, from a table of 1000 training steps): what is
compared is the method. A user reaches the same levels with ``use_karras_sigmas`` and its like and a
training schedule from 0.002 to 80. The walk is the loop every pipeline has: ``scale_model_input``
is left to us, ``step`` is theirs.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .peers import ANY, TO_STOP, TO_ZERO, Denoise, Peer, Walk, two_a_step

Layout = Callable[[Any, Tensor], list[float]]
"""Puts the levels σ (VE units) into a scheduler; the σ of each evaluation, in order."""
Units = Callable[[float], float]
"""How much smaller x is than in VE units, at σ."""


def vp(sigma: float) -> float:
    return (1.0 + sigma**2) ** -0.5


def ve(sigma: float) -> float:
    return 1.0


def flow(sigma: float) -> float:
    return 1.0 / (1.0 + sigma)


# what the network says, from x (VE units), x̂0 and σ
def says_x0(x: Tensor, x0: Tensor, sigma: float) -> Tensor:
    return x0


def says_eps(x: Tensor, x0: Tensor, sigma: float) -> Tensor:
    return (x - x0) / sigma


def says_v(x: Tensor, x0: Tensor, sigma: float) -> Tensor:
    return vp(sigma) * ((x - x0) / sigma - sigma * x0)


def says_velocity(x: Tensor, x0: Tensor, sigma: float) -> Tensor:
    return (x - x0) / sigma - x0


def says_edm(x: Tensor, x0: Tensor, sigma: float, data: float = 0.5) -> Tensor:
    """The raw network F of EDM: x̂0 = c_skip·x + c_out·F."""
    total = sigma**2 + data**2
    return (x0 - data**2 / total * x) * total**0.5 / (sigma * data)


def plain(scheduler: Any, sigmas: Tensor) -> list[float]:
    scheduler.sigmas = sigmas
    scheduler.timesteps = torch.arange(len(sigmas) - 1).flip(0).double()
    return sigmas[:-1].tolist()


def twice(scheduler: Any, sigmas: Tensor) -> list[float]:
    """Heun's: every inner level is visited twice."""
    doubled = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.sigmas = doubled
    scheduler.timesteps = torch.arange(len(doubled) - 1).flip(0).double()
    return doubled[:-1].tolist()


def twice_flow(scheduler: Any, sigmas: Tensor) -> list[float]:
    asked = twice(scheduler, sigmas)
    scheduler.sigmas = scheduler.sigmas / (1.0 + scheduler.sigmas)
    return asked


def halfway(scheduler: Any, sigmas: Tensor) -> list[float]:
    """DPM-Solver-2's: between any two levels, their geometric mean."""
    between = sigmas.log().lerp(sigmas.roll(1).log(), 0.5).exp()
    double = [torch.cat([s[:1], s[1:].repeat_interleave(2), s[-1:]]) for s in (sigmas, between)]
    scheduler.sigmas, scheduler.sigmas_interpol = double
    calls = 2 * (len(sigmas) - 1) - 1
    scheduler.timesteps = torch.arange(calls).flip(0).double()
    return [double[k % 2][k].item() for k in range(calls)]


def angles(scheduler: Any, sigmas: Tensor) -> list[float]:
    """iPNDM's: α and σ themselves."""
    scheduler.alphas, scheduler.betas = vp_pair(sigmas)
    scheduler.timesteps = torch.arange(len(sigmas) - 1).flip(0).double()
    return sigmas[:-1].tolist()


def trained(scheduler: Any, sigmas: Tensor) -> list[float]:
    """For schedulers that look levels up in the training schedule: its steps are the grid's."""
    rising = sigmas.flip(0)
    scheduler.alphas_cumprod = 1.0 / (1.0 + rising[rising > 0] ** 2)
    scheduler.final_alpha_cumprod = 1.0 / (1.0 + rising[0] ** 2)
    first = 1 if sigmas[-1] == 0.0 else 0  # σ = 0 is not in the schedule, but after it
    return [rising[int(t) + first].item() for t in scheduler.timesteps]


def vp_pair(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    alpha = (1.0 + sigmas**2).rsqrt()
    return alpha, sigmas * alpha


def _walk(
    name: str,
    units: Units,
    says: Callable[[Tensor, Tensor, float], Tensor],
    layout: Layout = plain,
    **options: Any,
) -> Walk:
    def walk(denoise: Denoise, x: Tensor, sigmas: list[float]) -> Tensor:
        import diffusers

        steps, more = len(sigmas) - 1, {}
        if options.get("final_sigmas_type") == "of the grid":
            more["final_sigmas_type"] = "zero" if sigmas[-1] == 0.0 else "sigma_min"
        if layout is trained:
            stops = sigmas[-1] > 0.0
            more |= {"num_train_timesteps": steps + stops, "steps_offset": int(stops)}
        scheduler = getattr(diffusers, name)(**(options | more))
        scheduler.set_timesteps(steps)
        calls = layout(scheduler, torch.tensor(sigmas, dtype=x.dtype))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        scheduler.is_scale_input_called = True
        y, picture = x * units(sigmas[0]), (*x.shape, *[1] * (4 - x.ndim))
        for sigma, t in zip(calls, scheduler.timesteps, strict=True):
            there = y / units(sigma)
            out = says(there, denoise(there, sigma), sigma)
            y = scheduler.step(out.view(picture), t, y.view(picture)).prev_sample.view(x.shape)
        return y / units(sigmas[-1])

    return walk


def _multistep() -> list[Peer]:
    """DPM-Solver, UniPC, DEIS, SA-Solver in VP units."""
    found = []
    end = {"prediction_type": "sample", "final_sigmas_type": "of the grid"}

    def add(name: str, order: int, scheduler: str, ends: tuple[str, ...], **options: Any) -> None:
        walk = _walk(scheduler, vp, says_x0, **options)
        found.append(Peer("diffusers", name, walk, order, ends=ends))

    both, stop, dpm = ANY, TO_STOP, "DPMSolverMultistepScheduler"
    for order in (2, 3):
        for lower in (True, False):
            text = f"{order}M" + ("" if lower else ", lower_order_final off")
            o = {**end, "solver_order": order, "lower_order_final": lower}
            for kind in ("midpoint", "heun")[: 2 if order == 2 else 1]:
                tail = f" {text}, {kind}" if order == 2 else f" {text}"
                add("DPM-Solver++" + tail, order, dpm, both, solver_type=kind, **o)
                o_eps = {**o, "algorithm_type": "dpmsolver", "solver_type": kind}
                add("DPM-Solver" + tail, order, dpm, stop, **o_eps)
            deis = {k: v for k, v in o.items() if k != "final_sigmas_type"}
            add(f"DEIS {text}", order, "DEISMultistepScheduler", stop, **deis)
        for kind in ("midpoint", "heun"):
            single = {**end, "solver_order": order, "solver_type": kind}
            scheduler = "DPMSolverSinglestepScheduler"
            add(f"DPM-Solver++ {order}S, {kind}", order, scheduler, both, **single)
            single |= {"algorithm_type": "dpmsolver"}
            add(f"DPM-Solver {order}S, {kind}", order, scheduler, stop, **single)
    for order in (1, 2, 3):
        for kind in ("bh1", "bh2"):
            o = {**end, "solver_order": order, "solver_type": kind}
            unipc = "UniPCMultistepScheduler"
            ends = both if kind == "bh2" else stop  # with B(h) = h, h = ∞ gives NaN
            add(f"UniPC {order}, {kind}", order + 1, unipc, ends, **o)
            add(f"UniPC {order}, {kind}, eps", order + 1, unipc, stop, predict_x0=False, **o)
            if order > 1:
                name = f"UniPC {order}, {kind}, lower_order_final off"
                add(name, order + 1, unipc, stop, lower_order_final=False, **o)
    for order in (2, 3):
        o = {"prediction_type": "sample", "predictor_order": order, "corrector_order": order}
        add(f"SA-Solver {order}, tau 0", order, "SASolverScheduler", stop, tau_func=_never, **o)
    return found


def _never(t: Any) -> int:
    return 0


def peers() -> list[Peer]:
    """Every deterministic scheduler, in the units its pipelines use."""
    import diffusers
    import scipy  # noqa: F401  # LMS needs it; importing diffusers does not

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
    diffusers.DPMSolverMultistepScheduler  # noqa: B018  # a missing dependency shows here
    found = _multistep()

    def add(name: str, order: int, *walk: Any, calls: Any = None, ends: Any = TO_ZERO, **o: Any):
        extra = {} if calls is None else {"calls": calls}
        fewest = o.pop("fewest", 1)
        found.append(
            Peer("diffusers", name, _walk(*walk, **o), order, ends=ends, fewest=fewest, **extra)
        )

    both, sample = ANY, {"prediction_type": "sample"}
    add("Euler", 1, "EulerDiscreteScheduler", ve, says_x0, ends=both, **sample)
    add("LMS 4", 4, "LMSDiscreteScheduler", ve, says_x0, ends=both, **sample)
    add("Heun", 2, "HeunDiscreteScheduler", ve, says_x0, twice, calls=two_a_step, **sample)
    add("KDPM2", 2, "KDPM2DiscreteScheduler", ve, says_eps, halfway, calls=two_a_step)
    add("EDM Euler", 1, "EDMEulerScheduler", ve, says_edm, ends=both)
    for order in (2, 3):
        name, o = "EDMDPMSolverMultistepScheduler", {"final_sigmas_type": "of the grid"}
        add(
            f"EDM DPM-Solver++ {order}M",
            order,
            name,
            ve,
            says_edm,
            ends=both,
            solver_order=order,
            **o,
        )
    add("iPNDM", 4, "IPNDMScheduler", vp, says_v, angles, ends=both)
    name = "FlowMatchHeunDiscreteScheduler"
    add("flow-match Heun", 2, name, flow, says_velocity, twice_flow, calls=two_a_step)
    no_clip = {"clip_sample": False, "set_alpha_to_one": True, "prediction_type": "sample"}
    add("DDIM", 1, "DDIMScheduler", vp, says_x0, trained, ends=both, **no_clip)
    add("PNDM", 2, "PNDMScheduler", vp, says_eps, trained, calls=lambda n, end: n + 1,
        skip_prk_steps=True, set_alpha_to_one=True, fewest=2, ends=both)  # fmt: skip
    return found
