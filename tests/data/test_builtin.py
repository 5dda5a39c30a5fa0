"""The shipped data: counts, balance, and that it is what the tool that made it recorded."""

import hashlib
import importlib.util
import lzma
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from marginals.data import class_counts, load
from marginals.data.originals import idx_array
from marginals.data.published import digits_arrays

TOOL = Path(__file__).parents[2] / "tools" / "make_builtin_data.py"
FILES = files("marginals.data") / "files"


def the_tool():
    spec = importlib.util.spec_from_file_location("make_builtin_data", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not TOOL.exists(), reason="the tool is part of the repository, not the wheel")
def test_the_files_are_those_the_tool_recorded() -> None:
    recorded = the_tool().SHA256
    for name in ("fashion.npz.xz", "digits.npz.xz"):
        content = lzma.decompress(FILES.joinpath(name).read_bytes())
        assert hashlib.sha256(content).hexdigest() == recorded[name]


def test_the_package_stays_small_and_carries_the_licences() -> None:
    sizes = [len(FILES.joinpath(f"{name}.npz.xz").read_bytes()) for name in ("fashion", "digits")]
    assert sum(sizes) < 6.5e6
    assert "Zalando SE" in FILES.joinpath("LICENSE-fashion-mnist.txt").read_text()
    assert "BSD 3-Clause" in FILES.joinpath("LICENSE-scikit-learn.txt").read_text()
    assert "Alpaydin" in FILES.joinpath("NOTICE.txt").read_text()


def test_fashion() -> None:
    train, held = load("fashion")
    assert train.shape == held.shape == (1, 28, 28)
    assert list(class_counts(train).values()) == [1400] * 10
    assert list(class_counts(held).values()) == [200] * 10
    assert train.classes[0] == "t-shirt" and train.classes[9] == "ankle boot"
    assert not train.flip


def test_fashion_labels_belong_to_their_pictures() -> None:
    """Nearest class mean: 68 % on held-out pictures when the labels are right, 10 % if shuffled."""
    train, held = load("fashion")
    x, y = train.batch(torch.arange(len(train)))
    means = torch.stack([x[y == k].float().mean(0).flatten() for k in range(10)])
    x, y = held.batch(torch.arange(len(held)))
    guess = torch.cdist(x.flatten(1).float(), means).argmin(1)
    assert (guess == y).float().mean() > 0.6


def test_digits() -> None:
    train, held = load("digits")
    assert (len(train), len(held)) == (1500, 297)
    assert train.shape == (1, 8, 8)
    assert min(class_counts(held).values()) >= 29
    x, y = train.batch(torch.arange(len(train)))
    # v * 255 / 16, rounded half up
    assert x.unique().tolist() == [int(v * 255 / 16 + 0.5) for v in range(17)]
    test_x, test_y = held.batch(torch.arange(len(held)))
    distance = torch.cdist(test_x.flatten(1).float(), x.flatten(1).float())
    assert (y[distance.argmin(1)] == test_y).float().mean() > 0.95  # one nearest neighbour
    assert distance.min() > 0  # no held-out picture is also a training picture


def test_idx_and_digits_readers() -> None:
    assert idx_array(b"\0\0\x08\x02" + b"\0\0\0\x02\0\0\0\x03" + bytes(range(6))).tolist() == [
        [0, 1, 2],
        [3, 4, 5],
    ]
    with pytest.raises(ValueError, match="IDX"):
        idx_array(b"<html>")
    row = ",".join(["0.0", "16.0", "8.0", *["1.0"] * 61, "7"])
    images, labels = digits_arrays(row.encode())
    assert images.shape == (1, 8, 8) and labels.tolist() == [7]
    assert images.ravel()[:4].tolist() == [0, 255, 128, 16]


def test_two_loads_are_the_same() -> None:
    (a, b), (c, d) = load("digits"), load("digits")
    every = torch.arange(297)
    assert torch.equal(a.batch(every)[0], c.batch(every)[0])
    assert torch.equal(b.batch(every)[0], d.batch(every)[0])
