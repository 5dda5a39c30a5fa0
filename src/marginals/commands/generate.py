"""`marginals generate`: draw what a text says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from tyro.conf import FlagCreatePairsOff, Positional, arg

from marginals.commands.common import Command, check_walk_names, device
from marginals.errors import MarginalsError
from marginals.io.atomic import safe_name

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from marginals.text.draw import TextToImage


class Generate(Command):
    """Draw what a text says: one PNG per picture, and a grid of all.

    The model `emoji` comes with marginals and draws emoji; any run that was trained on pictures
    with captions can be named instead. Picture i of a text has seed SEED + i, and is the same
    whatever else is drawn. `marginals info picture.png` reads how a picture was made.

    Examples:
      marginals generate "a red crab, flat style" -n 8
      marginals generate "a green apple" "a red apple" --seed 3 --guidance 4
      marginals generate "a cat, 3d style" --size 256 --transparent --out cats
      marginals generate "a cat" --init drawing.png --strength 0.8
      marginals generate "a cat with sunglasses" --init cat.png --mask eyes.png
      marginals generate "a small red triangle at the top left" --model runs/shapes
    """

    text: Positional[Annotated[tuple[str, ...], arg(metavar="TEXT")]]
    """What to draw; several texts make several rows."""
    model: Annotated[str, arg(metavar="NAME|RUN")] = "emoji"
    """A model that comes with marginals, a run folder, or a model file."""
    count: Annotated[int, arg(aliases=("-n",)), Field(ge=1, le=10_000)] = 4
    """How many pictures of every text."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The first picture's seed."""
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 3.0
    """How loudly the text speaks: 1 is the model as it is, more is nearer to the text."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 12
    """Solver steps: more are slower and better."""
    solver: Annotated[str | None, arg(metavar="NAME")] = None
    """A name from `marginals solvers`; by default auto."""
    init: Annotated[Path | None, arg(metavar="FILE")] = None
    """Begin at this picture instead of noise; it is made as small as the model's own."""
    strength: Annotated[float | None, arg(metavar="FLOAT"), Field(gt=0, le=1)] = None
    """With --init: how much is drawn anew, from 0 (hardly anything) to 1; by default 0.7."""
    mask: Annotated[Path | None, arg(metavar="FILE")] = None
    """With --init: a picture that is white where to draw, and black where all stays."""
    size: Annotated[int | None, arg(metavar="INT"), Field(ge=4, le=4096)] = None
    """Side of the written pictures, enlarged by Lanczos' resampler; by default the model's own."""
    transparent: FlagCreatePairsOff[bool] = False
    """Without the white around the drawing."""
    batch: Annotated[int, Field(ge=1)] = 32
    """How many pictures at a time; changes the memory used, not the pictures."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("generated")
    """Folder for the pictures."""

    def run(self) -> int:
        from marginals.text.draw import TextToImage

        texts = list(dict.fromkeys(self.text))
        if not texts:
            raise MarginalsError('say what to draw, such as: marginals generate "a red crab"')
        if not all(text.strip() for text in texts):
            raise MarginalsError("an empty text says nothing to draw: leave it out")
        check_walk_names(self.solver)
        if self.out.exists() and not self.out.is_dir():
            raise MarginalsError(f"--out {self.out} is a file; give a folder")
        self._check_editing()
        draw = TextToImage.load(self.model, device())
        pictures = self._drawn(draw, texts) if self.init is None else self._edited(draw, texts)
        grid = self._save(pictures, texts)
        print(f"{len(pictures)} pictures in {self.out}, together in {grid}")
        return 0

    def _drawn(self, draw: "TextToImage", texts: list[str]) -> "Tensor":
        """All pictures, with a progress bar."""
        from tqdm import tqdm

        from marginals.io import registry

        options: dict[str, Any] = {"guidance": self.guidance, "steps": self.steps}
        if self.solver is not None:
            options["solver"] = registry.solver(self.solver)
        parts = len(texts) * -(-self.count // self.batch)
        with tqdm(desc=f"drawing, {self.steps} steps", unit=" evaluations") as bar:

            def show(progress: Any) -> None:
                bar.total = progress.total * parts
                bar.update()

            return draw(
                texts, self.count, seed=self.seed, batch=self.batch, callback=show, **options
            )

    def _check_editing(self) -> None:
        """Refuse, before anything slow, what makes no sense together."""
        given = {"--strength": self.strength, "--mask": self.mask}
        if self.init is None:
            if wrong := [name for name, value in given.items() if value is not None]:
                raise MarginalsError(f"{wrong[0]} is about a picture to begin at: give --init too")
        elif self.mask is not None and self.strength is not None:
            raise MarginalsError(
                "--mask draws its part from nothing and leaves the rest: leave --strength out"
            )

    def _edited(self, draw: "TextToImage", texts: list[str]) -> "Tensor":
        """Pictures that begin at another one."""
        from marginals.io import registry
        from marginals.io.finish import read_mask, read_picture

        assert self.init is not None and draw.model.data is not None
        channels, height, width = draw.model.data.shape
        options: dict[str, Any] = {"guidance": self.guidance, "steps": self.steps}
        if self.solver is not None:
            options["solver"] = registry.solver(self.solver)
        if self.mask is not None:
            options["mask"] = read_mask(self.mask, height, width)
        elif self.strength is not None:
            options["strength"] = self.strength
        picture = read_picture(self.init, channels, height, width)
        about = {"seed": self.seed, "batch": self.batch}
        return draw.edit(texts, picture, self.count, **about, **options)

    def _save(self, pictures: "Tensor", texts: list[str]) -> Path:
        """A PNG per picture and one of all; files of other settings are left alone."""
        import torch

        from marginals.io.pictures import grid, save_png, to_image, to_uint8

        stored = to_uint8(pictures)  # refuses a broken sample before anything is written
        self.out.mkdir(parents=True, exist_ok=True)
        about = {"model": self.model, "solver": self.solver or "auto", "steps": self.steps}
        about |= {"guidance": self.guidance}
        about |= {"transparent": True} if self.transparent else {}
        if self.init is not None:
            about |= {"init": self.init.name, "strength": self.strength or 0.7}
        if self.mask is not None:
            about = {k: v for k, v in about.items() if k != "strength"} | {"mask": self.mask.name}
        images = [self._finished(to_image(picture)) for picture in stored]
        for i, image in enumerate(images):
            text, seed = texts[i // self.count], self.seed + i % self.count
            made = {"prompt": text, "seed": seed, **about}
            save_png(_free(self.out, f"{_slug(text)}-{seed}", made, image), image, made)
        finished = torch.stack([_pixels(image) for image in images])
        sheet = grid(finished, self.count if len(texts) > 1 else None, labels=_rows(texts))
        made = {"prompt": "; ".join(texts), "seed": self.seed, "pictures": len(stored), **about}
        path = _free(self.out, "grid", made, sheet)
        save_png(path, sheet, made)
        return path

    def _finished(self, image: "Image.Image") -> "Image.Image":
        from marginals.io.finish import cut_out, enlarge

        image = enlarge(image, self.size) if self.size else image
        return cut_out(image) if self.transparent else image


def _pixels(image: "Image.Image") -> "Tensor":
    """A PIL image as uint8 (C, H, W)."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0)


def _rows(texts: list[str]) -> list[str] | None:
    return texts if len(texts) > 1 else None


def _slug(text: str) -> str:
    """A file name that a text is recognised by."""
    return safe_name(text)[:60].strip("-") or "nothing"


def _free(folder: Path, stem: str, made: dict[str, Any], image: "Image.Image") -> Path:
    """NAME.png, or NAME_2.png and so on where that holds a picture made otherwise."""
    from marginals.io.pictures import read_parameters

    for k in range(1, 10_000):
        path = folder / (f"{stem}.png" if k == 1 else f"{stem}_{k}.png")
        if not path.exists():
            return path
        try:
            found = read_parameters(path)
        except MarginalsError:
            continue
        mine = made | {"size": f"{image.width}x{image.height}"}
        if {k: v for k, v in found.items() if k != "version"} == mine:
            return path
    raise MarginalsError(f"{folder} is full of pictures called {stem}; give another --out")
