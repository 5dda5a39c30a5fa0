"""What every rung of a ladder carries, in nats: the log of models that have no noise levels.

The KL of a rung is what its latents say about a picture. A rung at 0 nats carries nothing: its
posterior has collapsed onto its prior, and the remedies are `free_bits` and `kl_warmup`.
"""

from typing import Any

import torch

from marginals.generative import Generative
from marginals.models import Model
from marginals.train.feed import Feed

__all__ = ["rung_words", "rungs"]


@torch.no_grad()
def rungs(model: Generative, feed: Feed) -> dict[str, Any]:
    """{"bits_per_dim", "reconstruction", "rungs"} of the first batch, always with the same noise.

    "rungs" names every rung by its number, 1 beside the data, with its KL in nats per picture. {}
    for a diffusion model, whose rungs are noise levels.
    """
    if isinstance(model, Model):
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
