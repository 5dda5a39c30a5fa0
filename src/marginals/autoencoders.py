"""VAE and hierarchical VAE: ladders made of a network with latents.

    net = marginals.nn.VectorLatents(channels=1, size=28, params=15)
    model = marginals.vae(net)

A VAE (Luo Eqs. 18 to 22) is a ladder with one rung. A hierarchical VAE has several, and two ways to
infer them: ``bottom_up`` is the Markov posterior q(z_1 | x)·Π q(z_t | z_{t-1}) of Luo Eq. 24, and
``top_down`` is that of modern hierarchical VAEs, q(z_t | x, all z above). Networks know nothing of
laws and divergences; :class:`LawRung` is the only place where one meets a ladder.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, cast

from torch import Tensor, nn

from .decoders import Decoder
from .errors import MarginalsError
from .gaussian import Normal
from .generative import DataStats
from .ladder import Ladder
from .mixture import LogisticMixture
from .rung import KlObjective, Posterior

MIXTURE = LogisticMixture()
"""The default law of a pixel: black, white, or near one of a few greys."""

ELBO = KlObjective()
"""The default objective: the evidence lower bound itself."""


class LatentNetwork(Protocol):
    """What :func:`vae` and :func:`hvae` make ladders of (``marginals.nn`` has two).

    ``rungs``: from the top down, each with ``prior``, ``posterior`` and ``carry`` as in
    :class:`.rung.Rung`, laws being pairs (mean, log_std) of tensors. ``evidence``: (picture,
    labels) to what posteriors see. ``root``: (batch, labels) to what the top rung is told, or None.
    ``decode``: what the lowest rung carried to the decoder's numbers. ``config``: the arguments of
    the constructor; ``kind``: the name of the class in model files.
    """

    kind: ClassVar[str]
    posterior: ClassVar[str]

    @property
    def rungs(self) -> Any: ...
    @property
    def evidence(self) -> Any: ...
    @property
    def root(self) -> Any: ...
    @property
    def decode(self) -> Any: ...
    @property
    def config(self) -> dict[str, Any]: ...


class LawRung(nn.Module):
    """A network's rung, its pairs (mean, log_std) read as the laws they are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def prior(self, above: Any) -> Normal:
        return Normal(*self.network.prior(above))

    def posterior(self, evidence: Any, above: Any) -> Normal:
        return Normal(*self.network.posterior(evidence, above))

    def carry(self, z: Tensor, above: Any) -> Any:
        return self.network.carry(z, above)


def vae(
    network: LatentNetwork,
    *,
    decoder: Decoder = MIXTURE,
    objective: KlObjective = ELBO,
    data: DataStats | None = None,
) -> Ladder:
    """Variational autoencoder (Kingma & Welling 2014; Luo Eqs. 18 to 22): one latent, N(0, I).

    ``network``: one latent of any length, ``params`` numbers for each pixel being those of
    ``decoder``. ``objective``: β, free bits and KL warm-up, for training only.
    """
    if len(network.rungs) != 1:
        raise MarginalsError(
            f"A VAE has one latent and this network has {len(network.rungs)}: use hvae for it."
        )
    return hvae(network, decoder=decoder, objective=objective, data=data)


def hvae(
    network: LatentNetwork,
    *,
    decoder: Decoder = MIXTURE,
    objective: KlObjective = ELBO,
    data: DataStats | None = None,
) -> Ladder:
    """Hierarchical VAE with the posterior of its network (Luo Eqs. 23 to 29).

    :class:`.nn.VectorLatents` is Luo's Markov ladder with the bottom-up posterior of Eq. 24,
    :class:`.nn.GridLatents` the top-down ladder of Child 2021. A rung that carries nothing shows
    as a zero in ``elbo(x).matching``; ``KlObjective(free_bits=..., warmup=...)`` are the remedies.
    """
    if network.config["params"] != decoder.params:
        raise MarginalsError(
            f"{type(decoder).__name__} reads {decoder.params} numbers per pixel value, but the "
            f"network gives {network.config['params']}: build it with params={decoder.params}."
        )
    return Ladder(
        [LawRung(rung) for rung in cast(Sequence[nn.Module], network.rungs)],
        network.decode,
        decoder,
        evidence=network.evidence,
        root=network.root,
        posterior=cast(Posterior, network.posterior),
        objective=objective,
        data=data,
        recipe={"kind": network.kind, **network.config},
    )
