"""Solvers: tables of coefficients (:mod:`.table`), the rules that fill them, and grids of
levels."""

from .grids import grid, karras, uniform_lam, uniform_time
from .rules import (
    SOLVERS,
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    euler_maruyama,
    heun,
    langevin,
)
from .table import Row, Solver, Table, noise_error, signal_error

__all__ = [
    "SOLVERS",
    "Row",
    "Solver",
    "Table",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler",
    "euler_maruyama",
    "grid",
    "heun",
    "karras",
    "langevin",
    "noise_error",
    "signal_error",
    "uniform_lam",
    "uniform_time",
]
