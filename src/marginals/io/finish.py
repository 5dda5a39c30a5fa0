"""Pictures on their way in and out of a model that draws: begun at, enlarged, cut out of white."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError
from torch import Tensor

from marginals.errors import MarginalsError
from marginals.io.pictures import from_uint8

__all__ = ["cut_out", "enlarge", "on_white", "read_mask", "read_picture"]

_WHITE = 12
"""Values from 255 down that still count as the white around a drawing."""


def read_picture(path: Path, channels: int, height: int, width: int) -> Tensor:
    """A picture file as a model of that shape sees it: (C, H, W) in [-1, 1], on white, the whole of
    it fitted into the square and not cut. Raises MarginalsError for what is no picture."""
    image = on_white(_opened(path))
    scale = min(width / image.width, height / image.height)
    small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", (width, height), "white")
    at = ((width - small[0]) // 2, (height - small[1]) // 2)
    canvas.paste(image.resize(small, Image.Resampling.LANCZOS), at)
    pixels = np.asarray(canvas if channels != 1 else canvas.convert("L"))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    x = from_uint8(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
    return torch.cat([x, torch.ones(1, height, width)]) if channels == 4 else x


def read_mask(path: Path, height: int, width: int) -> Tensor:
    """A black and white picture file as a mask (H, W), True where it is white. Raises
    MarginalsError for what is no picture, and for a mask that is all black."""
    image = on_white(_opened(path)).convert("L").resize((width, height), Image.Resampling.BOX)
    mask = torch.from_numpy(np.array(image)) >= 128
    if not mask.any():
        raise MarginalsError(f"{path} is black all over: paint white what is to be drawn")
    return mask


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise MarginalsError(f"there is no picture {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise MarginalsError(f"{path} cannot be read as a picture ({error})") from None


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
