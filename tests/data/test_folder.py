"""A person's folder: classes, sizes, damaged files, and streaming = in memory, bit for bit."""

import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from marginals.data import class_counts
from marginals.data.decode import Header
from marginals.data.folder import default_size, load_folder, parallel
from marginals.data.pictures import Pictures, PictureSource, split
from marginals.data.preview import preview
from marginals.data.stream import Reader, StreamingFolder
from marginals.errors import MarginalsError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """What is remembered about streamed folders stays inside the test."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MARGINALS_CACHE", str(cache))
    return cache


def picture(path: Path, width: int = 12, height: int = 12, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode).save(path)


def pets(root: Path, count: int = 6) -> Path:
    for name in ("cat", "dog", "emu"):
        for i in range(count):
            picture(root / name / f"{i}.png", 10 + i, 12)
    return root


def everything(source: PictureSource) -> tuple[torch.Tensor, torch.Tensor]:
    return source.batch(torch.arange(len(source)))


def damage(root: Path) -> set[str]:
    """Put one of each kind of trouble beside the pictures; the names of the bad ones."""
    good = (root / "cat" / "0.png").read_bytes()
    (root / "cat" / "short.png").write_bytes(good[: len(good) // 2])
    (root / "cat" / "page.jpg").write_bytes(b"<html>404</html>")
    (root / "dog" / "empty.gif").write_bytes(b"")
    (root / "dog" / "dangling.png").symlink_to(root / "nowhere.png")
    (root / "dog" / "notes.txt").write_text("not a picture, and not counted as a bad one")
    (root / "dog" / ".hidden.png").write_bytes(b"junk")
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "0.png").write_bytes(b"junk")
    return {"cat/short.png", "cat/page.jpg", "dog/empty.gif", "dog/dangling.png"}


def test_classes_come_from_folders_in_sorted_order(tmp_path) -> None:
    source, held = load_folder(pets(tmp_path), size=8)
    assert held is None and isinstance(source, Pictures)
    assert source.classes == ("cat", "dog", "emu")
    assert class_counts(source) == {"cat": 6, "dog": 6, "emu": 6}
    for index, name in enumerate(sorted(str(p) for p in tmp_path.rglob("*.png"))):
        image = Image.open(name).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        expected = np.asarray(image.resize((8, 8), Image.Resampling.LANCZOS))
        assert np.array_equal(source.images[index].permute(1, 2, 0).numpy(), expected)


def test_bad_files_are_listed_and_skipped(tmp_path) -> None:
    expected = damage(pets(tmp_path))
    source, _ = load_folder(tmp_path)
    report = source.report
    assert report is not None
    assert {bad.name for bad in report.bad} == expected
    assert all(bad.reason for bad in report.bad)
    assert (report.found, report.usable, len(source)) == (22, 18, 18)
    assert report.other_files == 1
    assert class_counts(source) == report.classes == {"cat": 6, "dog": 6, "emu": 6}
    text = report.text()
    assert "18 of 22" in text and all(name in text for name in expected)
    assert report.to_dict()["bad"][0].keys() == {"name", "reason"}


@pytest.mark.parametrize("colours", ["auto", "gray", "rgba"])
def test_streaming_is_the_same_bit_for_bit(tmp_path, colours) -> None:
    damage(pets(tmp_path))
    for i in range(4):
        picture(tmp_path / "cat" / f"clear{i}.webp", 20, 30, "RGBA")
        picture(tmp_path / "emu" / f"large{i}.jpg", 150, 90, "L")
    memory, _ = load_folder(tmp_path, colours=colours)
    stream, _ = load_folder(tmp_path, colours=colours, budget=0)
    assert isinstance(stream, StreamingFolder) and isinstance(stream, PictureSource)
    assert (stream.shape, stream.classes, len(stream)) == (
        memory.shape,
        memory.classes,
        len(memory),
    )
    order = torch.from_numpy(RNG.integers(0, len(memory), 60))
    stream.ahead(order[:40])
    for a, b in zip(memory.batch(order), stream.batch(order), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(split(memory, 0.3, seed=4), split(stream, 0.3, seed=4), strict=True):
        assert all(map(torch.equal, everything(a), everything(b)))


@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_a_zip_is_read_like_the_folder(tmp_path, budget) -> None:
    damage(pets(tmp_path / "in"))
    (tmp_path / "in" / "dog" / "dangling.png").unlink()
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted((tmp_path / "in").rglob("*")):
            archive.write(path, Path("wrapped") / path.relative_to(tmp_path / "in"))
    folder, _ = load_folder(tmp_path / "in")
    zipped, _ = load_folder(tmp_path / "pets.zip", budget=budget)
    assert zipped.classes == folder.classes
    assert all(map(torch.equal, everything(folder), everything(zipped)))
    assert zipped.report and folder.report
    assert len(zipped.report.bad) == len(folder.report.bad) == 3


def test_gray_is_decided_from_the_pixels_of_every_picture(tmp_path) -> None:
    for i in range(9):
        picture(tmp_path / f"{i}.png", mode="L")
        Image.open(tmp_path / f"{i}.png").convert("RGB").save(tmp_path / f"{i}.png")
    gray, _ = load_folder(tmp_path)
    assert gray.shape[0] == 1
    Image.new("RGB", (12, 12), (9, 9, 10)).save(tmp_path / "last.png")
    assert load_folder(tmp_path)[0].shape[0] == 3
    assert load_folder(tmp_path, colours="rgba")[0].shape[0] == 4
    assert load_folder(tmp_path, colours="gray")[0].shape[0] == 1


def test_no_labels_without_class_folders_or_with_only_one(tmp_path) -> None:
    for i in range(9):
        picture(tmp_path / "flat" / f"{i}.png")
        picture(tmp_path / "one" / "cat" / f"{i}.png")
    for name in ("flat", "one"):
        source, _ = load_folder(tmp_path / name)
        assert source.classes == () and source.labels is None
        assert everything(source)[1].tolist() == [-1] * 9
    report = load_folder(tmp_path / "one")[0].report
    assert report is not None and "one class only (cat)" in report.text()


def test_pictures_beside_the_class_folders_have_no_label(tmp_path) -> None:
    pets(tmp_path)
    picture(tmp_path / "loose.png")
    source, _ = load_folder(tmp_path)
    assert source.labels is not None and source.report is not None
    assert (source.labels == -1).sum() == 1 and source.report.unlabelled == 1


def test_empty_classes_are_reported_and_left_out(tmp_path) -> None:
    pets(tmp_path)
    (tmp_path / "bee").mkdir()
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow" / "bad.png").write_bytes(b"junk")  # a class whose only picture is bad
    source, _ = load_folder(tmp_path)
    assert source.classes == ("cat", "dog", "emu")
    assert source.labels is not None and source.report is not None
    assert source.labels.unique().tolist() == [0, 1, 2]
    assert source.report.empty_classes == ("bee", "cow")


def test_train_and_test_folders_are_a_split_not_classes(tmp_path) -> None:
    pets(tmp_path / "train", 5)
    pets(tmp_path / "Test", 3)
    (tmp_path / "train" / "cat" / "a.png").write_bytes(b"junk")
    train, held = load_folder(tmp_path)
    assert held is not None
    assert train.classes == held.classes == ("cat", "dog", "emu")
    assert (len(train), len(held)) == (15, 9)
    assert class_counts(held) == {"cat": 3, "dog": 3, "emu": 3}
    alone, _ = load_folder(tmp_path / "Test", size=train.shape[1])
    assert all(map(torch.equal, everything(held), everything(alone)))


def test_mixed_sizes_are_counted(tmp_path) -> None:
    for i, (width, height) in enumerate([(40, 40), (20, 50), (100, 50), (40, 8)] * 3):
        picture(tmp_path / f"{i:02}.png", width, height)
    source, _ = load_folder(tmp_path)
    report = source.report
    assert report is not None
    assert report.size == 32  # the median short side is (20 + 40) / 2 = 30
    assert (report.cropped, report.enlarged) == (9, 6)
    assert (report.smallest, report.largest) == ((40, 8), (100, 50))


@pytest.mark.parametrize(
    ("sides", "size"),
    [([28], 32), ([8], 8), ([3], 8), ([31], 32), ([100], 64), ([27], 24), ([10, 30, 999], 32)],
)
def test_default_size(sides, size) -> None:
    assert default_size([Header(side, side + 9, False, False) for side in sides]) == size


def test_refusals(tmp_path) -> None:
    with pytest.raises(MarginalsError, match="there is no folder"):
        load_folder(tmp_path / "nowhere")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(MarginalsError, match="holds no pictures;"):
        load_folder(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(MarginalsError, match="only 1 other file;"):
        load_folder(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    for i in range(9):
        (tmp_path / "bad" / f"{i}.png").write_bytes(b"junk")
    with pytest.raises(MarginalsError, match=r"none of the 9 .* 0\.png: not a picture"):
        load_folder(tmp_path / "bad")
    for i in range(7):
        picture(tmp_path / "bad" / f"{i}.png")
    with pytest.raises(MarginalsError, match=r"holds 7 usable pictures \(2 more cannot be read\)"):
        load_folder(tmp_path / "bad")
    picture(tmp_path / "bad" / "7.png")
    assert len(load_folder(tmp_path / "bad")[0]) == 8
    with pytest.raises(MarginalsError, match="size of 2 "):
        load_folder(tmp_path / "bad", size=2)
    (tmp_path / "x.zip").write_bytes(b"junk")
    with pytest.raises(MarginalsError, match="no readable zip"):
        load_folder(tmp_path / "x.zip")


def test_truncated_everywhere_is_refused_too(tmp_path) -> None:
    """Headers are fine, pixels are not: found only by decoding."""
    pets(tmp_path)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    for budget in (0, 1 << 30):
        with pytest.raises(MarginalsError, match="none of the 18 pictures"):
            load_folder(tmp_path, budget=budget)


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_linked_folders_are_followed_once(tmp_path) -> None:
    pets(tmp_path / "real")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "a").symlink_to(tmp_path / "real" / "cat")
    (tmp_path / "link" / "b").symlink_to(tmp_path / "real" / "dog")
    (tmp_path / "real" / "cat" / "loop").symlink_to(tmp_path / "real")
    source, _ = load_folder(tmp_path / "link")
    assert source.classes == ("a", "b")
    assert len(source) == 18  # cat, and dog and emu through the loop; each real folder once


def test_a_file_that_vanishes_during_a_run_is_replaced_with_its_label(tmp_path) -> None:
    source, _ = load_folder(pets(tmp_path), budget=0)
    whole, labels = everything(source)
    (tmp_path / "cat" / "5.png").unlink()
    with pytest.warns(UserWarning, match=r"cat/5\.png became unreadable"):
        x, y = source.batch(torch.tensor([4, 5]))
    assert torch.equal(x, whole[[4, 6]]) and y.tolist() == labels[[4, 6]].tolist() == [0, 1]
    assert isinstance(source, StreamingFolder) and list(source.failed) == ["cat/5.png"]
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    with pytest.warns(UserWarning), pytest.raises(MarginalsError, match="any more"):
        source.batch(torch.tensor([0]))


def test_what_is_announced_is_decoded_only_once(tmp_path, monkeypatch) -> None:
    source, _ = load_folder(pets(tmp_path), budget=0)
    assert isinstance(source, StreamingFolder)
    read, calls = source._reader.read, []
    monkeypatch.setattr(source._reader, "read", lambda name: calls.append(name) or read(name))
    source.ahead(torch.arange(6))
    source.ahead(torch.arange(6))
    source.batch(torch.arange(6))
    assert sorted(calls) == [f"cat/{i}.png" for i in range(6)]


def test_parallel_keeps_the_order_and_bounds_what_waits() -> None:
    started, lock, most = 0, threading.Lock(), 0
    taken = 0

    def work(i: int) -> int:
        nonlocal started, most
        with lock:
            started += 1
            most = max(most, started - taken)
        return -i

    for i, result in enumerate(parallel(work, range(500), workers=2)):
        taken += 1
        assert result == -i
    assert taken == 500 and most <= 12


def test_preview(tmp_path) -> None:
    source, _ = load_folder(pets(tmp_path, 8), size=16)
    sheet = preview(source, columns=4)
    assert sheet.width > 4 * 16 and sheet.height > 3 * 16
    plain = Pictures(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    assert preview(plain).size[0] > 24


def test_a_streamed_folder_is_checked_once_until_it_changes(
    tmp_path, own_cache, monkeypatch
) -> None:
    expected = damage(pets(tmp_path))
    first = load_folder(tmp_path, budget=0, colours="rgb")[0].report
    assert first is not None and {bad.name for bad in first.bad} == expected
    decoded = []
    whole = Reader.read
    monkeypatch.setattr(
        Reader, "read", lambda self, name: decoded.append(name) or whole(self, name)
    )
    assert load_folder(tmp_path, budget=0, colours="rgb")[0].report == first
    assert not decoded
    (tmp_path / "cat" / "5.png").write_bytes((tmp_path / "cat" / "5.png").read_bytes()[:300])
    again = load_folder(tmp_path, budget=0, colours="rgb")[0].report
    assert again is not None and {bad.name for bad in again.bad} == expected | {"cat/5.png"}
    for path in (own_cache / "folders").iterdir():
        path.write_text("{damaged")
    assert load_folder(tmp_path, budget=0, colours="rgb")[0].report == again


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, own_cache, monkeypatch) -> None:
    (own_cache / "file").write_text("in the way")
    monkeypatch.setenv("MARGINALS_CACHE", str(own_cache / "file"))
    assert len(load_folder(pets(tmp_path), budget=0)[0]) == 18
