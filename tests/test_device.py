"""All there is runs on a device that is not the CPU, and a training step never waits for it.

The checks are in `device/`, and run here in processes of their own: what they pretend is known to
the whole process. Where there is a GPU, they run on it too.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

HERE = Path(__file__).parent / "device"
CHECKS = sorted(path.name for path in HERE.glob("check_*.py"))
DEVICES = ["pretended", *(["cuda"] if torch.cuda.is_available() else [])]


def test_there_are_checks():
    assert len(CHECKS) >= 5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("check", CHECKS)
def test_on(device, check):
    if device == "pretended" and not hasattr(
        backend_registration, "_setup_privateuseone_for_python_backend"
    ):
        pytest.skip("this torch cannot pretend a device")
    words = ["-m", "pytest", str(HERE / check), "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [sys.executable, *words, "--tb=short", "-x"],
        env=os.environ | {"MARGINALS_DEVICE": device, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=280, cwd=HERE.parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
