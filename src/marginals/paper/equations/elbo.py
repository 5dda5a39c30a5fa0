"""Luo Eqs. 1-16: the evidence lower bound, derived twice; checked on finite tables."""

from functools import partial
from itertools import product
from math import log

import torch
from torch import Tensor

from .. import dense, finite, linear
from ..equation import Finding, all_equal, equation, gap, require
from ..tables import elbo_by_hand, gap_by_hand, posterior_by_hand, worlds

luo = partial(equation, part="Evidence Lower Bound")


def _excess(lower: Tensor, upper: Tensor) -> float:
    """By how much a lower bound is above what it bounds, at worst; 0 if nowhere."""
    return (lower - upper).clamp(min=0.0).max().item()


@luo(
    "1",
    page=2,
    latex=r"p(x) = \int p(x, z)\, dz",
    says="The probability of a picture is found by adding up, over every hidden cause, the "
    "probability of the picture and that cause together.",
    home=(finite.evidence, finite.joint_table),
)
def _() -> Finding:
    pairs = []
    for world, _, log_p in worlds():
        p = finite.evidence(finite.joint_table(world.prior, world.likelihood))
        pairs += [(p, log_p.exp()), (p.sum(), 1.0)]
    chain, x0 = dense.some_chain(1, dims=1)
    grid, cell = dense.grid_paths(x0, 1)
    slices = (linear.log_joint(chain, grid).exp() * cell).unsqueeze(0)
    pairs.append((finite.evidence(slices).log(), dense.log_evidence(chain, x0)))
    return all_equal(pairs, "tables against sums by hand, an integral against its closed form")


@luo(
    "2",
    page=2,
    latex=r"p(x) = \frac{p(x, z)}{p(z \mid x)}",
    says="The same probability follows from any single hidden cause, if one knows how probable "
    "that cause is once the picture has been seen.",
    home=(finite.evidence_from_one, finite.posterior),
)
def _() -> Finding:
    pairs = []
    for world, joint, log_p in worlds():
        one = finite.evidence_from_one(joint, posterior_by_hand(world))
        pairs.append((one, log_p.exp().unsqueeze(1)))
        pairs.append((finite.posterior(joint), posterior_by_hand(world)))
    return all_equal(pairs, "p(x, z)/p(z | x) at every z against p(x) by hand")


@luo(
    "3",
    page=2,
    latex=r"\mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{p(x, z)}{q_\phi(z \mid x)}\right]",
    says="The evidence lower bound (ELBO) is the average, over guesses of the hidden cause, of the "
    "log of how much more probable the model finds guess and picture together than the guesser "
    "found the guess.",
    home=(finite.elbo, finite.expected),
    status="definition",
)
def _() -> Finding:
    pairs = [(finite.elbo(joint, w.q), elbo_by_hand(w, w.q)) for w, joint, _ in worlds()]
    return all_equal(pairs, "the ELBO of two tables against plain loops; q has a zero in it")


@luo(
    "4",
    page=2,
    latex=r"\log p(x) \geq "
    r"\mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{p(x, z)}{q_\phi(z \mid x)}\right]",
    says="Whatever the guesser, the ELBO is never above the log-probability of the picture.",
    home=(finite.elbo, finite.log_evidence),
    status="bound",
)
def _() -> Finding:
    worst = 0.0
    for world, joint, log_p in worlds():
        guesses = torch.softmax(2.0 * torch.randn(1000, *joint.shape, dtype=torch.float64), -1)
        bounds = torch.stack([finite.elbo(joint, q) for q in guesses])
        require(bool((bounds < log_p - 0.01).all()), "the bound is not strict")
        tight = gap(finite.elbo(joint, posterior_by_hand(world)), log_p)
        worst = max(worst, _excess(bounds, log_p), tight, gap(finite.log_evidence(joint), log_p))
    return Finding(worst, "1000 random q: none above log p(x); the true posterior reaches it")


@luo(
    "5",
    page=3,
    latex=r"\log p(x) = \log\int p(x, z)\, dz",
    says="The first derivation starts from the log of that sum over all hidden causes.",
    home=finite.log_evidence,
)
def _() -> Finding:
    pairs = [(finite.log_evidence(joint), log_p) for _, joint, log_p in worlds()]
    return all_equal(pairs, "log of the sum against sums by hand")


@luo(
    "6",
    page=3,
    latex=r"= \log\int \frac{p(x, z)\, q_\phi(z \mid x)}{q_\phi(z \mid x)}\, dz",
    says="Multiplying and dividing by the guesser's probability changes nothing, as long as it "
    "gives every possible cause some probability.",
    home=finite.log_evidence_times_one,
)
def _() -> Finding:
    pairs = []
    for world, joint, log_p in worlds():
        q = 0.9 * world.q + 0.1 / world.q.shape[1]  # no zeros
        pairs.append((finite.log_evidence_times_one(joint, q), log_p))
    return all_equal(pairs, "against log p(x) by hand")


@luo(
    "7",
    page=3,
    latex=r"= \log\mathbb{E}_{q_\phi(z \mid x)}\left[\frac{p(x, z)}{q_\phi(z \mid x)}\right]",
    says="So the probability of the picture is an average over guesses, each weighted by how much "
    "the guesser under- or overrated it.",
    home=finite.log_mean_weight,
)
def _() -> Finding:
    pairs = []
    for world, joint, log_p in worlds():
        q = 0.9 * world.q + 0.1 / world.q.shape[1]
        pairs.append((finite.log_mean_weight(joint, q), log_p))
        seen = (joint * (world.q > 0)).sum(1).log()  # causes never guessed are never counted
        pairs.append((finite.log_mean_weight(joint, world.q), seen))
    return all_equal(pairs, "the mean importance weight against log p(x) by hand")


@luo(
    "8",
    page=3,
    latex=r"\geq \mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{p(x, z)}{q_\phi(z \mid x)}\right]",
    says="The average of logs is never above the log of the average (Jensen's inequality), and "
    "averaging two guesses before taking the log already closes part of the difference.",
    home=(finite.elbo, finite.log_mean_weight),
    status="bound",
)
def _() -> Finding:
    worst = 0.0
    for world, joint, _ in worlds():
        q = 0.9 * world.q + 0.1 / world.q.shape[1]
        one, all_ = finite.elbo(joint, q), finite.log_mean_weight(joint, q)
        two = _two_guesses(joint, q)
        require(bool((one < two).all() and (two < all_).all()), "the bounds are out of order")
        true = posterior_by_hand(world)
        tight = gap(finite.elbo(joint, true), finite.log_mean_weight(joint, true))
        worst = max(worst, _excess(one, two), tight, gap(one, elbo_by_hand(world, q)))
    return Finding(worst, "one guess < two guesses < log p(x); all equal for the true posterior")


def _two_guesses(joint: Tensor, q: Tensor) -> Tensor:
    """E[log of the mean of two importance weights], every pair of guesses enumerated."""
    rows = []
    for p_row, q_row in zip(joint.tolist(), q.tolist()):
        pairs = product(zip(p_row, q_row), repeat=2)
        rows.append(sum(a * b * log(0.5 * (p / a + r / b)) for (p, a), (r, b) in pairs))
    return torch.tensor(rows, dtype=torch.float64)


@luo(
    "9",
    page=3,
    latex=r"\log p(x) = \log p(x) \int q_\phi(z \mid x)\, dz",
    says="The second derivation multiplies by one: the guesser's probabilities add up to one.",
    home=finite.log_evidence_times_mass,
)
def _() -> Finding:
    pairs = []
    for world, joint, log_p in worlds():
        for mass in (1.0, 1.7):
            pairs.append((finite.log_evidence_times_mass(joint, mass * world.q), mass * log_p))
    return all_equal(pairs, "against log p(x) by hand; with q adding up to 1.7, 1.7 times as much")


@luo(
    "10",
    page=3,
    latex=r"= \int q_\phi(z \mid x) \left(\log p(x)\right) dz",
    says="What does not depend on the hidden cause may be moved inside the sum over causes.",
    home=finite.log_evidence_inside_sum,
)
def _() -> Finding:
    pairs = []
    for world, joint, log_p in worlds():
        for mass in (1.0, 1.7):
            pairs.append((finite.log_evidence_inside_sum(joint, mass * world.q), mass * log_p))
    return all_equal(pairs, "against log p(x) by hand; with q adding up to 1.7, 1.7 times as much")


@luo(
    "11",
    page=3,
    latex=r"= \mathbb{E}_{q_\phi(z \mid x)}\left[\log p(x)\right]",
    says="That sum is an average over guesses, of something all guesses agree on.",
    home=finite.mean_log_evidence,
)
def _() -> Finding:
    pairs = [(finite.mean_log_evidence(joint, w.q), log_p) for w, joint, log_p in worlds()]
    return all_equal(pairs, "against log p(x) by hand")


@luo(
    "12",
    page=3,
    latex=r"= \mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{p(x, z)}{p(z \mid x)}\right]",
    says="Inside the average the probability of the picture is replaced by what Eq. 2 says it is, "
    "with the guess as the single cause.",
    home=finite.mean_log_bayes,
)
def _() -> Finding:
    pairs = [(finite.mean_log_bayes(joint, w.q), log_p) for w, joint, log_p in worlds()]
    return all_equal(pairs, "against log p(x) by hand")


@luo(
    "13",
    page=3,
    latex=r"= \mathbb{E}_{q_\phi(z \mid x)}\left[\log"
    r"\frac{p(x, z)\, q_\phi(z \mid x)}{p(z \mid x)\, q_\phi(z \mid x)}\right]",
    says="Multiplying and dividing by the guesser's probability once more changes nothing.",
    home=finite.mean_log_bayes_times_one,
)
def _() -> Finding:
    pairs = [(finite.mean_log_bayes_times_one(j, w.q), log_p) for w, j, log_p in worlds()]
    return all_equal(pairs, "against log p(x) by hand")


@luo(
    "14",
    page=3,
    latex=r"= \mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{p(x, z)}{q_\phi(z \mid x)}\right]"
    r" + \mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{q_\phi(z \mid x)}{p(z \mid x)}\right]",
    says="The log of the product is split into two averages: the ELBO, and how much the guesser "
    "differs from the true distribution of causes.",
    home=finite.bound_plus_log_ratio,
)
def _() -> Finding:
    pairs = [(finite.bound_plus_log_ratio(j, w.q), log_p) for w, j, log_p in worlds()]
    return all_equal(pairs, "against log p(x) by hand")


@luo(
    "15",
    page=3,
    latex=r"= \mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{p(x, z)}{q_\phi(z \mid x)}\right]"
    r" + D_{\mathrm{KL}}\left(q_\phi(z \mid x) \,\Vert\, p(z \mid x)\right)",
    says="What the ELBO lacks is exactly the distance (KL divergence) from the guesser to the true "
    "distribution of causes, so raising the ELBO by a better guesser makes the guesses truer.",
    home=(finite.elbo_plus_gap, finite.kl),
)
def _() -> Finding:
    pairs = []
    for world, joint, log_p in worlds():
        pairs.append((finite.elbo_plus_gap(joint, world.q), log_p))
        pairs.append((finite.kl(world.q, posterior_by_hand(world)), gap_by_hand(world, world.q)))
        logits = torch.randn(joint.shape, dtype=torch.float64).requires_grad_()
        q = torch.softmax(logits, 1)
        (up,) = torch.autograd.grad(finite.elbo(joint, q).sum(), logits, retain_graph=True)
        (down,) = torch.autograd.grad(finite.kl(q, posterior_by_hand(world)).sum(), logits)
        require(up.norm().item() > 0.1, "the gradient vanishes")
        pairs.append((up, -down))
    return all_equal(pairs, "the sum against log p(x) by hand; the gradients are opposite")


@luo(
    "16",
    page=3,
    latex=r"\geq \mathbb{E}_{q_\phi(z \mid x)}\left[\log\frac{p(x, z)}{q_\phi(z \mid x)}\right]",
    says="A distance is never negative, so leaving it out leaves a lower bound, exact only "
    "for a perfect guesser.",
    home=finite.elbo,
    status="bound",
)
def _() -> Finding:
    worst = 0.0
    for world, joint, log_p in worlds():
        lost = log_p - finite.elbo(joint, world.q)
        require(bool((lost > 0.01).all()), "the bound is not strict")
        worst = max(worst, gap(lost, gap_by_hand(world, world.q)))
        worst = max(worst, gap(finite.elbo(joint, posterior_by_hand(world)), log_p))
    return Finding(worst, "log p(x) − ELBO against the KL by hand; zero for the true posterior")
