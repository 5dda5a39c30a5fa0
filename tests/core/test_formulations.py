"""Each named system against its own paper: what the network sees, and what it is charged for."""

import math

import pytest
import torch
from torch import nn

import marginals
from marginals import DataStats
from marginals.errors import MarginalsError
from marginals.objective import spread_uniform
from marginals.oracle import Mixture
from marginals.scaling import FLOW, SUB_VP, VE, VP


class Zero(nn.Module):
    """Says nothing, so that the loss is the size of the target; remembers what it saw."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, cond=None):
        self.x, self.t = x, t
        return self.scale * x


FACTORIES = {
    "ddpm": marginals.ddpm,
    "vdm": marginals.vdm,
    "v_diffusion": marginals.v_diffusion,
    "edm": marginals.edm,
    "rectified_flow": marginals.rectified_flow,
    "vp_sde": lambda body, **o: marginals.score_sde(body, "vp", **o),
    "ve_sde": lambda body, **o: marginals.score_sde(body, "ve", **o),
    "sub_vp_sde": lambda body, **o: marginals.score_sde(body, "sub_vp", **o),
}
X0 = torch.randn(9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def draw(name):
    """The model's loss of X0, with the t ~ U and ε it drew (redrawn from the same generator)."""
    model = FACTORIES[name](Zero())
    losses, lam = model.losses(X0, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    u = spread_uniform(9, generator)
    eps = torch.randn(X0.shape, generator=generator).double()
    return model, losses, lam, u, eps


def column(values):
    return values.unsqueeze(1)


def per_example(target):
    return 0.5 * target.square().mean(1)


def test_ddpm():
    """Ho et al. 2020: x = √ᾱ_t·x0 + √(1 − ᾱ_t)·ε, t of 1000 steps, loss ‖ε − out‖²."""
    model, losses, _, u, eps = draw("ddpm")
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    lam = (bar / (1 - bar)).log()
    place = u * 1000
    left = place.floor().clamp(1, 999).long()  # between steps the log-SNR is a straight line
    between = lam[left - 1] + (place - left) * (lam[left] - lam[left - 1])
    noisy = (
        column(torch.sigmoid(between).sqrt()) * X0 + column(torch.sigmoid(-between).sqrt()) * eps
    )
    assert bool((u > 1e-3).all())
    assert torch.allclose(model.net.backbone.x, noisy, rtol=1e-9)
    assert torch.allclose(model.net.backbone.t, u, rtol=1e-9)
    assert torch.allclose(losses, per_example(eps))
    ends = (lam[-1].item(), lam[0].item())
    assert (model.lam_min, model.lam_max) == pytest.approx(ends, rel=1e-10)
    assert marginals.ddpm(Zero(), steps=50).lam_max == pytest.approx(lam[0].item())


def test_vdm():
    """Kingma et al. 2021: ½·(γ1 − γ0)·‖ε − ε̂‖² with linear γ: the ELBO itself."""
    model, losses, lam, u, eps = draw("vdm")
    gamma = -13.3 + 18.3 * u
    assert torch.allclose(lam, -gamma, rtol=1e-10)
    noisy = column(torch.sigmoid(-gamma).sqrt()) * X0 + column(torch.sigmoid(gamma).sqrt()) * eps
    assert torch.allclose(model.net.backbone.x, noisy, rtol=1e-9)
    assert torch.allclose(model.net.backbone.t, u, atol=1e-12)
    assert torch.allclose(losses, 18.3 * per_example(eps))


def test_v_diffusion():
    """Salimans & Ho 2022: v = α·ε − σ·x0."""
    model, losses, lam, _, eps = draw("v_diffusion")
    alpha, sigma = column(torch.sigmoid(lam).sqrt()), column(torch.sigmoid(-lam).sqrt())
    assert torch.allclose(model.net.backbone.x, alpha * X0 + sigma * eps, rtol=1e-9)
    label = (model.lam_max - lam) / (model.lam_max - model.lam_min)  # straight in λ
    assert torch.allclose(model.net.backbone.t, label, atol=1e-9)
    assert torch.allclose(losses, per_example(alpha * eps - sigma * X0))
    assert model.lam_min < -6 and model.lam_max > 9
    quartiles = model.objective.levels.sample(torch.tensor([0.25, 0.5, 0.75]).double())
    assert quartiles.tolist() == pytest.approx([2 + 2.2, 2.0, 2 - 2.2], abs=0.1)


def test_edm():
    """Karras et al. 2022: ln σ ~ N(−1.2, 1.2²); effective target F of unit weight; label ∝ ln σ."""
    model, losses, lam, u, eps = draw("edm")
    sigma = column((-1.2 + 1.2 * torch.special.ndtri(1 - u)).exp())
    assert torch.allclose(column((-0.5 * lam).exp()), sigma, rtol=1e-9)
    root = (sigma**2 + 0.25).sqrt()
    assert torch.allclose(model.net.backbone.x, (X0 + sigma * eps) / root, rtol=1e-9)
    f = (X0 - 0.25 / root**2 * (X0 + sigma * eps)) / (sigma * 0.5 / root)
    assert torch.allclose(losses, per_example(f), rtol=1e-8)
    c_noise = (0.25 * sigma.log()).flatten()
    t = model.net.backbone.t
    slope = (t - t[0])[1:] / (c_noise - c_noise[0])[1:]
    assert torch.allclose(slope, slope[0].expand(8), rtol=1e-6) and slope[0] > 0
    ends = (-2 * math.log(80), -2 * math.log(0.002))
    assert (model.lam_min, model.lam_max) == pytest.approx(ends)
    assert model.schedule.lam(0.5) == pytest.approx(
        -14 * math.log(0.5 * (80 ** (1 / 7) + 0.002 ** (1 / 7)))
    )
    other = marginals.edm(Zero(), data=DataStats((2,), std=0.8))
    other.losses(X0, generator=torch.Generator().manual_seed(5))
    scaled = (X0 + sigma * eps) / (sigma**2 + 0.64).sqrt()
    assert torch.allclose(other.net.backbone.x, scaled, rtol=1e-9)


def test_rectified_flow():
    """Liu et al. 2022 with our time: x = (1 − t)·x0 + t·ε, target ε − x0, t ~ U."""
    model, losses, _, u, eps = draw("rectified_flow")
    t = column(u)
    assert torch.allclose(model.net.backbone.x, (1 - t) * X0 + t * eps, rtol=1e-9)
    assert torch.allclose(model.net.backbone.t, u, rtol=1e-9)
    assert torch.allclose(losses, per_example(eps - X0))


@pytest.mark.parametrize("name", ["vp_sde", "ve_sde", "sub_vp_sde"])
def test_score_sdes(name):
    """Song et al. 2021: σ²-weighted score matching, σ²‖s + ε/σ‖² = ‖ε − ε̂‖²."""
    model, losses, _, u, eps = draw(name)
    assert torch.allclose(losses, per_example(eps))
    t = column(u)
    mean = torch.exp(-0.25 * t**2 * 19.9 - 0.05 * t)
    if name == "vp_sde":
        mean, std = mean, (1 - mean**2).sqrt()
    elif name == "sub_vp_sde":
        std = 1 - mean**2
    else:
        mean, std = torch.ones_like(t), 0.01 * 5000.0**t
    size = (mean**2 + std**2).sqrt()  # fed at unit variance
    close = {"rtol": 2e-3, "atol": 2e-3} if name == "ve_sde" else {"rtol": 1e-8}  # 50 is 49.9
    assert torch.allclose(model.net.backbone.x, (mean * X0 + std * eps) / size, **close)
    assert torch.allclose(model.net.backbone.t, u, rtol=1e-7)


def test_their_units():
    units = [FACTORIES[name](Zero()).scaling for name in FACTORIES]
    assert units == [VP, VP, VP, VE, FLOW, VP, VE, SUB_VP]
    with pytest.raises(MarginalsError, match="vp, ve, sub_vp"):
        marginals.score_sde(Zero(), "vpp")


class Tiny(nn.Module):
    """A small smooth network for two numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(),
                                 nn.Linear(64, 2))  # fmt: skip

    def forward(self, x, t, cond=None):
        t = t[:, None]
        return self.net(torch.cat([x, t, (4 * t).sin(), (4 * t).cos()], 1))


@pytest.mark.parametrize("name", FACTORIES)
def test_every_formulation_learns(name):
    """Training closes most of the gap to the exact denoiser, which no network can beat."""
    means = torch.tensor([[0.6, 0.6], [-0.6, -0.6]])
    data = Mixture(means, 0.2).sample(512, seed=0)[0].float()
    stats = DataStats((2,), data.mean().item(), data.std().item())
    model = FACTORIES[name](Tiny(), data=stats)
    oracle = Mixture(means, 0.2, scaling=model.scaling)

    def excess():
        generator, gap = torch.Generator().manual_seed(99), 0.0
        u, eps = spread_uniform(512, generator), torch.randn(data.shape, generator=generator)
        lam = model.objective.levels.sample(u).clamp(model.lam_min, model.lam_max)
        exact = model.objective(oracle, data, lam, eps)
        gap = model.objective(model.net, data, lam, eps) - exact
        return gap.mean().item()

    before = excess()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(150):
        optimiser.zero_grad()
        model.loss(data, generator=generator).backward()
        optimiser.step()
    assert -0.02 * before < excess() < 0.35 * before
