"""From a configuration and the data to an untrained model."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from marginals.classifier import NoisyClassifier
from marginals.codec import Autoencoder
from marginals.coupling import MinibatchOT
from marginals.data.captioned import captions_of
from marginals.data.order import permutation
from marginals.data.pictures import PictureSource
from marginals.errors import MarginalsError
from marginals.generative import DataStats, Generative
from marginals.io.registry import decoder, factory, ladder, latents
from marginals.ladder import Ladder
from marginals.latent import Latent, walked
from marginals.metrics.perceptual import FeatureLoss
from marginals.nn import DIT_PRESETS, LATENT_PRESETS, MLP, PRESETS, DiT, ImageCodec, UNet
from marginals.nn.classifier import PictureClassifier
from marginals.nn.presets import CLASSIFIER_PRESETS
from marginals.pixels import to_float
from marginals.rung import KlObjective
from marginals.train.config import TrainConfig
from marginals.train.latents import load_codec
from marginals.train.presets import LADDERS
from marginals.train.students import learn_from

__all__ = ["build_model", "data_stats", "look_at"]

_MEASURED = 10_000  # pictures whose mean and standard deviation stand for all

# What a model asks of its network beyond the preset: VDM must tell one pixel value from the next,
# Improved DDPM says a variance too.
_ALSO: dict[str, dict[str, Any]] = {
    "vdm": {"fourier": [0, 1, 2, 3, 4, 5, 6, 7, 8]},
    "iddpm": {"outputs": 2},
}


def data_stats(source: PictureSource, conditional: bool = True, text: str = "") -> DataStats:
    """Shape, classes, mean and standard deviation of the pictures (in [-1, 1]), and the name of
    the encoder of their texts, if they have any."""
    x = to_float(_some(source, _MEASURED)).double()
    return DataStats(
        shape=tuple(source.shape),
        mean=float(x.mean()),
        std=max(float(x.std()), 1e-3),
        classes=tuple(source.classes) if conditional else (),
        name=source.name,
        text=text if conditional and captions_of(source) else "",
    )


def build_model(config: TrainConfig, stats: DataStats) -> Generative:
    """The untrained model of a configuration; its first weights depend on `config.seed` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.model in LADDERS:
            return _ladder(config, stats)
        if config.model == "classifier":
            return _classifier(config, stats)
        if config.teacher is not None:
            return learn_from(config, stats)
        model = _diffusion(config, stats)
        if config.coupling == "ot" and (inside := walked(model)) is not None:
            inside.coupling = MinibatchOT()
        return model


def _diffusion(config: TrainConfig, stats: DataStats) -> Generative:
    if config.codec is not None:
        return _latent(config, stats)
    return factory(config.model)(_network(config, stats), data=stats)


def _ladder(config: TrainConfig, stats: DataStats) -> Ladder:
    if (
        config.model == "autoencoder"
    ):  # its latents are told nothing, and serve pictures of any kind
        stats = replace(stats, classes=(), text="")
    law = decoder(config.decoder or ("logistic" if config.model == "autoencoder" else "mixture"))
    preset = dict(_preset(LATENT_PRESETS, config.network or config.model))
    kind = latents(preset.pop("kind"))
    fixed = _fixed(stats) | {"params": law.params}
    if kind is ImageCodec:
        del fixed["num_classes"]
    network = _construct(kind, fixed, preset, config)
    options = {"beta": config.beta, "free_bits": config.free_bits, "warmup": config.kl_warmup}
    objective = KlObjective(**{name: x for name, x in options.items() if x is not None})
    model = ladder(config.model)(network, decoder=law, objective=objective, data=stats)
    if config.feature_loss is not None and isinstance(model, Autoencoder):
        model.perceptual = FeatureLoss(config.feature_loss)
    return model


def _classifier(config: TrainConfig, stats: DataStats) -> NoisyClassifier:
    if len(stats.classes) < 2:
        raise MarginalsError(
            f"a classifier needs pictures of two classes or more, and {stats.name} has "
            f"{len(stats.classes) or 'none'}: of a folder, the sub-folders are the classes"
        )
    preset = _preset(CLASSIFIER_PRESETS, config.network or "classifier")
    return NoisyClassifier(
        _construct(PictureClassifier, _fixed(stats), preset, config),
        data=replace(stats, text=""),
    )


def _latent(config: TrainConfig, stats: DataStats) -> Latent:
    """A diffusion model over the latents of the codec."""
    assert config.codec is not None
    codec = load_codec(config.codec, config.out)
    known = codec.pictures.shape if codec.pictures else stats.shape
    if tuple(known) != tuple(stats.shape):
        raise MarginalsError(
            f"{config.codec} knows pictures of shape {tuple(known)}, but those of {stats.name} are "
            f"{tuple(stats.shape)}; give the size it was trained at, or train another autoencoder"
        )
    inside = replace(stats, shape=codec.shape, mean=0.0, std=1.0)
    inner = factory(config.model)(_network(config, inside), data=inside)
    return Latent(codec, inner, stats)


def _network(config: TrainConfig, stats: DataStats) -> nn.Module:
    name = config.network or ("dit-latent" if config.codec else "demo")
    if name == "mlp":
        fixed = {"dim": math.prod(stats.shape), "num_classes": len(stats.classes)}
        return _construct(MLP, fixed, {}, config)
    preset = dict(_preset(PRESETS | DIT_PRESETS | {"mlp": {}}, name))
    also = {
        k: v for k, v in _ALSO.get(config.model, {}).items() if k == "outputs" or name in PRESETS
    }
    told = _text_width(stats)
    if not told:
        preset.pop("guess", None)
    kind = DiT if name in DIT_PRESETS else UNet
    return _construct(kind, _fixed(stats) | told, preset | also, config)


def _text_width(stats: DataStats) -> dict[str, Any]:
    """How wide the states are that the network is told, if it is told texts."""
    if not stats.text:
        return {}
    from marginals.text import encoder

    return {"text_width": encoder(stats.text).width}


def _preset(table: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    if name not in table:
        raise MarginalsError(
            f"there is no network preset {name!r} for this model; choose one of {', '.join(table)}"
        )
    return table[name]


def _fixed(stats: DataStats) -> dict[str, Any]:
    """What the pictures decide about a network for squares."""
    channels, height, width = stats.shape
    if height != width:
        raise MarginalsError(
            f"the pictures are {width}x{height}, but the network takes squares; give a size"
        )
    return {"channels": channels, "size": height, "num_classes": len(stats.classes)}


def _construct(
    kind: type[nn.Module], fixed: dict[str, Any], preset: dict[str, Any], config: TrainConfig
) -> nn.Module:
    try:
        return kind(**(preset | config.network_options | fixed))
    except TypeError as error:
        reason = str(error).split("() ")[-1]
        raise MarginalsError(f"network_options do not fit a {kind.__name__}: {reason}") from None


def look_at(source: PictureSource, batch: int, conditional: bool) -> list[str]:
    """Warnings about the range and the variety of some pictures, before hours are spent on them.

    Raises MarginalsError when there is nothing to learn: no pictures, or all of them the same.
    """
    if len(source) == 0:
        raise MarginalsError(f"{source.name} holds no pictures to train on")
    pixels = _some(source, 512).flatten(1)
    if len(source) > 1 and bool((pixels == pixels[0]).all()):
        raise MarginalsError(
            f"all pictures of {source.name} are the same; there is nothing to learn"
        )
    found: list[str] = []
    low, high = int(pixels.min()), int(pixels.max())
    if high - low < 32:
        found.append(
            f"the pictures only use the values {low} to {high} of 0 to 255, so they are nearly "
            "invisible; were they divided by 255 before they were saved?"
        )
    if flat := int((pixels.amin(1) == pixels.amax(1)).sum()):
        found.append(f"{flat} of {len(pixels)} pictures looked at are one single colour")
    if conditional and len(source.classes) == 1:
        found.append(f"there is only one class ({source.classes[0]}), so labels teach nothing")
    if len(source) < batch:
        found.append(
            f"there are only {len(source)} pictures, fewer than a batch of {batch}; the model will "
            "learn them by heart"
        )
    return found


def _some(source: PictureSource, count: int) -> torch.Tensor:
    """Up to `count` pictures, spread over the whole source, always the same ones."""
    chosen = permutation(len(source), 0, 0)[:count].copy()
    return source.batch(torch.from_numpy(chosen))[0]
