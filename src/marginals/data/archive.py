"""`.npz` archives of pictures: one file, plain arrays, no pickle.

| key                          | content                                                        |
|------------------------------|----------------------------------------------------------------|
| `images`                     | uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1, 3 or 4    |
| `labels` (optional)          | (N,) integers or strings                                       |
| `classes` (optional)         | (K,) strings; integer labels then run 0..K-1, -1 = no label    |
| `test_images`, `test_labels` | the held-out part, when the data set has an official one       |
| `captions` (optional)        | (N,) strings: a picture's captions, one per line; or none      |
| `concepts`, `styles`, `groups`, `licences` (optional, beside captions) | (N,) strings         |
| `test_captions`, ...         | the same of the held-out part                                  |
| `note`, `flip` (optional)    | source and licence; whether mirrored pictures are plausible    |

Without `classes`, the distinct labels in sorted order are the classes. Captions may be stored as
str or as UTF-8 bytes (`S`, a quarter of the space); what is read is then `Captioned`.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import MarginalsError
from ..io.atomic import atomic_write
from .captioned import FACTS, Captioned
from .pictures import CHANNELS, Pictures

Arrays = dict[str, NDArray[Any]]
Stored = Pictures | Captioned
TEXTS = ("captions", *FACTS)


def load_npz(path: Path | str) -> tuple[Stored, Stored | None]:
    """(pictures, official held-out part or None) of an archive; MarginalsError if it is not one."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return read_npz(file, path.stem)
    except OSError as error:
        raise MarginalsError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_npz(file: IO[bytes], name: str) -> tuple[Stored, Stored | None]:
    """As `load_npz`, from an open file."""
    arrays = _arrays(file, name)
    if "images" not in arrays:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise MarginalsError(
            f"{name} needs an array called `images` (uint8, one picture per row), but holds {held}."
        )
    for key in {"labels", "test_labels", "classes"} & arrays.keys():
        arrays[key] = _decoded(arrays[key], f"the class names of {name}")
    labels = [arrays[k] for k in ("labels", "test_labels") if k in arrays]
    classes = _classes(arrays.get("classes"), labels)
    if twice := sorted(c for c, count in Counter(classes).items() if count > 1):
        raise MarginalsError(
            f"{name} has two classes called {twice[0]!r}; give every class a name of its own."
        )
    note, flip = str(arrays.get("note", "")), bool(arrays.get("flip", False))

    def part(prefix: str, title: str) -> Stored:
        images = _channels_first(arrays[f"{prefix}images"], title)
        if "captions" in arrays:
            return Captioned(
                images, **_texts(arrays, prefix, title), name=title, note=note, flip=flip
            )
        given = arrays.get(f"{prefix}labels")
        indices = None if given is None else _indices(given, classes, "classes" in arrays, title)
        kept = () if indices is None else classes
        return Pictures(images, indices, kept, title, note, flip)

    train = part("", name)
    if "test_images" not in arrays:
        return train, None
    test = part("test_", f"{name} (held out)")
    if test.shape != train.shape:
        raise MarginalsError(
            f"{name} has training pictures of shape {train.shape} but held-out ones of "
            f"{test.shape}; both need one shape."
        )
    return train, test


def save_npz(path: Path | str, train: Stored, held_out: Stored | None = None) -> None:
    """Write an archive that `load_npz` reads back exactly; atomic: all of it or nothing."""
    path, arrays = Path(path), to_arrays(train, held_out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def to_arrays(train: Stored, held_out: Stored | None = None) -> dict[str, Any]:
    """The arrays of an archive, by key. Gray pictures as (N, H, W), others as (N, H, W, C)."""
    arrays: dict[str, Any] = {"note": np.array(train.note), "flip": np.array(train.flip)}
    if train.classes:
        arrays["classes"] = np.array(train.classes)
    for prefix, part in (("", train), ("test_", held_out)):
        if part is not None:
            pixels = part.images.permute(0, 2, 3, 1).contiguous().numpy()
            arrays[f"{prefix}images"] = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
            if part.labels is not None:
                arrays[f"{prefix}labels"] = part.labels.numpy().astype(np.int16)
            if isinstance(part, Captioned):
                arrays |= _text_arrays(part, prefix)
    return arrays


def _text_arrays(part: Captioned, prefix: str) -> Arrays:
    """Captions and facts as UTF-8 bytes, one entry per picture."""
    lines = {"captions": ["\n".join(" ".join(x.split()) for x in texts) for texts in part.captions]}
    lines |= {field: facts for field in FACTS if (facts := getattr(part, field))}
    return {f"{prefix}{k}": np.array([x.encode() for x in v], dtype="S") for k, v in lines.items()}


def _texts(arrays: Arrays, prefix: str, name: str) -> dict[str, Any]:
    """The fields of `Captioned` that are words."""
    if f"{prefix}labels" in arrays or f"{prefix}captions" not in arrays:
        raise MarginalsError(
            f"{name} must have either labels or captions, the same in both of its parts."
        )
    fields: dict[str, Any] = {}
    for field in TEXTS:
        if (given := arrays.get(f"{prefix}{field}")) is None:
            continue
        words = _decoded(given, f"the {field} of {name}")
        if words.dtype.kind != "U" or words.ndim != 1:
            raise MarginalsError(
                f"the {field} of {name} must be one text per picture, but are {given.dtype} of "
                f"shape {given.shape}."
            )
        fields[field] = tuple(words.tolist())
    lines = ([line.strip() for line in texts.split("\n")] for texts in fields["captions"])
    return fields | {"captions": tuple(tuple(filter(None, texts)) for texts in lines)}


_DAMAGE = (
    OSError, EOFError, KeyError, MemoryError, TypeError, SyntaxError, struct.error, zlib.error,
    zipfile.BadZipFile, zipfile.LargeZipFile,
    RuntimeError,  # an encrypted member, and NotImplementedError: an unknown compression
)  # fmt: skip
"""What numpy and zipfile raise for files that are no archives, or no longer."""


def _arrays(file: IO[bytes], name: str) -> Arrays:
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise MarginalsError(f"{name} is one bare array; save it with np.savez(images=...).")
        with archive:
            return {key: archive[key] for key in archive.files}
    except ValueError as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            raise MarginalsError(
                f"{name} is not an .npz archive of plain arrays (Python objects are never "
                "unpickled); save uint8 pictures with np.savez(path, images=..., labels=...)."
            ) from None
        raise MarginalsError(f"{name} is a damaged .npz archive: {error}.") from None
    except _DAMAGE as error:
        raise MarginalsError(
            f"{name} is cut short or no .npz archive ({error}); save it again with np.savez."
        ) from None


def _channels_first(images: NDArray[Any], name: str) -> Tensor:
    if images.dtype != np.uint8:
        raise MarginalsError(
            f"the pictures of {name} must be uint8 (0..255), but are {images.dtype}; convert them "
            "before saving."
        )
    shape = images.shape
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and shape[3] in CHANNELS and (shape[1] not in CHANNELS or _square(shape)):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim != 4 or shape[1] not in CHANNELS:
        raise MarginalsError(
            f"the pictures of {name} have shape {shape}; it must be (N, H, W), (N, H, W, C) or "
            "(N, C, H, W) with 1, 3 or 4 channels."
        )
    if 0 in images.shape:
        raise MarginalsError(f"{name} holds no pictures (shape {shape}).")
    return torch.from_numpy(np.ascontiguousarray(images))


def _square(shape: tuple[int, ...]) -> bool:
    """Whether (N, H, W, C) reads as square pictures: it settles shapes like (N, 4, 4, 3)."""
    return shape[1] == shape[2]


def _decoded(words: NDArray[Any], what: str) -> NDArray[Any]:
    """Words as text, also where they were saved as bytes."""
    try:
        return np.char.decode(words, "utf-8") if words.dtype.kind == "S" else words
    except UnicodeDecodeError:
        raise MarginalsError(f"{what} are not UTF-8; save them as str.") from None


def _classes(given: NDArray[Any] | None, labels: list[NDArray[Any]]) -> tuple[str, ...]:
    if given is not None:
        return tuple(str(name) for name in given.ravel())
    values = np.unique(np.concatenate([x.ravel() for x in labels])) if labels else np.array([])
    if values.dtype.kind in "iu":
        values = values[values != -1]
    return tuple(str(value) for value in values)


def _indices(labels: NDArray[Any], classes: tuple[str, ...], named: bool, name: str) -> Tensor:
    """Labels as class indices (-1 = none), whether they were written as numbers or as names."""
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise MarginalsError(
            f"the labels of {name} must be one integer or one name per picture, but are "
            f"{labels.dtype} of shape {labels.shape}."
        )
    if labels.dtype.kind in "iu" and named:
        return torch.from_numpy(labels.astype(np.int64))
    place = {text: index for index, text in enumerate(classes)} | {"-1": -1}
    unknown = sorted({str(v) for v in labels.tolist()} - place.keys())
    if unknown:
        raise MarginalsError(f"{name} has the label {unknown[0]!r}, which is not in its classes.")
    return torch.tensor([place[str(v)] for v in labels.tolist()], dtype=torch.long)
