"""The views against closed-form truth: every number of the core's claims, printed in one run.

    python bench/oracle.py

The problem is the 64-dimensional mixture of all 8x8 digits (component standard deviation 0.15), of
which the exact denoiser, score and log-likelihood are known at every noise level. Nothing is
trained and everything is float64, so each figure is a method's own error.
"""

import itertools
import math

import torch

from marginals.data.load import load
from marginals.denoiser import Estimate, Rescaled
from marginals.gaussian import Prior
from marginals.likelihood import Ends, discrete_elbo, elbo, ode_log_prob
from marginals.oracle import Mixture
from marginals.pixels import to_float
from marginals.predict import EPS, SCORE, VELOCITY, X0, V, VPrediction
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP, units
from marginals.solvers import SOLVERS, ddim, dpmpp_2m, euler, grid, heun, karras, uniform_lam

SCALINGS = {"VP": VP, "VE": VE, "FLOW": FLOW, "SUB_VP": SUB_VP}
ENDS = (-12.0, 14.0)


def digits_mixture() -> Mixture:
    """One component of standard deviation 0.15 per training digit."""
    train, _ = load("digits")
    pixels, labels = train.batch(torch.arange(len(train)))
    return Mixture(to_float(pixels, torch.float64).flatten(1), 0.15, labels=labels)


def conversions(oracle: Mixture, x: torch.Tensor) -> None:
    """Every prediction read from one output, and the output of each converted into every other."""
    kinds = (X0, EPS, SCORE, V, VPrediction(0.5), VELOCITY)
    worst = 0.0
    for lam, scaling in itertools.product((-8.0, -2.0, 0.0, 3.0, 8.0), SCALINGS.values()):
        there = x * units(lam, VP, scaling)
        est = Rescaled(oracle, scaling)(there, lam)
        for a, b in itertools.product(kinds, kinds):
            again = Estimate(there, lam, scaling, est.read(a), a)
            error = (again.read(b) - est.read(b)).abs().max() / est.read(b).abs().max()
            worst = max(worst, error.item())
    print(f"conversions: {len(kinds)}x{len(kinds)} readings, 5 levels, 4 scalings")
    print(f"  largest relative difference {worst:.1e}")


def scalings(oracle: Mixture, x: torch.Tensor) -> None:
    """The same noise walked in four scalings; and three names of one table."""
    lams = grid(karras(*ENDS), 20)
    print("same samples in four scalings (largest difference from VP, 20 steps)")
    for solver in (ddim(), heun(), dpmpp_2m(), SOLVERS["ddpm"]):
        walks = [
            sample(Rescaled(oracle, s), x * units(ENDS[0], VP, s), lams, solver).x
            for s in SCALINGS.values()
        ]
        worst = max((walk - walks[0]).abs().max().item() for walk in walks)
        print(f"  {solver.name:10s} {worst:.1e}")


def orders(oracle: Mixture, x: torch.Tensor) -> None:
    """Convergence order of the deterministic solvers: slope of log error against log steps."""
    truth = sample(oracle, x, grid(uniform_lam(-8, 8), 4096, final=False), heun()).x
    print("convergence (root mean square error against a 4096-step reference)")
    for solver in (ddim(), euler(), heun(), dpmpp_2m()):
        errors = []
        for steps in (256, 512, 1024):
            walk = sample(oracle, x, grid(uniform_lam(-8, 8), steps, final=False), solver).x
            errors.append((walk - truth).square().mean().sqrt().item())
        slope = math.log2(errors[0] / errors[-1]) / 2
        print(
            f"  {solver.name:10s} declared {solver.order}, measured {slope:.2f}   "
            + "  ".join(f"{e:.1e}" for e in errors)
        )


def likelihoods(oracle: Mixture) -> None:
    """Three routes to log p of fresh samples of the mixture, against the formula."""
    x, _ = oracle.sample(32, seed=1)
    dims, truth = x.shape[1], oracle.log_prob(x)
    mean = oracle.means.mean().item()
    std = (oracle.means.var() + 0.15**2).sqrt().item()
    ends = Ends(*ENDS, Prior(mean, std))
    generator = torch.Generator().manual_seed(0)
    print(f"log p(x) of {len(x)} samples, D = {dims}; truth {truth.mean() / dims:.4f} nats/dim")
    for steps in (10, 20, 40, 80):
        gap = (ode_log_prob(oracle, x[:8], ends, steps=steps, exact=True).nats - truth[:8]) / dims
        print(f"  ODE, {4 * steps:3d} evaluations: largest error {gap.abs().max():.1e} nats/dim")
    bound = elbo(oracle, x, ends, samples=512, generator=generator)
    _gap("continuous ELBO", bound.nats - truth, dims)
    for steps in (128, 256, 512):
        bound = discrete_elbo(oracle, x, ends, steps=steps, generator=generator)
        _gap(f"ELBO, T = {steps}", bound.nats - truth, dims)


def _gap(name: str, gap: torch.Tensor, dims: int) -> None:
    se = gap.std().item() / len(gap) ** 0.5 / dims
    print(f"  {name:16s} minus truth {gap.mean().item() / dims:+.5f} ± {se:.5f} nats/dim")


def main() -> None:
    torch.manual_seed(0)
    oracle = digits_mixture()
    x = torch.randn(16, 64, dtype=torch.float64)
    conversions(oracle, x)
    scalings(oracle, x)
    orders(oracle, x[:2])
    likelihoods(oracle)


if __name__ == "__main__":
    main()
