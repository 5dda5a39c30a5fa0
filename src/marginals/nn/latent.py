"""The rungs of latent-variable networks: two laws each, as plain tensors.

A rung answers three questions (the protocol of :mod:`marginals.rung`, without its types): what is z
likely to be given what stands above it (`prior`), what is it given the picture as well
(`posterior`), and what is the rung below told (`carry`). Laws are pairs (mean, log_std). What a
KL is, and what law the picture has, is not known here; `marginals.autoencoders` makes the ladders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MarginalsError
from .embed import check_labels
from .pictures import ConvDecoder, ConvEncoder, Dense, MlpDecoder, MlpEncoder, check_counts, shrink

Law = tuple[Tensor, Tensor]
"""(mean, log_std) of independent Gaussian numbers."""

_SPAN = 4.0  # the log_std of a prior stays within ±4,
_WIDEST = 1.0  # that of a posterior below this, measured in stds of its prior
_FIRST = -1.0  # and starts here: a first posterior as wide as the prior says nothing, and a rung
# whose z is noise is soon ignored by all below it, for good
TOLD = 16  # numbers that name the class
_BETWEEN = 128  # width of the layers between two latent vectors


def prior_law(out: Tensor) -> Law:
    """A network's output as a law whose log_std stays within ±4."""
    mean, log_std = out.chunk(2, dim=1)
    return mean, _SPAN * torch.tanh(log_std / _SPAN)


def posterior_law(out: Tensor, prior: Law | None = None) -> Law:
    """A network's output as a posterior, told as the difference from the prior (Vahdat & Kautz
    2020, "residual normal"): mean + Δ·std, log_std + δ with δ < 1; from N(0, I) without a prior."""
    delta, narrower = out.chunk(2, dim=1)
    narrower = narrower + _FIRST
    narrower = narrower - F.softplus(narrower - _WIDEST)
    if prior is None:
        return delta, narrower
    mean, log_std = prior
    return mean + delta * log_std.exp(), log_std + narrower


class Classes(nn.Module):
    """The top of a ladder that knows classes: (batch, labels) to (batch, width); −1 and None are
    "no class"."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.3)

    def forward(self, batch: int, cond: Tensor | None = None) -> Tensor:
        if cond is None:
            return self.table.weight[-1].expand(batch, -1)
        check_labels(cond, self.num_classes)
        return self.table(torch.where(cond < 0, self.num_classes, cond))


class VectorRung(nn.Module):
    """A latent vector of a Markov ladder (Luo Eqs. 23, 24): z (B, latents).

    seen    numbers its posterior sees: features of the picture at the lowest rung, else the z below
    above   numbers of the z above; 0 at the top, where the prior is N(0, I)
    told    numbers that name the class; they are handed down beside z
    width   of the layers that look at what is seen; 0: those are features already
    """

    def __init__(
        self, latents: int, seen: int, above: int = 0, told: int = 0, width: int = 0
    ) -> None:
        super().__init__()
        self.latents, self.told = latents, told
        self.look = _perceptron(seen, width, 2 * latents, 1.0)
        self.guess = _perceptron(above + told, _BETWEEN, 2 * latents, 0.1) if above else None

    def prior(self, above: Tensor | None) -> Law:
        if self.guess is None or above is None:
            zero = next(self.look.parameters()).new_zeros(1, self.latents)
            return zero, zero
        return prior_law(self.guess(above))

    def posterior(self, evidence: Tensor, above: Tensor | None = None) -> Law:
        return posterior_law(self.look(evidence))

    def carry(self, z: Tensor, above: Tensor | None) -> Tensor:
        """z, and beside it what names the class."""
        if not self.told or above is None:
            return z
        return torch.cat([z, above[:, above.shape[1] - self.told :]], dim=1)


def _perceptron(inputs: int, width: int, outputs: int, scale: float) -> nn.Module:
    """One hidden block of `width`, or none if that is 0; the last layer times `scale`."""
    if not width:
        return shrink(nn.Linear(inputs, outputs), scale)
    last = shrink(nn.Linear(width, outputs), scale)
    return nn.Sequential(nn.Linear(inputs, width), Dense(width), nn.SiLU(), last)


class VectorLatents(nn.Module):
    """The networks of a VAE, or of a Markov hierarchical VAE: latents are vectors (Luo Eqs. 18-29).

    channels, size  of the pictures (B, channels, size, size)
    params          numbers per pixel value that the decoder's law reads
    latents         length of each latent, from the picture up: [64] is a VAE, [64, 32, 16] a ladder
    network         "conv" or "mlp": how pictures become vectors and back
    widths          "conv": channels per grid, the finest first; "mlp": [width]
    blocks          residual blocks per grid ("conv"), layers ("mlp"), either way
    patch           side of the pixel squares folded into channels first ("conv")
    num_classes     0 without classes

    `evidence`, `root`, `rungs` (from the top down) and `decode` are what a ladder is made of.
    """

    kind: ClassVar[str] = "vectors"
    posterior: ClassVar[str] = "bottom_up"

    def __init__(
        self,
        channels: int,
        size: int,
        params: int,
        latents: Sequence[int] = (64,),
        network: str = "conv",
        widths: Sequence[int] = (32, 64),
        blocks: int = 2,
        patch: int = 2,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if network not in ("conv", "mlp"):
            raise MarginalsError(f"The network is conv or mlp, not {network!r}.")
        check_counts(latents=latents, widths=widths, params=[params], channels=[channels])
        self.config: dict[str, Any] = {
            "channels": channels, "size": size, "params": params, "latents": list(latents),
            "network": network, "widths": list(widths), "blocks": blocks, "patch": patch,
            "num_classes": num_classes,
        }  # fmt: skip
        told = TOLD if num_classes else 0
        self.root = Classes(num_classes, told) if num_classes else None
        bottom, outputs = latents[0] + told, channels * params
        if network == "conv":
            self.evidence = ConvEncoder(channels, size, widths, blocks, patch)
            self.decode = ConvDecoder(bottom, outputs, size, widths, blocks, patch)
        else:
            self.evidence = MlpEncoder(channels, size, widths[0], blocks)
            self.decode = MlpDecoder(bottom, outputs, size, widths[0], blocks)
        rungs = []
        for i, count in enumerate(latents):
            above = latents[i + 1] if i + 1 < len(latents) else 0
            seen, width = (latents[i - 1], _BETWEEN) if i else (self.evidence.out, 0)
            rungs.append(VectorRung(count, seen, above, told, width))
        self.rungs = nn.ModuleList(reversed(rungs))
