"""Whether other libraries' samplers are what they say: their measured orders, and their faults.

    python bench/solver_peers.py                      # all; writes docs/results/solvers-peers.md
    python bench/solver_peers.py --check ddim_stride  # one fault, printed

The order is the slope of the error against the number of steps on a problem where neither the first
steps of a multistep method nor the last ones cost anything (field/orders.py). The faults are in
field/faults.py, each with its own measurement. Needs the peers (bench/README.md; --peers FOLDER).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from marginals.io.atomic import write_text

sys.path.insert(0, str(Path(__file__).parent))

from field.faults import CHECKS, Fault, needs
from field.orders import measured
from field.peers import Peer, all_peers, versions

HOW = """\
Slope of log error against log steps, 96 to 384 steps from σ = 20 to 0.05, on a problem where the
first steps of a multistep method and the last ones cost nothing. Bold: more than 0.25 below what
name or documentation say. Schedulers of diffusers were given the levels in float64 in place of
their own table's; DPMSolverMultistepScheduler, EulerDiscreteScheduler and
FlowMatchHeunDiscreteScheduler still step in float32."""


def faults(names: list[str]) -> Iterator[tuple[str, Fault]]:
    """What the checks find in the packages that are here."""
    for name in names:
        if needs(name) in versions():
            for fault in CHECKS[name]():
                yield name, fault


def fault_table(found: list[tuple[str, Fault]]) -> list[str]:
    lines = ["| sampler | says | does | why | shown by `--check` |", "|---|---|---|---|---|"]
    for name, fault in found:
        does = fault.does if fault.found else f"as it says ({fault.does})"
        what = f"{fault.package}: {fault.what}"
        lines.append(f"| {what} | {fault.says} | {does} | {fault.why} | `{name}` |")
    return lines


def order_table(peers: list[Peer]) -> list[str]:
    lines = ["| sampler | says | even steps of λ | uneven steps |", "|---|---|---|---|"]
    for peer in tqdm(peers, desc="orders", disable=None):
        end = "stop" if "stop" in peer.ends else "zero"
        slopes = [measured(peer.walk, end, uneven=uneven) for uneven in (False, True)]
        cells = [f"{s:.2f}" if s > peer.order - 0.25 else f"**{s:.2f}**" for s in slopes]
        lines.append(f"| {peer.package}: {peer.name} | {peer.order} | {cells[0]} | {cells[1]} |")
    return lines


def page(found: list[tuple[str, Fault]], peers: list[Peer]) -> str:
    here = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join(
        [
            "# Are the peers what they say?",
            "",
            f"Written by `python bench/solver_peers.py` (torch {torch.__version__}; {here}). A row"
            " holds for these versions; the command measures whatever is installed. That ours agree"
            " with theirs to 1e-6 on the same levels, where theirs are right, is tested in"
            " `tests/peers`.",
            "",
            "## Where they are not",
            "",
            *fault_table(found),
            "",
            "## Orders",
            "",
            HOW.replace("\n", " "),
            "",
            *order_table(peers),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", default="", help="folder with the peers' packages")
    parser.add_argument("--check", choices=sorted(CHECKS), help="one of the faults")
    parser.add_argument("--out", type=Path, default=Path("docs/results/solvers-peers.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peers:
        sys.path.append(args.peers)
    peers, missing = all_peers()
    for package, why in missing.items():
        print(f"{package} is left out: {why}")
    if not peers:
        raise SystemExit("no peer is installed; bench/README.md has the command")
    found = list(faults([args.check] if args.check else list(CHECKS)))
    for _, fault in found:
        mark = "" if fault.found else "  (no longer)"
        print(f"{fault.package}: {fault.what}: says {fault.says}; does {fault.does}{mark}")
    if args.check is None:
        write_text(args.out, page(found, peers))
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
