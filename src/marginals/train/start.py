"""Beginning with the weights of another model: fine-tuning, and moving to other pictures."""

import torch

from marginals.errors import MarginalsError
from marginals.generative import Generative
from marginals.io.checkpoint import load_model
from marginals.io.shipped import find

__all__ = ["take_over"]


def take_over(model: Generative, start: str) -> str:
    """Copy into `model` every weight of the model `start` (a run, a file, or one that comes with
    marginals) whose name and shape it shares; a sentence about how many those were.

    Inside a latent model it is the model of the latents that is filled, from another one of latents
    or of pictures: what differs are the layers that meet them. The rest keeps its first values.
    Raises MarginalsError when nothing fits.
    """
    theirs = {_inner(k): v for k, v in load_model(find(start)).state_dict().items()}
    mine = {_inner(k): v for k, v in model.state_dict().items() if not k.startswith("codec.")}
    fit = [k for k, v in mine.items() if k in theirs and theirs[k].shape == v.shape]
    if not fit:
        raise MarginalsError(
            f"no weight of {start} fits into this model; start from one with the same network"
        )
    with torch.no_grad():
        for name in fit:
            mine[name].copy_(theirs[name])
    taken, all_of_them = (sum(mine[k].numel() for k in names) for names in (fit, mine))
    return f"starting with {taken / all_of_them:.0%} of the weights from {start}"


def _inner(name: str) -> str:
    return name.removeprefix("inner.")
