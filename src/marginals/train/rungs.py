"""What every rung of a ladder carries, in nats: the log of models that have no noise levels.

The KL of a rung is what its latents say about a picture. A rung at 0 nats carries nothing: its
posterior has collapsed onto its prior, and the remedies are `free_bits` and `kl_warmup`.
"""

from typing import Any

import torch

from marginals.classifier import NoisyClassifier
from marginals.generative import Generative
from marginals.latent import Latent
from marginals.models import Model
from marginals.train.feed import Feed

__all__ = ["SILENT", "explain", "rung_words", "rungs", "silent"]

_WITHOUT = (Model, Latent, NoisyClassifier)  # models of noise levels have no rungs to report

SILENT = 0.05
"""Nats per picture below which a rung says nothing that matters. Those of a bottom-up ladder may be
negative, where p(z | above) knows more of z than the picture does: that is not nothing."""


@torch.no_grad()
def rungs(model: Generative, feed: Feed) -> dict[str, Any]:
    """{"bits_per_dim", "reconstruction", "rungs"} of the first batch, always with the same noise.

    "rungs" names every rung by its number, 1 beside the data, with its KL in nats per picture. {}
    for models of noise levels.
    """
    if isinstance(model, _WITHOUT):
        return {}
    batch = feed(0)
    terms = model.elbo(batch.x, batch.cond, generator=batch.generator)
    below = zip(terms.at.tolist(), terms.matching.mean(0).tolist(), strict=True)
    by_rung = {f"{number:g}": nats for number, nats in below}
    by_rung[str(len(by_rung) + 1)] = float(terms.prior.mean())
    return {
        "bits_per_dim": terms.mean,
        "reconstruction": float(terms.reconstruction.mean()),
        "rungs": dict(sorted(by_rung.items(), key=lambda item: float(item[0]))),
    }


def rung_words(by_rung: dict[str, float]) -> str:
    """The KLs in a line; rung 1 is beside the data."""
    return "KL by rung, in nats: " + "  ".join(f"{k} {v:.2f}" for k, v in by_rung.items())


def explain(model: Generative) -> str:
    """What the words of `rung_words` mean, in a sentence; "" for a diffusion model."""
    if isinstance(model, _WITHOUT):
        return ""
    return (
        "this model is a ladder of latents: each rung is one group of them, rung 1 beside the "
        "picture, and its KL says how much it tells about a picture, in nats (1 nat = 1.44 bits)"
    )


def silent(by_rung: dict[str, float]) -> str:
    """A sentence about the rungs that carry nothing and the remedies; "" where there are none.

    In a bottom-up ladder a rung may be negative, which is not nothing.
    """
    quiet = [name for name, nats in by_rung.items() if abs(nats) < SILENT]
    if not quiet:
        return ""
    what = f"rung {quiet[0]} carries" if len(quiet) == 1 else f"rungs {', '.join(quiet)} carry"
    return (
        f"{what} less than {SILENT} nats, which is next to nothing; train again with --free-bits "
        "(nats that a rung may carry for nothing), a longer --kl-warmup, or for longer"
    )
