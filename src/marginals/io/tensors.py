"""safetensors files with a JSON header of ours, read without torch and without trust.

A safetensors file is: 8 bytes n (little endian), n bytes of JSON (name -> dtype, shape, offsets,
and a `__metadata__` of strings), then the raw tensors. Our header is one JSON text in that
metadata. So the description of a model can be read, and replaced, without touching its weights.

Nothing here unpickles: a pickle may run any code when it is opened.
"""

import json
import os
import shutil
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from marginals.errors import MarginalsError
from marginals.io.atomic import atomic_write

if TYPE_CHECKING:
    import torch

__all__ = [
    "Contents",
    "read_contents",
    "read_foreign",
    "read_tensors",
    "rewrite",
    "write_tensors",
]

_ENTRY = "marginals"  # our one metadata entry: several would be written in no fixed order
_LONGEST = 100_000_000  # bytes of JSON that safetensors itself accepts


class Contents(NamedTuple):
    """What a file says about itself, without its tensors."""

    header: dict[str, Any]
    """Our JSON header."""
    shapes: dict[str, tuple[int, ...]]
    """Shape of every tensor, by name."""


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, "torch.Tensor"], header: Mapping[str, Any]
) -> None:
    """Write tensors and header as one file that appears whole or not at all."""
    from safetensors.torch import save_file

    ready = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.touch()  # with the permissions new files get here; safetensors allows only us
        mode = temporary.stat().st_mode
        save_file(ready, os.fspath(temporary), metadata=_metadata(header))
        os.chmod(temporary, stat.S_IMODE(mode))


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Header and tensor shapes of a file written by `write_tensors`; imports no torch.

    Raises MarginalsError when the file is missing, truncated, a pickle, or not ours.
    """
    path = Path(path)
    with _open(path) as file:
        index, _ = _read_index(path, file)
    header = _our_header(path, index)
    try:
        return Contents(header, {name: tuple(v["shape"]) for name, v in _entries(index)})
    except (TypeError, KeyError):
        raise MarginalsError(f"{path} is damaged: its header is not readable") from None


def read_tensors(
    path: str | os.PathLike[str], device: "str | torch.device" = "cpu"
) -> dict[str, "torch.Tensor"]:
    """All tensors of a file, on `device`. Call `read_contents` first: it explains bad files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(os.fspath(path), device=str(device))
    except SafetensorError as error:
        raise MarginalsError(f"{path} is damaged ({error}); copy or download it again") from None


def read_foreign(path: str | os.PathLike[str], remedy: str) -> dict[str, "torch.Tensor"]:
    """All tensors of a safetensors file of anybody's. Raises MarginalsError when it is missing,
    truncated or no such file; of a pickle it says that it is refused, and `remedy`."""
    with _open(Path(path)) as file:
        _read_index(Path(path), file, remedy)
    return read_tensors(path)


def rewrite(
    path_in: str | os.PathLike[str], path_out: str | os.PathLike[str], header: Mapping[str, Any]
) -> None:
    """Copy a file with another header. The tensors are copied byte for byte."""
    path_in = Path(path_in)
    with _open(path_in) as source, atomic_write(path_out) as temporary:
        index, _ = _read_index(path_in, source)
        index["__metadata__"] = _metadata(header)
        text = json.dumps(index, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(temporary, "wb") as target:
            target.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(source, target, 1 << 20)


def _metadata(header: Mapping[str, Any]) -> dict[str, str]:
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MarginalsError(f"the checkpoint header is not JSON: {error}") from error
    return {_ENTRY: text}


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise MarginalsError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise MarginalsError(f"{path} is a folder, not a .safetensors file") from None
    except OSError as error:
        raise MarginalsError(f"cannot read {path}: {error.strerror}") from None


def _read_index(
    path: Path, file: BinaryIO, remedy: str = "ask for the model as .safetensors"
) -> tuple[dict[str, Any], int]:
    """The JSON at the head of a safetensors file, and where the tensors begin (file is there)."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(9)
    if not start.endswith(b"{") or len(start) < 9:
        raise MarginalsError(_not_safetensors(path, start, size, remedy))
    length = int.from_bytes(start[:8], "little")
    if length > _LONGEST:
        raise MarginalsError(_not_safetensors(path, start, size, remedy))
    text = b"{" + file.read(length - 1)
    if len(text) < length:
        raise MarginalsError(_truncated(path, size))
    try:
        index = json.loads(text)
        end = 8 + length + max((v["data_offsets"][1] for _, v in _entries(index)), default=0)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise MarginalsError(f"{path} is damaged: its header is not readable") from None
    if size < end:
        raise MarginalsError(_truncated(path, size, end))
    return index, 8 + length


def _entries(index: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in index.items() if name != "__metadata__"]


def _truncated(path: Path, size: int, expected: int | None = None) -> str:
    there = f"{size} bytes" + (f" of {expected}" if expected else "")
    return f"{path} is truncated (only {there} are there); copy or download it again"


def _not_safetensors(path: Path, start: bytes, size: int, remedy: str) -> str:
    if size == 0:
        return f"{path} is empty; copy or download it again"
    if start[:1] == b"\x80" or zipfile.is_zipfile(path) or path.suffix in (".pt", ".ckpt", ".pkl"):
        return (
            f"{path} is a pickle (.pt, .pkl, .ckpt); it is refused because opening a pickle can "
            f"run any code hidden in it; {remedy}"
        )
    return f"{path} is not a safetensors file"


def _our_header(path: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    metadata = index.get("__metadata__") or {}
    if not isinstance(metadata, dict):
        raise MarginalsError(f"{path} is damaged: its metadata are not a table")
    if _ENTRY not in metadata:
        raise MarginalsError(
            f"{path} is a safetensors file, but not one of marginals: {_looks_like(index)}; it "
            "does not say which noise schedule and prediction it was trained with, and marginals "
            "does not guess"
        )
    try:
        header = json.loads(metadata[_ENTRY])
    except (ValueError, TypeError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise MarginalsError(f"{path} is damaged: its marginals header is not readable")
    return header


def _looks_like(index: Mapping[str, Any]) -> str:
    names = [name for name, _ in _entries(index)]
    known = {
        "lora_": "a LoRA",
        "model.diffusion_model.": "a Stable Diffusion checkpoint",
        "down_blocks.": "a network of diffusers",
        "double_blocks.": "a Flux transformer",
        "decoder.": "an autoencoder",
    }
    kind = next(
        (what for sign, what in known.items() if any(sign in n for n in names)), "something"
    )
    first = f" such as {names[0]!r}" if names else ""
    return f"it looks like {kind} with {len(names)} tensors{first}"
