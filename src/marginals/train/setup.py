"""Putting a run together: data, model, optimiser, average, feed."""

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import marginals.data
from marginals.data.augment import Augment
from marginals.data.builtin import BUILTIN
from marginals.data.captioned import Captioned, captions_of
from marginals.data.fetch import REMOTES
from marginals.data.pictures import Pictures, PictureSource
from marginals.data.stream import StreamingFolder
from marginals.errors import MarginalsError
from marginals.generative import Generative
from marginals.latent import walked
from marginals.train.build import build_model, data_stats
from marginals.train.config import TrainConfig
from marginals.train.engine import Engine
from marginals.train.feed import Feed
from marginals.train.latents import begin, encoded

if TYPE_CHECKING:
    from marginals.train.captions import Captions

__all__ = [
    "absolute",
    "compile_backbone",
    "fingerprint",
    "make_feed",
    "make_model",
]

_LOOKED_AT = 4096  # pictures of an unknown kind of source that stand for all


def absolute(data: str) -> str:
    """A path in full, so that it is found from every working directory; a name as it is."""
    path = Path(data).expanduser()
    if data in BUILTIN or data in REMOTES or not path.exists():
        return data
    return str(path.resolve())


def load_source(config: TrainConfig) -> PictureSource:
    """The training part of the data; the held-out part is left for `eval`."""
    return marginals.data.load(config.data, size=config.size)[0]


def make_model(config: TrainConfig, source: PictureSource, model: Generative | None) -> Generative:
    """The given model, told the statistics of its data if it has none; or a new one."""
    if model is None:
        model = build_model(config, data_stats(source, config.conditional, config.text))
        begin(model, source)
        return model
    if model.data is None:
        model.data = data_stats(source, config.conditional, config.text)
    if tuple(model.data.shape) != tuple(source.shape):
        raise MarginalsError(
            f"the model makes pictures of shape {tuple(model.data.shape)}, but those of "
            f"{source.name} are {tuple(source.shape)}"
        )
    return model


def make_feed(
    config: TrainConfig, source: PictureSource, model: Generative, engine: Engine
) -> Feed:
    """Batches for this process. Raises MarginalsError when they cannot be shared out evenly."""
    if config.batch % engine.world:
        raise MarginalsError(
            f"a batch of {config.batch} cannot be shared evenly by {engine.world} processes; use a "
            "multiple"
        )
    told = bool(model.data and (model.data.classes or model.data.text))
    pictures, source = source, encoded(source, model, engine.device, progress=engine.is_main)
    return Feed(
        source,
        batch=config.batch,
        seed=config.seed,
        augment=Augment(flip=source.flip if config.flips is None else config.flips),
        conditional=told and config.conditional,
        captions=_captions(config, pictures, model),
        label_dropout=config.label_dropout,
        device=engine.device,
        rank=engine.rank,
        world=engine.world,
    )


def _captions(config: TrainConfig, source: PictureSource, model: Generative) -> "Captions | None":
    """What the pictures say, encoded, for a model that is told texts."""
    if not (config.conditional and model.data and model.data.text):
        return None
    if not (captions := captions_of(source)):
        raise MarginalsError(
            f"the model is told texts, but the pictures of {source.name} have none; train it on "
            "captioned pictures, or give --no-conditional"
        )
    from marginals.text import encoder
    from marginals.train.captions import Captions

    return Captions(captions, encoder(model.data.text))


def fingerprint(source: PictureSource) -> dict[str, int]:
    """Enough about the data to notice that it has changed: {"count", "crc32"}.

    The checksum covers every stored byte and label of pictures in memory. Of pictures that stay in
    their files it covers the names, sizes and dates of all of them, which takes no decoding. Of
    other sources it covers 4096 pictures, evenly spread.
    """
    crc = zlib.crc32(repr(tuple(source.shape)).encode())
    if isinstance(source, Pictures | Captioned):
        crc = zlib.crc32(_bytes(source.images), crc)
    elif isinstance(source, StreamingFolder):
        for stamp in source.stamps():
            crc = zlib.crc32(repr(stamp).encode("utf-8", "surrogateescape"), crc)
    else:
        n = min(len(source), _LOOKED_AT)
        for chosen in torch.linspace(0, len(source) - 1, n).round().long().split(256):
            crc = zlib.crc32(_bytes(source.batch(chosen)[0]), crc)
    if source.labels is not None:
        crc = zlib.crc32(_bytes(source.labels), crc)
    if captions := captions_of(source):
        crc = zlib.crc32(repr(captions).encode("utf-8", "surrogatepass"), crc)
    return {"count": len(source), "crc32": crc}


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().numpy().reshape(-1).view("uint8").data


def compile_backbone(model: Generative, feed: Feed, engine: Engine) -> str | None:
    """Compile the network in place; on failure leave it as it was and say why in a sentence."""
    if (walk := walked(model)) is None:
        return "torch.compile is for the one network of a diffusion model; training goes on without"
    backbone = walk.net.backbone
    backbone.compile()
    try:
        batch = feed(0)
        losses, _ = engine.losses(batch.x, batch.cond, batch.generator)
        losses.mean().backward()
    except Exception as error:  # torch.compile fails in as many ways as there are compilers
        backbone._compiled_call_impl = None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return f"torch.compile does not work here ({reason}); training goes on without it"
    finally:
        model.zero_grad(set_to_none=True)
    return None
