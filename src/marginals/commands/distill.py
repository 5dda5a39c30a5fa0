"""`marginals distill`: a student that makes a trained model's pictures in a few evaluations."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from tyro.conf import FlagCreatePairsOff, arg

from marginals.commands.common import Command, Run, find_model
from marginals.errors import MarginalsError


class Distill(Command):
    """Train a copy of a model to make its pictures in a few evaluations.

    The student follows the teacher's own paths, one straight line for each of its steps. It is an
    ordinary run: `marginals sample` takes its few steps, `marginals train --resume` continues it.

    Examples:
      marginals distill runs/fashion --steps 4 --minutes 10
      marginals distill runs/fashion --steps 2 --guidance 2 --minutes 20
      marginals distill runs/fashion-flow --reflow --minutes 20
    """

    model: Run
    steps: Annotated[int | None, arg(metavar="INT"), Field(ge=1, le=64)] = None
    """Evaluations per picture of the student; by default 4."""
    reflow: FlagCreatePairsOff[bool] = False
    """Instead: an ordinary, straighter flow along the ends of the teacher's paths."""
    evaluations: Annotated[int | None, arg(metavar="INT"), Field(ge=1, le=1000)] = None
    """Of the teacher for each step of the student; by default 16 for the whole path, and 20 for
    --reflow."""
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    """Of the teacher; the student learns it and needs none."""
    data: Annotated[str | None, arg(metavar="DATA")] = None
    """Pictures that say where paths begin; by default those the teacher was trained on."""
    minutes: Annotated[float | None, arg(metavar="FLOAT"), Field(gt=0)] = None
    """How long to train; by default 10."""
    images: Annotated[int | None, arg(metavar="INT"), Field(ge=1)] = None
    """How many pictures to train on, instead of a time."""
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0, le=1)] = 1e-3
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the run; by default RUN-STEPS-steps, as in fashion-4-steps, or RUN-reflow."""

    def run(self) -> int:
        from marginals.io.checkpoint import read_header
        from marginals.train.config import TrainConfig
        from marginals.train.run import train

        if self.reflow and self.steps is not None:
            raise MarginalsError(
                "--reflow makes an ordinary flow, which is walked in any number of steps, so "
                "--steps means nothing to it; leave one out"
            )
        steps = None if self.reflow else self.steps or 4
        path = find_model(self.model)
        extra = read_header(path)["extra"]
        data = self.data or extra.get("trained_on")
        if data is None:
            raise MarginalsError("the model does not say what it was trained on: give --data")
        budget: dict[str, Any] = {"images": self.images, "minutes": self.minutes}
        if self.images is None and self.minutes is None:
            budget["minutes"] = 10.0
        folder = self.model if self.model.is_dir() else path.with_suffix("")
        name = f"{steps}-steps" if steps else "reflow"
        train(
            TrainConfig(
                data=data,
                model=extra.get("model", "v"),
                teacher=str(path.resolve()),
                student_steps=steps,
                teacher_evaluations=self.evaluations,
                teacher_guidance=self.guidance,
                label_dropout=0.0 if self.guidance != 1.0 else 0.1,
                decay=0.6,
                warmup=3_000,
                batch=self.batch,
                lr=self.lr,
                seed=self.seed,
                threads=self.threads,
                out=str(self.out or f"{folder}-{name}"),
                **budget,
            )
        )
        return 0
