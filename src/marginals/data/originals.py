"""Readers for the formats in which data sets are published; none of them runs code.

IDX (the MNIST format): two zero bytes, a type byte (8 = uint8), the number of dimensions d, then
d big-endian 32-bit lengths, then the values.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def tar_members(archive: bytes) -> dict[str, bytes]:
    """Every plain file of a tar archive (compressed or not), by name."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            handle = tar.extractfile(member) if member.isfile() else None
            if handle is not None:
                files[member.name] = handle.read()
    return files


def deb_members(archive: bytes) -> dict[str, bytes]:
    """Every plain file of a Debian package: an `ar` archive with a member `data.tar.*`."""
    if archive[:8] != b"!<arch>\n":
        raise ValueError("not a Debian package")
    offset = 8
    while offset + 60 <= len(archive):
        name = archive[offset : offset + 16].decode("ascii").strip().rstrip("/")
        size = int(archive[offset + 48 : offset + 58])
        offset += 60
        if name.startswith("data.tar"):
            return tar_members(archive[offset : offset + size])
        offset += size + (size & 1)  # members start at even offsets
    raise ValueError("the Debian package holds no data")


def gunzip(data: bytes) -> bytes:
    """The data itself, unpacked when it is gzipped."""
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def idx_array(data: bytes) -> NDArray[np.uint8]:
    """The uint8 array of an IDX file."""
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise ValueError("not an IDX file of bytes")
    dims = data[3]
    shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


def sklearn_digits(wheel: Path) -> bytes:
    """The gzipped CSV of the 8x8 digits inside a scikit-learn wheel (a zip; nothing is run)."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read("sklearn/datasets/data/digits.csv.gz")
