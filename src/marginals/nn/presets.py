"""Networks that are known to work: `UNet(channels, size, num_classes=k, **PRESETS["demo"])`."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 32, "mults": [1, 2], "blocks": 1, "attention": [], "patch": 1},
    "demo": {"width": 32, "mults": [1, 2], "blocks": 1, "attention": [], "patch": 2},
    "small": {"width": 64, "mults": [1, 2], "blocks": 2, "attention": [], "patch": 2},
    "base": {"width": 96, "mults": [1, 2], "blocks": 2, "attention": [], "patch": 2},
}

_MODERN: dict[str, Any] = {"shared": True, "qk_norm": True, "rope": True, "swiglu": True}

DIT_PRESETS: dict[str, dict[str, Any]] = {
    "dit-demo": {"patch": 4, "width": 128, "depth": 6, "heads": 4, **_MODERN},
    "dit-fast": {"patch": 8, "width": 192, "depth": 6, "heads": 4, "skip": True, **_MODERN},
    "dit-small": {"patch": 2, "width": 192, "depth": 8, "heads": 6, **_MODERN},
    "dit-latent": {"patch": 1, "width": 256, "depth": 9, "heads": 4, **_MODERN},
    "dit-emoji": {
        "patch": 1, "width": 256, "depth": 4, "heads": 4, "mlp": 3.4, "guess": 1024, **_MODERN,
    },
}  # fmt: skip
"""Diffusion Transformers for processors; `DIT_SIZES` are the published ones. `dit-fast` is for
32x32 pixels in minutes: 16 tokens, and a skip because a patch has as many numbers as a token.
`dit-latent` and `dit-emoji` are for latents of 8x8; the second has a guess of texts."""

CLASSIFIER_PRESETS: dict[str, dict[str, Any]] = {
    "classifier": {"width": 32, "mults": [1, 2], "blocks": 1, "patch": 2},
    "classifier-small": {"width": 64, "mults": [1, 2], "blocks": 2, "patch": 2},
}
"""Classifiers of noisy pictures (:class:`.classifier.PictureClassifier`)."""

LATENT_PRESETS: dict[str, dict[str, Any]] = {
    "vae": {"kind": "vectors", "latents": [64], "widths": [32, 64], "blocks": 2, "patch": 2},
    "hvae": {
        "kind": "grids", "top": 16, "latents": [8, 8], "rungs": [1, 2], "widths": [32, 64],
        "blocks": 1, "patch": 2,
    },
    "markov": {
        "kind": "vectors", "latents": [64, 32, 16], "widths": [32, 64], "blocks": 2, "patch": 2,
    },
    "autoencoder": {"kind": "codec", "latents": 4, "widths": [32, 64], "blocks": [1, 2]},
    "autoencoder8": {
        "kind": "codec", "latents": 16, "widths": [32, 64, 128], "blocks": [1, 2, 2],
    },
    "map": {"kind": "vectors", "latents": [2], "widths": [32, 64], "blocks": 2, "patch": 2},
}  # fmt: skip
"""Networks with latents: "kind" is that of the class, the rest are its arguments. "vae" and "hvae"
are for ten minutes of one processor core (a second rung on the finest grid was still silent after
100,000 pictures: 0.0 nats), "markov" is Luo's ladder (Eqs. 23, 24), and "map" is a VAE with two
numbers, of which `marginals eval` draws a map (train it with --no-conditional). "autoencoder" makes
latents 4 times smaller than the pictures along each side, "autoencoder8" 8 times."""
