"""Contact sheets as PNG files that carry how they were made."""

from typing import Any

import torch
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor

from marginals.demo.findings import Findings
from marginals.demo.views import Shown
from marginals.io.pictures import grid, save_png

__all__ = ["named_sheet", "noise_sheet", "sheet", "write_sheets"]


def write_sheets(found: Findings) -> None:
    """FOLDER/pictures/: one sheet per view, the starting noise, real pictures, near neighbours."""
    folder = found.subject.folder / "pictures"
    common: dict[str, Any] = {
        "model": str(found.subject.run / "model.safetensors"),
        "seed": found.subject.config.seed,
    }
    for each in found.shown:
        save_png(
            folder / f"{each.view.key}.png", named_sheet(each.x, found), common | _how(each, found)
        )
    save_png(folder / "noise.png", noise_sheet(found), common | {"shows": "starting noise"})
    real = {"shows": "training pictures", "data": found.subject.config.data}
    save_png(folder / "real.png", named_sheet(found.real, found), real)


def sheet(pictures: Tensor, columns: int, scale: int | None = None) -> Image:
    """Pictures row by row; samples may lie a little outside [-1, 1] and are cut there."""
    shown = pictures.clamp(-1, 1) if pictures.is_floating_point() else pictures
    return grid(shown, columns, scale=scale)


def named_sheet(pictures: Tensor, found: Findings) -> Image:
    """A sheet with the names of the classes above its columns, where there are classes."""
    columns, labels = found.subject.plan.columns, found.subject.labels
    image = sheet(pictures, columns)
    if labels is None or columns < 2:
        return image
    names = [found.subject.train.classes[i] for i in labels[:columns].tolist()]
    side = max(pictures.shape[-2:])
    lines = torch.ones(columns, 1, 1, pictures.shape[-1])  # white on white, for their captions
    head = grid(lines, columns, scale=max(1, 84 // side), labels=names)
    both = new_image(image.mode, (image.width, head.height + image.height), "white")
    both.paste(head.convert(image.mode), (0, 0))
    both.paste(image, (0, head.height))
    return both


def noise_sheet(found: Findings) -> Image:
    """The starting noise; black and white are three standard deviations apart from grey."""
    return sheet(found.noise / 3.0, found.subject.plan.columns)


def _how(each: Shown, found: Findings) -> dict[str, Any]:
    view, classes = each.view, found.subject.train.classes
    labels = found.subject.labels
    return {
        "view": view.title,
        "solver": view.solver.name,
        "steps": view.steps,
        "levels": view.grid_name,
        "evaluations": each.nfe,
        "guidance": view.guidance,
        "labels": None if labels is None else [classes[i] for i in labels.tolist()],
    }
