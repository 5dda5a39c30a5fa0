"""Run by test_ranks: a tiny training run, alone or as one of several processes.

The loss has no noise of its own (each process draws its own noise in a real run), so the gradient
averaged over processes can be compared with the gradient of the whole batch.
"""

import sys

import torch

import marginals
from marginals.models import DataStats, Model
from marginals.nn import MLP
from marginals.train import TrainConfig, train


class Noiseless(Model):
    def losses(self, x, cond=None, generator=None):
        x = x.float() / 127.5 - 1
        lam = x.new_zeros(len(x))
        return self.objective(self.net, x, lam, x.flip(-1), cond), lam


def main(folder: str) -> None:
    torch.manual_seed(0)
    plain = marginals.vdm(MLP(64, width=16, depth=1), data=DataStats((1, 8, 8)))
    ends = {"lam_min": plain.lam_min, "lam_max": plain.lam_max}
    model = Noiseless(plain.net, plain.schedule, plain.objective, **ends, data=plain.data)
    config = TrainConfig(
        data="digits", images=320, batch=32, conditional=False, sample_every=0,
        threads=1, out=folder,
    )  # fmt: skip
    train(config, model=model, on_event=lambda event: None)


if __name__ == "__main__":
    main(sys.argv[1])
