"""A distance between pictures as an ImageNet network sees them: a loss for autoencoders.

After Zhang et al. 2018 (LPIPS, without its learned weights): the feature vectors of every place are
brought to length 1, and their squared differences averaged over places and summed over layers.
Pixels say where colours are; features say that an edge is an edge though it moved by half a pixel,
and that a blurred texture is none. The network is EfficientNet-Lite0 (:mod:`.efficientnet`), its
first stages only: they look at neighbourhoods of up to about 60 pixels.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from marginals.metrics.efficientnet import EfficientNetLite0

__all__ = ["FeatureLoss", "feature_distance"]

_TAPS = (0, 2, 4, 7)  # blocks whose output is compared: strides 2, 4, 8, 16
_EPSILON = 1e-6


class FeatureLoss:
    """(pictures, reconstructions) in [-1, 1] → `weight` times their feature distance, (B,).

    Not a module: its weights are no part of the model that is trained with it.
    """

    def __init__(self, weight: float, network: EfficientNetLite0 | None = None) -> None:
        self.weight = weight
        self.network = EfficientNetLite0.pretrained() if network is None else network

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.network.to(x.device)
        return self.weight * feature_distance(self.network, x, y)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureLoss":
        return copy.copy(self)  # copies of a model share the ImageNet network


def feature_distance(network: EfficientNetLite0, x: Tensor, y: Tensor) -> Tensor:
    """Mean over places and sum over layers of ‖f(x)/|f(x)| − f(y)/|f(y)|‖², (B,); 0 ≤ d ≤ 16."""
    with torch.no_grad():
        seen = _features(network, x)
    pairs = zip(seen, _features(network, y), strict=True)
    return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


def _features(network: EfficientNetLite0, x: Tensor) -> list[Tensor]:
    h = torch.nn.functional.relu6(network.stem(_as_trained(x)))
    found = []
    for i, block in enumerate(network.blocks[: _TAPS[-1] + 1]):
        h = block(h)
        if i in _TAPS:
            f = h.float()
            found.append(f / (f.square().sum(1, keepdim=True) + _EPSILON).sqrt())
    return found


def _as_trained(x: Tensor) -> Tensor:
    """Pictures (B, 1|3|4, H, W) in [-1, 1] as the network wants them: RGB, (u − 127)/128 of 0..255;
    transparent ones on white."""
    if x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    elif x.shape[1] == 4:
        alpha = 0.5 * (x[:, 3:] + 1.0)
        x = x[:, :3] * alpha + (1.0 - alpha)
    x = (127.5 * x + 0.5) / 128.0
    return x.contiguous(memory_format=torch.channels_last)
