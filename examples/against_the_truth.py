"""Train a network on data whose truth is known, and see how far each answer is from it.

    python examples/against_the_truth.py          # about a minute

The data are eight Gaussian blobs on a circle. For such data the perfect denoiser, and log p(x), are
formulas (`marginals.oracle`), so the trained network can be marked against them: what it says at
every noise level, the samples it makes, and the likelihood by three routes.
"""

import math
import sys

import torch

import marginals
from marginals.nn import MLP
from marginals.oracle import Mixture


def blobs() -> Mixture:
    """Eight blobs of standard deviation 0.1 on the unit circle, in the units of the data (VE)."""
    angles = torch.arange(8) * (2 * math.pi / 8)
    means = torch.stack([angles.cos(), angles.sin()], dim=1)
    return Mixture(means, 0.1, scaling=marginals.VE)


def train(truth: Mixture, steps: int) -> marginals.Model:
    """EDM's formulation on fresh samples of the blobs; any other factory works the same."""
    torch.manual_seed(0)
    data = marginals.DataStats(shape=(2,), mean=0.0, std=math.sqrt(0.5 + 0.1**2))
    model = marginals.edm(MLP(dim=2, width=128, depth=3), data=data)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x, _ = truth.sample(512, seed=step)
        loss = model.loss(x.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return model


@torch.no_grad()
def denoising_error(model: marginals.Model, truth: Mixture) -> dict[float, float]:
    """Mean squared distance between the network's x̂0 and the exact one, over the mean exact
    variance, at some noise levels: 0 is perfect, 1 is as large as what nobody can know."""
    x0, _ = truth.sample(2000, seed=10_000_001)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=x0.dtype)
    errors = {}
    for lam in (-4.0, -2.0, 0.0, 2.0, 4.0, 6.0):
        level = truth.scaling(lam)
        x = level.alpha * x0 + level.sigma * eps
        exact, told = truth(x, lam), model.net(x.float(), lam).x0
        errors[lam] = float((told - exact.x0).square().mean() / exact.var.mean())
    return errors


def main(steps: int = 3000) -> dict[str, float]:
    """Train, compare, print; returns the figures."""
    truth = blobs()
    model = train(truth, steps)
    print("noise level λ    error of x̂0 / what cannot be known")
    for lam, error in denoising_error(model, truth).items():
        print(f"  {lam:+.0f}             {error:.4f}")

    x, _ = truth.sample(500, seed=10_000_000)
    exact = truth.log_prob(x).mean().item()
    generator = torch.Generator().manual_seed(0)
    ode = model.log_prob(x.float(), steps=40, exact=True).nats
    bound = model.elbo(x.float(), samples=64, generator=generator).nats
    discrete = model.discrete_elbo(x.float(), steps=64, generator=generator).nats
    print(f"log p of fresh data, nats: truth {exact:.3f}")
    routes = {"exact ODE": ode, "continuous ELBO": bound, "64-step ELBO": discrete}
    figures = {"truth": exact}
    for name, nats in routes.items():
        gap = nats.double() - truth.log_prob(x)
        print(f"  {name:16s} {gap.mean():+.3f} ± {gap.std() / len(gap) ** 0.5:.3f} from the truth")
        figures[name] = float(nats.mean())

    samples = model.sample(1000, steps=20).x.double()
    figures["samples"] = truth.log_prob(samples).mean().item()
    print(f"log p of its own samples, by the truth: {figures['samples']:.3f}")
    return figures


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))
