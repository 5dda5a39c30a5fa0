"""Luo Eqs. 17-22: the bound of a VAE; checked on finite tables and by quadrature."""

from collections.abc import Callable
from functools import partial
from itertools import product
from math import log, pi

import torch
from torch import Tensor
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from ... import gaussian
from ...gaussian import Normal, Prior
from ...ladder import Ladder
from ...scaling import VP
from .. import dense, finite, linear
from ..equation import Finding, all_equal, equation, require
from ..rungs import as_ladder, drawn_path, evidence
from ..tables import World, elbo_by_hand, mean_by_hand, worlds

luo = partial(equation, part="Variational Autoencoders")


@luo(
    "17",
    page=4,
    latex=r"\mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{p(x, z)}{q_\phi(z \mid x)}\right]"
    r" = \mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{p_\theta(x \mid z)\, p(z)}"
    r"{q_\phi(z \mid x)}\right]",
    says="In a VAE, picture and cause together are as probable as the cause by itself times the "
    "picture given the cause.",
    home=finite.elbo_of_factors,
)
def _() -> Finding:
    pairs = [(finite.elbo_of_factors(*w), elbo_by_hand(w, w.q)) for w, _, _ in worlds()]
    return all_equal(pairs, "against the ELBO by hand")


def _prior_ratio(world: World) -> Tensor:
    """E_q[log p(z)/q(z | x)] by hand."""
    prior, weight = world.prior.tolist(), world.q.tolist()
    return mean_by_hand(world.q, lambda x, z: log(prior[z]) - log(weight[x][z]))


def _reconstruction(world: World) -> Tensor:
    """E_q[log p(x | z)] by hand."""
    likelihood = world.likelihood.tolist()
    return mean_by_hand(world.q, lambda x, z: log(likelihood[z][x]))


@luo(
    "18",
    page=4,
    latex=r"= \mathbb{E}_{q_\phi(z \mid x)}\left[\log p_\theta(x \mid z)\right]"
    r" + \mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{p(z)}{q_\phi(z \mid x)}\right]",
    says="The log of that product is a sum, so the bound splits into how well guesses explain the "
    "picture and how plausible they are as causes.",
    home=(finite.reconstruction_plus_log_ratio, finite.reconstruction),
)
def _() -> Finding:
    pairs = []
    for world, _, _ in worlds():
        pairs.append((finite.reconstruction_plus_log_ratio(*world), elbo_by_hand(world, world.q)))
        mean = finite.reconstruction(world.likelihood, world.q)
        pairs.append((mean, _reconstruction(world)))
    return all_equal(pairs, "the sum against the ELBO by hand, its first part by hand")


@luo(
    "19",
    page=4,
    latex=r"= \underbrace{\mathbb{E}_{q_\phi(z \mid x)}\left[\log p_\theta(x \mid z)\right]}"
    r"_{\text{reconstruction}} - \underbrace{D_{\mathrm{KL}}\left(q_\phi(z \mid x) \,\Vert\, p(z)"
    r"\right)}_{\text{prior matching}}",
    says="A VAE is trained to explain each picture well from its guessed causes, minus a charge "
    "for how far the guesses stray from what causes look like in general.",
    home=(finite.reconstruction_minus_kl, finite.kl, Ladder.elbo),
)
def _() -> Finding:
    pairs = []
    for world, _, _ in worlds():
        pairs.append((finite.reconstruction_minus_kl(*world), elbo_by_hand(world, world.q)))
        pairs.append((finite.kl(world.q, world.prior), -_prior_ratio(world)))
    return all_equal(
        [*pairs, *_one_rung(samples=1)],
        "the difference against the ELBO by hand; a Ladder of one rung at the latents it drew",
    )


def _one_rung(samples: int) -> list[tuple[Tensor, Tensor]]:
    """A Ladder with one rung: its two terms, and what they are at the latents that it drew."""
    chain, _ = dense.some_chain(1)
    ladder, rungs = as_ladder(chain)
    x, labels = torch.randn(6, 3, dtype=torch.float64), torch.arange(6)
    terms = ladder.elbo(x, labels, samples=samples)
    paths = [drawn_path(x, rungs, walk) for walk in range(samples)]
    explained = torch.stack([linear.log_down(chain, path, 1) for path in paths]).mean(0)
    alpha = chain.alphas[0]
    posterior = TorchNormal(alpha.sqrt() * evidence(x, labels), (1.0 - alpha).sqrt())
    kl = kl_divergence(posterior, TorchNormal(chain.top_mean, chain.top_var.sqrt())).sum(1)
    require(terms.matching.numel() == 0, "a VAE pays at one rung only")
    return [(terms.reconstruction, explained), (terms.prior, kl), (terms.nats, explained - kl)]


def _integral(f: Callable[[Tensor], Tensor], centre: float, std: float) -> Tensor:
    """∫ f(z) dz for an f that vanishes 14 std from the centre, to 1e-13."""
    z = centre + std * torch.linspace(-14.0, 14.0, 561, dtype=torch.float64)
    return f(z.unsqueeze(1)).sum() * (z[1] - z[0])


@luo(
    "20",
    page=5,
    latex=r"q_\phi(z \mid x) = \mathcal{N}\left(z;\, \boldsymbol{\mu}_\phi(x),\, "
    r"\boldsymbol{\sigma}_\phi^2(x)\, \mathbf{I}\right)",
    says="The guesser of a VAE answers with a bell curve for every entry of the hidden cause: a "
    "best guess and how sure it is; drawing from it is best guess plus spread times noise.",
    home=(Normal.log_prob, gaussian.normal_log_prob, Normal.sample),
    status="definition",
)
def _() -> Finding:
    pairs = []
    for mean, log_std in ((0.7, -0.4), (-1.3, 0.6)):
        std = torch.tensor(log_std).double().exp().item()
        law = Normal(torch.full((1, 1), mean).double(), torch.full((1, 1), log_std).double())

        def density(z: Tensor, law: Normal = law) -> Tensor:
            return law.log_prob(z).exp()

        pairs.append((_integral(density, mean, std), 1.0))
        pairs.append((_integral(lambda z, p=density: z[:, 0] * p(z), mean, std), law.mean))
        spread = _integral(lambda z, p=density, m=law.mean: (z[:, 0] - m[0]) ** 2 * p(z), mean, std)
        pairs.append((spread, (2.0 * law.log_std).exp()))
    mean, log_std, noise, z = torch.randn(4, 5, 3, dtype=torch.float64)
    law, truth = Normal(mean, log_std), TorchNormal(mean, log_std.exp())
    pairs.append((law.log_prob(z), truth.log_prob(z).sum(1)))
    spelled = gaussian.normal_log_prob(z, mean, (2.0 * log_std).exp())
    pairs.append((spelled, truth.log_prob(z).sum(1)))
    pairs.append(((law.sample(noise) - mean) / log_std.exp(), noise))
    return all_equal(pairs, "total probability, mean and variance by quadrature; vectors; draws")


@luo(
    "21",
    page=5,
    latex=r"p(z) = \mathcal{N}\left(z;\, \mathbf{0},\, \mathbf{I}\right)",
    says="What causes look like in general is set to be standard noise, so the charge for a guess "
    "has a simple formula: it is free only for a guess that is standard noise itself.",
    home=(Prior.log_prob, Normal.kl, gaussian.kl_normal),
    status="definition",
)
def _() -> Finding:
    pure_noise = VP(float("-inf"))
    z, mean, log_std = torch.randn(3, 5, 3, dtype=torch.float64)
    squares = 0.5 * (z.square() + log(2.0 * pi)).sum(1)
    pairs: list = [(Prior(mean=0.3, std=0.6).log_prob(z, pure_noise), -squares)]
    level = VP(0.4)  # where a prior matched to the data's moments is not standard
    std = torch.tensor((level.alpha * 0.6) ** 2 + level.sigma**2, dtype=torch.float64).sqrt()
    law = TorchNormal(level.alpha * 0.3 * torch.ones_like(std), std)
    pairs.append((Prior(mean=0.3, std=0.6).log_prob(z, level), law.log_prob(z).sum(1)))
    standard = Normal(torch.zeros_like(mean), torch.zeros_like(mean))
    formula = 0.5 * (mean**2 + (2.0 * log_std).exp() - 1.0 - 2.0 * log_std).sum(1)
    pairs.append((Normal(mean, log_std).kl(standard), formula))
    other = Normal(mean.flip(0), log_std.flip(0))  # the same between any two
    kl = kl_divergence(
        TorchNormal(mean, log_std.exp()), TorchNormal(other.mean, other.log_std.exp())
    )
    pairs.append((Normal(mean, log_std).kl(other), kl.sum(1)))
    variances = [(2.0 * law.log_std).exp() for law in (Normal(mean, log_std), other)]
    spelled = gaussian.kl_normal(mean, variances[0], other.mean, variances[1])
    pairs.append((spelled, kl.sum(1)))
    guess = TorchNormal(torch.tensor(0.8).double(), torch.tensor(0.5).double())

    def integrand(z: Tensor) -> Tensor:
        log_p = -0.5 * (z.square() + log(2.0 * pi))
        return (guess.log_prob(z).exp() * (guess.log_prob(z) - log_p)).squeeze(1)

    one = Normal(guess.mean.reshape(1, 1), guess.stddev.log().reshape(1, 1))
    zero = torch.zeros(1, 1, dtype=torch.float64)
    pairs.append((one.kl(Normal(zero, zero)), _integral(integrand, 0.8, 0.5)))
    return all_equal(pairs, "the density by formula; the charge by formula and by quadrature")


@luo(
    "22",
    page=5,
    latex=r"\arg\max_{\phi, \theta} \mathbb{E}_{q_\phi(z \mid x)}\left[\log p_\theta(x \mid z)"
    r"\right] - D_{\mathrm{KL}}\left(q_\phi(z \mid x) \,\Vert\, p(z)\right) \approx "
    r"\arg\max_{\phi, \theta} \sum_{l=1}^{L} \log p_\theta(x \mid z^{(l)}) - "
    r"D_{\mathrm{KL}}\left(q_\phi(z \mid x) \,\Vert\, p(z)\right)",
    says="In training the average over guesses is replaced by L guesses drawn at random, which "
    "must be averaged: as printed, they are added up, and explaining the picture counts L times.",
    home=(finite.sampled_objective, finite.sampled_objective_as_printed, Ladder.elbo),
    status="wrong",
    note="The sum needs a factor 1/L. With it the mean over all draws is exactly Eq. 19; as "
    "printed it differs from it by (L − 1) times the reconstruction term. For L = 1 both agree.",
    erratum="E4",
)
def _() -> Finding:
    pairs: list = _one_rung(samples=4)
    for world, _, _ in worlds():
        explained = _reconstruction(world)
        bound = elbo_by_hand(world, world.q)
        for guesses in (1, 3):
            mean, squared, printed = _over_all_draws(world, guesses)
            pairs += [(mean, bound), (printed, bound + (guesses - 1) * explained)]
            require(guesses == 1 or bool((printed < bound - 1.0).all()), "the 1/L is not seen")
            pairs.append((squared - mean**2, _variance(world) / guesses))
    return all_equal(
        pairs, "every possible draw of 1 and 3 guesses: mean, variance/L, and as printed"
    )


def _over_all_draws(world: World, guesses: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and mean square of the objective over all draws of L guesses, and mean as printed."""
    values, latents = world.q.shape
    totals = [torch.zeros(values, dtype=torch.float64) for _ in range(3)]
    for chosen in product(range(latents), repeat=guesses):
        draws = torch.tensor(chosen).expand(values, -1)
        chance = world.q.gather(1, draws).prod(1)
        nats = finite.sampled_objective(*world, draws)
        printed = finite.sampled_objective_as_printed(*world, draws)
        for total, value in zip(totals, (nats, nats**2, printed)):
            total += chance * value
    return totals[0], totals[1], totals[2]


def _variance(world: World) -> Tensor:
    """Var_q[log p(x | z)] by hand."""
    likelihood, mean = world.likelihood.tolist(), _reconstruction(world).tolist()
    return mean_by_hand(world.q, lambda x, z: (log(likelihood[z][x]) - mean[x]) ** 2)
