"""Latent models: a linear-Gaussian codec under an exact Gaussian model: all in closed form."""

import math

import pytest
import torch
from torch import nn

import marginals
from marginals import DataStats
from marginals.errors import MarginalsError
from marginals.gaussian import Normal, normal_log_prob
from marginals.latent import Latent, walked
from marginals.oracle import Mixture
from marginals.schedule import LogLinear
from marginals.solvers import MAKERS

GAIN, NOISE, PRIOR = 0.8, 0.3, 0.7
SHAPE, PIXELS = (1, 2, 2), (1, 4, 4)


class Linear(nn.Module):
    """x = g·Wz + s·ε with orthonormal columns W, and a q(z | x) as wide as one likes."""

    shape, density = SHAPE, True
    pictures = DataStats(PIXELS, 0.0, 0.5)

    def __init__(self, wider: float = 1.0, prior: float = PRIOR) -> None:
        super().__init__()
        square = torch.randn(16, 16, generator=generator(5), dtype=torch.float64)
        self.w = nn.Parameter(torch.linalg.qr(square).Q[:, :4])
        self.precision = GAIN**2 / NOISE**2 + prior**-2
        self.wider = wider

    def exact(self, x):
        mean = GAIN / NOISE**2 / self.precision * (x.flatten(1) @ self.w)
        return Normal.of(mean.view(-1, *SHAPE), 1.0 / self.precision)

    def posterior(self, x):
        exact = self.exact(x)
        return Normal(exact.mean, exact.log_std + math.log(self.wider))

    def encode(self, x):
        return self.posterior(x).mean

    def decode(self, z):
        return GAIN * (z.flatten(1) @ self.w.T).view(-1, *PIXELS)

    def log_prob(self, x, z):
        return normal_log_prob(x, self.decode(z), NOISE**2)

    def log_marginal(self, x):
        cov = (GAIN * PRIOR) ** 2 * self.w @ self.w.T + NOISE**2 * torch.eye(16).double()
        law = torch.distributions.MultivariateNormal(torch.zeros(16).double(), cov)
        return law.log_prob(x.flatten(1))


class Exact(nn.Module):
    """A backbone that is an oracle: the v of a mixture, at the level the label says."""

    def __init__(self, oracle: Mixture):
        super().__init__()
        self.oracle, self.anchor = oracle, nn.Parameter(torch.zeros(()).double())

    def forward(self, x, t, cond=None):
        return self.oracle(x, 16.0 - 32.0 * t.double(), cond).v


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inner(oracle: Mixture, classes: tuple[str, ...] = (), std: float = PRIOR) -> marginals.Model:
    net = marginals.Net(Exact(oracle), label=LogLinear(16.0, -16.0))
    template = marginals.v_diffusion(nn.Identity())
    options = {"lam_min": -14.0, "lam_max": 14.0, "data": DataStats(SHAPE, 0.0, std, classes)}
    return marginals.Model(net, template.schedule, template.objective, **options)


def gaussian(wider: float = 1.0) -> Latent:
    return Latent(Linear(wider), inner(Mixture(torch.zeros(1, *SHAPE), PRIOR)))


def labelled() -> Latent:
    means = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, *SHAPE)
    oracle = Mixture(means, 0.3, labels=torch.tensor([0, 1]))
    return Latent(Linear(), inner(oracle, ("low", "high"), math.hypot(1.0, 0.3)))


def pictures(n: int = 6) -> torch.Tensor:
    codec = Linear()
    z = PRIOR * torch.randn(n, *SHAPE, generator=generator(1), dtype=torch.float64)
    x = codec.decode(z) + NOISE * torch.randn(n, *PIXELS, generator=generator(2)).double()
    return x.detach()


@pytest.mark.parametrize("wider", [1.0, 1.6, 0.5])
def test_the_bound_by_the_ode_is_the_closed_form_for_every_latent(wider: float):
    """log p(x|z) + log p(z) − log q(z) = log p(x) + log p(z|x) − log q(z); with q = p(z|x), every
    z gives log p(x) itself."""
    model, x = gaussian(wider), pictures()
    codec = Linear(wider)
    found = model.log_prob(x, exact=True, generator=generator(3))
    q = codec.posterior(x)
    z = q.sample(torch.randn(q.mean.shape, generator=generator(3), dtype=torch.float64))
    truth = codec.log_marginal(x) + codec.exact(x).log_prob(z) - q.log_prob(z)
    assert torch.allclose(found.nats, truth, atol=2e-4)
    if wider == 1.0:
        assert torch.allclose(found.nats, codec.log_marginal(x), atol=2e-4)
    assert found.kind == "bound" and found.density and found.dims == 16


@pytest.mark.parametrize("wider", [1.0, 1.5])
def test_the_elbo_falls_short_by_the_kl_of_the_encoder(wider: float):
    """E[ELBO] = log p(x) − KL(q(z|x) ‖ p(z|x)) when the inner model is exact."""
    model, x = gaussian(wider), pictures(4).repeat(64, 1, 1, 1)
    codec = Linear(wider)
    terms = model.elbo(x, samples=8, generator=generator(3))
    truth = codec.log_marginal(x) - codec.posterior(x).kl(codec.exact(x))
    gap = (terms.nats - truth).detach().view(64, 4).mean(1)
    stderr = float(gap.std() / 8.0)
    assert stderr < 0.2 and abs(float(gap.mean())) < 4.0 * stderr + 1e-3
    assert torch.allclose(
        terms.nats, terms.reconstruction - terms.prior - terms.matching.sum(1), atol=1e-9
    )
    assert terms.at[-1] == math.inf and terms.matching.shape[1] == terms.at.numel() == 9


def test_losses_are_those_of_the_inner_model_on_encoded_pictures():
    model, x = gaussian(), pictures()
    z = model.encode(x)
    losses, lam = model.losses(x, generator=generator(0))
    inside = model.inner.losses(z, None, generator(0))
    for same in (model.losses(z, generator=generator(0)), inside):
        assert torch.equal(losses, same[0]) and same[1] is not None and lam is not None
        assert torch.equal(lam, same[1])
    assert z.shape == (6, *SHAPE) and model.decode(z).shape == x.shape
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained == list(model.inner.parameters())


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "ddpm"])
def test_sampling_and_guidance_pass_through(solver: str):
    model = labelled()
    walk = {"steps": 6, "solver": MAKERS[solver](), "cond": 1, "guidance": 2.0, "seed": 7}
    latents = model.inner.sample(5, **walk).x
    found = model.sample(5, **walk)
    assert torch.equal(found.x, model.codec.decode(latents))
    assert torch.allclose(model.sample(5, batch=2, **walk).x, found.x, atol=1e-12)
    plain = model.sample(5, **(walk | {"guidance": 1.0})).x
    assert (plain - found.x).abs().max() > 1e-3
    units = model.convert(marginals.FLOW)
    assert units.inner.scaling == marginals.FLOW and units.codec is model.codec


def test_samples_have_the_law_of_the_pictures_without_pixel_noise():
    model = gaussian()
    x = model.sample(2000, steps=16, seed=1).x.flatten(1)
    cov = x.T @ x / len(x)
    w = Linear().w
    truth = (GAIN * PRIOR) ** 2 * w @ w.T
    assert (cov - truth).abs().max() < 0.03


def test_what_the_model_is_told_is_the_inner_models():
    model = labelled()
    assert model.data == DataStats(PIXELS, 0.0, 0.5, ("low", "high"))
    assert walked(model) is model.inner and walked(model.inner) is model.inner
    with pytest.raises(MarginalsError, match="shape"):
        Latent(Linear(), marginals.v_diffusion(nn.Identity(), data=DataStats((1, 4, 4))))
    with pytest.raises(MarginalsError, match="shape"):
        model.encode(torch.zeros(2, 1, 5, 5).double())
