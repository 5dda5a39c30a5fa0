"""`marginals sample`: draw pictures from a trained model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from tyro.conf import arg

from marginals.commands.classified import check_scale, load_classifier, mark, refuse_to_draw
from marginals.commands.common import (
    Command,
    Run,
    check_guidance,
    check_walk_names,
    class_index,
    draw,
    find_model,
    load,
    walk_settings,
)
from marginals.errors import MarginalsError
from marginals.io.atomic import safe_name

if TYPE_CHECKING:
    from torch import Tensor

    from marginals.generative import Generative


class Sample(Command):
    """Draw pictures from a trained model: one PNG each, and a grid of all.

    Picture i has seed SEED + i, which also chooses its class where none is asked for: it is the
    same whatever the number of pictures. Every PNG carries its parameters; `marginals info
    picture.png` reads them.

    Examples:
      marginals sample runs/fashion
      marginals sample runs/fashion --label trouser -n 16 --guidance 1.5
      marginals sample runs/fashion --solver ddpm --steps 250 --seed 7 --out pictures
      marginals sample runs/fashion --solver euler --steps 50 --scaling flow
      marginals sample runs/fashion --solver dpmpp_2m --levels karras --steps 12
      marginals sample runs/fashion --solver fitted --steps 8
      marginals sample runs/fashion --classifier runs/judge --label trouser --guidance 3
      marginals sample runs/fashion-vae --temperature 0.8
    """

    model: Run
    count: Annotated[int, arg(aliases=("-n",)), Field(ge=1, le=1_000_000)] = 64
    """How many pictures."""
    label: Annotated[str | None, arg(metavar="NAME|INDEX")] = None
    """A class by name or index, or `none`; by default every class in turn."""
    solver: Annotated[str | None, arg(metavar="NAME")] = None
    """A name from `marginals solvers`, with options as in ddim:eta=0.5, or `fitted` after
    `marginals fit`; by default auto."""
    steps: Annotated[int | None, arg(metavar="INT"), Field(ge=1, le=10_000)] = None
    """Solver steps: more are slower and better; by default 20."""
    levels: Annotated[str | None, arg(metavar="NAME")] = None
    """Where the steps go: auto, karras, exponential, uniform_t, trailing, cosine, flow or beta,
    with options as in flow:shift=3; by default auto."""
    tolerance: Annotated[float | None, arg(metavar="FLOAT"), Field(gt=0, le=1)] = None
    """Instead of a solver and its steps: Dormand-Prince steps that err by this much at most, each
    picture its own; 1e-3 looks exact."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The first picture's seed."""
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    """γ, which counts log p(class | picture) so many times: 0 no class, 1 the class as it is, above
    1 pictures more typical of it. The model's own knowledge of the class (classifier-free), or with
    --classifier that of the classifier."""
    classifier: Annotated[Path | None, arg(metavar="RUN")] = None
    """A run of `train --model classifier` on the same pictures, which guides to the class; the
    model is told no class and need not know any."""
    temperature: Annotated[
        float | None, arg(metavar="FLOAT"), Field(ge=0, le=10, allow_inf_nan=False)
    ] = None
    """For VAEs: below 1, latents nearer to the middle and smoother pictures; by default 1."""
    scaling: Annotated[Literal["vp", "ve", "flow", "sub_vp"] | None, arg(metavar="NAME")] = None
    """Units to walk in: vp, ve, flow or sub_vp; by default the model's own."""
    batch: Annotated[int, Field(ge=1)] = 64
    """How many pictures at a time; changes the memory used, not the pictures."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for the pictures; by default RUN/pictures/, named after the settings."""

    def run(self) -> int:
        import torch

        check_walk_names(self.solver, self.levels)  # a mistyped name should not wait for the model
        path = find_model(self.model)
        model = load(path)
        refuse_to_draw(model, self.model)
        judge = self.classifier and load_classifier(self.classifier, model, self.solver)
        walk = walk_settings(
            model,
            path,
            self.solver,
            self.steps,
            self.guidance,
            levels=self.levels,
            tolerance=self.tolerance,
            temperature=self.temperature,
        )
        known = model.data.classes if model.data else ()
        classes = judge.data.classes if judge and judge.data else known
        index = None if self.label is None else class_index(self.label, classes)
        if judge:
            check_scale(path, known, index)
        else:
            check_guidance(path, self.guidance, known, index)
        labels = self._labels(classes, index)
        twin = self._presented(model)
        cond = None if labels is None else torch.tensor(labels)
        parameters = walk | self._parameters(path) | self._asked(classes, index)
        guide = judge.guide(self.guidance) if judge else None
        out = self.out or path.parent / "pictures" / self._name(classes, parameters)
        _require_ours(out, parameters)
        pictures = draw(twin, path, self.count, walk, self.seed, cond, self.batch, guide)
        captions = [classes[i] if i >= 0 else "" for i in labels or [-1] * self.count]
        seeds = range(self.seed, self.seed + self.count)
        _save(out, pictures, captions, seeds, parameters)
        print(f"{self.count} pictures in {out}, together in {out / 'grid.png'}")
        return 0

    def _presented(self, model: "Generative") -> "Generative":
        """The model in the units asked for."""
        from marginals.io.registry import scaling
        from marginals.latent import Latent
        from marginals.models import Model

        if self.scaling is None:
            return model
        if not isinstance(model, Model | Latent):
            raise MarginalsError(
                "--scaling is for diffusion models; a ladder of latents, like a VAE, has no noise "
                "levels and no units: leave it out"
            )
        return model.convert(scaling(self.scaling))

    def _labels(self, classes: Sequence[str], index: int | None) -> list[int] | None:
        """The class of every picture, -1 for no class; None for a model without classes."""
        if not classes:
            return None
        if index is not None:
            return [index] * self.count
        return [(self.seed + i) % len(classes) for i in range(self.count)]  # belongs to the seed

    def _asked(self, classes: Sequence[str], index: int | None) -> dict[str, str]:
        """The class asked for, which all pictures have; nothing where every class has its turn.

        A picture's own label cannot tell: one of class 3 may be the fourth of a turn."""
        if index is None or not classes:
            return {}
        return {"asked": classes[index] if index >= 0 else "none"}

    def _name(self, classes: Sequence[str], made: dict[str, Any]) -> str:
        """A folder name for the settings and the model, whatever the classes are called."""
        walked = "solver" in made
        settings = [safe_name(made["solver"])] if walked else ["latents"]
        settings += [str(made["steps"])] if "steps" in made else []
        settings += [f"{made['tolerance']:g}"] if "tolerance" in made else []
        settings += [safe_name(made["levels"])] if "levels" in made else []
        settings += [made["table"]] if "table" in made else []
        settings += [f"seed{self.seed}"]
        if self.label is not None:
            index = class_index(self.label, classes)
            settings += [f"{index}-{safe_name(classes[index])}" if index >= 0 else "none"]
        settings += [f"guidance{self.guidance:g}"] if self.guidance != 1.0 else []
        settings += [f"by-{made['classifier_hash']}"] if "classifier_hash" in made else []
        settings += [f"temperature{self.temperature:g}"] if self.temperature is not None else []
        settings += [self.scaling] if self.scaling else []
        return "-".join([*settings, made["model_hash"]])

    def _parameters(self, path: Path) -> dict[str, Any]:
        """What a PNG says about its making, apart from its own seed and label."""
        from marginals.io.fitted import fingerprint

        model = {
            "model": f"{path.resolve().parent.name}/{path.name}",
            "model_hash": fingerprint(path),
        }
        model |= {"scaling": self.scaling} if self.scaling else {}
        return model | (mark(self.classifier) if self.classifier else {})


def _require_ours(out: Path, parameters: dict[str, Any]) -> None:
    """Refuse, before the walk, a place that cannot take pictures or holds others than these."""
    from marginals.io.pictures import read_parameters

    nearest = next(place for place in (out, *out.parents) if place.exists())
    if not nearest.is_dir():
        raise MarginalsError(f"--out {out} cannot be a folder: {nearest} is a file; give another")
    for picture in sorted(out.glob("*.png")):
        try:
            made = read_parameters(picture)
        except MarginalsError:
            made = {}
        if any(made.get(key) != parameters.get(key) for key in _SAME):
            raise MarginalsError(
                f"{out} holds pictures that another model or other settings made, such as "
                f"{picture.name}; give another --out"
            )


_SAME = [
    "model_hash",
    "solver",
    "steps",
    "levels",
    "table",
    "tolerance",
    "guidance",
    "classifier_hash",
    "asked",
    "temperature",
    "scaling",
]
"""What the pictures of one folder have in common."""


def _save(
    out: Path,
    pictures: "Tensor",
    captions: list[str],
    seeds: Sequence[int],
    parameters: dict[str, Any],
) -> None:
    """A PNG per picture, and grid.png; each file appears whole or not at all."""
    from marginals.io.pictures import grid, save_png, to_image, to_uint8

    stored = to_uint8(pictures)  # refuses a broken sample before anything is written
    out.mkdir(parents=True, exist_ok=True)
    for picture, caption, seed in zip(stored, captions, seeds, strict=True):
        label = {"label": caption} if caption else {}
        save_png(out / f"{seed:05d}.png", to_image(picture), label | {"seed": seed} | parameters)
    sheet = {"pictures": len(stored), "seed": seeds[0]} | parameters
    if len(set(captions)) == 1 and captions[0]:
        sheet["label"] = captions[0]
    save_png(out / "grid.png", grid(stored), sheet)
