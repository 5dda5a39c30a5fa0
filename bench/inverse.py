"""Do inverse problems end in the posterior? Measured on a mixture, whose posterior is known.

    python bench/inverse.py          # about two minutes of one core

A mixture of 12 Gaussians in 8 dimensions is seen through a matrix A, with noise: three of the
entries, or two random combinations of all. Its posterior given y = A·x + s·n is a mixture again, by
Bayes' rule. Each method of `marginals.inverse` walks the same noise with the exact denoiser; the
distance of its ends from the posterior is the mean over 200 directions of the Wasserstein distance
along them. A second draw from the posterior itself is the floor. Writes docs/results/inverse.md and
.json.
"""

import argparse
import itertools
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from marginals.inverse import Matrix, Observed
from marginals.io.atomic import write_json, write_text
from marginals.oracle import Mixture
from marginals.sampling import sample
from marginals.solvers import dpmpp_2m

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
METHODS = ("mmps", "pigdm", "ddnm", "dps")
DIM, PARTS, STD, SPREAD = 8, 12, 0.25, 1.2
LAMS = [*torch.linspace(-9.0, 9.0, 41).tolist(), math.inf]


def posterior(prior: Mixture, a: Tensor, y: Tensor, s: float, n: int, seed: int) -> Tensor:
    """n draws of x given y = a·x + s·noise: every Gaussian is conditioned, and weighted by how
    likely it made y."""
    g = torch.Generator().manual_seed(seed)
    eye = torch.eye(len(a), dtype=a.dtype)
    inner = STD**2 * a @ a.T + s**2 * eye
    gain = STD**2 * a.T @ torch.linalg.inv(inner)
    residual = y - prior.means @ a.T
    likely = torch.distributions.MultivariateNormal(torch.zeros_like(y), inner).log_prob(residual)
    part = torch.multinomial((prior.log_weights + likely).softmax(0), n, True, generator=g)
    root = torch.linalg.cholesky(STD**2 * (torch.eye(DIM, dtype=a.dtype) - gain @ a))
    noise = torch.randn(n, DIM, generator=g, dtype=a.dtype)
    return (prior.means + residual @ gain.T)[part] + noise @ root.T


def distance(x: Tensor, other: Tensor) -> float:
    """Sliced Wasserstein-1."""
    g = torch.Generator().manual_seed(1)
    ways = F.normalize(torch.randn(200, DIM, generator=g, dtype=x.dtype), dim=1).T
    return float(((x @ ways).sort(0).values - (other @ ways).sort(0).values).abs().mean())


def one(prior: Mixture, a: Tensor, s: float, seed: int, n: int) -> dict[str, float]:
    """One measurement by every method."""
    truth, _ = prior.sample(1, seed=seed)
    g = torch.Generator().manual_seed(seed)
    y = a @ truth[0] + s * torch.randn(len(a), generator=g, dtype=a.dtype)
    exact = posterior(prior, a, y, s, n, 0)
    found = {"floor": distance(exact, posterior(prior, a, y, s, n, 1))}
    start = torch.randn(n, DIM, generator=torch.Generator().manual_seed(5), dtype=a.dtype)
    for method in METHODS:
        seen = Observed(
            prior, Matrix(a, (DIM,)), y[None], s, method=method, iterations=len(a),
            data_std=SPREAD, trust=-math.inf,
        )  # fmt: skip
        found[method] = distance(sample(seen, start, LAMS, dpmpp_2m()).x, exact)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--samples", type=int, default=600)
    args = parser.parse_args()
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    prior = Mixture(SPREAD * torch.randn(PARTS, DIM, generator=g, dtype=torch.float64), STD)
    three = torch.eye(DIM, dtype=torch.float64)[:3]
    two = torch.randn(2, DIM, generator=g, dtype=torch.float64)
    lines = ["| seen | noise s | " + " | ".join(("floor", *METHODS)) + " |", "|---" * 7 + "|"]
    record = []
    for (name, a), s in itertools.product(
        {"three entries": three, "two combinations": two}.items(), (0.1, 0.5)
    ):
        rows = [one(prior, a, s, seed, args.samples) for seed in range(args.trials)]
        record.append({"seen": name, "s": s, "rows": rows})
        cells = []
        for key in ("floor", *METHODS):
            values = torch.tensor([row[key] for row in rows], dtype=torch.float64)
            cells.append(f"{values.mean():.2g} ± {values.std() / len(values) ** 0.5:.1g}")
        lines.append(f"| {name} | {s:g} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    command = f"python bench/inverse.py --trials {args.trials} --samples {args.samples}"
    text = (
        "# Inverse problems against the exact posterior\n\n"
        f"Written by `{command}`: sliced Wasserstein distance to the exact posterior of a mixture "
        f"({PARTS} Gaussians of standard deviation {STD} in {DIM} dimensions), mean over "
        f"{args.trials} measurements ± one standard error; 41 steps of dpmpp_2m with the exact "
        "denoiser.\n\n" + "\n".join(lines) + "\n"
    )
    write_text(RESULTS / "inverse.md", text)
    write_json(RESULTS / "inverse.json", record)


if __name__ == "__main__":
    main()
