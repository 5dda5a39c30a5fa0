"""`marginals generate`: draw what a text says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from tyro.conf import FlagCreatePairsOff, Positional, arg

from marginals.commands.common import OWN, Command, check_walk_names, device
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
      marginals generate "a green apple, flat style" --init apple.png --strength 0.6
      marginals generate "smiling face with sunglasses" --init face.png --mask eyes.png
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
    style: Annotated[str | None, arg(metavar="NAME")] = None
    """Style of texts that name none: one that the model knows, or `any`, the text as it is; by
    default another with every seed."""
    guidance: Annotated[
        float | None, arg(metavar="FLOAT"), Field(ge=0, le=100, allow_inf_nan=False)
    ] = None
    """How loudly the text speaks: 1 is the model as it is, more is nearer to the text; by default
    3, or what a distilled model has learned."""
    steps: Annotated[int | None, arg(metavar="INT"), Field(ge=1, le=10_000)] = None
    """Solver steps: more are slower and better; by default 12, or a distilled model's own walk."""
    solver: Annotated[str | None, arg(metavar="NAME")] = None
    """A name from `marginals solvers`; by default auto."""
    init: Annotated[Path | None, arg(metavar="FILE")] = None
    """Begin at this picture instead of noise; it is made as small as the model's own, with white
    bars if it is not square."""
    strength: Annotated[float | None, arg(metavar="FLOAT"), Field(gt=0, le=1)] = None
    """With --init: how much is drawn anew, from 0 (hardly anything) to 1; 0.3 keeps the scene,
    0.8 hardly more than its colours; by default 0.7."""
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
        from marginals.text.draw import STEPS, TextToImage, spelled

        texts = list(dict.fromkeys(map(spelled, self.text)))
        if not texts:
            raise MarginalsError('say what to draw, such as: marginals generate "a red crab"')
        if not all(text.strip() for text in texts):
            raise MarginalsError("an empty text says nothing to draw: leave it out")
        check_walk_names(self.solver)
        if self.out.exists() and not self.out.is_dir():
            raise MarginalsError(f"--out {self.out} is a file; give a folder")
        self._check_editing()
        draw = TextToImage.load(self.model, device())
        seeds = range(self.seed, self.seed + self.count)
        told = [caption for text in texts for caption in draw.captions(text, seeds, self.style)]
        plain = self.solver is None and self.init is None  # then a distilled model may walk its way
        walk = draw.settings(self.steps or (None if plain else STEPS), self.guidance)
        pictures = self._drawn(draw, texts, walk)
        grid = self._save(pictures, texts, told, self._about(draw, walk))
        print(f"{len(pictures)} pictures in {self.out}, together in {grid}")
        if set(told) - set(texts) and self.style is None:
            known = ", ".join(draw.styles)
            print(f"no style was named, so each got one; --style takes {known}, or any")
        return 0

    def _drawn(self, draw: "TextToImage", texts: list[str], walk: dict[str, Any]) -> "Tensor":
        """All pictures, with a progress bar."""
        from tqdm import tqdm

        from marginals.io import registry

        options: dict[str, Any] = {"seed": self.seed, "batch": self.batch, "style": self.style}
        options |= walk | self._begun(draw)
        if self.solver is not None:
            options["solver"] = registry.solver(self.solver)
        parts = len(texts) * -(-self.count // self.batch)
        with tqdm(desc="drawing", unit=" evaluations") as bar:

            def show(progress: Any) -> None:
                bar.total = progress.total * parts
                bar.update()

            options["callback"] = show
            if self.init is None:
                return draw(texts, self.count, **options)
            return draw.edit(texts, n=self.count, **options)

    def _begun(self, draw: "TextToImage") -> dict[str, Any]:
        """The picture to begin at, as options of `TextToImage.edit`; none without --init."""
        from marginals.io.finish import read_mask, read_picture

        if self.init is None:
            return {}
        assert draw.model.data is not None
        channels, height, width = draw.model.data.shape
        begun: dict[str, Any] = {"picture": read_picture(self.init, channels, height, width)}
        if self.mask is not None:
            begun["mask"] = read_mask(self.mask, height, width)
        elif self.strength is not None:
            begun["strength"] = self.strength
        return begun

    def _about(self, draw: "TextToImage", walk: dict[str, Any]) -> dict[str, Any]:
        """What a picture says of its making, apart from its prompt and seed."""
        from marginals.io.fitted import fingerprint
        from marginals.latent import walked

        about = {"model": self.model, "solver": self.solver or "auto", **walk}
        inside = walked(draw.model)
        if walk["steps"] is None and inside is not None and inside.walk is not None:
            about |= {"solver": OWN, "steps": len(inside.walk.lams)}
        about |= {"transparent": True} if self.transparent else {}
        if self.init is not None and self.mask is None:
            about["strength"] = self.strength or 0.7
        for name, file in (("init", self.init), ("mask", self.mask)):
            if file is not None:
                about |= {name: file.name, f"{name}_hash": fingerprint(file)}
        return about

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

    def _save(
        self, pictures: "Tensor", texts: list[str], told: list[str], about: dict[str, Any]
    ) -> Path:
        """A PNG per picture and one of all; files of other settings are left alone."""
        import torch

        from marginals.io.pictures import grid, save_png, to_image, to_uint8

        stored = to_uint8(pictures)  # refuses a broken sample before anything is written
        self.out.mkdir(parents=True, exist_ok=True)
        images = [self._finished(to_image(picture)) for picture in stored]
        for i, image in enumerate(images):
            text, seed = texts[i // self.count], self.seed + i % self.count
            made = {"prompt": told[i], "seed": seed, **about}
            save_png(_free(self.out, f"{_slug(text)}-{seed}", made, image), image, made)
        finished = torch.stack([_pixels(image) for image in images])
        columns = self.count if len(texts) > 1 else None
        sheet = grid(finished, columns, labels=_labels(texts, told))
        prompts = "; ".join(dict.fromkeys(told))
        made = {"prompt": prompts, "seed": self.seed, "pictures": len(stored), **about}
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


def _labels(texts: list[str], told: list[str]) -> list[str] | None:
    """What to write beside rows of several texts, or below the pictures of one if each was told a
    style of its own."""
    if len(texts) > 1:
        return texts
    return [t.removeprefix(f"{texts[0]}, ") for t in told] if len(set(told)) > 1 else None


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
