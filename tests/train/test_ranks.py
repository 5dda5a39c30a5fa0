"""Two processes (gloo) average gradients to that of the whole batch, as one process computes it."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from marginals.io.tensors import read_tensors

SCRIPT = Path(__file__).with_name("ranks.py")


def test_two_processes_train_the_same_weights_as_one(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    runs = {"two": [*torchrun, *rendezvous], "one": [sys.executable]}
    for name, launcher in runs.items():
        words = [*launcher, str(SCRIPT), str(tmp_path / name)]
        out = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
    one, two = (read_tensors(tmp_path / name / "state.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6, msg=name)
    names = [n for n in one if n.startswith("optimizer.") and n.endswith("exp_avg")]
    assert names and all(one[n].abs().max() > 0 for n in names), "nothing was learned"
