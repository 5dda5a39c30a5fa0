"""Pictures on their way in and out of a model: set right, begun at, enlarged, cut out of white."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from torch import Tensor

from marginals.errors import MarginalsError
from marginals.io.pictures import from_uint8

__all__ = [
    "cut_out", "eight_bits", "enlarge", "has_alpha", "on_white", "orientation", "read_mask",
    "read_picture", "upright",
]  # fmt: skip

ALPHA_MODES = frozenset(("LA", "La", "PA", "RGBA", "RGBa"))

_WHITE = 12
"""How far below 255 each channel of the white around a drawing may be."""


def read_picture(path: Path, channels: int, height: int, width: int) -> Tensor:
    """A picture file as a model of that shape sees it: (C, H, W) in [-1, 1], on white, the whole of
    it fitted into the square and not cut. Raises MarginalsError for what is no picture."""
    image = on_white(_opened(path))
    canvas = _fitted(image, (width, height), "white", Image.Resampling.LANCZOS)
    pixels = np.array(canvas if channels != 1 else canvas.convert("L"))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    x = from_uint8(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
    return torch.cat([x, torch.ones(1, height, width)]) if channels == 4 else x


def read_mask(path: Path, height: int, width: int) -> Tensor:
    """A black and white picture file as a mask (H, W), True where it is white.

    It is fitted into the square as `read_picture` fits, so a mask painted over a photo lies on what
    it was painted over; what is transparent, and the bars beside it, are black: they stay. Raises
    MarginalsError for what is no picture, and for a mask that is all black.
    """
    image = _laid_on("black", _opened(path)).convert("L")
    image = _fitted(image, (width, height), "black", Image.Resampling.BOX)
    mask = torch.from_numpy(np.array(image)) >= 128
    if not mask.any():
        raise MarginalsError(f"{path} is black all over: paint white what is to be drawn")
    return mask


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return eight_bits(upright(image))
    except FileNotFoundError:
        raise MarginalsError(f"there is no picture {path}") from None
    except Image.DecompressionBombError:
        raise MarginalsError(f"{path} has too many pixels; make it smaller first") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise MarginalsError(f"{path} cannot be read as a picture ({error})") from None


def _fitted(
    image: Image.Image, size: tuple[int, int], bars: str, how: Image.Resampling
) -> Image.Image:
    """The whole picture, scaled to touch two opposite sides of ``size`` and put in the middle."""
    width, height = size
    scale = min(width / image.width, height / image.height)
    small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new(image.mode, size, bars)
    canvas.paste(image.resize(small, how), ((width - small[0]) // 2, (height - small[1]) // 2))
    return canvas


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
    c = a·ink + (1 − a)·white, the ink is taken to be as dark as the mixture allows. Laid on white,
    the result is the picture it was made of, up to rounding (1 of 255); only the ground around the
    drawing, where no channel is more than 12 of 255 below white, becomes pure white.
    """
    rgb = on_white(image)
    pale = np.asarray(rgb).min(-1) >= 255 - _WHITE
    ground = Image.new("L", (rgb.width + 2, rgb.height + 2), "white")
    ground.paste(Image.fromarray(pale), (1, 1))
    ImageDraw.floodfill(ground, (0, 0), 128)
    outside = np.asarray(ground) == 128
    near = _grown(_grown(outside))[1:-1, 1:-1]
    pixels = np.asarray(rgb).astype(np.float64) / 255
    cover = np.where(near, 1.0 - pixels.min(-1), 1.0)
    cover = np.where(outside[1:-1, 1:-1], 0.0, np.round(cover * 255) / 255)
    share = np.maximum(cover, 1e-9)[..., None]
    ink = np.clip((pixels - (1.0 - cover[..., None])) / share, 0.0, 1.0)
    return Image.fromarray(np.round(np.dstack([ink, cover]) * 255).astype(np.uint8))


def on_white(image: Image.Image) -> Image.Image:
    """Any picture as RGB, what is transparent on white."""
    return _laid_on("white", image)


def _laid_on(ground: str, image: Image.Image) -> Image.Image:
    if has_alpha(image):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, ground), rgba)
    return image.convert("RGB")


def has_alpha(image: Image.Image) -> bool:
    """Whether parts of the picture may be transparent: by a channel, or by a colour that is."""
    return image.mode in ALPHA_MODES or "transparency" in image.info


def orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8; damaged EXIF data means upright, it costs nobody the picture."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: Image.Image) -> Image.Image:
    """The picture as its camera was held."""
    return ImageOps.exif_transpose(image) if orientation(image) > 1 else image


def eight_bits(image: Image.Image) -> Image.Image:
    """16-bit and floating-point gray as mode L; every other mode unchanged.

    Pillow's own conversion cuts at 255 instead of scaling. Raises ValueError for values outside
    what 16 bits, or 0..1, can hold.
    """
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not (values.min() >= 0.0 and values.max() <= 1.0):
            raise ValueError("floating-point pixels outside 0..1")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integer pixels outside 0..65535")
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    return image


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask and the four neighbours of its places."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown
