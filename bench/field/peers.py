"""Samplers of other libraries as plain functions, called the way their users call them.

    walk(denoise, x, sigmas) → x at the last σ,     denoise(x, σ) → x̂0,     all in VE units

A peer whose package is not installed is not in the list; :func:`missing` says which and why. The
packages come from one command (bench/README.md); nothing here copies their code.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
Walk = Callable[[Denoise, Tensor, list[float]], Tensor]
ANY = ("zero", "stop", "straight")
TO_ZERO, TO_STOP = ("zero", "straight"), ("stop",)
PACKAGES = {"diffusers": "diffusers", "k-diffusion": "k_diffusion", "azula": "azula"}


@dataclass(frozen=True)
class Peer:
    """``calls(steps, end)``: evaluations of the denoiser on a grid of so many steps; ``ends``: the
    ends of a grid it can take (:mod:`.grids`); ``order``: what its name or documentation says."""

    package: str
    name: str
    walk: Walk
    order: int
    calls: Callable[[int, str], int] = lambda steps, end: steps
    ends: tuple[str, ...] = ANY
    fewest: int = 1

    def steps(self, nfe: int, end: str) -> int:
        """The largest number of steps that costs at most ``nfe`` evaluations; 0: none does."""
        fitting = [n for n in range(self.fewest, nfe + 2) if self.calls(n, end) <= nfe]
        return max(fitting, default=0)


def two_a_step(steps: int, end: str) -> int:
    """Two evaluations a step, but one for a step into σ = 0."""
    return 2 * steps if end == "stop" else 2 * steps - 1


def versions() -> dict[str, str]:
    """Which of the packages are here."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _stand_in(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__ = []
    return module


@cache
def k_diffusion_sampling() -> types.ModuleType:
    """k-diffusion's sampling module, without its package: ``import k_diffusion`` asks for 77 others
    (data sets, augmentation, CLIP), of which sampling uses torchsde and torchdiffeq alone."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("k-diffusion is not installed")
    parent = types.ModuleType("k_diffusion")
    parent.__path__ = list(spec.submodule_search_locations)
    sys.modules.setdefault("k_diffusion", parent)
    if importlib.util.find_spec("torchvision") is None:
        # k_diffusion.utils reads pictures with it; the samplers only take append_dims from there
        transforms = _stand_in("torchvision.transforms")
        transforms.functional = types.ModuleType("torchvision.transforms.functional")  # type: ignore[attr-defined]
        sys.modules["torchvision"] = _stand_in("torchvision")
        sys.modules["torchvision.transforms"] = transforms
        sys.modules["torchvision.transforms.functional"] = transforms.functional
    return importlib.import_module("k_diffusion.sampling")


def all_peers() -> tuple[list[Peer], dict[str, str]]:
    """Every sampler of every package that can be imported, and why the others cannot."""
    found: list[Peer] = []
    missing: dict[str, str] = {}
    for package, module in PACKAGES.items():
        try:
            found += importlib.import_module(f"field.of_{module}").peers()
        except ImportError as error:
            missing[package] = str(error)
    return found, missing
