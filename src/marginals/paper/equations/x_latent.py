"""Extensions: latent-variable models."""

import math

import torch

from ...gaussian import Normal, kl_normal
from ...rung import KlObjective, Visit, importance_bound
from ..equation import Finding, all_equal, equation, require
from ..extra_latent import (
    best_k_bounds,
    gaussian_code_cost,
    probabilistic_pca,
    rate_distortion_elbo,
    score_function_gradient,
)
from ..extra_worlds import gauss, normal, numbers

PART = "Latent-variable models"
KINGMA = "Kingma & Welling 2014, arXiv 1312.6114"


@equation(
    "X101",
    part=PART,
    source=KINGMA + ", appendix B",
    latex=r"\mathrm{KL}\left(\mathcal{N}(\mu, \sigma^2) \,\Vert\, \mathcal{N}(0, 1)\right) = "
    r"\frac{1}{2} \sum_{i} \left(\mu_i^2 + \sigma_i^2 - 1 - \log \sigma_i^2\right)",
    says="What a code costs grows with how far it lies from the middle and how sharply it is "
    "placed.",
    home=(gaussian_code_cost, kl_normal, Normal.kl),
)
def _() -> Finding:
    mean, std = normal(3, 2), 0.3 + torch.rand(3, 2, dtype=torch.float64)
    other, wide = normal(3, 2), 0.5 + torch.rand(3, 2, dtype=torch.float64)
    z, nodes = gauss(-14.0, 14.0, 400)
    found, both = torch.zeros(3).double(), torch.zeros(3).double()
    for i in range(2):
        q = torch.distributions.Normal(mean[:, i : i + 1], std[:, i : i + 1])
        p = torch.distributions.Normal(numbers(0.0), 1.0)
        r = torch.distributions.Normal(other[:, i : i + 1], wide[:, i : i + 1])
        density = q.log_prob(z).exp() * nodes
        found = found + (density * (q.log_prob(z) - p.log_prob(z))).sum(1)
        both = both + (density * (q.log_prob(z) - r.log_prob(z))).sum(1)
    pairs = [
        (gaussian_code_cost(mean, std), found),
        (kl_normal(mean, std**2, 0.0, 1.0), found),
        (Normal(mean, std.log()).kl(Normal(other, wide.log())), both),
        (kl_normal(mean, std**2, other, wide**2), both),
    ]
    return all_equal(pairs, "closed forms against quadrature")


@equation(
    "X102",
    part=PART,
    source=KINGMA + ", section 2.4; Luo's text between Eqs. 22 and 23",
    latex=r"\nabla_\mu\, \mathbb{E}_{z \sim \mathcal{N}(\mu, \sigma^2)}[f(z)] = \mathbb{E}_"
    r"{\epsilon}\left[f'(\mu + \sigma \epsilon)\right] = \mathbb{E}_{\epsilon}\left[f(\mu + \sigma "
    r"\epsilon)\, \frac{\epsilon}{\sigma}\right]",
    says="Writing a random code as mean plus spread times noise lets slopes pass through the "
    "draw, with far less noise than the alternative.",
    home=(Normal.sample, score_function_gradient),
    status="expectation",
)
def _() -> Finding:
    noise, weights = gauss(-9.0, 9.0, 200)
    weights = weights * (-0.5 * noise**2).exp() / math.sqrt(2.0 * math.pi)
    mu = numbers(0.4).requires_grad_(True)
    log_std = numbers(-0.3).requires_grad_(True)
    z = Normal(mu, log_std).sample(noise)
    values = z**3 - 2.0 * z
    slopes = torch.autograd.grad((weights * values).sum(), [mu, log_std])
    std, m = math.exp(-0.3), 0.4
    # E[z³ − 2z] = m³ + 3mσ² − 2m
    wanted = (3.0 * m**2 + 3.0 * std**2 - 2.0, 6.0 * m * std * std)
    other = score_function_gradient(values.detach(), noise, std)
    pathwise = 3.0 * z.detach() ** 2 - 2.0
    spreads = [
        ((weights * v**2).sum() - (weights * v).sum() ** 2).item() for v in (other, pathwise)
    ]
    require(spreads[0] > spreads[1], "the path's slope is less noisy")
    pairs = [(slopes[0], wanted[0]), (slopes[1], wanted[1]), ((weights * other).sum(), wanted[0])]
    return all_equal(pairs, "both estimates, averaged by quadrature, against the polynomial")


@equation(
    "X103",
    part=PART,
    source="Burda et al. 2016 (IWAE), arXiv 1509.00519, Eq. 8 and Theorem 1",
    latex=r"\log p(x) \ge \mathcal{L}_{k+1} \ge \mathcal{L}_k = \mathbb{E}\left[\log \frac{1}{k} "
    r"\sum_{i=1}^{k} \frac{p(x, z_i)}{q(z_i \mid x)}\right]",
    says="Guessing the hidden cause several times and averaging the chances gives a tighter bound "
    "the more guesses are made.",
    home=(importance_bound, best_k_bounds),
    status="bound",
)
def _() -> Finding:
    joint, q = numbers(0.09, 0.02, 0.2, 0.05), numbers(0.4, 0.3, 0.1, 0.2)
    log_w, log_p = (joint / q).log(), joint.sum().log()
    bounds = numbers(*(best_k_bounds(log_w, q, k) for k in (1, 2, 3, 4)))
    require(bool((bounds.diff() > 1e-3).all()), "every further guess helps")
    require(bool(bounds[-1] < log_p), "and none reaches the truth with a wrong q")
    tuples = torch.cartesian_prod(*[torch.arange(4)] * 3)
    inside = importance_bound(log_w[tuples].T)
    elbo = (q * log_w).sum()
    right = best_k_bounds((joint / (joint / joint.sum())).log(), joint / joint.sum(), 2)
    pairs = [
        (bounds[0], elbo),
        ((q[tuples].prod(1) * inside).sum(), bounds[2]),
        (right, log_p),
        (importance_bound(numbers(0.3, -1.2).unsqueeze(1)).exp(), (math.e**0.3 + math.e**-1.2) / 2),
    ]
    return all_equal(pairs, "all tuples of draws from a table, counted out")


@equation(
    "X104",
    part=PART,
    source="Kingma et al. 2016, arXiv 1606.04934, appendix C.8",
    latex=r"\sum_{l=1}^{L} \max\left(\tau, \mathbb{E}_{\text{batch}}[\mathrm{KL}_l]\right)",
    says="A few nats for every rung of a ladder are free, so that no rung has a reason to fall "
    "silent.",
    home=KlObjective.__call__,
    status="definition",
)
def _() -> Finding:
    paid = numbers(0.1, 0.9, 2.0, 0.3, 1.3, 4.0).view(2, 3)
    rungs = paid.mean(0)
    floor = torch.maximum(rungs, numbers(0.3)).sum()
    leaf = paid.clone().requires_grad_(True)
    (pull,) = torch.autograd.grad(KlObjective(free_bits=0.3)(leaf).mean(), leaf)
    objective = KlObjective(beta=0.7, free_bits=0.3, warmup=400)
    pairs = [
        (KlObjective(free_bits=0.3)(paid).mean(), floor),
        (KlObjective()(paid), paid.sum(1)),
        (pull, numbers(0.0, 0.5, 0.5, 0.0, 0.5, 0.5).view(2, 3)),
        (objective(paid, 100).mean(), 0.7 * 0.25 * floor),
    ]
    return all_equal(pairs, "charges and slopes: the silent rung is charged the floor")


@equation(
    "X105",
    part=PART,
    source="Higgins et al. 2017; Sønderby et al. 2016, arXiv 1602.02282",
    latex=r"\mathbb{E}_q[\log p(x \mid z)] - \beta_k\, \mathrm{KL}, \qquad \beta_k = \beta \min"
    r"\left(1, \frac{k}{K}\right)",
    says="Charging codes less, at first or for ever, lets a model say more with them.",
    home=(KlObjective.weight, rate_distortion_elbo),
    status="definition",
)
def _() -> Finding:
    objective, paid = KlObjective(beta=0.7, warmup=400), numbers(0.2, 1.1).unsqueeze(1)
    found = numbers(*(objective.weight(seen) for seen in (0, 100, 399, 400, 9999, None)))
    distortion = numbers(2.0, 3.0)
    loss = distortion + objective(paid, 300)
    pairs = [
        (found, 0.7 * numbers(0.0, 0.25, 0.9975, 1.0, 1.0, 1.0)),
        (rate_distortion_elbo(distortion, paid[:, 0], 0.7 * 0.75), -loss),
    ]
    return all_equal(pairs, "the weight while pictures are seen, and the loss it makes")


@equation(
    "X106",
    part=PART,
    source="Tipping & Bishop 1999; Dai et al. 2018; Lucas et al. 2019, arXiv 1911.02469",
    latex=r"\max_{\theta, \phi} \mathrm{ELBO} = \max_\theta \log p_\theta(x) \quad \text{for a "
    r"linear VAE}, \qquad W = U (\Lambda - \sigma^2)^{1/2}",
    says="A VAE with straight-line networks finds exactly principal components, and its bound is "
    "tight.",
    home=probabilistic_pca,
)
def _() -> Finding:
    spread = torch.diag(numbers(2.3, 1.1, 0.4, 0.2, 0.3))
    turn = torch.linalg.qr(normal(5, 5)).Q
    cov = turn @ spread @ turn.T
    w, noise = probabilistic_pca(cov, 2)
    model = w @ w.T + noise * torch.eye(5).double()
    # at the best (W, σ²) the slope of E[log N(x; 0, C)] in W and σ² is zero
    leaf_w, leaf_s = w.clone().requires_grad_(True), noise.clone().requires_grad_(True)
    c = leaf_w @ leaf_w.T + leaf_s * torch.eye(5).double()
    log_p = -0.5 * (torch.logdet(2.0 * math.pi * c) + torch.trace(torch.linalg.solve(c, cov)))
    slopes = torch.autograd.grad(log_p, [leaf_w, leaf_s])
    # the ELBO with the exact posterior N(M⁻¹Wᵀx, σ²M⁻¹), averaged over the data
    m = w.T @ w + noise * torch.eye(2).double()
    gain, small = torch.linalg.solve(m, w.T), noise * torch.linalg.inv(m)
    codes = gain @ cov @ gain.T
    rate = 0.5 * (torch.trace(codes + small) - 2.0 - torch.logdet(small))
    rest = torch.eye(5).double() - w @ gain
    off = torch.trace(rest @ cov @ rest.T) + torch.trace(w @ small @ w.T)
    elbo = -0.5 * (off / noise + 5.0 * torch.log(2.0 * math.pi * noise)) - rate
    top = torch.linalg.eigvalsh(model)
    pairs = [
        (slopes[0], 0.0),
        (slopes[1], 0.0),
        (elbo, log_p.detach()),
        (top[-2:], numbers(1.1, 2.3)),
        (noise, 0.3),
    ]
    return all_equal(pairs, "slopes of the evidence are zero, and the ELBO equals it")


@equation(
    "X112",
    part=PART,
    source="Luo Eqs. 44 and 58; Sønderby et al. 2016",
    latex=r"\mathbb{E}_{z \sim q}\left[\log \frac{q(z)}{p(z)}\right] = \mathrm{KL}(q \Vert p)",
    says="What a rung costs can be read off a formula or off the code that was drawn; both agree "
    "on average.",
    home=(Visit.log_ratio, Visit.kl),
    status="expectation",
)
def _() -> Finding:
    q, p = Normal(normal(1, 2), 0.3 * normal(1, 2)), Normal(normal(1, 2), 0.3 * normal(1, 2))
    noise, nodes = gauss(-8.5, 8.5, 60)
    weights = nodes * (-0.5 * noise**2).exp() / math.sqrt(2.0 * math.pi)
    grid = torch.cartesian_prod(noise, noise)
    both = torch.outer(weights, weights).flatten()
    wide = [Normal(*(part.expand(len(grid), 2) for part in law)) for law in (q, p)]
    visit = Visit(wide[0], wide[1], wide[0].sample(grid))
    average = (both * visit.log_ratio()).sum()
    laws = [torch.distributions.Normal(law.mean, law.log_std.exp()) for law in (q, p)]
    exact = torch.distributions.kl_divergence(*laws).sum()
    return all_equal([(average, exact), (visit.kl()[0], exact)], "quadrature over all draws")
