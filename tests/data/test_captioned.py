"""Captioned pictures: the protocol, archives without pickle, and the held-out pairs."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from marginals.data import Captioned, PictureSource, load
from marginals.data.archive import load_npz, save_npz
from marginals.data.captioned import cut, held_out_pairs
from marginals.errors import MarginalsError


def some(n: int = 12) -> Captioned:
    images = torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    captions = [("a crab", "crab, flat style"), ("Côte d’Ivoire, 旗",), ()] * (n // 3)
    concepts = [f"thing {i // 3}" for i in range(n)]
    styles = ["flat", "3d", "blob"] * (n // 3)
    facts = {"groups": ["g"] * n, "licences": ["MIT"] * n}
    return Captioned(images.byte(), captions, concepts, styles, **facts, name="some", note="ours")


def equal(a: Captioned, b: Captioned) -> bool:
    return a.checksum() == b.checksum() and (a.note, a.flip) == (b.note, b.flip)


def test_it_is_a_source_of_pictures() -> None:
    source = some()
    assert isinstance(source, PictureSource) and source.labels is None and source.classes == ()
    pictures, labels = source.batch(torch.tensor([3, 1]))
    assert torch.equal(pictures, source.images[[3, 1]]) and labels.tolist() == [-1, -1]
    part = source.subset(torch.tensor([4, 0]))
    assert part.captions == (source.captions[4], source.captions[0])
    assert part.styles == ("3d", "flat") and part.concepts == ("thing 1", "thing 0")
    assert source.resized(4).shape == (3, 4, 4) and source.resized(4).captions == source.captions
    train, held = source.split(3)
    assert (len(train), len(held)) == (9, 3)


def test_archives_give_back_everything(tmp_path) -> None:
    train, held = cut(some(), [i % 4 == 0 for i in range(12)])
    save_npz(tmp_path / "a.npz", train, held)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert all(arrays[key].dtype.kind in "uSUb" for key in arrays.files)
    a, b = load_npz(tmp_path / "a.npz")
    assert isinstance(a, Captioned) and isinstance(b, Captioned)
    assert equal(a, train) and equal(b, held) and b.name == "a (held out)"
    a, b = load(tmp_path / "a.npz", size=4)
    assert a.shape == b.shape == (3, 4, 4)
    a, b = load(tmp_path / "a.npz", held_out=2)  # what was asked for, not the official part
    assert (len(a), len(b)) == (7, 2)


def test_an_archive_by_hand(tmp_path) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, captions=["a crab\n crab, flat \n", ""])
    found, _ = load_npz(tmp_path / "a.npz")
    assert isinstance(found, Captioned)
    assert found.captions == (("a crab", "crab, flat"), ()) and found.concepts == ()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"captions": ["a"]}, "captions for every picture"),
        ({"captions": ["a", "b"], "styles": ["flat"]}, "1 styles for 2 pictures"),
        ({"captions": [1, 2]}, "one text per picture"),
        ({"captions": [["a"], ["b"]]}, "one text per picture"),
        ({"captions": [b"\xff", b"b"]}, "not UTF-8"),
        ({"captions": ["a", "b"], "labels": [0, 1]}, "either labels or captions"),
        (
            {"captions": ["a", "b"], "test_images": np.zeros((2, 8, 8, 3), np.uint8)},
            "either labels or captions",
        ),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, arrays, said) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 3), np.uint8), **arrays)
    with pytest.raises(MarginalsError, match=said):
        load_npz(tmp_path / "a.npz")


def test_checksum_sees_every_word_and_pixel() -> None:
    one, other = some(), some()
    assert one.checksum() == other.checksum()
    other.images[5, 1, 2, 3] ^= 1
    assert one.checksum() != other.checksum()
    renamed = Captioned(one.images, one.captions, one.concepts, ("x", *one.styles[1:]), one.groups)
    assert len({one.checksum(), renamed.checksum(), some(9).checksum()}) == 3


def pairs(concepts: int = 60) -> tuple[list[str], list[str]]:
    """Concepts in 1 to 5 styles."""
    every = [(f"c{i}", s) for i in range(concepts) for s in "abcde"[: 1 + i % 5]]
    return [c for c, _ in every], [s for _, s in every]


def test_held_out_pairs_leave_concept_and_style_elsewhere() -> None:
    concepts, styles = pairs()
    held = held_out_pairs(concepts, styles, 0.2)
    assert sum(held) == round(0.2 * len(held))
    left = [(c, s) for c, s, h in zip(concepts, styles, held, strict=True) if not h]
    for c, s, h in zip(concepts, styles, held, strict=True):
        if h:
            assert sum(a == c for a, _ in left) >= 2 and any(b == s for _, b in left)


def test_held_out_pairs_do_not_depend_on_order_nor_split_a_pair() -> None:
    concepts, styles = pairs()
    held = held_out_pairs(concepts, styles, 0.1, seed=3)
    back = held_out_pairs(concepts[::-1], styles[::-1], 0.1, seed=3)
    assert held == back[::-1] and held != held_out_pairs(concepts, styles, 0.1, seed=4)
    twice = held_out_pairs(concepts * 2, styles * 2, 0.1)
    assert twice[: len(held)] == twice[len(held) :]
    assert sum(held_out_pairs(concepts, styles, 0.99)) < len(held) / 2  # never more than is honest


@pytest.fixture
def own(tmp_path):
    """A person's folder of eight pictures with a text beside each."""
    folder = tmp_path / "own"
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (16, 16), (30 * i, 0, 0)).save(folder / f"p{i}.png")
        (folder / f"p{i}.txt").write_text(f"  number {i}\n\na  red of {i}\n", encoding="utf-8")
    return folder


def test_a_folder_with_texts_beside_its_pictures(own, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        for path in own.iterdir():
            archive.write(path, path.name)
    for place in (own, tmp_path / "own.zip"):
        train, held = load(place, held_out=2, size=8)
        assert isinstance(train, Captioned) and isinstance(held, Captioned)
        assert (len(train), len(held)) == (6, 2) and train.report is not None
        assert train.report.captions == 16 and train.report.other_files == 0
        assert "captions    16" in train.report.text() and "ignored" not in train.report.text()
        for part in (train, held):
            for picture, texts in zip(part.images, part.captions, strict=True):
                i = round(int(picture[0, 0, 0]) / 30)
                assert texts == (f"number {i}", f"a red of {i}")


def test_a_text_that_belongs_to_no_picture_changes_nothing(own) -> None:
    for path in own.glob("*.txt"):
        path.unlink()
    (own / "readme.txt").write_text("about these pictures")
    assert not isinstance(load(own)[0], Captioned)


def test_captions_that_are_missing_or_empty_are_counted(own) -> None:
    (own / "p1.txt").write_text(" \n")
    (own / "p4.txt").write_text("")
    with pytest.raises(MarginalsError, match=r"2 of the captions .* first: p1.txt"):
        load(own)
    for i in (3, 5, 6):
        (own / f"p{i}.txt").unlink()
    with pytest.raises(MarginalsError, match=r"3 of the 8 pictures .* first: p3.txt"):
        load(own)


def test_captions_that_cannot_be_read_are_said(own) -> None:
    (own / "p0.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(MarginalsError, match=r"p0.txt is not UTF-8"):
        load(own)
    (own / "p0.txt").write_text("a" * 100_000)
    with pytest.raises(MarginalsError, match=r"p0.txt is too long"):
        load(own)
    (own / "p0.txt").write_text("short")
    with pytest.raises(MarginalsError, match="smaller --size"):
        load(own, budget=0)


def test_class_folders_stay_classes(own) -> None:
    for i in range(8):
        (own / "ab"[i % 2]).mkdir(exist_ok=True)
        for kind in ("png", "txt"):
            (own / f"p{i}.{kind}").rename(own / "ab"[i % 2] / f"p{i}.{kind}")
    assert load(own)[0].classes == ("a", "b")
