"""`load`: one word or path for every kind of data, and one sentence for everything else."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from marginals.data import Pictures, PictureSource, load
from marginals.data.load import names
from marginals.data.stream import StreamingFolder
from marginals.errors import MarginalsError

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path / "cache"))
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i:02}.png")
    return tmp_path / "pictures"


def test_a_folder(folder) -> None:
    train, held = load(folder)
    assert isinstance(train, Pictures) and isinstance(train, PictureSource)
    assert (len(train), len(held)) == (36, 4)
    assert train.classes == held.classes == ("a", "b")
    assert held.labels is not None and held.labels.bincount().tolist() == [2, 2]
    assert train.report is not None and train.report.usable == 40
    pixels = {
        x.numpy().tobytes()
        for part in (train, held)
        for x in part.batch(torch.arange(len(part)))[0]
    }
    assert len(pixels) == 40


def test_a_folder_streamed_is_cut_the_same(folder) -> None:
    memory, stream = load(folder, held_out=7, seed=3), load(folder, held_out=7, seed=3, budget=0)
    for a, b in zip(memory, stream, strict=True):
        assert isinstance(b, StreamingFolder) and len(a) == len(b)
        every = torch.arange(len(a))
        assert all(map(torch.equal, a.batch(every), b.batch(every)))


def test_size_and_colours(folder) -> None:
    assert load(folder)[0].shape == (3, 16, 16)
    assert load(folder, size=12, colours="gray")[0].shape == (1, 12, 12)
    assert load("digits", size=16)[1].shape == (1, 16, 16)
    for spec in ("digits", folder):
        for size in (0, 3, 1025):
            with pytest.raises(MarginalsError, match=f"size of {size} "):
                load(spec, size=size)


def test_a_share_can_be_held_out_of_anything(folder) -> None:
    assert [len(part) for part in load(folder, held_out=0.25)] == [30, 10]
    assert [len(part) for part in load("fashion", held_out=100)] == [13900, 100]


def test_a_zip(folder) -> None:
    path = folder.parent / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder.parent))
    for a, b in zip(load(folder), load(path), strict=True):
        assert all(map(torch.equal, a.batch(torch.arange(len(a))), b.batch(torch.arange(len(b)))))


def test_a_tilde_is_the_home_folder(folder, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert len(load("~/pictures")[0]) == 36


def test_names_list_what_load_knows() -> None:
    assert list(names()) == [
        *("fashion", "digits", "shapes"),
        *("cifar10", "mnist", "fashion-mnist", "emoji"),
    ]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("fashin", r"Did you mean fashion\?"),
        ("cifar", r"Did you mean cifar10\?"),
        (
            "no/such/folder",
            "Known names are fashion, digits, shapes, cifar10, mnist",
        ),
    ],
)
def test_unknown_names(spec, says) -> None:
    with pytest.raises(MarginalsError, match=says):
        load(spec)


def test_files_that_are_no_data(folder) -> None:
    with pytest.raises(MarginalsError, match="a single picture"):
        load(folder / "a" / "00.png")
    (folder / "notes.txt").write_text("x")
    with pytest.raises(MarginalsError, match="neither a folder"):
        load(folder / "notes.txt")
