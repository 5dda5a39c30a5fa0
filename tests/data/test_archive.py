"""`.npz` archives: every layout, round trips, and one clear sentence for everything else."""

import numpy as np
import pytest
import torch

from marginals.data import load
from marginals.data.archive import load_npz, save_npz
from marginals.data.pictures import Pictures
from marginals.errors import MarginalsError

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((9, 8, 8), None, (1, 8, 8)),
        ((9, 8, 8, 1), (0, 3, 1, 2), (1, 8, 8)),
        ((9, 8, 8, 3), (0, 3, 1, 2), (3, 8, 8)),
        ((9, 6, 8, 4), (0, 3, 1, 2), (4, 6, 8)),
        ((9, 3, 8, 8), (0, 1, 2, 3), (3, 8, 8)),
        ((9, 4, 4, 3), (0, 3, 1, 2), (3, 4, 4)),
        ((9, 3, 4, 4), (0, 1, 2, 3), (3, 4, 4)),
    ],
)
def test_layouts(tmp_path, shape, axes, expected) -> None:
    images = pixels(*shape)
    np.savez(tmp_path / "a.npz", images=images)
    found, test = load_npz(tmp_path / "a.npz")
    assert test is None and found.labels is None and found.shape == expected
    planes = images[:, None] if axes is None else images.transpose(axes)
    assert np.array_equal(found.images.numpy(), planes)


def test_labels_as_numbers_as_names_and_with_classes(tmp_path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=pixels(4, 8, 8), labels=np.array([7, 3, -1, 7]))
    found, _ = load_npz(path)
    assert found.classes == ("3", "7")
    assert found.labels is not None and found.labels.tolist() == [1, 0, -1, 1]
    np.savez(path, images=pixels(3, 8, 8), labels=np.array(["dog", "cat", "dog"]))
    found, _ = load_npz(path)
    assert found.classes == ("cat", "dog")
    assert found.labels is not None and found.labels.tolist() == [1, 0, 1]
    np.savez(path, images=pixels(2, 8, 8), labels=np.array([2, 0]), classes=np.array(list("xyz")))
    found, _ = load_npz(path)
    assert found.classes == ("x", "y", "z")
    assert found.labels is not None and found.labels.tolist() == [2, 0]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_round_trip(tmp_path, channels) -> None:
    def part(n: int) -> Pictures:
        x = torch.from_numpy(pixels(n, channels, 6, 6))
        return Pictures(x, torch.arange(n) % 3 - 1, ("a", "b"), note="mine, CC0", flip=True)

    train, held = part(11), part(5)
    save_npz(tmp_path / "deep" / "a.npz", train, held)
    back = load_npz(tmp_path / "deep" / "a.npz")
    for was, now in zip((train, held), back, strict=True):
        assert now is not None and was.labels is not None and now.labels is not None
        assert torch.equal(was.images, now.images)
        assert torch.equal(was.labels, now.labels)
        assert (now.classes, now.note, now.flip) == (was.classes, was.note, was.flip)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.npz"]  # no temporary file left


def test_load_takes_the_official_part_or_cuts_its_own(tmp_path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=pixels(50, 8, 8))
    assert [len(part) for part in load(path)] == [45, 5]
    np.savez(path, images=pixels(50, 8, 8), test_images=pixels(7, 8, 8))
    assert [len(part) for part in load(path)] == [50, 7]
    assert [len(part) for part in load(path, held_out=20)] == [30, 20]
    assert [part.shape for part in load(path, size=16)] == [(1, 16, 16)] * 2


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"pictures": np.zeros((2, 8, 8), np.uint8)}, "called `images`"),
        ({"images": np.zeros((2, 8, 8))}, "uint8"),
        ({"images": np.zeros((2, 8, 8, 2), np.uint8)}, "shape"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "no pictures"),
        ({"images": np.array([{"a": 1}, 2], dtype=object)}, "never unpickled"),
        ({"images": pixels(3, 8, 8), "labels": np.array([0, 1])}, "one integer label per picture"),
        ({"images": pixels(2, 8, 8), "labels": np.array([0.5, 1])}, "one integer or one name"),
        (
            {"images": pixels(2, 8, 8), "labels": np.array([0, 9]), "classes": np.array(["a"])},
            "from 0 to 9",
        ),
        (
            {
                "images": pixels(1, 8, 8),
                "labels": np.array(["b"]),
                "classes": np.array(["a"]),
            },
            "'b'",
        ),
        ({"images": pixels(2, 8, 8), "test_images": pixels(2, 9, 9)}, "one shape"),
        (
            {"images": pixels(1, 8, 8), "labels": np.array([0]), "classes": np.array(list("aba"))},
            "two classes called 'a'",
        ),
        ({"images": pixels(1, 8, 8), "classes": np.array([b"\xff"])}, "not UTF-8"),
    ],
)
def test_refusals(tmp_path, arrays, says) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(MarginalsError, match=says):
        load_npz(tmp_path / "a.npz")


def test_damaged_files(tmp_path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=pixels(50, 16, 16))
    whole = path.read_bytes()
    for damage in (b"", b"not an archive", whole[: len(whole) // 2]):
        path.write_bytes(damage)
        with pytest.raises(MarginalsError, match="a"):
            load_npz(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(MarginalsError, match="CRC"):
        load_npz(path)
    with pytest.raises(MarginalsError, match="cannot be read"):
        load_npz(tmp_path / "missing.npz")
    np.save(tmp_path / "one.npy", pixels(3, 8, 8))
    with pytest.raises(MarginalsError, match="one bare array"):
        load_npz(tmp_path / "one.npy")


def test_names_saved_as_bytes_are_names(tmp_path) -> None:
    path = tmp_path / "a.npz"
    names = np.array([b"chien", "été".encode()])
    np.savez(path, images=pixels(2, 8, 8), labels=np.array([1, 0]), classes=names)
    assert load_npz(path)[0].classes == ("chien", "été")
    np.savez(path, images=pixels(2, 8, 8), labels=names)
    assert load_npz(path)[0].classes == ("chien", "été")


def test_damage_anywhere_in_a_compressed_archive_is_one_sentence(tmp_path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=pixels(4, 8, 8) // 64)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for change in (0x01, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= change
            path.write_bytes(damaged)
            try:
                load_npz(path)
            except MarginalsError as error:
                assert "\n" not in str(error)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.npz"
    old = Pictures(torch.from_numpy(pixels(5, 1, 4, 4)))
    save_npz(path, old)

    def full_disk(*_, **__) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(MarginalsError, match="disk is full"):
        save_npz(path, Pictures(torch.from_numpy(pixels(5, 1, 4, 4))))
    assert torch.equal(load_npz(path)[0].images, old.images)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
