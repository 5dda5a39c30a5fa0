"""Pictures survive the way to a file and back, and carry how they were made."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from marginals.errors import MarginalsError
from marginals.io.pictures import (
    from_uint8,
    grid,
    read_parameters,
    save_png,
    to_image,
    to_uint8,
)


def test_all_256_values_make_the_round_trip() -> None:
    u = torch.arange(256, dtype=torch.uint8)
    x = from_uint8(u)
    assert x.dtype == torch.float32 and x.abs().max() < 1
    assert torch.equal(to_uint8(x), u)


@given(st.floats(-1, 1, width=32))
def test_rounding_is_to_the_nearest_value(value: float) -> None:
    u = to_uint8(torch.tensor([value], dtype=torch.float64))
    assert abs(from_uint8(u).double().item() - value) <= 1 / 256 + 1e-6


def test_values_outside_are_cut() -> None:
    assert to_uint8(torch.tensor([-7.0, -1.0, 1.0, 1.5])).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_broken_samples_are_refused(bad: float) -> None:
    with pytest.raises(MarginalsError, match="1 of 4 pixel values are NaN or infinite"):
        to_uint8(torch.tensor([0.0, bad, 0.0, 0.0]))


def test_wrong_types_are_refused() -> None:
    with pytest.raises(MarginalsError, match="float tensors"):
        to_uint8(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(MarginalsError, match="must be uint8"):
        from_uint8(torch.zeros(3))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_keeps_its_pixels_through_png(tmp_path: Path, channels: int) -> None:
    u = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    save_png(tmp_path / "a.png", to_image(u), {})
    array = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(array.reshape(5, 7, channels), u.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 1, 5, 7), (1, 0, 7)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MarginalsError, match="a picture has shape"):
        to_image(torch.zeros(shape))


def test_a_grid_shows_every_picture_enlarged_at_its_place() -> None:
    u = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    sheet = np.asarray(grid(u, columns=3, scale=2, gap=1, background=(1, 2, 3)))
    assert sheet.shape == (2 * (8 + 1) + 1, 3 * (12 + 1) + 1, 3)
    seen = np.zeros(sheet.shape[:2], bool)
    for i in range(5):
        y, x = 1 + i // 3 * 9, 1 + i % 3 * 13
        cell = sheet[y : y + 8, x : x + 12]
        expected = u[i].permute(1, 2, 0).numpy().repeat(2, 0).repeat(2, 1)
        assert np.array_equal(cell, expected)
        seen[y : y + 8, x : x + 12] = True
    assert (sheet[~seen] == (1, 2, 3)).all()


def test_float_and_stored_pictures_give_the_same_grid() -> None:
    u = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    a, b = grid(u), grid(from_uint8(u))
    assert a.mode == "L" and a.tobytes() == b.tobytes()


def test_tiny_pictures_are_enlarged_and_large_ones_are_not() -> None:
    for size, cell in ((8, 80), (28, 84), (32, 64), (64, 64), (300, 300)):
        assert grid(torch.zeros(1, 1, size, size), gap=0).size == (cell, cell)


def test_transparent_pixels_show_the_background() -> None:
    u = torch.zeros(1, 4, 2, 2, dtype=torch.uint8)
    u[:, 3, 0] = 255  # the upper row is opaque black
    sheet = np.asarray(grid(u, scale=1, gap=0, background=(9, 8, 7)))
    assert (sheet[0] == 0).all() and (sheet[1] == (9, 8, 7)).all()


def test_captions_are_drawn_beside_rows_or_below_pictures_only() -> None:
    u = torch.zeros(6, 1, 28, 28, dtype=torch.uint8)
    bare = np.asarray(grid(u, columns=3))
    rows = np.asarray(grid(u, columns=3, labels=["one", "two"]))
    cells = np.asarray(grid(u, columns=3, labels=list("abcdef")))
    extra = rows.shape[1] - bare.shape[1]
    assert extra > 0 and np.array_equal(rows[:, extra:], bare)
    assert (rows[:, :extra] < 128).any()
    assert cells.shape[1] == bare.shape[1] and cells.shape[0] > bare.shape[0]
    with pytest.raises(MarginalsError, match="4 labels fit neither"):
        grid(u, columns=3, labels=list("abcd"))


def test_a_long_caption_stays_in_its_own_column() -> None:
    u = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    with_text = np.asarray(grid(u, columns=2, labels=["W" * 60, ""]))
    below = with_text[4 + 84 :]
    assert (below[:, 4:88] < 200).any() and (below[:, 88:] == 255).all()


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(MarginalsError, match="at least one picture"):
        grid(torch.zeros(0, 1, 8, 8))


PARAMETERS = {
    "label": "Ankle boot",
    "steps": 20,
    "solver": "dpmpp_2m",
    "seed": 0,
    "guidance": 1.5,
    "size": "28x28",
    "model": "fashion, small: λ",
    "version": "marginals 0",
    "stochastic": False,
    "levels": [12.5, -3.0],
    "nothing": None,
}


def test_parameters_make_the_round_trip(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", Image.new("L", (28, 28)), PARAMETERS)
    assert read_parameters(tmp_path / "a.png") == PARAMETERS


def test_other_programs_find_their_line(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", Image.new("L", (28, 28)), PARAMETERS)
    with Image.open(tmp_path / "a.png") as image:
        line = image.info["parameters"]
    assert line == (
        "Ankle boot\nSteps: 20, Sampler: dpmpp_2m, Seed: 0, CFG scale: 1.5, Size: 28x28, "
        'Model: "fashion, small: λ", Version: marginals 0, Stochastic: False'
    )


def test_size_and_version_are_filled_in(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", Image.new("RGB", (5, 3)), {"seed": 1})
    found = read_parameters(tmp_path / "a.png")
    assert found["size"] == "5x3" and found["version"].startswith("marginals ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aλ"), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=4))
def test_any_json_survives(tmp_path_factory: pytest.TempPathFactory, value: dict) -> None:
    path = tmp_path_factory.mktemp("json") / "a.png"
    save_png(path, Image.new("L", (1, 1)), value)
    found = read_parameters(path)
    assert {key: found[key] for key in value} == value


def test_unwritable_parameters_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(path, Image.new("L", (1, 1)), {"seed": 1})
    old = path.read_bytes()
    for bad in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises(MarginalsError, match="cannot be written"):
            save_png(path, Image.new("L", (1, 1)), bad)
    assert path.read_bytes() == old and [f.name for f in tmp_path.iterdir()] == ["a.png"]


def damaged(chunk: str | None, tmp_path: Path) -> Path:
    info = PngImagePlugin.PngInfo()
    if chunk is not None:
        info.add_text("marginals", chunk)
    Image.new("L", (2, 2)).save(tmp_path / "bad.png", pnginfo=info)
    return tmp_path / "bad.png"


@pytest.mark.parametrize("chunk", ["{", "[1]", "__import__('os')", "[" * 100_000])
def test_a_damaged_text_chunk_is_one_sentence(tmp_path: Path, chunk: str) -> None:
    with pytest.raises(MarginalsError, match=r"parameters in bad\.png are damaged"):
        read_parameters(damaged(chunk, tmp_path))


def test_files_that_carry_nothing_say_so(tmp_path: Path) -> None:
    with pytest.raises(MarginalsError, match="carries no parameters"):
        read_parameters(damaged(None, tmp_path))
    with pytest.raises(MarginalsError, match="no file"):
        read_parameters(tmp_path / "none.png")
    Image.new("L", (2, 2)).save(tmp_path / "a.jpg")
    with pytest.raises(MarginalsError, match="not a PNG"):
        read_parameters(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(MarginalsError, match="not a picture"):
        read_parameters(tmp_path / "a.txt")


def test_a_torn_png_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    save_png(path, Image.fromarray(noise), {"seed": 1})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(MarginalsError, match="damaged"):
        read_parameters(path)


def test_a_compressed_text_bomb_is_refused(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"zTXt", b"marginals\0\0" + zlib.compress(b" " * 80_000_000))
    Image.new("L", (2, 2)).save(tmp_path / "bomb.png", pnginfo=info)
    with pytest.raises(MarginalsError, match="damaged"):
        read_parameters(tmp_path / "bomb.png")


def test_the_line_of_another_program_is_returned_as_it_is(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20")
    Image.new("L", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
    assert read_parameters(tmp_path / "a.png") == {"parameters": "a cat\nSteps: 20"}
    assert json.dumps(read_parameters(tmp_path / "a.png"))
