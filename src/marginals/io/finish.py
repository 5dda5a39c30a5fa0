"""What becomes of a drawn picture before it is kept: enlarged, cut out of its white ground."""

import numpy as np
from PIL import Image, ImageDraw

from marginals.errors import MarginalsError

__all__ = ["cut_out", "enlarge", "on_white"]

_WHITE = 12
"""Values from 255 down that still count as the white around a drawing."""


def enlarge(image: Image.Image, size: int) -> Image.Image:
    """The picture with a longer side of ``size`` pixels, by Lanczos' resampler: nothing is added
    to what the model drew."""
    if size < 1:
        raise MarginalsError(f"A picture cannot be {size} pixels large.")
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def cut_out(image: Image.Image) -> Image.Image:
    """The drawing without the white around it: RGBA, transparent where white reaches the border.

    White inside the drawing stays. At the edge of the drawing, where a pixel is a mixture
    c = a·ink + (1 − a)·white, the ink is taken to be as dark as the mixture allows; laid on white,
    the result is the picture it was made of.
    """
    rgb = image.convert("RGB")
    framed = Image.new("RGB", (rgb.width + 2, rgb.height + 2), "white")
    framed.paste(rgb, (1, 1))
    mark = (1, 254, 3)
    ImageDraw.floodfill(framed, (0, 0), mark, thresh=3 * _WHITE)
    outside = (np.asarray(framed) == mark).all(-1)
    near = _grown(_grown(outside))[1:-1, 1:-1]
    pixels = np.asarray(rgb).astype(np.float64) / 255
    cover = np.where(near, 1.0 - pixels.min(-1), 1.0)
    cover = np.where(outside[1:-1, 1:-1], 0.0, np.round(cover * 255) / 255)
    share = np.maximum(cover, 1e-9)[..., None]
    ink = np.clip((pixels - (1.0 - cover[..., None])) / share, 0.0, 1.0)
    return Image.fromarray(np.round(np.dstack([ink, cover]) * 255).astype(np.uint8))


def on_white(image: Image.Image) -> Image.Image:
    """Any picture as RGB, what is transparent on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return image.convert("RGB")


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask and the four neighbours of its places."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown
