"""How far does a fitted solver carry? Used where it was not fitted: guidance, classes, problems.

    python bench/fitted_carry.py --work runs/solvers

Takes the small network of `bench/solvers.py --problem network` and the tables fitted there (made if
they are missing, a few minutes each), and walks held-out noise of 8 evaluations with tables that
were fitted to something else. The error is the mean over pictures of the root mean square over
their values, against the end of the flow, with its standard error over pictures.
"""

import argparse
import sys
from pathlib import Path

import torch

from marginals.fitting import AllNumbers, first_table, fit
from marginals.paths import Errors, Paths, errors
from marginals.solvers import FittedTable, auto

sys.path.insert(0, str(Path(__file__).parent))

from field.choice import PROBLEMS
from field.fitted import FIRST, LAST, fitted, paths
from field.network import labels
from field.problems import Problem

NFE = 8


def held_out(problem: Problem) -> Paths:
    """The problem's own held-out noises, ends and classes."""
    return Paths(problem.start.float(), problem.truth.float(), labels(len(problem.start)))


def of_classes(problem: Problem, keep: range) -> FittedTable:
    """A table fitted to the pictures of some classes only."""
    every = paths(problem, range(512))
    assert every.cond is not None
    some = (every.cond >= keep.start) & (every.cond < keep.stop)
    chosen = Paths(every.start[some], every.end[some], every.cond[some])
    start = AllNumbers(first_table(FIRST, LAST, NFE))
    return fit(problem.denoiser, chosen, start, seconds=120.0, batch=256)


def line(name: str, found: Errors) -> str:
    spread = found.each.std().item() / len(found.each) ** 0.5
    return f"  {name:<44}{found.mean:.4f} ± {spread:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/solvers"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    plain, guided = (PROBLEMS[name](512, args.work) for name in ("network", "network guided"))
    digits = PROBLEMS["digits"](512, args.work)
    tables = {
        "fitted to the network, γ = 1": fitted(plain, NFE, args.work),
        "fitted to the network, γ = 3": fitted(guided, NFE, args.work),
        "fitted to the mixture of digits": fitted(digits, NFE, args.work),
        "fitted to classes 0 to 4, γ = 1": of_classes(plain, range(5)),
        "auto, fitted to nothing": first_table(FIRST, LAST, NFE),
        "auto for guided walks": first_table(FIRST, LAST, NFE, auto(guided=True)),
    }
    for problem in (plain, guided):
        print(f"{problem.name}: {NFE} evaluations, {len(problem.start)} held-out noises")
        every = held_out(problem)
        for name, table in tables.items():
            assert table is not None
            found = errors(problem.denoiser, every, table.solver, table.levels, 256)
            print(line(name, found))
    other = labels(len(plain.start)) >= 5
    every = held_out(plain)
    assert every.cond is not None
    rest = Paths(every.start[other], every.end[other], every.cond[other])
    print(f"network, classes 5 to 9 only ({len(rest)} noises)")
    for name in ("fitted to classes 0 to 4, γ = 1", "fitted to the network, γ = 1"):
        table = tables[name]
        assert table is not None
        print(line(name, errors(plain.denoiser, rest, table.solver, table.levels, 256)))


if __name__ == "__main__":
    main()
