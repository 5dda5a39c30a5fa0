"""Our solvers and those of other libraries against the truth, with the same number of evaluations.

    python bench/solvers.py
    python bench/solvers.py --problem digits --budgets 5,8
    python bench/solvers.py --peers FOLDER

The problems and their truth are in field/problems.py, the grids in field/grids.py; the peers are
diffusers, k-diffusion and azula from their own packages, where they are installed or in FOLDER
(bench/README.md has the one command). Without them, ours are measured alone.

What was measured is kept in --work, so that the same command goes on where it was stopped and a
change of one solver repeats that solver only. Writes docs/results/solvers.json, .md and .png.
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from marginals.io.atomic import write_bytes, write_json, write_text

sys.path.insert(0, str(Path(__file__).parent))

from field.choice import GROUPS, PROBLEMS
from field.contest import Store, hold
from field.entrants import BUDGETS, chosen, from_peers, from_us
from field.peers import all_peers, versions
from field.report import Result, markdown, plot, record, tables


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problem", default="digits,2d,network", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)), help="evaluations")
    parser.add_argument("--samples", type=int, default=512, help="held-out noises")
    parser.add_argument("--peers", default="", help="folder with the peers' packages")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/solvers"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/solvers"))
    return parser.parse_args()


def run(name: str, args: argparse.Namespace) -> Result:
    """One problem at every budget."""
    print(f"{name}: the truth", flush=True)
    problem = PROBLEMS[name](args.samples, args.work)
    store = Store(args.work / f"errors-{name}.pt", problem)
    places, counts = {}, {}
    asked = list(map(int, args.budgets.split(",")))
    for budget in [n for n in asked if n in (problem.budgets or asked)]:
        peers, ours = (found(budget, problem.grids) for found in (from_peers, from_us))
        entrants = [*peers, *ours, *chosen(problem, budget, args.work)]
        with tqdm(entrants, desc=f"{name}, {budget} evaluations", disable=None) as bar:
            places[budget] = hold(store, bar)
        counts[budget] = len(entrants)
    return Result(problem, places, counts)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.peers:
        sys.path.append(args.peers)
    for package, why in all_peers()[1].items():
        print(f"{package} is left out: {why}")
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"peers: {found or 'none'}")
    asked = [name for group in args.problem.split(",") for name in GROUPS[group]]
    results = [run(name, args) for name in asked]
    for result in results:
        print(f"\n{result.problem.name}: {result.problem.about}")
        print("\n".join(tables(result)).replace("<br>", "  "))
    command = f"python bench/solvers.py --problem {args.problem} --budgets {args.budgets}"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out.with_suffix(".json"), record(results, command))
    write_text(args.out.with_suffix(".md"), markdown(results, command))
    write_bytes(args.out.with_suffix(".png"), plot(results))
    print(f"\nwrote {args.out}.json, .md and .png")


if __name__ == "__main__":
    main()
