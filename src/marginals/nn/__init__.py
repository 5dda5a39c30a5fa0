"""Backbones. They see a picture, a time label t in [0, 1], a class or text; nothing of the theory.

Protocol: `backbone(x, t, cond=None) -> out` with x (B, C, H, W) or (B, D), t (B,), cond a (B,)
LongTensor, states (B, T, D) of text tokens, or None, out shaped like x; `backbone.config` is a
JSON-able dict that rebuilds it.
Networks with latents (`VectorLatents`, `GridLatents`) are the other kind: ladders are made of them.
"""

from .adm import ADM
from .codec import ImageCodec
from .dit import DIT_SIZES, DiT
from .latent import VectorLatents
from .mlp import MLP
from .presets import DIT_PRESETS, LATENT_PRESETS, PRESETS
from .topdown import GridLatents
from .unet import UNet

__all__ = [
    "ADM",
    "DIT_PRESETS",
    "DIT_SIZES",
    "LATENT_PRESETS",
    "MLP",
    "PRESETS",
    "DiT",
    "GridLatents",
    "ImageCodec",
    "UNet",
    "VectorLatents",
]
