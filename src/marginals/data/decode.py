"""One picture file to uint8 pixels of a wanted size, whatever its format and mode.

Order of work: EXIF orientation, 16 bits to 8, palette to colours, transparency onto white (unless
RGBA is wanted), channels, centre crop to a square, antialiased LANCZOS resize. A JPEG much larger
than needed is decoded at a reduced scale that stays at least twice the wanted size.

Only the formats below are ever tried, so a file cannot reach Pillow's rarer decoders.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Literal, NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..io.finish import eight_bits, has_alpha, on_white, orientation, upright
from .pictures import fit_square, to_tensor
from .scan import Store

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 100_000_000
"""Larger pictures are refused: a small file can claim a size that fills the memory."""
GRAY_MODES = frozenset(("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"))

Mode = Literal["L", "RGB", "RGBA"]
T = TypeVar("T")
CHANNELS: dict[Mode, int] = {"L": 1, "RGB": 3, "RGBA": 4}


class Unreadable(Exception):
    """A file that yields no picture; the message is the reason, for the report."""


class Header(NamedTuple):
    """What a file says about its picture before any pixel is decoded; the size is upright."""

    width: int
    height: int
    gray: bool
    """True when the file's mode has no colours. A picture in a colour mode may still be gray."""
    transparent: bool


def attempt(store: Store, name: str, work: Callable[[IO[bytes]], T]) -> T:
    """work(open file); any failure becomes Unreadable with the reason.

    Every exception counts: Pillow's decoders raise nearly all of them on damaged files.
    """
    try:
        with store.open(name) as file:
            return work(file)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not a picture") from None
    except Image.DecompressionBombError:
        raise Unreadable(f"too large: more than {MAX_PIXELS} pixels") from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(reason) from None


def read_header(file: IO[bytes]) -> Header:
    """The header of an open file; call it through `attempt`."""
    image = _open(file)
    width, height = image.size
    if orientation(image) >= 5:  # 5 to 8 turn by a quarter
        width, height = height, width
    return Header(width, height, image.mode in GRAY_MODES, has_alpha(image))


def decode(file: IO[bytes], size: int, mode: Mode) -> Tensor:
    """uint8 (C, size, size) of an open file; call it through `attempt`."""
    image = _open(file)
    scale = min(image.size) / (2 * size)
    if scale > 1:  # only JPEG does this; it never goes below what is asked
        image.draft(None, (int(image.width / scale), int(image.height / scale)))
    return to_tensor(fit_square(_in_mode(eight_bits(upright(image)), mode), size))


def is_gray(pixels: Tensor) -> bool:
    """Whether the three channels of an RGB picture (3, H, W) are the same everywhere."""
    return bool((pixels[0] == pixels[1]).all() and (pixels[1] == pixels[2]).all())


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings about odd files: they end up in the report, or do no harm."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _open(file: IO[bytes]) -> Image.Image:
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Unreadable(f"too large: {image.width}x{image.height} pixels")
    return image


def _in_mode(image: Image.Image, mode: Mode) -> Image.Image:
    if mode != "RGBA" and has_alpha(image):
        image = on_white(image)
    return image if image.mode == mode else image.convert(mode)
