"""Likelihoods against closed-form truth: error and cost of every route, printed in one run.

    python bench/likelihood_oracle.py            (minutes on one core; --few for a quick look)

The problem is the 64-dimensional mixture of all 8x8 digits (component standard deviation 0.15),
whose log density is a formula. Everything is float64 with the exact denoiser and the exact trace,
so each figure is a method's own error. Samples have seed 1, all other randomness seed 0. scipy is
an extra: without it the lines about its RK45 are left out.
"""

import argparse
import math
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from marginals.adaptive import sample_adaptive
from marginals.bound import Bound
from marginals.denoiser import Rescaled
from marginals.density import decode, encode, ode_log_prob
from marginals.dequantise import slopes, whole_number_log_prob
from marginals.gaussian import Ends, Prior
from marginals.likelihood import discrete_elbo, elbo, elbo_until, immse
from marginals.ode import exact_trace
from marginals.oracle import Mixture
from marginals.proposal import learn
from marginals.scaling import VP
from marginals.schedule import LinearBeta
from marginals.steppers import Method, adams, dopri5
from oracle import digits_mixture

ENDS = (-16.0, 14.0)


class Quick(Mixture):
    """The same mixture with distances by matrix products: 64 backward passes in a tenth of the
    time. In float64 the cancellation costs nothing here."""

    def _square_distances(self, x: Tensor, alpha: float | Tensor) -> Tensor:
        cross = x @ self.means.T
        return x.square().sum(1, keepdim=True) - 2 * alpha * cross + alpha**2 * self._norms

    @property
    def _norms(self) -> Tensor:
        return self.means.square().sum(1)


def quick(oracle: Mixture) -> Quick:
    twin = Quick.__new__(Quick)
    twin.__dict__.update(oracle.__dict__)
    return twin


def rk45(oracle: Mixture, x: Tensor, ends: Ends, tolerance: float) -> tuple[Tensor, int]:
    """The usual way: (x, log p) of the whole batch by scipy's RK45 over the time of the VP SDE with
    linear β (as in the code of Song et al. 2021), whose t runs on until λ is that of the ends."""
    from scipy.integrate import solve_ivp

    clock, vp, shape = LinearBeta(), Rescaled(oracle, VP), x.shape
    start, end = clock.t(ends.lam_max), clock.t(ends.lam_min)

    def slope(t: float, state: np.ndarray) -> np.ndarray:
        lam = clock.lam(t)
        level = VP(lam)
        leaf = torch.from_numpy(state[: x.numel()].reshape(shape)).requires_grad_()
        v = vp(leaf, lam).v
        rate = -0.5 * level.alpha * level.sigma * clock.dlam(t)
        trace = exact_trace(v, leaf)
        return np.concatenate([(rate * v.detach()).flatten().numpy(), -rate * trace.numpy()])

    alpha = VP(ends.lam_max).alpha
    first = np.concatenate([(x * alpha).flatten().numpy(), np.zeros(len(x))])
    walk = solve_ivp(slope, (start, end), first, rtol=tolerance, atol=tolerance, method="RK45")
    last, change = walk.y[: x.numel(), -1].reshape(shape), torch.from_numpy(walk.y[x.numel() :, -1])
    prior = ends.prior.log_prob(torch.from_numpy(last), VP(ends.lam_min))
    return prior - change + x[0].numel() * math.log(alpha), walk.nfev


def line(name: str, nats: Tensor, truth: Tensor, dims: int, cost: str) -> None:
    gap = (nats - truth).abs() / dims
    good = "  <= 1e-3" if gap.max() <= 1e-3 else ""
    print(f"  {name:44s} {cost:>16s}   {gap.max():.1e}   {gap.median():.1e}{good}", flush=True)


def cost(bound_calls: Tensor) -> str:
    return f"{bound_calls.double().mean():.1f} (<= {int(bound_calls.max())})"


def exact_route(oracle: Mixture, x: Tensor, truth: Tensor, ends: Ends) -> None:
    dims = x[0].numel()
    print(f"log p by the ODE, {len(x)} samples: evaluations a picture, largest and median error")
    bound = ode_log_prob(oracle, x, ends, exact=True)
    assert bound.calls is not None
    line("default: Adams, own steps, tolerance 3e-3", bound.nats, truth, dims, cost(bound.calls))
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
        bound = ode_log_prob(oracle, x, ends, tolerance=tolerance, exact=True)
        assert bound.calls is not None
        line(f"Adams, tolerance {tolerance:.0e}", bound.nats, truth, dims, cost(bound.calls))
    for evaluations in (20, 40, 80, 160):
        bound = ode_log_prob(oracle, x, ends, steps=evaluations // 4, exact=True)
        line("Runge-Kutta 4, equal steps", bound.nats, truth, dims, str(evaluations))
    with suppress(ModuleNotFoundError):
        for tolerance in (1e-3, 1e-4, 1e-5, 1e-6):
            nats, evaluations = rk45(oracle, x, ends, tolerance)
            line(f"scipy RK45, rtol = atol = {tolerance:.0e}", nats, truth, dims, str(evaluations))


def bounds(oracle: Mixture, x: Tensor, truth: Tensor, ends: Ends) -> None:
    dims, generator = x[0].numel(), torch.Generator().manual_seed(0)
    others, _ = oracle.sample(8, seed=2)
    proposal = learn(oracle, others, ends, generator=generator)
    learned = {"proposal": proposal, "generator": generator}
    print("bounds minus truth, nats/dim (the exact denoiser: zero but for T steps)")
    for name, bound in (
        ("continuous ELBO, 128 uniform levels", elbo(oracle, x, ends, samples=128)),
        ("continuous ELBO, 128 learned levels", elbo(oracle, x, ends, samples=128, **learned)),
        ("I-MMSE, 128 uniform levels", immse(oracle, x, ends, samples=128)),
        ("I-MMSE, 128 learned levels", immse(oracle, x, ends, samples=128, **learned)),
        ("ELBO until 0.005 bits/dim", elbo_until(oracle, x, ends, target=5e-3, **learned)),
        ("ELBO of T = 256 steps", discrete_elbo(oracle, x, ends, steps=256)),
    ):  # fmt: skip
        gap = (bound.nats - truth) / dims
        error = gap.std().item() / len(gap) ** 0.5
        blur = (
            "" if bound.noise_bits is None else f"; its own error bar {bound.noise_bits:.4f} bits"
        )
        print(f"  {name:36s} {gap.mean():+.5f} +- {error:.5f}   ({bound.nfe} evaluations{blur})")


def gradients() -> None:
    """On two dimensions, where the exact trace is two backward passes: d log p/dx is the score."""
    oracle = Mixture(torch.tensor([[-0.6, 0.4], [0.5, -0.3], [0.2, 0.7]]), [0.3, 0.2, 0.4])
    ends, x = Ends(-16.0, 16.0, Prior(0.15, 0.55)), oracle.sample(16, seed=1)[0]
    truth = oracle.score(x, math.inf)
    for tolerance in (3e-3, 1e-4, 1e-6):
        leaf = x.clone().requires_grad_()
        nats = ode_log_prob(oracle, leaf, ends, exact=True, grad=True, tolerance=tolerance).nats
        (slope,) = torch.autograd.grad(nats.sum(), leaf)
        error = (slope - truth).abs().max() / truth.abs().max()
        print(
            f"d log p/dx against the score, tolerance {tolerance:.0e}: {error:.1e} of the largest"
        )


def there_and_back(oracle: Mixture, x: Tensor, ends: Ends) -> None:
    for tolerance in (3e-3, 1e-4, 1e-6):
        again = decode(
            oracle, encode(oracle, x, ends, tolerance=tolerance), ends, tolerance=tolerance
        )
        error = (again - x).square().mean().sqrt()
        print(f"to noise and back, tolerance {tolerance:.0e}: root mean square error {error:.1e}")


def sampling(oracle: Mixture, ends: Ends) -> None:
    noise = torch.randn(16, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = ends.prior.start(noise, oracle.scaling(ends.lam_min))
    options = {"std": ends.prior.std, "final": False}

    def walk(tolerance: float, method: Method) -> tuple[Tensor, int]:
        result = sample_adaptive(
            oracle, start, *ENDS, rtol=0.0, atol=tolerance, method=method, **options
        )
        return result.x, result.nfe

    truth, _ = walk(1e-10, dopri5())
    print("sampling with a tolerance: evaluations of the slowest picture, root mean square error")
    for method in (dopri5(), adams()):
        for tolerance in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
            x, nfe = walk(tolerance, method)
            error = (x - truth).square().mean().sqrt()
            print(f"  {method.name:8s} tolerance {tolerance:.0e}: {nfe:5d}   {error:.1e}")


def dequantisation() -> None:
    """A mixture so narrow that its density changes within a bin; the truth is a sum of error
    functions."""
    dims, std, count = 16, 0.012, 400
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(1, dims, generator=generator, dtype=torch.float64) - 0.5
    oracle = Mixture(mean, std)
    clean = oracle.sample(count, seed=3)[0]
    pixels = (128 * (clean + 1)).floor().clamp(0, 255).to(torch.uint8)
    low = pixels.double() / 128 - 1
    law = torch.distributions.Normal(mean, std)
    truth = (law.cdf(low + 1 / 128) - law.cdf(low)).log().sum(1)

    def density(real: Tensor) -> Bound:
        return Bound(oracle.log_prob(real), "exact", True, dims, 1)

    slope = slopes(oracle, pixels, 14.0, dtype=torch.float64)
    print(f"log P of whole numbers minus truth, nats/dim, {count} samples, std {std} = 1.5 bins")
    for draws in (1, 4, 16, 64):
        for name, tilt in (("uniform", None), ("along the score", slope)):
            generator = torch.Generator().manual_seed(draws)
            options = {"draws": draws, "slope": tilt, "dtype": torch.float64}
            bound = whole_number_log_prob(density, pixels, generator=generator, **options)
            gap = (bound.nats - truth) / dims
            error = gap.std() / count**0.5
            print(f"  {draws:3d} draws, {name:16s} {gap.mean():+.5f} +- {error:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", action="store_true", help="8 samples instead of 32")
    count = 8 if parser.parse_args().few else 32
    torch.manual_seed(0)
    plain = digits_mixture()
    oracle = quick(plain)
    std = (oracle.means.var() + 0.15**2).sqrt().item()
    ends = Ends(*ENDS, Prior(oracle.means.mean().item(), std))
    x, _ = plain.sample(count, seed=1)
    truth = plain.log_prob(x)
    same = (oracle(x, 1.0).x0 - plain(x, 1.0).x0).abs().max()
    print(
        f"D = {x.shape[1]}; truth {truth.mean() / x.shape[1]:.4f} nats/dim; "
        f"denoisers agree to {same:.0e}"
    )
    exact_route(oracle, x, truth, ends)
    bounds(oracle, x, truth, ends)
    gradients()
    there_and_back(oracle, x, ends)
    sampling(oracle, ends)
    dequantisation()


if __name__ == "__main__":
    main()
