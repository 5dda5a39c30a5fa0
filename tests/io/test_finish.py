"""Pictures and masks of a person's own are read as they look, and cut out without loss."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marginals.errors import MarginalsError
from marginals.io.finish import cut_out, on_white, read_mask, read_picture
from marginals.io.pictures import to_uint8

READERS = {
    "init": lambda path: read_picture(path, 3, 8, 8),
    "mask": lambda path: read_mask(path, 8, 8),
}
either = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


def photo_and_mask(folder: Path, size: tuple[int, int], **options) -> tuple[Path, Path]:
    """A gray photo with a black patch off its middle, and a mask painted over just that patch."""
    width, height = size
    place = (slice(height // 4, height // 2), slice(width // 4, width // 2))
    photo, mask = np.full((height, width), 128, np.uint8), np.zeros((height, width), np.uint8)
    photo[place], mask[place] = 0, 255
    for name, pixels in (("photo", photo), ("mask", mask)):
        Image.fromarray(pixels).save(folder / f"{name}.png", **options)
    return folder / "photo.png", folder / "mask.png"


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (64, 64)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_mask_lies_on_what_it_was_painted_over(tmp_path, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6: the camera was turned by a quarter
    photo, mask = photo_and_mask(tmp_path, size, exif=exif)
    picture, where = to_uint8(read_picture(photo, 1, 32, 32))[0], read_mask(mask, 32, 32)
    assert where.sum() == 32 * 32 / 16 / (1 if size == (64, 64) else 2)
    assert (picture[where] < 64).all() and (picture[~where] >= 100).all()
    bars = picture == 255
    assert bars.any() == (size[0] != size[1]) and not where[bars].any()
    wide = (size[0] > size[1]) == (orientation == 1)
    assert size[0] == size[1] or bool(bars[0].all()) == wide


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_of_white_on_nothing_is_white_where_it_was_painted(tmp_path, mode):
    image = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    image.paste("white", (0, 0, 4, 8))
    image.convert(mode).save(tmp_path / "mask.png")
    where = read_mask(tmp_path / "mask.png", 8, 8)
    assert where[:, :4].all() and not where[:, 4:].any()
    Image.new(mode, (8, 8)).save(tmp_path / "mask.png")
    with pytest.raises(MarginalsError, match="black all over"):
        read_mask(tmp_path / "mask.png", 8, 8)


@pytest.mark.parametrize(
    ("kind", "top"), [(np.uint16, 65535), (np.int32, 65535), (np.float32, 1)], ids=str
)
def test_deep_gray_is_scaled_not_cut(tmp_path, kind, top):
    """A quarter of the range reads as a quarter of it (64 of 255), and as black in a mask."""
    pixels = np.full((8, 8), top / 4, kind)
    pixels[:4] = top
    Image.fromarray(pixels).save(tmp_path / "deep.tiff")
    values = to_uint8(read_picture(tmp_path / "deep.tiff", 3, 8, 8))
    assert (values[:, :4] == 255).all() and (values[:, 4:] == 64).all()
    where = read_mask(tmp_path / "deep.tiff", 8, 8)
    assert where[:4].all() and not where[4:].any()


@either
def test_a_picture_of_unknown_range_is_refused(tmp_path, reader):
    Image.fromarray(np.full((8, 8), 3.5, np.float32)).save(tmp_path / "deep.tiff")
    with pytest.raises(MarginalsError, match=r"deep\.tiff cannot be read .* outside 0\.\.1"):
        reader(tmp_path / "deep.tiff")


@either
def test_a_picture_of_absurd_size_is_one_sentence(tmp_path, monkeypatch, reader):
    Image.new("1", (64, 64), 1).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses from twice as many
    with pytest.raises(MarginalsError, match=r"huge\.png has too many pixels"):
        reader(tmp_path / "huge.png")


def test_laid_on_white_a_cut_out_is_the_picture_up_to_its_stated_bound():
    rng = np.random.default_rng(0)
    for low in (0, 150, 220, 240):
        pixels = rng.integers(low, 256, (48, 48, 3), dtype=np.uint8)
        pixels[rng.random((48, 48)) < 0.5] = 255
        cut = cut_out(Image.fromarray(pixels))
        error = np.abs(np.asarray(on_white(cut)).astype(int) - pixels).max(-1)
        clear = np.asarray(cut)[..., 3] == 0
        assert clear.any() and error[clear].max() <= 12 and error[~clear].max(initial=0) <= 1


@pytest.mark.parametrize(
    ("colour", "kept"),
    [((255, 255, 242), True), ((255, 255, 243), False), ((243, 243, 243), False),
     ((1, 254, 3), True), ((0, 0, 0), True)],
)  # fmt: skip
def test_what_counts_as_the_white_around_a_drawing(colour, kept):
    cut = cut_out(Image.new("RGB", (4, 4), colour))
    expected = colour if kept else (255, 255, 255)
    assert np.abs(np.asarray(on_white(cut)).astype(int) - expected).max() <= 1
    assert (np.asarray(cut)[..., 3] > 0).all() == kept


def test_what_is_transparent_already_stays_so():
    image = Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    image.paste((200, 0, 0, 255), (2, 2, 6, 6))
    alpha = np.asarray(cut_out(image))[..., 3]
    assert alpha[0].max() == 0 and (alpha[3:5, 3:5] == 255).all()
