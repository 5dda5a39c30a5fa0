"""`kill -9` at any moment must not matter; a short edition of bench/resume.py."""

import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "resume.py"


def test_killed_again_and_again_and_still_the_same_weights():
    words = [sys.executable, str(BENCH), "--kills", "3", "--images", "1152", "--fork"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    out = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert out.returncode == 0, out.stdout + out.stderr
    assert out.stdout.count("bit-identical") == 4 and "DIFFERENT" not in out.stdout
