"""The map that a VAE with two latent numbers has drawn of its data, as one PNG."""

import io
import os
from typing import TYPE_CHECKING

from marginals.errors import MarginalsError
from marginals.io.atomic import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from torch import Tensor

    from marginals.generative import Generative
    from marginals.ladder import Ladder

__all__ = ["encode", "grid", "has_map", "latent_map"]


def latent_map(
    ladder: "Ladder",
    path: str | os.PathLike[str],
    x: "Tensor",
    labels: "Tensor | None" = None,
    *,
    cond: int | None = None,
    side: int = 20,
) -> None:
    """Draw the latent plane twice, in the same coordinates, and write it to `path`.

    Left: what the decoder makes of side x side places that cut the prior N(0, I) into equal shares.
    Right: where the encoder puts the held-out pictures `x` (uint8, or floats in [-1, 1]), coloured
    by `labels`. Both axes are shares of the prior, Φ(z): if pictures as a whole follow the prior,
    the points fill the square evenly. `cond`: the class to decode, for a ladder that knows classes;
    one that does keeps the class out of z, so train without classes to see where each of them lies.

    Raises MarginalsError for ladders with more than one latent, or one of other than 2 numbers.
    """
    import torch

    tiles = grid(ladder, side, cond)
    if labels is not None and not bool((labels >= 0).any()):
        labels = None
    place = torch.special.ndtr(encode(ladder, x).double()).cpu().numpy()
    names = ladder.data.classes if ladder.data is not None else ()
    write_bytes(path, _draw(tiles, place, None if labels is None else labels.cpu().numpy(), names))


def encode(ladder: "Ladder", x: "Tensor") -> "Tensor":
    """The mean of q(z | x) for every picture, (B, 2)."""
    _check(ladder)
    return ladder.encode(x.to(ladder.device))[0].posterior.mean


def grid(ladder: "Ladder", side: int, cond: int | None = None) -> "Tensor":
    """The decoder's mean pictures over the quantiles of the prior, (side, side, C, H, W); the first
    row is the top of the map: its second number is the largest."""
    import torch

    _check(ladder)
    share = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    z = torch.special.ndtri(share).to(ladder.dtype)
    up, right = torch.meshgrid(z.flip(0), z, indexing="ij")
    points = torch.stack([right, up], -1).reshape(-1, 2).to(ladder.device)
    return ladder.pictures([points], cond).unflatten(0, (side, side))


def has_map(model: "Generative") -> bool:
    """Whether this is a VAE whose one latent has 2 numbers."""
    from marginals.ladder import Ladder

    two = {"kind": "vectors", "latents": [2]}
    return isinstance(model, Ladder) and two.items() <= model.recipe.items()


def _check(ladder: "Ladder") -> None:
    """Refuse what has no map in the plane."""
    if not has_map(ladder):
        raise MarginalsError(
            "Only a VAE whose one latent has 2 numbers has a map in the plane: build its network "
            "with latents=[2]."
        )


def _draw(
    tiles: "Tensor",
    place: "NDArray[np.float64]",
    labels: "NDArray[np.int64] | None",
    names: tuple[str, ...],
) -> bytes:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MarginalsError(
            "plots need matplotlib; install it with: pip install 'marginals[plots]'"
        ) from error
    figure = Figure(figsize=(13.2, 6.6), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    left, right = figure.subplots(1, 2)
    left.set_title("What the decoder makes of every place", fontsize=12)
    _mosaic(left, tiles)
    right.set_title(f"Where the encoder puts {len(place):,} held-out pictures", fontsize=12)
    _scatter(right, place, labels, names)
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        shares = (0.0, 0.16, 0.5, 0.84, 1.0)
        marks = ("−∞", "−1", "0", "1", "∞")  # Φ(±1) = 0.84, 0.16
        axes.set_xticks(shares, marks)
        axes.set_yticks(shares, marks)
        axes.set_xlabel("first number of z (equal widths are equally likely)", fontsize=11)
        axes.set_ylabel("second number of z", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _mosaic(axes: "Axes", tiles: "Tensor") -> None:
    """(side, side, C, H, W) pictures, a dark gap around each, as one that fills the unit square."""
    from torch.nn import functional as F

    gap = max(1, tiles.shape[-1] // 16)
    tiles = F.pad(tiles, (gap, gap, gap, gap), value=-1.0)
    side, _, channels, height, width = tiles.shape
    whole = tiles.permute(0, 3, 1, 4, 2).reshape(side * height, side * width, channels)
    whole = ((whole.float().cpu() + 1.0) / 2.0).clamp(0.0, 1.0).numpy()
    gray = channels == 1
    axes.imshow(
        whole[..., 0] if gray else whole, cmap="gray" if gray else None, extent=(0, 1, 0, 1),
        vmin=0, vmax=1, interpolation="nearest",
    )  # fmt: skip


def _scatter(
    axes: "Axes",
    place: "NDArray[np.float64]",
    labels: "NDArray[np.int64] | None",
    names: tuple[str, ...],
) -> None:
    from matplotlib import colormaps

    axes.set_facecolor("#f6f6f6")
    if labels is None:
        axes.scatter(place[:, 0], place[:, 1], s=7, color="#0072B2", alpha=0.6, lw=0)
        return
    colours = colormaps["tab10" if labels.max() < 10 else "turbo"]
    last = max(int(labels.max()), 9)
    for label in sorted({int(v) for v in labels}):
        mine = place[labels == label]
        name = names[label] if 0 <= label < len(names) else f"class {label}"
        axes.scatter(
            mine[:, 0], mine[:, 1], s=9, color=colours(label / last), alpha=0.75, lw=0, label=name
        )
    axes.legend(fontsize=9, markerscale=2.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
