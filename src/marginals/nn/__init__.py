"""Backbones. They see a picture, a time label t in [0, 1] and a class; nothing of the theory.

Protocol: `backbone(x, t, cond=None) -> out` with x (B, C, H, W) or (B, D), t (B,), cond a (B,)
LongTensor or None, out shaped like x; `backbone.config` is a JSON-able dict that rebuilds it.
Networks with latents (`VectorLatents`, `GridLatents`) are the other kind: ladders are made of them.
"""

from .latent import VectorLatents
from .mlp import MLP
from .presets import LATENT_PRESETS, PRESETS
from .topdown import GridLatents
from .unet import UNet

__all__ = ["LATENT_PRESETS", "MLP", "PRESETS", "GridLatents", "UNet", "VectorLatents"]
