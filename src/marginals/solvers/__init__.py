"""Solvers: tables of coefficients (:mod:`.table`), the rules that fill them, and grids of
levels."""

from .catalogue import MAKERS, SOLVERS
from .choice import auto
from .fitted import FittedTable
from .frames import Frame
from .grids import grid, karras, straight, uniform_lam, uniform_time
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
from .table import Row, Solver, Table, noise_error, signal_error
from .unipc import unipc

__all__ = [
    "MAKERS",
    "SOLVERS",
    "FittedTable",
    "Frame",
    "Row",
    "Solver",
    "Table",
    "abm",
    "adams",
    "auto",
    "ddim",
    "ddpm",
    "deis",
    "dpm_2",
    "dpm_2m",
    "dpm_3",
    "dpm_3m",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_3s",
    "edm",
    "euler",
    "euler_ancestral",
    "euler_maruyama",
    "grid",
    "heun",
    "karras",
    "langevin",
    "langevin_adaptive",
    "lms",
    "noise_error",
    "predictor_corrector",
    "rk4",
    "sa",
    "sde",
    "sde_dpmpp_2m",
    "sde_dpmpp_3m",
    "signal_error",
    "straight",
    "uniform_lam",
    "uniform_time",
    "unipc",
]
