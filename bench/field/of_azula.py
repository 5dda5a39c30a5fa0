"""azula's deterministic samplers.

They step through equal distances of a time in [0, 1]; the levels come from the denoiser's schedule.
So a grid is a schedule: time i/N of the walk is its i-th σ.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .peers import ANY, TO_STOP, Denoise, Peer, Walk


class _Denoiser:
    """x̂0 with a schedule, as azula wants them: time 1 is noise."""

    def __init__(self, denoise: Denoise, sigmas: list[float], dtype: torch.dtype) -> None:
        self.denoise = denoise
        self.sigmas = torch.tensor(sigmas[::-1], dtype=dtype)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        index = (t * (len(self.sigmas) - 1)).round().long()
        sigma = self.sigmas[index]
        return torch.ones_like(sigma), sigma

    def __call__(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        return SimpleNamespace(mean=self.denoise(x, float(self.schedule(t)[1])))


def _walk(sampler: type, **options: Any) -> Walk:
    def walk(denoise: Denoise, x: Tensor, sigmas: list[float]) -> Tensor:
        denoiser = _Denoiser(denoise, sigmas, x.dtype)
        return sampler(denoiser, steps=len(sigmas) - 1, silent=True, dtype=x.dtype, **options)(x)

    return walk


def peers() -> list[Peer]:
    """Samplers that take log σ cannot end at σ = 0, and Heun divides by it."""
    import azula.sample as a

    found = [
        Peer("azula", "DDIM", _walk(a.DDIMSampler), 1),
        Peer("azula", "Euler", _walk(a.EulerSampler), 1),
        Peer("azula", "Heun", _walk(a.HeunSampler), 2, lambda steps, end: 2 * steps, TO_STOP),
    ]
    families = {"zAB": (a.zABSampler, ANY), "vAB": (a.vABSampler, ANY)}
    families |= {"zEAB": (a.zEABSampler, TO_STOP), "xEAB": (a.xEABSampler, TO_STOP)}
    families["REAB"] = (a.REABSampler, TO_STOP)
    for name, (sampler, ends) in families.items():
        found += [
            Peer("azula", f"{name} {order}", _walk(sampler, order=order), order, ends=ends)
            for order in (2, 3, 4)
        ]
    return found
