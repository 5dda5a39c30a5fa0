"""Does a picture show what was asked for? See what its nearest real pictures show.

A drawing of "a red crab" is right if, among thousands of real drawings, the most similar ones are
crabs. Similar means: a small angle between features. For every drawing all concepts are ranked by
their most similar real picture; top-k counts how often the concept asked for is among the first k.
A tie counts against the drawing: features that tell nothing apart find nothing.
How well this works at all is known from real pictures that are not in the reference: their figure
stands beside that of the drawings.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from marginals.errors import MarginalsError

__all__ = ["Nearest", "Retrieval", "nearest", "ranks", "retrieval", "spread"]


class Retrieval(NamedTuple):
    """How often the right concept was found, as shares with standard errors."""

    n: int
    top1: float
    top1_se: float
    top5: float
    top5_se: float

    def __str__(self) -> str:
        return (
            f"top-1 {self.top1:.1%} ± {self.top1_se:.1%}, top-5 {self.top5:.1%} ± "
            f"{self.top5_se:.1%} of {self.n}"
        )


def ranks(
    features: Tensor, asked: Sequence[str], reference: Tensor, concepts: Sequence[str]
) -> Tensor:
    """The rank (1 = best) of the concept asked for, (n,), among all concepts of the reference.

    ``features`` (n, d) of drawings, ``asked`` the concept of each; ``reference`` (m, d) of real
    pictures and the concept of each. A concept is as similar as its most similar picture; others
    that are just as similar rank before the one asked for. Raises MarginalsError for a concept that
    the reference does not have, and for features that are not finite.
    """
    names = sorted(set(concepts))
    place = {name: i for i, name in enumerate(names)}
    if unknown := sorted(set(asked) - place.keys()):
        raise MarginalsError(f"no real picture shows {unknown[0]!r}, so it cannot be found")
    of = torch.tensor([place[name] for name in concepts])
    wanted = torch.tensor([place[name] for name in asked])
    found = []
    real = _unit(reference).T
    for part, want in zip(_unit(features).split(256), wanted.split(256), strict=True):
        similar = part @ real
        best = similar.new_full((len(part), len(names)), -2.0)
        best.scatter_reduce_(1, of.expand(len(part), -1), similar, "amax")
        own = best.gather(1, want[:, None])
        found.append((best >= own).sum(1))  # its own is one of them: 1 if no other is as near
    return torch.cat(found)


def retrieval(
    features: Tensor, asked: Sequence[str], reference: Tensor, concepts: Sequence[str]
) -> Retrieval:
    """Top-1 and top-5 of :func:`ranks`."""
    rank = ranks(features, asked, reference, concepts)
    n = len(rank)
    shares = [float((rank <= k).double().mean()) for k in (1, 5)]
    errors = [(share * (1 - share) / n) ** 0.5 for share in shares]
    return Retrieval(n, shares[0], errors[0], shares[1], errors[1])


class Nearest(NamedTuple):
    """For every picture, the most similar one of another set."""

    index: Tensor
    similarity: Tensor


def nearest(features: Tensor, others: Tensor) -> Nearest:
    """The largest cosine of every row (n, d) with any row of ``others`` (m, d), and where."""
    unit = _unit(others).T
    best = [(part @ unit).max(1) for part in _unit(features).split(256)]
    return Nearest(torch.cat([b.indices for b in best]), torch.cat([b.values for b in best]))


def spread(features: Tensor) -> float:
    """How different the pictures of one text are: mean of 1 − cosine over all pairs of rows,
    averaged over texts; (texts, pictures of each, d)."""
    unit = _unit(features)
    n = unit.shape[1]
    if n < 2:
        raise MarginalsError("Variety is measured between pictures: give two or more of each text.")
    total = (unit @ unit.transpose(1, 2)).sum((1, 2)) - n
    return float(1.0 - (total / (n * (n - 1))).mean())


def _unit(features: Tensor) -> Tensor:
    """Rows of length 1, whose products are cosines. NaN is refused: nothing ranks before it."""
    if not bool(features.isfinite().all()):
        raise MarginalsError(
            "features must be finite and some are NaN or infinite: look at the pictures they are of"
        )
    return F.normalize(features, dim=-1)
