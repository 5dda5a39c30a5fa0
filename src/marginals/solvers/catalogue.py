"""Every solver by the name people know it by."""

from collections.abc import Callable

from .choice import auto
from .langevin import langevin, langevin_adaptive, predictor_corrector
from .multistep import (
    abm,
    adams,
    deis,
    dpm_2m,
    dpm_3m,
    dpmpp_3m,
    lms,
    sa,
    sde_dpmpp_2m,
    sde_dpmpp_3m,
)
from .rules import ddim, dpmpp_2m, euler, heun
from .singlestep import dpm_2, dpm_3, dpmpp_2s, dpmpp_3s, rk4
from .stochastic import ddpm, edm, euler_ancestral, euler_maruyama, sde
from .table import Solver
from .unipc import unipc

MAKERS: dict[str, Callable[..., Solver]] = {
    "auto": auto,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpm_2": dpm_2,
    "dpm_3": dpm_3,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_3s": dpmpp_3s,
    "rk4": rk4,
    "dpm_2m": dpm_2m,
    "dpm_3m": dpm_3m,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "lms": lms,
    "deis": deis,
    "adams": adams,
    "abm": abm,
    "unipc": unipc,
    "ddpm": ddpm,
    "euler_ancestral": euler_ancestral,
    "euler_maruyama": euler_maruyama,
    "sde": sde,
    "sde_dpmpp_2m": sde_dpmpp_2m,
    "sde_dpmpp_3m": sde_dpmpp_3m,
    "sa": sa,
    "edm": edm,
    "predictor_corrector": predictor_corrector,
    "langevin": langevin,
    "langevin_adaptive": langevin_adaptive,
}
"""The function that makes each solver; its parameters are the options of the name."""

SOLVERS: dict[str, Solver] = {name: make() for name, make in MAKERS.items()}
"""Every solver with its default parameters."""
