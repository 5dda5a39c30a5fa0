"""`marginals fit`: the best solver for one model and one number of evaluations."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from tyro.conf import FlagCreatePairsOff, arg

from marginals.commands.common import Command, Run, check_guidance, device, find_model
from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from marginals.fitting import Family
    from marginals.models import Model
    from marginals.paths import Errors, Paths
    from marginals.solvers import FittedTable, Solver

_TRAINING, _HELD_OUT = 1 << 40, 1 << 41
"""The first seeds of the noise to fit on and to measure on; `sample` counts from 0."""


class Fit(Command):
    """Fit a solver to a model: the levels and weights that waste none of its few evaluations.

    Follows a few hundred of the model's own paths from noise to pictures with many steps, then
    learns the table whose walk of --nfe evaluations ends nearest to them. No weight of the model
    changes. The table is kept beside the model, for `marginals sample RUN --solver fitted`; the
    errors printed are of noise that it was not fitted to.

    Examples:
      marginals fit runs/fashion --nfe 8
      marginals fit runs/fashion --nfe 6 --minutes 5 --paths 512
      marginals fit runs/fashion --nfe 8 --guidance 3
      marginals fit runs/fashion --nfe 10 --levels-only
    """

    model: Run
    nfe: Annotated[int, Field(ge=2, le=40)] = 8
    """Evaluations of the network per picture, which are the steps of the walk."""
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    """The guidance it will be used with; a table holds for the one it was fitted to."""
    levels_only: FlagCreatePairsOff[bool] = False
    """Learn where the steps go, and keep the weights that --solver has there."""
    solver: Annotated[str | None, arg(metavar="NAME")] = None
    """Where fitting starts: a deterministic solver with one evaluation a step. Not given: the
    nearest of nine to these paths, or auto with --levels-only."""
    paths: Annotated[int, Field(ge=16, le=100_000)] = 256
    """Paths to fit to; half as many more are followed to measure with (at most 256)."""
    path_steps: Annotated[int, Field(ge=20, le=10_000)] = 100
    """Evaluations along each of these paths."""
    minutes: Annotated[float, Field(gt=0, le=1440)] = 1.0
    """Time for the fit itself; following the paths comes on top."""
    rounds: Annotated[int | None, arg(metavar="INT"), Field(ge=1)] = None
    """So many rounds of the optimiser instead of --minutes: the same table on every computer."""
    batch: Annotated[int, Field(ge=1)] = 64
    """How many pictures at a time; changes the memory used."""
    seed: Annotated[int, Field(ge=0, lt=2**20)] = 0
    """Of the noise to fit on; what is measured stays the same."""

    def run(self) -> int:
        from marginals.io.checkpoint import load_diffusion
        from marginals.io.fitted import check_place, save_fitted
        from marginals.solvers import FittedTable

        path = find_model(self.model)
        check_place(path)
        model = load_diffusion(path, device())
        classes = model.data.classes if model.data else ()
        check_guidance(path, self.guidance, classes, None)
        first = self._first_table(model)
        fitted_on = self._follow(model, _TRAINING + (self.seed << 20), self.paths, "paths")
        held_out = self._follow(model, _HELD_OUT, min(256, max(16, self.paths // 2)), "held out")
        name = self.solver or "auto"
        if self.solver is None and not self.levels_only:
            name, first = self._nearest(model, fitted_on)
        table: FittedTable = self._fit(model, first, fitted_on)
        found = self._measure(model, table, (name, first), held_out)
        print("\n".join(_lines(found, self.nfe, len(held_out))))
        ours, default = found["fitted"], found["auto"]
        if ours.mean >= default.mean:
            raise MarginalsError(
                "the fitted table is no better than the default on noise it was not fitted to, so "
                "it is not kept: give more --minutes and more --paths"
            )
        made = {"nfe": self.nfe, "paths": self.paths, "seed": self.seed}
        limit = "minutes" if self.rounds is None else "rounds"
        made |= {
            limit: getattr(self, limit),
            "levels_only": self.levels_only,
            "started_from": name,
        }
        about = made | {"errors": {name: _numbers(e) for name, e in found.items()}}
        where = save_fitted(path, table, self.guidance, about)
        extra = "" if self.guidance == 1.0 else f" --guidance {self.guidance:g}"
        print(f"\nkept in {where}; to use it:")
        print(f"  marginals sample {self.model} --solver fitted --steps {self.nfe}{extra}")
        return 0

    def _first_table(self, model: "Model") -> "FittedTable":
        """The table of the solver to start from; refused before anything slow begins."""
        from marginals.fitting import first_table
        from marginals.io.registry import solver

        table = first_table(model.lam_min, model.lam_max, self.nfe, solver(self.solver or "auto"))
        if len(table.lams) != self.nfe:
            raise MarginalsError(
                f"{self.solver} asks the network {len(table.lams)} times in {self.nfe} steps: "
                "start from a solver with one evaluation a step, such as auto or dpmpp_2m"
            )
        return table

    def _nearest(self, model: "Model", paths: "Paths") -> "tuple[str, FittedTable]":
        from marginals.fitting import nearest_start

        denoiser, ends = model.guided(self.guidance), (model.lam_min, model.lam_max)
        return nearest_start(denoiser, paths, *ends, self.nfe, self.batch)

    def _follow(self, model: "Model", seed: int, count: int, what: str) -> "Paths":
        """Paths of the model, the classes in turn, under a progress bar."""
        import torch
        from tqdm import tqdm

        from marginals.paths import follow

        classes = len(model.data.classes) if model.data else 0
        cond = torch.arange(count, device=model.device) % classes if classes else None
        start = model.start(range(seed, seed + count))
        with tqdm(total=count, desc=f"following {what}", unit=" paths", file=sys.stderr) as bar:
            return follow(
                model.guided(self.guidance),
                start,
                model.lam_min,
                model.lam_max,
                cond=cond,
                steps=self.path_steps,
                batch=self.batch,
                tick=lambda done: bar.update(done - bar.n),
            )

    def _fit(self, model: "Model", first: "FittedTable", paths: "Paths") -> "FittedTable":
        from tqdm import tqdm

        from marginals.fitting import AllNumbers, LevelsOnly, fit
        from marginals.io.registry import solver

        family: Family = AllNumbers(first)
        if self.levels_only:
            family = LevelsOnly(solver(self.solver or "auto"), first.levels)
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        with tqdm(total=1.0, desc="fitting", bar_format=form, file=sys.stderr) as bar:

            def report(share: float, _loss: float) -> None:  # a loss of another softness each stage
                bar.update(share - bar.n)

            return fit(
                model.guided(self.guidance),
                paths,
                family,
                seconds=60.0 * self.minutes,
                rounds=self.rounds,
                batch=self.batch,
                report=report,
            )

    def _measure(
        self,
        model: "Model",
        table: "FittedTable",
        first: "tuple[str, FittedTable]",
        held_out: "Paths",
    ) -> dict[str, "Errors"]:
        """The fitted table beside where it started, the default with as many and twice as many
        evaluations, and how far the paths are from those followed with half the steps."""
        from marginals.paths import errors
        from marginals.solvers import auto, grid, straight

        ends = model.lam_min, model.lam_max
        walks: dict[str, tuple[Solver, Sequence[float]]] = {"fitted": (table.solver, table.levels)}
        if first[0] != "auto":
            walks[first[0]] = first[1].solver, first[1].levels
        steps = {"auto": self.nfe, f"auto, {2 * self.nfe}": 2 * self.nfe}
        for name, count in (steps | {"the paths": self.path_steps // 2}).items():
            rule = auto(guided=self.guidance != 1.0)
            walks[name] = rule, grid(straight(*ends), count)
        denoiser = model.guided(self.guidance)
        return {
            name: errors(denoiser, held_out, solver, lams, self.batch)
            for name, (solver, lams) in walks.items()
        }


def _numbers(found: "Errors") -> dict[str, float]:
    return {"rmse": found.rmse, "mean": found.mean, "median": found.median, "p90": found.p90}


def _lines(found: dict[str, "Errors"], nfe: int, count: int) -> list[str]:
    """The errors as a table for people."""
    wide = max(22, *(len(name) + 2 for name in found))
    lines = [
        f"{nfe} evaluations; distance from where {count} paths end that were not fitted to",
        "(root mean square over a picture's values, which go from -1 to 1)",
        f"  {'':<{wide}}{'mean':>9}{'median':>9}{'90 % below':>12}{'all values':>12}",
    ]
    for name, error in found.items():
        numbers = f"{error.mean:>9.4f}{error.median:>9.4f}{error.p90:>12.4f}{error.rmse:>12.4f}"
        lines.append(f"  {_NAMES.get(name, name):<{wide}}{numbers}")
    return lines


_NAMES: dict[Any, str] = {
    "auto": "auto, the default",
    "the paths": "the paths' own error",
}
