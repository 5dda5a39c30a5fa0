"""The sample strip: the same noise, drawn again and again while the model learns.

Each snapshot is a small PNG in `samples/`, one row of pictures; `samples.png` stacks the rows. The
noise depends on the seed of the run only, so the rows show the model changing and nothing else.
"""

import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from marginals.codec import Autoencoder
from marginals.generative import Generative
from marginals.io.pictures import grid, save_png
from marginals.latent import walked
from marginals.pixels import to_float

__all__ = ["Snapshots", "probe_loss"]

_MOST_ROWS = 16
_OURS = re.compile(r"[0-9]{12,}-(average|raw)\.png")


class Snapshots:
    """Draws rows into `folder`/samples and keeps `folder`/samples.png up to date."""

    def __init__(
        self, folder: Path, count: int, steps: int, seed: int, cond: Tensor | None = None
    ) -> None:
        self.folder, self.count, self.steps, self.seed = folder, count, steps, seed
        self.cond = cond

    def draw(
        self, model: Generative, images_seen: int, label: str = "average", *, shown: Tensor
    ) -> None:
        """Add the row of `model` at `images_seen`; label is "average" (EMA) or "raw". The row of an
        autoencoder are its reconstructions of the pictures `shown`, below these."""
        if isinstance(model, Autoencoder):
            pictures = to_float(shown[: self.count])
            x = torch.cat([pictures, model.reconstruct(pictures).float()])
            self._write(x.cpu(), images_seen, label, {"images_seen": images_seen, "weights": label})
            self.stack()
            return
        inside = walked(model)
        walk: dict[str, Any] = {} if inside is None or inside.walk else {"steps": self.steps}
        x = model.sample(self.count, seed=self.seed, cond=self.cond, **walk).x
        about = {"images_seen": images_seen, "weights": label, "seed": self.seed, **walk}
        about |= {"solver": "auto"} if walk else {}
        self._write(x.float().clamp(-1, 1).cpu(), images_seen, label, about)
        self.stack()

    def _write(self, x: Tensor, images_seen: int, label: str, parameters: dict[str, Any]) -> None:
        rows = self.folder / "samples"
        rows.mkdir(exist_ok=True)
        save_png(rows / f"{images_seen:012d}-{label}.png", grid(x, self.count), parameters)

    def truncate(self, images_seen: int) -> None:
        """Forget the rows after a checkpoint; the resumed run draws them again."""
        for row in self._rows():
            if _images(row) > images_seen:
                row.unlink()

    def stack(self) -> None:
        """Write samples.png from the rows; of a long run, evenly many with first and last."""
        rows = self._rows()
        if len(rows) > _MOST_ROWS:
            last = len(rows) - 1
            rows = [rows[round(i * last / (_MOST_ROWS - 1))] for i in range(_MOST_ROWS)]
        pictures = [Image.open(row) for row in rows]
        names = [_caption(row) for row in rows]
        font = ImageFont.load_default(13)
        left = 8 + max(int(font.getlength(name)) for name in names)
        height = max(p.height for p in pictures)
        sheet = Image.new(pictures[0].mode, (left + pictures[0].width, height * len(rows)), "white")
        draw = ImageDraw.Draw(sheet)
        for i, (picture, name) in enumerate(zip(pictures, names)):
            sheet.paste(picture, (left, i * height))
            draw.text((left - 4, i * height + height // 2), name, "black", font, anchor="rm")
        save_png(self.folder / "samples.png", sheet, {"rows": names, "seed": self.seed})

    def _rows(self) -> list[Path]:
        """The rows drawn by runs, in order; what else lies there is somebody else's."""
        return sorted(p for p in (self.folder / "samples").glob("*.png") if _OURS.fullmatch(p.name))


@torch.no_grad()
def probe_loss(model: Generative, x: Tensor, cond: Tensor | None, seed: int) -> float:
    """The loss on a fixed batch with fixed noise: comparable between weights and over time."""
    generator = torch.Generator().manual_seed(seed)
    with model._evaluating():
        return float(model.losses(x, cond, generator=generator)[0].mean())


def _images(row: Path) -> int:
    return int(row.stem.split("-")[0])


def _caption(row: Path) -> str:
    images, weights = row.stem.split("-")
    return f"{int(images):,}" + (" raw" if weights == "raw" else "")
