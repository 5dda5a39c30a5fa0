"""The networks of an image codec: pictures to a small grid of latents, and back.

A variational autoencoder with one latent z of shape (C_z, S/f, S/f) that keeps the arrangement of
the picture (Rombach et al. 2022, "latent diffusion", first stage with KL regularisation). What is
learned on such latents costs f² fewer places than on pixels. As in :mod:`.pictures` nothing is
normalised: each number of z is then about its own neighbourhood only, and blocks of convolutions
alone are what processors are fastest at, twice as fast again in bfloat16 (`--precision bf16`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError
from .latent import Law, posterior_law
from .pictures import Block, channels_last, check_counts, check_shape, shrink, sides, unfold

_NARROW = -2.0  # log_std of a fresh posterior, below that of `posterior_law`: z is mostly signal
_FIRST_SCALE = -3.0  # log of the spread that a fresh decoder claims, in pixels from -1 to 1


class CodecEncoder(nn.Module):
    """Pictures (B, C, S, S) to the numbers of q(z | x), (B, 2·latents, S/f, S/f)."""

    def __init__(
        self,
        channels: int,
        size: int,
        latents: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        patch: int,
    ) -> None:
        super().__init__()
        self.shape, self.patch = (channels, size, size), patch
        scale = max(sum(blocks), 1) ** -0.5
        layers: list[nn.Module] = [nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)]
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if i:
                layers += [nn.SiLU(), nn.Conv2d(widths[i - 1], width, 3, stride=2, padding=1)]
            layers += [Block(width, scale) for _ in range(count)]
        leave = shrink(nn.Conv2d(widths[-1], 2 * latents, 3, padding=1), 1.0)
        with torch.no_grad():
            leave.weight[latents:] *= 0.1
            leave.bias[latents:] = _NARROW  # pyright: ignore[reportOptionalSubscript]
        self.layers = nn.Sequential(*layers, nn.SiLU(), leave)
        channels_last(self)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Labels are not looked at: a codec is about pictures of any class."""
        check_shape(x, self.shape)
        x = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        out = self.layers(x.contiguous(memory_format=torch.channels_last))
        return out.to(torch.promote_types(out.dtype, torch.float32)).contiguous()


class CodecDecoder(nn.Module):
    """Latents (B, latents, S/f, S/f) to the numbers of p(x | z), (B, params·C, S, S).

    Of `params` = 2 numbers per pixel value, (location, log-spread), the second is one learned
    number for the whole data set (Rybkin et al. 2021, "σ-VAE"): the spread then settles at the
    size of the errors, and with it how much the KL weighs against them.
    """

    def __init__(
        self,
        channels: int,
        latents: int,
        params: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        patch: int,
    ) -> None:
        super().__init__()
        self.patch = patch
        scale = max(sum(blocks), 1) ** -0.5
        layers: list[nn.Module] = [nn.Conv2d(latents, widths[-1], 3, padding=1)]
        for i in reversed(range(len(widths))):
            layers += [Block(widths[i], scale) for _ in range(blocks[i])]
            layers += [Unfold(widths[i], widths[i - 1])] if i else []
        leave = nn.Conv2d(widths[0], channels * patch**2, 3, padding=1)
        self.layers = nn.Sequential(*layers, nn.SiLU(), leave)
        self.log_scale = nn.Parameter(torch.tensor(_FIRST_SCALE)) if params == 2 else None
        channels_last(self)

    def forward(self, z: Tensor) -> Tensor:
        mean = unfold(self.layers(z.contiguous(memory_format=torch.channels_last)), self.patch)
        mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
        if self.log_scale is None:
            return mean
        return torch.cat([mean, self.log_scale.to(mean).expand_as(mean)], dim=1)


class Unfold(nn.Module):
    """Twice the height and width: (B, a, H, W) to (B, b, 2H, 2W), every place by its own rule."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(a, 4 * b, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.mix(x), 2)


class GridRung(nn.Module):
    """The one rung: a grid z with the prior N(0, I). What the encoder said is the posterior."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(1, *shape), persistent=False)

    def prior(self, above: Any) -> Law:
        zero = self.zero
        assert isinstance(zero, Tensor)
        return zero, zero

    def posterior(self, evidence: Tensor, above: Any = None) -> Law:
        return posterior_law(evidence)

    def carry(self, z: Tensor, above: Any) -> Tensor:
        return z


class ImageCodec(nn.Module):
    """A KL autoencoder's networks: z has the shape (latents, size/f, size/f).

    channels, size  of the pictures (B, channels, size, size)
    params          numbers per pixel value that the decoder's law reads: 1, or 2 with one learned
                    spread for all pixels
    latents         channels of z
    widths          channels of the layers per grid, the finest first; each further grid is half as
                    fine, so f = patch·2^(len(widths) − 1)
    blocks          residual blocks per grid of the encoder, the finest first
    decoder_blocks  the same of the decoder; by default as `blocks`
    patch           side of the pixel squares folded into channels first

    `evidence`, `root`, `rungs` and `decode` are what `marginals.autoencoder` is made of.
    """

    kind: ClassVar[str] = "codec"
    posterior: ClassVar[str] = "top_down"

    def __init__(
        self,
        channels: int,
        size: int,
        params: int = 2,
        latents: int = 4,
        widths: Sequence[int] = (48, 96),
        blocks: Sequence[int] = (1, 2),
        decoder_blocks: Sequence[int] | None = None,
        patch: int = 2,
    ) -> None:
        super().__init__()
        decoder_blocks = blocks if decoder_blocks is None else decoder_blocks
        check_counts(latents=[latents], widths=widths, channels=[channels])
        check_counts(0, blocks=blocks, decoder_blocks=decoder_blocks)
        if not len(blocks) == len(decoder_blocks) == len(widths):
            raise MarginalsError(
                f"A codec with {len(widths)} widths needs as many numbers of blocks, not "
                f"{list(blocks)} and {list(decoder_blocks)}."
            )
        if params not in (1, 2):
            raise MarginalsError(
                "A codec says one location per pixel value, and at most one spread for all: use a "
                f"decoder that reads 1 or 2 numbers (logistic, gaussian), not {params}."
            )
        side = sides(size, len(widths), patch)[-1]
        self.shape = (latents, side, side)
        self.config: dict[str, Any] = {
            "channels": channels, "size": size, "params": params, "latents": latents,
            "widths": list(widths), "blocks": list(blocks),
            "decoder_blocks": list(decoder_blocks), "patch": patch,
        }  # fmt: skip
        self.root = None
        self.evidence = CodecEncoder(channels, size, latents, widths, blocks, patch)
        self.rungs = nn.ModuleList([GridRung(self.shape)])
        self.decode = CodecDecoder(channels, latents, params, widths, decoder_blocks, patch)
