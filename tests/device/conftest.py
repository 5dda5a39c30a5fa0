"""The device of these checks: a pretended one, or a GPU. `tests/test_device.py` starts them.

By hand, on a machine with a GPU: ``MARGINALS_DEVICE=cuda python -m pytest tests/device/check_*.py``
"""

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from marginals.generative import DataStats
from marginals.nn import UNet

CUDA = os.environ.get("MARGINALS_DEVICE") == "cuda"


@pytest.fixture(scope="session")
def pretended():
    """The module of the pretended device, which registers it in this process."""
    sys.path.insert(0, str(Path(__file__).parent))
    import pretended

    return pretended


@pytest.fixture
def device(request):
    """Where the check computes."""
    if CUDA:
        yield torch.device("cuda", 0)
        return
    with request.getfixturevalue("pretended").device() as device:
        yield device


@pytest.fixture
def no_waits(request, device):
    """A context in which waiting for the device is an error."""
    return _no_waits_on_cuda if CUDA else request.getfixturevalue("pretended").no_waits


@contextmanager
def _no_waits_on_cuda():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def small(letters):
    """Small pictures and networks: what all checks are about."""
    stats = DataStats((1, 8, 8), -0.3, 0.8, ("a", "b"))
    told = DataStats((1, 8, 8), -0.3, 0.8, text="letters")

    def unet(**options):
        kinds = {"num_classes": 2, "width": 8, "mults": (1,), "blocks": 1, "patch": 2}
        return UNet(1, 8, **(kinds | options))

    def pixels(count=6):
        numbers = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (count, 1, 8, 8), generator=numbers, dtype=torch.uint8)

    return SimpleNamespace(stats=stats, told=told, unet=unet, pixels=pixels, letters=letters)
