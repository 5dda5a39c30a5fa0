"""What --problem may ask for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from .network import network
from .problems import Problem, digits, grid_2d, ring

PROBLEMS: dict[str, Callable[[int, Path], Problem]] = {
    "digits": digits,
    "ring": ring,
    "grid": grid_2d,
    "network": network,
    "network guided": partial(network, guidance=3.0),
}
GROUPS = {
    "digits": ("digits",),
    "2d": ("ring", "grid"),
    "network": ("network", "network guided"),
}
