"""Latent-variable models on finite tables: Luo Eqs. 1-29 without a single integral.

With finitely many values of x and z every expectation is a finite sum, so every line of the
derivation is a short function whose value is exact. Conventions: a *table* has one row per value
of x and one column per value of z; ``joint`` (X, Z) holds p(x, z), ``q`` (X, Z) holds q(z | x),
``prior`` (Z,) holds p(z) and ``likelihood`` (Z, X) holds p(x | z), rows being what is given. Values
are nats, one per value of x: (X,). 0·log 0 counts as 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# ---- one latent: Eqs. 1-22 ---------------------------------------------------------------------


def joint_table(prior: Tensor, likelihood: Tensor) -> Tensor:
    """p(x, z) = p(x | z)·p(z) as a table (X, Z): a latent is drawn, then x given the latent."""
    return likelihood.T * prior


def posterior(joint: Tensor) -> Tensor:
    """p(z | x) = p(x, z)/p(x), (X, Z): Bayes' rule."""
    return joint / joint.sum(1, keepdim=True)


def evidence(joint: Tensor) -> Tensor:
    """Eq. 1: p(x) = Σ_z p(x, z), (X,)."""
    return joint.sum(1)


def evidence_from_one(joint: Tensor, p_z_given_x: Tensor) -> Tensor:
    """Eq. 2: p(x, z)/p(z | x), (X, Z). Every column is p(x): any single z gives it."""
    return joint / p_z_given_x


def expected(q: Tensor, values: Tensor) -> Tensor:
    """E_{q(z|x)}[values], (X,): values (X, Z), or anything that broadcasts to it."""
    return torch.where(q > 0, q * values, 0.0).sum(1)


def elbo(joint: Tensor, q: Tensor) -> Tensor:
    """Eqs. 3, 4, 8 and 16: E_q[log p(x, z)/q(z | x)], (X,); never above log p(x)."""
    return expected(q, (joint / q).log())


def log_evidence(joint: Tensor) -> Tensor:
    """Eq. 5: log p(x) = log Σ_z p(x, z), (X,)."""
    return joint.sum(1).log()


def log_evidence_times_one(joint: Tensor, q: Tensor) -> Tensor:
    """Eq. 6: log Σ_z p(x, z)·q(z | x)/q(z | x), (X,). q must be positive wherever p(x, z) is."""
    return (joint * q / q).sum(1).log()


def log_mean_weight(joint: Tensor, q: Tensor) -> Tensor:
    """Eq. 7: log E_q[p(x, z)/q(z | x)], (X,): p(x) as the mean of the importance weights."""
    return expected(q, joint / q).log()


def log_evidence_times_mass(joint: Tensor, q: Tensor) -> Tensor:
    """Eq. 9: log p(x)·Σ_z q(z | x), (X,): multiplied by one, if q is normalised."""
    return evidence(joint).log() * q.sum(1)


def log_evidence_inside_sum(joint: Tensor, q: Tensor) -> Tensor:
    """Eq. 10: Σ_z q(z | x)·log p(x), (X,): what does not depend on z may stand inside."""
    return (q * evidence(joint).log().unsqueeze(1)).sum(1)


def mean_log_evidence(joint: Tensor, q: Tensor) -> Tensor:
    """Eq. 11: E_q[log p(x)], (X,)."""
    return expected(q, evidence(joint).log().unsqueeze(1))


def mean_log_bayes(joint: Tensor, q: Tensor) -> Tensor:
    """Eq. 12: E_q[log p(x, z)/p(z | x)], (X,): Eq. 2 put in for p(x)."""
    return expected(q, (joint / posterior(joint)).log())


def mean_log_bayes_times_one(joint: Tensor, q: Tensor) -> Tensor:
    """Eq. 13: E_q[log p(x, z)·q(z | x)/(p(z | x)·q(z | x))], (X,)."""
    return expected(q, (joint * q / (posterior(joint) * q)).log())


def bound_plus_log_ratio(joint: Tensor, q: Tensor) -> Tensor:
    """Eq. 14: E_q[log p(x, z)/q(z | x)] + E_q[log q(z | x)/p(z | x)], (X,)."""
    return expected(q, (joint / q).log()) + expected(q, (q / posterior(joint)).log())


def kl(q: Tensor, p: Tensor) -> Tensor:
    """KL(q ‖ p) = Σ q·log(q/p) in nats, row by row, (X,)."""
    return expected(q, (q / p).log())


def elbo_plus_gap(joint: Tensor, q: Tensor) -> Tensor:
    """Eq. 15: ELBO + KL(q(z | x) ‖ p(z | x)) = log p(x), (X,)."""
    return elbo(joint, q) + kl(q, posterior(joint))


def elbo_of_factors(prior: Tensor, likelihood: Tensor, q: Tensor) -> Tensor:
    """Eq. 17: E_q[log p(x | z)·p(z)/q(z | x)], (X,): the joint by the chain rule."""
    return expected(q, (likelihood.T * prior / q).log())


def reconstruction(likelihood: Tensor, q: Tensor) -> Tensor:
    """E_q[log p(x | z)], (X,): how well latents from the encoder explain x."""
    return expected(q, likelihood.T.log())


def reconstruction_plus_log_ratio(prior: Tensor, likelihood: Tensor, q: Tensor) -> Tensor:
    """Eq. 18: E_q[log p(x | z)] + E_q[log p(z)/q(z | x)], (X,)."""
    return reconstruction(likelihood, q) + expected(q, (prior / q).log())


def reconstruction_minus_kl(prior: Tensor, likelihood: Tensor, q: Tensor) -> Tensor:
    """Eq. 19: E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)), (X,): what a VAE maximises."""
    return reconstruction(likelihood, q) - kl(q, prior)


def sampled_objective(prior: Tensor, likelihood: Tensor, q: Tensor, draws: Tensor) -> Tensor:
    """Eq. 22 with its missing 1/L (erratum E4): (1/L)·Σ_l log p(x | z_l) − KL(q ‖ p(z)), (X,).

    ``draws`` (X, L): whole numbers, the latents z_l ~ q(z | x) of every x. Unbiased for Eq. 19.
    """
    return likelihood.T.log().gather(1, draws).mean(1) - kl(q, prior)


def sampled_objective_as_printed(
    prior: Tensor, likelihood: Tensor, q: Tensor, draws: Tensor
) -> Tensor:
    """Eq. 22 as printed: Σ_l log p(x | z_l) − KL, (X,): counts the reconstruction L times."""
    return likelihood.T.log().gather(1, draws).sum(1) - kl(q, prior)


# ---- a Markov ladder of latents: Eqs. 23-29 ----------------------------------------------------


@dataclass(frozen=True)
class Ladder:
    """A Markov hierarchy of T finite latents; z_0 stands for x.

    ``top`` (K_T,): p(z_T). ``down[t-1]`` (K_t, K_{t-1}): p(z_{t-1} | z_t), the first being
    p(x | z_1). ``up[t-1]`` (K_{t-1}, K_t): q(z_t | z_{t-1}), the first being q(z_1 | x).
    """

    top: Tensor
    down: tuple[Tensor, ...]
    up: tuple[Tensor, ...]


def ladder_joint(ladder: Ladder) -> Tensor:
    """Eq. 23: p(x, z_1:T) = p(z_T)·p(x | z_1)·Π_{t≥2} p(z_{t-1} | z_t), (X, K_1, ..., K_T)."""
    table = ladder.top
    for step in reversed(ladder.down):  # new first axis: the variable below
        table = step.T.reshape(*step.T.shape, *[1] * (table.ndim - 1)) * table
    return table


def ladder_posterior(ladder: Ladder) -> Tensor:
    """Eq. 24: q(z_1:T | x) = q(z_1 | x)·Π_{t≥2} q(z_t | z_{t-1}), (X, K_1, ..., K_T)."""
    table = ladder.up[0]
    for step in ladder.up[1:]:  # new last axis: the variable above
        table = table.unsqueeze(-1) * step
    return table


def ladder_log_evidence(ladder: Ladder) -> Tensor:
    """Eq. 25: log p(x) = log Σ_{z_1:T} p(x, z_1:T), (X,)."""
    return log_evidence(ladder_joint(ladder).flatten(1))


def ladder_log_evidence_times_one(ladder: Ladder) -> Tensor:
    """Eq. 26: log Σ p(x, z_1:T)·q(z_1:T | x)/q(z_1:T | x), (X,)."""
    joint, q = ladder_joint(ladder), ladder_posterior(ladder)
    return log_evidence_times_one(joint.flatten(1), q.flatten(1))


def ladder_log_mean_weight(ladder: Ladder) -> Tensor:
    """Eq. 27: log E_q[p(x, z_1:T)/q(z_1:T | x)], (X,)."""
    joint, q = ladder_joint(ladder), ladder_posterior(ladder)
    return log_mean_weight(joint.flatten(1), q.flatten(1))


def ladder_elbo(ladder: Ladder) -> Tensor:
    """Eq. 28: E_q[log p(x, z_1:T)/q(z_1:T | x)], (X,); never above log p(x)."""
    joint, q = ladder_joint(ladder), ladder_posterior(ladder)
    return elbo(joint.flatten(1), q.flatten(1))


def ladder_elbo_of_factors(ladder: Ladder) -> Tensor:
    """Eq. 29: the same with Eqs. 23 and 24 put in, one factor at a time, (X,).

    A factor of z_{t-1} and z_t needs only their law q(z_{t-1}, z_t | x), so the cost grows with T,
    not with the number of all paths.
    """
    here = torch.eye(len(ladder.up[0]), dtype=ladder.top.dtype)  # q(z_0 | x): z_0 is x
    total = torch.zeros(len(here), dtype=here.dtype)
    for up, down in zip(ladder.up, ladder.down):
        pair = here.unsqueeze(2) * up  # q(z_{t-1}, z_t | x)
        ratio = (down.T / up).log().expand_as(pair)
        total = total + expected(pair.flatten(1), ratio.flatten(1))
        here = pair.sum(1)
    return total + expected(here, ladder.top.log())


def ladder_denoising_bound(ladder: Ladder) -> Tensor:
    """Eq. 58 for any Markov ladder, not only for noise: the ELBO by steps back that know x, (X,).

    E_q[log p(x | z_1)] − KL(q(z_T | x) ‖ p(z_T)) − Σ_{t≥2} E[KL(q(z_{t-1} | z_t, x) ‖
    p(z_{t-1} | z_t))], the step back being Bayes' rule with x kept (Eq. 46).
    """
    here = ladder.up[0]  # q(z_{t-1} | x)
    total = reconstruction(ladder.down[0], here)
    for up, down in zip(ladder.up[1:], ladder.down[1:]):
        pair = here.unsqueeze(2) * up  # q(z_{t-1}, z_t | x)
        above = pair.sum(1)  # q(z_t | x)
        back = pair / above.unsqueeze(1)
        ratio = (back / down.T).log()
        total = total - expected(pair.flatten(1), ratio.flatten(1))
        here = above
    return total - kl(here, ladder.top)
