"""The networks of an image codec: pictures to a small grid of latents, and back.

A variational autoencoder with one latent z of shape (C_z, S/f, S/f) that keeps the arrangement of
the picture (Rombach et al. 2022, "latent diffusion", first stage with KL regularisation). What is
learned on such latents costs f² fewer places than on pixels. As in :mod:`.pictures` nothing is
normalised: each number of z is then about its own neighbourhood only, and blocks of convolutions
alone are what processors are fastest at, twice as fast again in bfloat16 (`--precision bf16`).

Beside the layers there is one linear map each way, from every square of f x f pixels to its numbers
of z and back (the shortcuts of "DC-AE", Chen et al. 2025, with weights). The best linear codec is
known in closed form, the principal components of the squares: :func:`start_linear` begins there,
and the layers learn what is left.
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
        leave = shrink(nn.Conv2d(widths[-1], 2 * latents, 3, padding=1), 0.1)
        with torch.no_grad():
            leave.bias[latents:] = _NARROW  # pyright: ignore[reportOptionalSubscript]
        self.layers = nn.Sequential(*layers, nn.SiLU(), leave)
        self.factor = patch * 2 ** (len(widths) - 1)
        self.direct = nn.Conv2d(channels * self.factor**2, latents, 1)
        channels_last(self)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Labels are not looked at: a codec is about pictures of any class."""
        check_shape(x, self.shape)
        direct = self.direct(F.pixel_unshuffle(x, self.factor))
        x = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        mean, log_std = self.layers(x.contiguous(memory_format=torch.channels_last)).chunk(2, 1)
        out = torch.cat([mean + direct, log_std], 1)
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
        leave = shrink(nn.Conv2d(widths[0], channels * patch**2, 3, padding=1), 0.1)
        self.factor = patch * 2 ** (len(widths) - 1)
        self.direct = nn.Conv2d(latents, channels * self.factor**2, 1)
        self.layers = nn.Sequential(*layers, nn.SiLU(), leave)
        self.log_scale = nn.Parameter(torch.tensor(_FIRST_SCALE)) if params == 2 else None
        channels_last(self)

    def forward(self, z: Tensor) -> Tensor:
        mean = unfold(self.layers(z.contiguous(memory_format=torch.channels_last)), self.patch)
        mean = mean + unfold(self.direct(z), self.factor)
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


@torch.no_grad()
def start_linear(encoder: CodecEncoder, decoder: CodecDecoder, x: Tensor) -> None:
    """Set the linear maps to the principal components of the f x f squares of some pictures x,
    (B, C, S, S) in [-1, 1].

    With m the mean of the squares p, and w and V the largest eigenvalues and the eigenvectors of
    their covariance: z = w^(-1/2)·Vᵀ(p − m), of variance 1 and uncorrelated, and back
    p = m + V·w^(1/2)·z, the least squared error that a linear codec can have.
    """
    squares = F.pixel_unshuffle(x, encoder.factor).movedim(1, -1).flatten(0, -2).double()
    mean = squares.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((squares - mean).T))
    there, back = encoder.direct, decoder.direct
    count = min(there.out_channels, len(values))
    root = values[-count:].flip(0).clamp(min=1e-8).sqrt()
    basis = vectors[:, -count:].flip(1)
    assert there.bias is not None and back.bias is not None
    for parameter in (there.weight, there.bias, back.weight):
        nn.init.zeros_(parameter)
    there.weight[:count] = (basis / root).T[..., None, None].to(there.weight)
    there.bias[:count] = -(mean @ basis / root).to(there.bias)
    back.weight[:, :count] = (basis * root)[..., None, None].to(back.weight)
    back.bias.copy_(mean)
