"""A model that knows the answer, and the smallest real demo."""

import numpy as np
import pytest
import torch
from torch import nn

from marginals.denoiser import Net
from marginals.models import DataStats, Model
from marginals.objective import Mse, Objective, UniformTime
from marginals.predict import V
from marginals.scaling import VP
from marginals.schedule import LogLinear

STD, MEANS = 0.25, (-0.4, 0.4)
"""Every pixel of class c is N(MEANS[c], STD²), independently."""

LABEL = LogLinear(12.0, -9.0)


class Exact(nn.Module):
    """The exact v-prediction for such pictures: E[x0 | x] is linear in x."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor(MEANS[:classes] or (0.0,), dtype=torch.float64))

    def forward(self, x, t, cond=None):
        level = VP(LABEL.lam(t.double()))
        alpha, sigma = (part.to(x.dtype).reshape(-1, 1, 1, 1) for part in level[1:])
        means = self.means.to(x.dtype)
        if cond is None or len(means) < 2:
            mean = means.mean().expand(len(x))
        else:
            mean = torch.where(cond < 0, means.mean(), means[cond.clamp(min=0)])
        mean = mean.reshape(-1, 1, 1, 1)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        x0 = mean + gain * (x - alpha * mean)
        return (alpha * x - x0) / sigma


@pytest.fixture
def exact():
    """exact(classes) -> a Model whose denoiser is exact for each class."""

    def build(classes: int = 2) -> Model:
        net = Net(Exact(classes), prediction=V, scaling=VP, label=LABEL)
        names = ("dark", "light")[:classes]
        spread = (STD**2 + MEANS[1] ** 2) ** 0.5 if classes > 1 else STD
        data = DataStats((1, 8, 8), 0.0 if classes != 1 else MEANS[0], spread, names, "exact")
        objective = Objective(Mse(V, LABEL), UniformTime(LABEL))
        return Model(net, LABEL, objective, lam_min=-9.0, lam_max=12.0, data=data).eval()

    return build


@pytest.fixture
def archive(tmp_path):
    """archive(classes) -> the path of an .npz with 48 pictures 8x8, bright or dark halves."""

    def write(classes: int = 2):
        rng = np.random.default_rng(0)
        labels = np.arange(48) % max(classes, 1)
        images = rng.integers(0, 90, (48, 8, 8)) + 150 * labels[:, None, None]
        arrays = {"images": images.astype(np.uint8)}
        if classes:
            arrays |= {"labels": labels, "classes": np.array(["dark", "light"][:classes])}
        path = tmp_path / f"halves{classes}.npz"
        np.savez(path, **arrays)
        return path

    return write
