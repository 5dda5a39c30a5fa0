"""Tensors to pictures and back; contact sheets; PNG files that say how they were made.

Inside the package a picture is a float tensor (B, C, H, W) in [-1, 1]; in files it is uint8 with
values 0..255; `marginals.pixels` holds the two maps. C is 1 (gray), 3 (RGB) or 4 (RGBA, straight
alpha).
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

import marginals
from marginals import pixels
from marginals.errors import MarginalsError
from marginals.io.atomic import atomic_write

__all__ = ["from_uint8", "grid", "read_parameters", "save_png", "to_image", "to_uint8"]

Color = tuple[int, int, int]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Our names for the settings of a sample -> the names other programs look for, in their order.
_SPELLINGS = {
    "steps": "Steps",
    "solver": "Sampler",
    "seed": "Seed",
    "guidance": "CFG scale",
    "size": "Size",
    "model": "Model",
    "version": "Version",
}
_CAPTIONS = ("prompt", "label")


def to_uint8(x: Tensor) -> Tensor:
    """Float pictures in [-1, 1], any shape -> uint8, as `pixels.to_uint8` (bins, cut to 0..255).

    Raises MarginalsError when `x` is not float or holds NaN or infinity: a broken sample must not
    pass for a black or a white one.
    """
    if not x.is_floating_point():
        raise MarginalsError(
            f"pictures must be float tensors in [-1, 1] but these are {x.dtype}; "
            "use from_uint8 for stored pictures"
        )
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise MarginalsError(
            f"{bad} of {x.numel()} pixel values are NaN or infinite, so there is no picture to "
            "write; use more steps, a lower guidance, or an earlier checkpoint"
        )
    return pixels.to_uint8(x.detach())


def from_uint8(u: Tensor) -> Tensor:
    """Stored pictures uint8 0..255 -> float32 in [-1, 1], as `pixels.to_float` (bin centres)."""
    return pixels.to_float(u)


def to_image(picture: Tensor) -> Image.Image:
    """One picture (C, H, W), uint8 or float in [-1, 1] -> a PIL image of the same size."""
    if picture.ndim != 3 or picture.shape[0] not in _MODES or not picture.numel():
        raise MarginalsError(
            "a picture has shape (channels, height, width) with 1, 3 or 4 channels, "
            f"not {tuple(picture.shape)}"
        )
    u = picture if picture.dtype == torch.uint8 else to_uint8(picture)
    array = u.cpu().movedim(0, -1).numpy()
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array))


def grid(
    pictures: Tensor,
    columns: int | None = None,
    *,
    scale: int | None = None,
    labels: Sequence[str] | None = None,
    gap: int = 4,
    background: Color = (255, 255, 255),
) -> Image.Image:
    """A contact sheet of `pictures` (N, C, H, W), uint8 or float in [-1, 1], row by row.

    columns     pictures per row; None makes the sheet about square
    scale       whole-number enlargement, each pixel a sharp square; None brings the longer side of
                a tiny picture to about 80 pixels (28 -> 84) and leaves large ones alone
    labels      one caption per row (written on its left) or one per picture (written below it)
    gap         pixels between pictures and around the sheet
    background  RGB between the pictures; transparent pictures are laid on it

    Gray pictures on a gray background give a gray image, all others RGB.
    """
    if pictures.ndim != 4 or not len(pictures):
        raise MarginalsError(
            "a grid needs at least one picture in a tensor (count, channels, height, width), "
            f"not {tuple(pictures.shape)}"
        )
    count, _, height, width = pictures.shape
    columns = _columns(count) if columns is None else columns
    scale = max(1, 84 // max(height, width)) if scale is None else scale
    if columns < 1 or scale < 1 or gap < 0:
        raise MarginalsError("a grid needs columns >= 1, scale >= 1 and gap >= 0")
    columns = min(columns, count)
    rows = -(-count // columns)
    left, below, font = _caption_space(labels, count, rows, width * scale)
    step_x, step_y = width * scale + gap, height * scale + below + gap
    sheet = Image.new("RGB", (left + gap + columns * step_x, gap + rows * step_y), background)
    for i, picture in enumerate(pictures):
        cell = to_image(picture).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        at = (left + gap + i % columns * step_x, gap + i // columns * step_y)
        sheet.paste(cell, at, cell if cell.mode == "RGBA" else None)
    if labels:
        _write_captions(sheet, labels, font, background, (left, gap, columns, step_x, step_y))
    gray = pictures.shape[1] == 1 and len(set(background)) == 1
    return sheet.convert("L") if gray else sheet


def save_png(
    path: str | os.PathLike[str], image: Image.Image, parameters: Mapping[str, Any]
) -> None:
    """Write `image` to `path` atomically, as a PNG that carries how it was made.

    Two text chunks: `marginals` holds `parameters` as JSON, complete, for `read_parameters`;
    `parameters` holds the one-line form that A1111-style programs show ("Steps: 20, Sampler: ..."),
    made of the keys prompt or label, steps, solver, seed, guidance, size, model, version and every
    other plain value. `size` and `version` are filled in where they are missing.

    Raises MarginalsError when `parameters` cannot be said in JSON or the file cannot be written.
    """
    full = {
        "size": f"{image.width}x{image.height}",
        "version": f"marginals {marginals.__version__}",
        **parameters,
    }
    try:
        text = json.dumps(full, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MarginalsError(f"the parameters of {path} cannot be written: {error}") from error
    info = PngImagePlugin.PngInfo()
    info.add_text("marginals", text)
    info.add_text("parameters", _one_line(full))
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def read_parameters(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The parameters a PNG of `save_png` carries; {"parameters": text} of another program's PNG.

    Only text is read: nothing in the file is executed or unpickled. Raises MarginalsError when
    there is no such file, when it is not a PNG, is damaged, or carries nothing.
    """
    name = Path(path).name
    try:
        with Image.open(path) as image:
            # Reading past the pixels finds chunks at the end of the file, and damage.
            text = cast(PngImagePlugin.PngImageFile, image).text if image.format == "PNG" else None
    except FileNotFoundError as error:
        raise MarginalsError(f"there is no file {path}") from error
    except UnidentifiedImageError as error:
        raise MarginalsError(f"{name} is not a picture file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise MarginalsError(f"{name} is damaged and cannot be read ({error})") from error
    if text is None:
        raise MarginalsError(f"{name} is not a PNG; only PNG files carry their parameters")
    if "marginals" not in text:
        if "parameters" in text:
            return {"parameters": str(text["parameters"])}
        raise MarginalsError(
            f"{name} carries no parameters; it was not written by marginals, or another program "
            "saved it anew and dropped them"
        )
    try:
        parameters = json.loads(text["marginals"])
    except (ValueError, RecursionError) as error:
        raise MarginalsError(f"the parameters in {name} are damaged ({error})") from error
    if not isinstance(parameters, dict):
        raise MarginalsError(f"the parameters in {name} are damaged (they are not a table)")
    return parameters


def _columns(count: int) -> int:
    return next(c for c in range(1, count + 1) if c * c >= count)


def _caption_space(
    labels: Sequence[str] | None, count: int, rows: int, width: int
) -> tuple[int, int, ImageFont.ImageFont | ImageFont.FreeTypeFont]:
    """Pixels that the captions need left of the rows and below the pictures, and their font."""
    font = _font(15)
    if not labels:
        return 0, 0, font
    if len(labels) == rows:
        return 10 + max(int(font.getlength(label)) for label in labels), 0, font
    if len(labels) != count:
        raise MarginalsError(
            f"{len(labels)} labels fit neither the {rows} rows nor the {count} pictures of the grid"
        )
    longest = max(font.getlength(label) for label in labels)
    size = max(9, min(15, int(15 * width / max(longest, 1))))
    return 0, size + 5, _font(size)


def _write_captions(
    sheet: Image.Image,
    labels: Sequence[str],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    background: Color,
    place: tuple[int, int, int, int, int],
) -> None:
    left, gap, columns, step_x, step_y = place
    room = step_x - gap
    ink = (20, 20, 20) if sum(background) > 382 else (235, 235, 235)
    draw = ImageDraw.Draw(sheet)
    for i, label in enumerate(labels):
        if left:
            at, anchor = (left - 2, i * step_y + (gap + step_y) // 2), "rm"
        else:
            at = (gap + i % columns * step_x + room // 2, (1 + i // columns) * step_y - 2)
            anchor, label = "md", _fitting(label, room, font)
        draw.text(at, label, fill=ink, font=font, anchor=anchor)


def _fitting(label: str, room: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The label, cut with dots where it would run into its neighbour."""
    whole = len(label)
    while label and font.getlength(label + ("..." if len(label) < whole else "")) > room:
        label = label[:-1]
    return label if len(label) == whole else label + "..."


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """DejaVu Sans (it has λ, ε and most alphabets) where it is installed, else Pillow's own."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def _one_line(parameters: Mapping[str, Any]) -> str:
    """The A1111 form: caption, newline, then "Name: value" pairs; awkward values in JSON quotes."""
    caption = next((str(parameters[key]) for key in _CAPTIONS if key in parameters), "")
    plain = {k: v for k, v in parameters.items() if k not in _CAPTIONS and _is_plain(v)}
    order = [key for key in _SPELLINGS if key in plain]
    order += [key for key in plain if key not in _SPELLINGS]
    pairs = (f"{_spelling(key)}: {_quoted(str(plain[key]))}" for key in order)
    return f"{caption}\n{', '.join(pairs)}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _spelling(key: str) -> str:
    return _SPELLINGS.get(key, key[:1].upper() + key[1:].replace("_", " "))


def _quoted(text: str) -> str:
    awkward = any(c in text for c in ',:"\n')
    return json.dumps(text, ensure_ascii=False) if awkward else text
