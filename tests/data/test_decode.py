"""One picture file to pixels: every mode and format people have, against values known by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from marginals.data import decode as decoding
from marginals.data.decode import Unreadable, attempt, decode, is_gray, read_header


class OneFile:
    """A store of one file in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def open(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.data)


def read(data: bytes, size: int = 8, mode="RGB") -> torch.Tensor:
    return attempt(OneFile(data), "x", lambda file: decode(file, size, mode))


def header(data: bytes):
    return attempt(OneFile(data), "x", read_header)


def encoded(image: Image.Image, kind: str = "png", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def flat(mode: str, colour, side: int = 8) -> Image.Image:
    return Image.new(mode, (side, side), colour)


def png(side: int, depth: int, colour_type: int, pixels: bytes) -> bytes:
    """A hand-made PNG: Pillow writes neither 16-bit colour nor files that lie about their size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    start = struct.pack(">IIBBBBB", side, side, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", start) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_16(values: list[int]) -> bytes:
    """8x8 pixels of one 16-bit colour: gray for one value, RGB for three."""
    row = b"\0" + struct.pack(f">{len(values)}H", *values) * 8
    return png(8, 16, 0 if len(values) == 1 else 2, row * 8)


def palette(colours: list[tuple[int, int, int]], **info) -> Image.Image:
    image = flat("P", 1)
    image.putpalette([value for colour in colours for value in colour])
    image.info.update(info)
    return image


CASES = {
    "gray": (encoded(flat("L", 77)), (77, 77, 77), True, False),
    "bilevel": (encoded(flat("1", 1)), (255, 255, 255), True, False),
    "rgb": (encoded(flat("RGB", (10, 200, 30))), (10, 200, 30), False, False),
    # half-transparent black on white: 255 * (1 - 128/255) = 127
    "rgba": (encoded(flat("RGBA", (0, 0, 0, 128))), (127, 127, 127), False, True),
    "invisible": (encoded(flat("RGBA", (9, 9, 9, 0))), (255, 255, 255), False, True),
    "gray+alpha": (encoded(flat("LA", (0, 0))), (255, 255, 255), True, True),
    "palette": (encoded(palette([(1, 2, 3), (250, 4, 90)])), (250, 4, 90), False, False),
    "palette+alpha": (
        encoded(palette([(1, 2, 3), (250, 4, 90)]), transparency=1),
        (255, 255, 255),
        False,
        True,
    ),
    "rgb+key": (
        encoded(flat("RGB", (5, 6, 7)), transparency=(5, 6, 7)),
        (255, 255, 255),
        False,
        True,
    ),
    # 16 bits: 65535 -> 255, 32896 = 128 * 257 -> 128, and rounding between them
    "gray 16": (png_16([32896]), (128, 128, 128), True, False),
    "gray 16 rounded": (png_16([32896 + 129]), (129,) * 3, True, False),
    "rgb 16": (png_16([65535, 0, 32896]), (255, 0, 128), False, False),
    "tiff 16": (
        encoded(Image.fromarray(np.full((8, 8), 65535, np.uint16)), "tiff"),
        (255, 255, 255),
        True,
        False,
    ),
    "tiff float": (
        encoded(Image.fromarray(np.full((8, 8), 0.2, np.float32)), "tiff"),
        (51, 51, 51),
        True,
        False,
    ),
    "bmp": (encoded(flat("RGB", (10, 20, 30)), "bmp"), (10, 20, 30), False, False),
    "webp": (
        encoded(flat("RGB", (10, 20, 30)), "webp", lossless=True),
        (10, 20, 30),
        False,
        False,
    ),
    "gif": (encoded(palette([(1, 2, 3), (250, 4, 90)]), "gif"), (250, 4, 90), False, False),
    "animation": (
        encoded(
            palette([(0, 0, 0), (255, 0, 0)]),
            "gif",
            save_all=True,
            append_images=[palette([(0, 0, 0), (0, 255, 0)])],
        ),
        (255, 0, 0),
        False,
        False,
    ),
    "tiff cmyk": (encoded(flat("CMYK", (0, 255, 255, 0)), "tiff"), (255, 0, 0), False, False),
    "jpeg gray": (encoded(flat("L", 128), "jpeg", quality=100), (128, 128, 128), True, False),
}


@pytest.mark.parametrize("case", CASES)
def test_modes(case) -> None:
    data, colour, gray, transparent = CASES[case]
    pixels = read(data)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 8, 8)
    assert pixels.flatten(1).unique(dim=1).T.tolist() == [list(colour)]
    assert header(data) == (8, 8, gray, transparent)
    assert is_gray(pixels) == (len(set(colour)) == 1)


def test_gray_is_the_same_through_rgb_and_directly() -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    gray = encoded(Image.fromarray(values))
    coloured = encoded(Image.fromarray(values).convert("RGB"))
    for size in (8, 5, 16):
        assert torch.equal(read(gray, size, "L"), read(coloured, size, "L"))
        assert torch.equal(read(gray, size, "RGB"), read(gray, size, "L").expand(3, -1, -1))


def test_rgba_keeps_transparency_and_invisible_colours_do_not_bleed() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (200, 100, 50, 255)
    pixels[:, 4:] = (0, 255, 0, 0)  # an invisible green
    small = read(encoded(Image.fromarray(pixels)), 4, "RGBA")
    assert small.shape == (4, 4, 4)
    visible = small[3] > 0
    assert visible.any() and not visible.all()
    assert (small[1][visible] <= 104).all()  # up to rounding, no green was mixed in


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation) -> None:
    """A picture whose top left is white comes out with its white corner where EXIF puts it."""
    corner = {
        1: (0, 0),
        2: (0, 1),
        3: (1, 1),
        4: (1, 0),
        5: (0, 0),
        6: (0, 1),
        7: (1, 1),
        8: (1, 0),
    }
    values = np.zeros((16, 32), np.uint8)
    values[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(values), "png", exif=exif)
    assert header(data)[:2] == ((32, 16) if orientation < 5 else (16, 32))
    pixels = read(data, 2, "L")[0]
    row, column = corner[orientation]
    assert pixels.argmax() == 2 * row + column


def test_the_crop_is_central_and_the_resize_antialiased() -> None:
    values = np.full((40, 100, 3), 9, np.uint8)
    values[:, 30:70] = np.indices((40, 40)).sum(0)[..., None] % 2 * 254  # a fine checkerboard
    pixels = read(encoded(Image.fromarray(values)), 5)
    assert (pixels.float() - 127).abs().max() <= 2  # its mean, no aliasing, and no 9 from the sides


def test_reduced_jpeg_decoding_agrees_with_full_decoding(monkeypatch) -> None:
    y, x = np.mgrid[:512, :640]
    smooth = (127 + 120 * np.sin(x / 60) * np.cos(y / 45)).astype(np.uint8)
    data = encoded(Image.fromarray(smooth), "jpeg", quality=95)
    reduced = read(data, 32, "L").int()
    monkeypatch.setattr(Image.Image, "draft", lambda *_: None)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *_: None)
    full = read(data, 32, "L").int()
    assert not torch.equal(reduced, full)  # the shortcut was taken before
    assert (reduced - full).abs().max() <= 2


@pytest.mark.parametrize("size", [8, 30, 64, 100, 256, 400])
def test_a_reduced_jpeg_stays_at_least_twice_as_large_as_needed(monkeypatch, size) -> None:
    data = encoded(Image.new("RGB", (800, 512)), "jpeg")
    sides = []
    fit = decoding.fit_square
    monkeypatch.setattr(decoding, "fit_square", lambda im, n: sides.append(im.height) or fit(im, n))
    read(data, size)
    assert sides[0] >= min(512, 2 * size)
    assert sides[0] < 512 or 4 * size > 512  # and it is reduced where there is room


def whole_png() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a picture"),
        (b"<html>not found</html>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (whole_png()[:1500], "truncated"),
        (whole_png()[:20], "."),
        (encoded(Image.open(io.BytesIO(whole_png())), "jpeg")[:700], "truncated"),
        (encoded(Image.fromarray(np.full((8, 8), 3.5, np.float32)), "tiff"), "outside 0..1"),
        (encoded(Image.fromarray(np.full((8, 8), -1, np.int32)), "tiff"), "outside 0..65535"),
    ],
)
def test_unreadable_files_give_a_reason(data, says) -> None:
    with pytest.raises(Unreadable, match=says) as error:
        read(data)
    assert str(error.value)


def test_pictures_of_absurd_size_are_refused_before_decoding(monkeypatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)
    with pytest.raises(Unreadable, match="too large: 32x32"):
        header(whole_png())
    with pytest.raises(Unreadable, match="too large"):
        read(whole_png())


def test_a_real_decompression_bomb_is_refused() -> None:
    """A hundred bytes that claim 9e8 and 1e10 pixels."""
    for side in (30_000, 100_000):
        with decoding.quiet(), pytest.raises(Unreadable, match="too large"):
            header(png(side, 8, 2, b"\0"))


def test_missing_files_say_so(tmp_path) -> None:
    class Gone:
        def open(self, name: str):
            return (tmp_path / name).open("rb")

    with pytest.raises(Unreadable, match="No such file"):
        attempt(Gone(), "x.png", read_header)
