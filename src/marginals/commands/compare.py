"""`marginals compare`: several models at one budget, in one table."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from tyro.conf import FlagCreatePairsOff, arg

from marginals.commands.common import Command, to_json


class Compare(Command):
    """Train several models with the same amount of computing, and set them beside each other.

    Every model gets the same minutes of processor time (of the clock on the wall where there is a
    GPU), and is measured on the same held-out pictures: bits/dim by every route there is, the
    Fréchet distance of samples, what a sample costs, and what it is bad at. Ctrl-C stops and saves;
    the same command goes on, and repeats nothing that is finished.

    Examples:
      marginals compare --models vae,hvae,ddpm,vdm --data fashion --minutes 5
      marginals compare --models v,flow,edm --data path/to/pictures --minutes 30 --out runs/three
    """

    models: Annotated[str, arg(metavar="NAME,NAME")] = "vae,hvae,ddpm,vdm"
    """Models by the names that `marginals train --model` knows, with commas between them."""
    data: Annotated[str, arg(metavar="NAME|PATH")] = "fashion"
    """Pictures to learn: a built-in name, a folder or an .npz file."""
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """Training time per model, in minutes of processor time, summed over threads; the clock on the
    wall may show less or, on a busy machine, more. With a GPU, minutes on the clock."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for the runs and the results; by default runs/compare-DATA."""
    pictures: Annotated[int, Field(ge=2)] = 256
    """Held-out pictures whose likelihood is measured."""
    samples: Annotated[int, Field(ge=3)] = 500
    """Samples whose distance to real pictures is measured."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the first weights, the data order, the samples and all noise."""
    as_json: Annotated[FlagCreatePairsOff[bool], arg(name="json")] = False
    """Print one JSON object instead of tables."""

    def run(self) -> int:
        from marginals.compare.run import compare
        from marginals.compare.settings import Comparison, model_names
        from marginals.compare.table import text

        models = model_names(self.models)
        report = compare(
            Comparison(
                models=models,
                folder=self.out or Path("runs") / f"compare-{Path(self.data).stem}",
                data=self.data,
                minutes=self.minutes,
                pictures=self.pictures,
                samples=self.samples,
                seed=self.seed,
                threads=self.threads,
            )
        )
        print(to_json(report) if self.as_json else text(report))
        return 0
