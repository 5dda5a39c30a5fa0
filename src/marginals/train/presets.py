"""Settings that work together: for a budget of time, by kind of model, or for a task."""

from typing import Any

from marginals.errors import MarginalsError

__all__ = ["LADDERS", "LADDER_PRESETS", "PRESETS", "TASKS", "fitting", "preset", "presets"]

LADDERS = ("vae", "hvae", "autoencoder")
"""Models whose latents are learned; all others are diffusion models, whose latents are noise."""

# Budgets of time; the network grows with the time there is to train it (measured on two CPU cores;
# a GPU sees more images in the same time and may take a larger network).
PRESETS: dict[str, dict[str, Any]] = {
    "2min": {"minutes": 2, "network": "demo", "batch": 32, "lr": 4e-3, "decay": 0.6},
    "10min": {"minutes": 10, "network": "demo", "batch": 64, "lr": 2e-3},
    "1h": {"minutes": 60, "network": "small", "batch": 128, "lr": 1e-3},
    "overnight": {"minutes": 600, "network": "base", "batch": 128, "lr": 5e-4},
}

# The same budgets for VAEs, which bring their own networks (`marginals.nn.presets`). Without a KL
# warm-up the lower rungs of a short run fall silent before they have anything to say.
LADDER_PRESETS: dict[str, dict[str, Any]] = {
    "2min": {"minutes": 2, "batch": 32, "lr": 4e-3, "decay": 0.6, "kl_warmup": 8_000},
    "10min": {"minutes": 10, "batch": 32, "lr": 4e-3, "decay": 0.6, "kl_warmup": 20_000},
    "1h": {"minutes": 60, "batch": 64, "lr": 1e-3},
    "overnight": {"minutes": 600, "batch": 128, "lr": 5e-4},
}


# A single rung is all that its decoder knows of a picture: at a higher rate the rare pixels that it
# gets badly wrong can throw a run off its way (seen on MNIST; several rungs bear twice the rate).
_VAE: dict[str, Any] = {
    "2min": {"lr": 2e-3}, "10min": {"lr": 2e-3}, "1h": {}, "overnight": {},
}  # fmt: skip

# An autoencoder is to keep nearly all there is: at the full weight of the KL, single channels of
# its latent turn to noise (seen on Fashion-MNIST: two of four).
_AUTOENCODER: dict[str, Any] = {
    name: {"lr": lr, "kl_warmup": None, "beta": 0.01, "batch": batch}
    for name, lr, batch in (
        ("2min", 2e-3, 16), ("10min", 2e-3, 16), ("1h", 2e-3, 16), ("overnight", 1e-3, 64),
    )
}  # fmt: skip

# VDM learns faster: its loss has every level's right weight, and a schedule that lowers its noise.
_VDM: dict[str, Any] = {
    "2min": {"lr": 4e-3}, "10min": {"lr": 4e-3, "decay": 0.5}, "1h": {"lr": 2e-3},
    "overnight": {"lr": 1e-3},
}  # fmt: skip


# A classifier of noisy pictures has a small network that sees many pictures.
_CLASSIFIER: dict[str, Any] = {
    "2min": {"network": "classifier"}, "10min": {"network": "classifier"},
    "1h": {"network": "classifier-small"}, "overnight": {"network": "classifier-small"},
}  # fmt: skip

# What captioned pictures need, whatever the time: `bench/shapes.py` reports on the first. The emoji
# model of the package was trained with the second, in 7 minutes of one H200 GPU.
TASKS: dict[str, dict[str, Any]] = {
    "shapes": {
        "data": "shapes", "model": "flow", "network": "dit-fast", "precision": "bf16",
        "images": 40_000, "batch": 64, "lr": 4e-3, "decay": 0.6, "optimizer": "muon",
    },
    "emoji": {
        "data": "emoji", "size": 64, "model": "flow", "codec": "emoji", "network": "dit-emoji",
        "precision": "bf16", "optimizer": "muon", "guess_images": 5_000_000,
        "images": 14_000_000, "batch": 2048, "lr": 4e-3, "warmup": 50_000, "decay": 0.8,
        "ema_half_life": 200_000, "save_every": 204_800,
    },
}  # fmt: skip


def presets(model: str) -> dict[str, dict[str, Any]]:
    """The budgets by name, with the settings that suit this kind of model."""
    if model in ("vdm", "classifier"):
        also = _VDM if model == "vdm" else _CLASSIFIER
        return {name: preset | also[name] for name, preset in PRESETS.items()}
    if model in ("vae", "autoencoder"):
        own = _VAE if model == "vae" else _AUTOENCODER
        return {name: preset | own[name] for name, preset in LADDER_PRESETS.items()}
    return LADDER_PRESETS if model in LADDERS else PRESETS


def preset(name: str, model: str) -> dict[str, Any]:
    """The settings of a budget for a kind of model, or of a task."""
    if name in TASKS:
        return dict(TASKS[name])
    if name not in PRESETS:
        known = ", ".join((*PRESETS, *TASKS))
        raise MarginalsError(f"there is no preset {name!r}; choose one of {known}")
    return dict(presets(model)[name])


def fitting(model: str, minutes: float) -> dict[str, Any]:
    """The settings of the largest preset whose time fits into `minutes`, or of the smallest."""
    all_of_them = list(presets(model).values())
    small_enough = [preset for preset in all_of_them if preset["minutes"] <= minutes]
    return dict(small_enough[-1] if small_enough else all_of_them[0])
