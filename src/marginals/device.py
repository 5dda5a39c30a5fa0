"""Handing numbers to a device without waiting for it.

All randomness is drawn on the CPU, so that a seed gives the same picture everywhere; so every
training step sends noise, levels and indices to the device. A plain ``.to(device)`` waits until the
device has done all that it was told before; a copy that is only queued lets the program prepare
what comes next meanwhile.
"""

import torch
from torch import Tensor


def send(values: Tensor, to: torch.device | str | Tensor) -> Tensor:
    """``values`` on a device, or as another tensor is (device and type), as ``.to`` gives them.

    From the CPU the copy is only queued: torch has read the values when this returns, and whatever
    the device is told later comes after the copy. On the way back somebody must wait, since the
    CPU would read numbers that are not there yet; that is done here.
    """
    return values.to(to, non_blocking=values.device.type == "cpu")
