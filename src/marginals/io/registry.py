"""The names people type, and the objects they mean.

The core has no registry: it passes objects. Only the edges (command line, configuration files,
checkpoints) speak in names, and this is their dictionary. Every look-up that fails says what there
is to choose from. Torch is imported by the look-ups, not by this module.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from inspect import signature
from typing import TYPE_CHECKING, TypeVar

from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from torch import nn

    from marginals.decoders import Decoder
    from marginals.ladder import Ladder
    from marginals.models import Grid, Model
    from marginals.scaling import Scaling
    from marginals.schedule import NoiseSchedule
    from marginals.solvers import Solver

__all__ = [
    "CUSTOM",
    "backbone",
    "backbone_kind",
    "classifier_body",
    "classifier_kind",
    "decoder",
    "factory",
    "ladder",
    "latents",
    "levels",
    "scaling",
    "schedule",
    "solver",
]

T = TypeVar("T")

CUSTOM = "custom"
"""What a checkpoint calls a network that is not one of ours."""


def scaling(name: str) -> "Scaling":
    """The units of x by name: "vp", "ve", "flow" or "sub_vp"."""
    return _find("scaling", name, _scalings())


def solver(name: str) -> "Solver":
    """A sampling method by name, with options where it has any: "heun", "dpmpp_2m", "ddim:eta=0.5",
    "unipc:order=2,variant=bh1". ``Solver.name`` is then the whole of it."""
    from marginals.solvers import MAKERS

    made = _make("solver", name, MAKERS)
    return made if ":" not in name else replace(made, name=name)


def levels(name: str) -> "Grid":
    """Which levels a walk visits, by name: "karras", "uniform_lam", "trailing:schedule=cosine"."""
    from marginals.solvers.grids import GRIDS

    return _make("grid of levels", name, GRIDS)


def schedule(name: str) -> "NoiseSchedule":
    """A schedule whose time spaces the levels of a walk: "linear", "cosine", "flow", "ddpm"."""
    from marginals.schedule import Cosine, LinearBeta, Logit, Tabulated

    table = {"linear": LinearBeta, "cosine": Cosine, "flow": Logit, "ddpm": Tabulated.ddpm}
    return _find("schedule", name, table)()


def backbone(kind: str) -> "type[nn.Module]":
    """The class of a network body by the name that checkpoints use."""
    return _find("network", kind, _backbones())


def backbone_kind(module: "nn.Module") -> str:
    """The name under which a checkpoint describes this network body; CUSTOM for one of your own,
    whose code no file can hold."""
    return next((kind for kind, known in _backbones().items() if type(module) is known), CUSTOM)


def factory(model: str) -> "Callable[..., Model]":
    """(backbone, **options) -> Model by the name of a diffusion model (see `TrainConfig.model`)."""
    from marginals import formulations

    table = {
        "ddpm": formulations.ddpm,
        "iddpm": formulations.iddpm,
        "vdm": formulations.vdm,
        "v": formulations.v_diffusion,
        "edm": formulations.edm,
        "flow": formulations.rectified_flow,
        "score": partial(formulations.score_sde, kind="vp"),
        "score_ve": partial(formulations.score_sde, kind="ve"),
        "score_sub_vp": partial(formulations.score_sde, kind="sub_vp"),
    }
    return _find("model", model, table)


def latents(kind: str) -> "type[nn.Module]":
    """The class of a network with latents by the name that checkpoints and presets use."""
    from marginals.nn import GridLatents, ImageCodec, VectorLatents

    known = (VectorLatents, GridLatents, ImageCodec)
    return _find("network with latents", kind, {c.kind: c for c in known})


def classifier_body(kind: str) -> "type[nn.Module]":
    """The class of the network of a classifier by the name that checkpoints use."""
    from marginals.nn.classifier import PictureClassifier

    return _find("classifier network", kind, {"pictures": PictureClassifier})


def classifier_kind(module: "nn.Module") -> str:
    """The name under which a checkpoint describes a classifier's network; CUSTOM for your own."""
    from marginals.nn.classifier import PictureClassifier

    return "pictures" if type(module) is PictureClassifier else CUSTOM


def ladder(model: str) -> "Callable[..., Ladder]":
    """(network, **options) -> Ladder by the name of a model with learned latents."""
    from marginals.autoencoders import hvae, vae
    from marginals.codec import autoencoder

    return _find("model", model, {"vae": vae, "hvae": hvae, "autoencoder": autoencoder})


def decoder(name: str) -> "Decoder":
    """The law of a pixel by name: "mixture", "logistic", "categorical", "gaussian", "bernoulli"."""
    return _find("decoder", name, _decoders())


@cache
def _scalings() -> "Mapping[str, Scaling]":
    from marginals.scaling import FLOW, SUB_VP, VE, VP

    return {"vp": VP, "ve": VE, "flow": FLOW, "sub_vp": SUB_VP}


@cache
def _decoders() -> "Mapping[str, Decoder]":
    from marginals.decoders import Bernoulli, Categorical, DiscretisedLogistic, GaussianDecoder
    from marginals.mixture import LogisticMixture

    return {
        "mixture": LogisticMixture(),
        "logistic": DiscretisedLogistic(),
        "categorical": Categorical(),
        "gaussian": GaussianDecoder(),
        "bernoulli": Bernoulli(),
    }


@cache
def _backbones() -> "Mapping[str, type[nn.Module]]":
    from marginals.nn import ADM, MLP, DiT, UNet

    return {"unet": UNet, "dit": DiT, "mlp": MLP, "adm": ADM}


def _make(what: str, name: str, makers: "Mapping[str, Callable[..., T]]") -> T:
    """What ``makers`` has under a name, made with the options that follow it:
    NAME or NAME:option=value,option=value."""
    head, colon, rest = name.partition(":")
    maker = _find(what, head, makers)
    known, given = signature(maker).parameters, {}
    for part in rest.split(",") if colon else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in known or not equals:
            have = f"write {head}:OPTION=VALUE with one of {', '.join(known)}"
            raise MarginalsError(
                f"the {what} {head!r} has no option {part!r}; "
                + (have if known else f"it has none at all: write {head}")
            )
        given[key] = _value(f"{head}:{key}", value, known[key].default)
    return maker(**given)


def _value(where: str, text: str, default: object) -> object:
    """``text`` as the same kind of thing as the default of an option."""
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                text.lower()
            ]
        if kind is int or kind is float:
            return kind(text)
    except (KeyError, ValueError):
        word = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise MarginalsError(f"{where} must be {word}, not {text!r}") from None
    if where.endswith(":schedule"):
        return schedule(text)
    return text


def _find(what: str, name: str, table: Mapping[str, T]) -> T:
    if name in table:
        return table[name]
    spelled = str(name).lower().replace("-", "_").replace("+", "p")
    if spelled in table:
        return table[spelled]
    close = difflib.get_close_matches(spelled, table, n=1)
    hint = f"did you mean {close[0]!r}? There are" if close else "choose one of"
    raise MarginalsError(f"there is no {what} {name!r}; {hint} {', '.join(table)}")
