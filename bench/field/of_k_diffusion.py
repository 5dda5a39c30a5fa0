"""k-diffusion's deterministic samplers (and its stochastic ones with their noise switched off)."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .grids import START, STOP
from .peers import Denoise, Peer, Walk, k_diffusion_sampling, two_a_step


def _model(denoise: Denoise) -> Callable[..., Tensor]:
    """k-diffusion hands one σ per picture."""
    return lambda x, sigma, **kwargs: denoise(x, float(sigma[0]))


def _walk(sampler: Callable[..., Tensor], **options: Any) -> Walk:
    def walk(denoise: Denoise, x: Tensor, sigmas: list[float]) -> Tensor:
        levels = torch.tensor(sigmas, dtype=x.dtype)
        return sampler(_model(denoise), x, levels, disable=True, **options)

    return walk


def fast(denoise: Denoise, x: Tensor, nfe: int) -> Tensor:
    """DPM-Solver-fast makes its own grid, uniform in log σ, for a number of evaluations."""
    sampler = k_diffusion_sampling().sample_dpm_fast
    stop, start = (torch.tensor(s, dtype=x.dtype) for s in (STOP, START))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it copies a tensor its own way
        return sampler(_model(denoise), x, stop, start, nfe, disable=True)


def adaptive(denoise: Denoise, x: Tensor, order: int, rtol: float) -> Tensor:
    """DPM-Solver-12 and -23 choose their own steps for a tolerance."""
    sampler = k_diffusion_sampling().sample_dpm_adaptive
    stop, start = (torch.tensor(s, dtype=x.dtype) for s in (STOP, START))
    options = {"disable": True, "order": order, "rtol": rtol, "atol": 0.1 * rtol}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return sampler(_model(denoise), x, stop, start, **options)


def peers() -> list[Peer]:
    """On any grid; :func:`fast` and :func:`adaptive` make their own."""
    k = k_diffusion_sampling()

    def quiet(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.zeros((), dtype=torch.float64)

    none = {"eta": 0.0, "noise_sampler": quiet}
    one = {
        "euler": (1, _walk(k.sample_euler)),
        "lms 2": (2, _walk(k.sample_lms, order=2)),
        "lms 3": (3, _walk(k.sample_lms, order=3)),
        "lms 4": (4, _walk(k.sample_lms, order=4)),
        "dpmpp_2m": (2, _walk(k.sample_dpmpp_2m)),
        "dpmpp_2m_sde midpoint, eta 0": (2, _walk(k.sample_dpmpp_2m_sde, **none)),
        "dpmpp_2m_sde heun, eta 0": (2, _walk(k.sample_dpmpp_2m_sde, solver_type="heun", **none)),
        "dpmpp_3m_sde, eta 0": (3, _walk(k.sample_dpmpp_3m_sde, **none)),
    }
    two = {
        "heun": (2, _walk(k.sample_heun)),
        "dpm_2": (2, _walk(k.sample_dpm_2)),
        "dpmpp_2s": (2, _walk(k.sample_dpmpp_2s_ancestral, **none)),
        "dpmpp_sde, eta 0": (2, _walk(k.sample_dpmpp_sde, **none)),
    }
    found = [Peer("k-diffusion", name, walk, order) for name, (order, walk) in one.items()]
    return found + [
        Peer("k-diffusion", name, walk, order, two_a_step) for name, (order, walk) in two.items()
    ]
