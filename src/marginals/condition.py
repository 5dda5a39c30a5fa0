"""What a model is told about a picture: one tensor, the batch first.

| condition            | tensor                  | says nothing   |
|----------------------|-------------------------|----------------|
| class labels         | integers (B,)           | −1             |
| states of text tokens| floats (B, T, D)        | all numbers 0  |

A token of zeros is padding, so captions of different lengths share one tensor; a picture whose
tokens are all padding has no text. Because a condition is a plain tensor, wrappers batch, repeat
and cut it without knowing its kind. What a network is told where the condition says nothing is
learned: a row of its class table, or a token (Ho & Salimans 2022, classifier-free guidance).
"""

import torch
from torch import Tensor

from .device import send
from .errors import MarginalsError


def null_like(cond: Tensor) -> Tensor:
    """A condition of the same kind and shape that says nothing."""
    return torch.zeros_like(cond) if cond.is_floating_point() else torch.full_like(cond, -1)


def hide(cond: Tensor, hidden: Tensor) -> Tensor:
    """The condition with nothing said where ``hidden`` (B,) is True."""
    rows = send(hidden, cond.device).reshape(-1, *[1] * (cond.ndim - 1))
    return torch.where(rows, null_like(cond), cond)


def join(conds: list[Tensor]) -> Tensor:
    """Conditions of several batches as one; texts are padded to the longest."""
    if not conds[0].is_floating_point():
        return torch.cat(conds)
    longest = max(cond.shape[1] for cond in conds)
    return torch.cat([pad(cond, longest) for cond in conds])


def pad(cond: Tensor, tokens: int) -> Tensor:
    """Text states (B, T, D) with padding up to ``tokens`` of them."""
    if cond.shape[1] > tokens:
        raise MarginalsError(f"A text of {cond.shape[1]} tokens does not fit into {tokens}.")
    return torch.nn.functional.pad(cond, (0, 0, 0, tokens - cond.shape[1]))
