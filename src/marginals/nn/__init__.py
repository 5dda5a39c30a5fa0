"""Backbones. They see a picture, a time label t in [0, 1] and a class; nothing of the theory.

Protocol: `backbone(x, t, cond=None) -> out` with x (B, C, H, W) or (B, D), t (B,), cond a (B,)
LongTensor or None, out shaped like x; `backbone.config` is a JSON-able dict that rebuilds it.
"""

from .mlp import MLP
from .presets import PRESETS
from .unet import UNet

__all__ = ["MLP", "PRESETS", "UNet"]
