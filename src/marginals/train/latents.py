"""Training on the latents of an autoencoder: pictures are encoded once, and kept in memory."""

import os
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from tqdm import tqdm

from marginals.codec import Autoencoder, LadderCodec
from marginals.data.captioned import captions_of
from marginals.data.pictures import PictureSource, pick, pick_labels
from marginals.data.report import FolderReport
from marginals.errors import MarginalsError
from marginals.generative import Generative
from marginals.io.checkpoint import load_model
from marginals.io.shipped import find
from marginals.latent import Latent
from marginals.nn.codec import CodecDecoder, CodecEncoder, start_linear
from marginals.pixels import to_float

__all__ = ["Encoded", "begin", "encoded", "load_codec", "measure"]

_BATCH = 128
_MEASURED = 2048  # pictures whose latents' statistics stand for all


def load_codec(
    path: str | os.PathLike[str], run: str | os.PathLike[str] | None = None
) -> LadderCodec:
    """The codec of an autoencoder or of a latent model: a run, a model file, or the name of a model
    that comes with marginals. If it is no longer there, the one in the model file of the `run`
    that was trained with it."""
    copy = Path(run) / "model.safetensors" if run is not None else None
    gone = not Path(path).exists() and copy is not None and copy.is_file()
    model = load_model(copy if gone and copy is not None else find(path))
    if isinstance(model, Autoencoder):
        return model.codec()
    if isinstance(model, Latent):
        return cast(LadderCodec, model.codec)
    raise MarginalsError(
        f"{path} is no autoencoder; train one with `marginals train --model autoencoder`"
    )


def measure(model: Generative, source: PictureSource) -> None:
    """Bring the statistics of an autoencoder's latents up to date with its weights."""
    if isinstance(model, Autoencoder):
        model.measure(_some(source))


def begin(model: Generative, source: PictureSource) -> None:
    """Let a fresh autoencoder begin as the best linear one for these pictures."""
    if isinstance(model, Autoencoder) and isinstance(model.evidence, CodecEncoder):
        assert isinstance(model.decode, CodecDecoder)
        start_linear(model.evidence, model.decode, to_float(_some(source)))


def _some(source: PictureSource) -> Tensor:
    chosen = torch.linspace(0, len(source) - 1, min(len(source), _MEASURED)).long()
    return source.batch(chosen)[0]


class Encoded:
    """The latents of another source's pictures in their place, float32, with its labels; pictures
    are those of a `PictureSource` in everything else."""

    flip = False  # the latents of a mirrored picture are not mirrored latents

    def __init__(self, source: PictureSource, latents: Tensor) -> None:
        self.source, self.latents = source, latents
        self.name, self.note = source.name, source.note
        self.classes, self.labels = source.classes, source.labels
        self.captions, self.styles = captions_of(source), getattr(source, "styles", ())

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shape(self) -> tuple[int, int, int]:
        return cast(tuple[int, int, int], tuple(self.latents.shape[1:]))

    @property
    def report(self) -> FolderReport | None:
        return self.source.report

    def near(self, device: torch.device, limit: int) -> "Encoded":
        """The same with the latents on the device, if they take at most `limit` bytes."""
        if device.type == "cpu" or self.latents.nbytes > limit:
            return self
        return Encoded(self.source, self.latents.to(device))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return pick(self.latents, indices), pick_labels(self.labels, indices)

    def ahead(self, indices: Tensor) -> None:
        """Nothing to prepare: the latents are in memory."""

    def subset(self, indices: Tensor) -> "Encoded":
        return Encoded(self.source.subset(indices), self.latents[indices])


def encoded(
    source: PictureSource, model: Generative, device: torch.device, *, progress: bool = False
) -> PictureSource:
    """The same source for any model but a latent one; for that, its pictures encoded."""
    if not isinstance(model, Latent):
        return source
    cast(torch.nn.Module, model.codec).to(device)
    parts = torch.arange(len(source)).split(_BATCH)
    off = None if progress else True
    bar = tqdm(parts, desc="encoding", unit_scale=_BATCH, unit=" pictures", disable=off)
    latents = [model.encode(source.batch(part)[0].to(device)).float().cpu() for part in bar]
    return Encoded(source, torch.cat(latents))
