"""Luo Eqs. 23-29: hierarchical VAEs; checked on finite ladders and on the package's Ladder."""

from functools import partial
from itertools import product
from math import log

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ... import ladder as core
from .. import dense, finite, linear
from ..equation import Finding, all_equal, equation, gap, require
from ..rungs import as_ladder, drawn_path, evidence
from ..tables import some_ladder

luo = partial(equation, part="Hierarchical Variational Autoencoders")

SIZES = ((3, 4, 2, 5), (4, 3, 2), (3, 5))
"""How many values x, z_1, ..., z_T have: T = 3, 2 and 1."""


def _ladders() -> list[finite.Ladder]:
    return [some_ladder(sizes, seed) for seed, sizes in enumerate(SIZES)]


def _paths(ladder: finite.Ladder) -> list[tuple[int, ...]]:
    """Every (x, z_1, ..., z_T)."""
    sizes = [len(ladder.up[0]), *(step.shape[1] for step in ladder.up)]
    return list(product(*map(range, sizes)))


def _p(ladder: finite.Ladder, path: tuple[int, ...]) -> float:
    value = ladder.top[path[-1]].item()
    for t, step in enumerate(ladder.down, start=1):
        value *= step[path[t], path[t - 1]].item()
    return value


def _q(ladder: finite.Ladder, path: tuple[int, ...]) -> float:
    value = 1.0
    for t, step in enumerate(ladder.up, start=1):
        value *= step[path[t - 1], path[t]].item()
    return value


def _log_p(ladder: finite.Ladder) -> Tensor:
    """log p(x), the top's law pushed down by one matrix after another."""
    law = ladder.top
    for step in reversed(ladder.down):
        law = law @ step
    return law.log()


def _elbo(ladder: finite.Ladder) -> Tensor:
    nats = [0.0] * len(ladder.up[0])
    for path in _paths(ladder):
        p, q = _p(ladder, path), _q(ladder, path)
        nats[path[0]] += q * (log(p) - log(q))
    return torch.tensor(nats, dtype=torch.float64)


@luo(
    "23",
    page=5,
    latex=r"p(x, z_{1:T}) = p(z_T)\, p_\theta(x \mid z_1) \prod_{t=2}^{T} "
    r"p_\theta(z_{t-1} \mid z_t)",
    says="A hierarchical model draws its top cause first, then every cause from the one above it, "
    "and the picture from the lowest.",
    home=finite.ladder_joint,
    status="definition",
)
def _() -> Finding:
    pairs = []
    for ladder in _ladders():
        table = finite.ladder_joint(ladder)
        hand = torch.tensor([_p(ladder, path) for path in _paths(ladder)], dtype=torch.float64)
        pairs += [(table, hand.reshape(table.shape)), (table.sum(), 1.0)]
    return all_equal(pairs, "every entry against the product by hand; the table adds up to one")


@luo(
    "24",
    page=5,
    latex=r"q_\phi(z_{1:T} \mid x) = q_\phi(z_1 \mid x) \prod_{t=2}^{T} q_\phi(z_t \mid z_{t-1})",
    says="Its guesser climbs from the picture to the lowest cause and from each cause to the next, "
    "looking at nothing but the one below.",
    home=finite.ladder_posterior,
    status="definition",
)
def _() -> Finding:
    pairs = []
    for ladder in _ladders():
        table = finite.ladder_posterior(ladder)
        hand = torch.tensor([_q(ladder, path) for path in _paths(ladder)], dtype=torch.float64)
        pairs += [(table, hand.reshape(table.shape)), (table.flatten(1).sum(1), 1.0)]
        if len(ladder.up) > 1:  # q(z_T | z_{T-1}, x) is the same for every x
            last = table.reshape(len(table), -1, *table.shape[-2:]).sum(1)
            pairs.append((last / last.sum(-1, keepdim=True), ladder.up[-1]))
    return all_equal(pairs, "every entry against the product by hand; q(z_T | z_T−1) forgets x")


@luo(
    "25",
    page=6,
    latex=r"\log p(x) = \log\int p(x, z_{1:T})\, dz_{1:T}",
    says="The probability of the picture adds up all chains of causes that could have led to it.",
    home=finite.ladder_log_evidence,
)
def _() -> Finding:
    pairs = [(finite.ladder_log_evidence(one), _log_p(one)) for one in _ladders()]
    return all_equal(pairs, "the sum over all paths against a product of matrices")


@luo(
    "26",
    page=6,
    latex=r"= \log\int \frac{p(x, z_{1:T})\, q_\phi(z_{1:T} \mid x)}{q_\phi(z_{1:T} \mid x)}\, "
    r"dz_{1:T}",
    says="As in Eq. 6, multiplying and dividing by the guesser's probability changes nothing.",
    home=finite.ladder_log_evidence_times_one,
)
def _() -> Finding:
    pairs = [(finite.ladder_log_evidence_times_one(one), _log_p(one)) for one in _ladders()]
    return all_equal(pairs, "the sum over all paths against a product of matrices")


@luo(
    "27",
    page=6,
    latex=r"= \log\mathbb{E}_{q_\phi(z_{1:T} \mid x)}\left[\frac{p(x, z_{1:T})}"
    r"{q_\phi(z_{1:T} \mid x)}\right]",
    says="As in Eq. 7, the probability of the picture is an average over the guesser's chains of "
    "causes, suitably weighted.",
    home=finite.ladder_log_mean_weight,
)
def _() -> Finding:
    pairs = [(finite.ladder_log_mean_weight(one), _log_p(one)) for one in _ladders()]
    return all_equal(pairs, "the mean weight over all paths against a product of matrices")


@luo(
    "28",
    page=6,
    latex=r"\geq \mathbb{E}_{q_\phi(z_{1:T} \mid x)}\left[\log\frac{p(x, z_{1:T})}"
    r"{q_\phi(z_{1:T} \mid x)}\right]",
    says="The ELBO of a hierarchical model: a lower bound on the log-probability of the picture, "
    "short of it by the distance between guessed and true chains of causes.",
    home=(finite.ladder_elbo, core.Ladder.log_prob),
    status="bound",
)
def _() -> Finding:
    pairs = []
    for ladder in _ladders():
        nats, log_p = finite.ladder_elbo(ladder), _log_p(ladder)
        require(bool((nats < log_p - 0.01).all()), "the bound is not strict")
        joint, q = finite.ladder_joint(ladder).flatten(1), finite.ladder_posterior(ladder)
        lost = finite.kl(q.flatten(1), finite.posterior(joint))
        pairs += [(nats, _elbo(ladder)), (nats + lost, log_p)]
    return all_equal(
        [*pairs, *_weights_at_drawn_paths()],
        "every path by hand, the gap as a KL; Ladder.log_prob at the latents that it drew",
    )


def _weights_at_drawn_paths() -> list[tuple[Tensor, Tensor]]:
    """Ladder.log_prob with one and two walks, and log p/q at the paths that were walked."""
    pairs = []
    for walks in (1, 2):
        chain, _ = dense.some_chain(3)
        ladder, rungs = as_ladder(chain)
        x, labels = torch.randn(5, 3, dtype=torch.float64), torch.arange(5)
        ticks: list[tuple[int, int]] = []
        tick = partial(_note, ticks)
        nats = ladder.log_prob(x, labels, samples=walks, tick=tick).nats
        require(ticks == [(i + 1, walks) for i in range(walks)], "the walks are not counted")
        ratios = []
        for walk in range(walks):
            down = linear.log_joint(chain, drawn_path(x, rungs, walk))
            up = linear.log_noising(chain, drawn_path(evidence(x, labels), rungs, walk))
            ratios.append(down - up)
        pairs.append((nats, torch.stack(ratios).exp().mean(0).log()))
    return pairs


@luo(
    "29",
    page=6,
    latex=r"\mathbb{E}_{q_\phi(z_{1:T} \mid x)}\left[\log\frac{p(x, z_{1:T})}"
    r"{q_\phi(z_{1:T} \mid x)}\right] = \mathbb{E}_{q_\phi(z_{1:T} \mid x)}\left[\log"
    r"\frac{p(z_T)\, p_\theta(x \mid z_1) \prod_{t=2}^{T} p_\theta(z_{t-1} \mid z_t)}"
    r"{q_\phi(z_1 \mid x) \prod_{t=2}^{T} q_\phi(z_t \mid z_{t-1})}\right]",
    says="With both chains written out, that ELBO is a sum of one comparison per rung, and with a "
    "single rung it is the ELBO of a VAE.",
    home=(finite.ladder_elbo_of_factors, core.Ladder.elbo),
)
def _() -> Finding:
    pairs = [(finite.ladder_elbo_of_factors(one), _elbo(one)) for one in _ladders()]
    one = _ladders()[-1]
    vae = finite.reconstruction_minus_kl(one.top, one.down[0], one.up[0])
    pairs.append((finite.ladder_elbo_of_factors(one), vae))
    worst = max(_terms_at_drawn_paths(steps) for steps in (1, 3))
    compared = "every path by hand; T = 1 is Eq. 19; Ladder.elbo at the latents that it drew"
    return Finding(max(worst, all_equal(pairs, "").error), compared)


def _terms_at_drawn_paths(steps: int) -> float:
    """Ladder.elbo with two walks, part by part, against the densities at the recorded paths."""
    chain, _ = dense.some_chain(steps)
    ladder, rungs = as_ladder(chain)
    x, labels = torch.randn(5, 3, dtype=torch.float64), torch.arange(5)
    ticks: list[tuple[int, int]] = []
    terms = ladder.elbo(x, labels, samples=2, tick=partial(_note, ticks))
    require(ticks == [(1, 2), (2, 2)] and terms.nfe == 2, "the walks are not counted")
    require(terms.at.tolist() == list(range(steps - 1, 0, -1)), "the rungs are misnumbered")
    down = [drawn_path(x, rungs, walk) for walk in range(2)]
    up = [drawn_path(evidence(x, labels), rungs, walk) for walk in range(2)]
    top, alpha = Normal(chain.top_mean, chain.top_var.sqrt()), chain.alphas[-1]
    last = [Normal(alpha.sqrt() * path[:, -2], (1.0 - alpha).sqrt()) for path in up]
    kls = [kl_divergence(law, top).sum(-1) for law in last]
    found = [
        gap(terms.reconstruction, sum(linear.log_down(chain, path, 1) for path in down) / 2),
        gap(terms.prior, torch.stack(kls).mean(0)),
        gap(terms.nats, terms.reconstruction - terms.prior - terms.matching.sum(1)),
    ]
    for column, t in zip(terms.matching.T, terms.at.tolist()):
        paid = [linear.log_up(chain, path, t) for path in up]
        earned = [linear.log_down(chain, path, t + 1) for path in down]
        found.append(gap(column, (torch.stack(paid) - torch.stack(earned)).mean(0)))
    return max(found)


def _note(ticks: list[tuple[int, int]], done: int, total: int) -> None:
    ticks.append((done, total))
