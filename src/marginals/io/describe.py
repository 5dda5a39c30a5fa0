"""A model in words, and the model those words describe: the "model" table of a file's header.

A diffusion model is a network with a formulation: {"backbone", "prediction", "schedule", ...}. A
ladder (VAE, hierarchical VAE) is a recipe for its rungs: {"ladder", "decoder", "objective", ...},
that of an autoencoder with the "stats" of its latents. A latent model is {"codec", "inner"}, both
in such words again. A classifier of noisy pictures is {"classifier", "levels", "label", "scaling"}.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from torch import nn

    from marginals.classifier import NoisyClassifier
    from marginals.generative import Generative
    from marginals.ladder import Ladder
    from marginals.models import Model

__all__ = ["describe", "rebuild"]

T = TypeVar("T")

_NET = ("prediction", "scaling", "input_scaling", "label")
_MODEL = ("schedule", "objective", "lam_min", "lam_max", "data")
_LATER = ("coupling", "walk")  # what files of models that need neither do not mention
_LADDER = ("decoder", "objective", "data")
_CLASSIFIER = ("levels", "label", "scaling", "data")


def describe(model: "Generative") -> dict[str, Any]:
    """A model in words; raises MarginalsError for what words cannot hold."""
    from marginals.classifier import NoisyClassifier
    from marginals.codec import LadderCodec
    from marginals.ladder import Ladder
    from marginals.latent import Latent
    from marginals.models import Model

    if isinstance(model, NoisyClassifier):
        return _describe_classifier(model)
    if isinstance(model, Latent) and isinstance(model.codec, LadderCodec):
        return {"codec": describe(model.codec.ladder), "inner": describe(model.inner)}
    if isinstance(model, Ladder):
        return _describe_ladder(model)
    if not isinstance(model, Model):
        raise MarginalsError(f"a file cannot describe a {type(model).__name__}; save its weights")
    return _describe_model(model)


def rebuild(words: dict[str, Any], given: "nn.Module | None") -> "Generative":
    """The model that `words` describe; `given` stands for a network (or ladder) of one's own."""
    if "inner" in words:
        return _rebuild_latent(words, given)
    if "classifier" in words:
        return _rebuild_classifier(words, given)
    return _rebuild_ladder(words, given) if "ladder" in words else _rebuild_model(words, given)


def _rebuild_latent(words: dict[str, Any], given: "nn.Module | None") -> "Generative":
    from marginals.codec import Autoencoder
    from marginals.latent import Latent

    _refuse_unknown(words, {"codec", "inner"})
    if not all(isinstance(words[part], dict) for part in ("codec", "inner")):
        raise MarginalsError("its description is damaged: it does not say what is inside")
    ladder = rebuild(words["codec"], None)
    if not isinstance(ladder, Autoencoder):
        raise MarginalsError("its description is damaged: its codec is no autoencoder")
    return Latent(ladder.codec(), rebuild(words["inner"], given))


def _describe_classifier(model: "NoisyClassifier") -> dict[str, Any]:
    from marginals.io.header import encode
    from marginals.io.registry import classifier_kind

    words = _network_words(model.body, classifier_kind(model.body))
    return {"classifier": words} | {field: encode(getattr(model, field)) for field in _CLASSIFIER}


def _rebuild_classifier(words: dict[str, Any], given: "nn.Module | None") -> "NoisyClassifier":
    from marginals.classifier import NoisyClassifier
    from marginals.io.registry import classifier_body
    from marginals.objective import Levels
    from marginals.scaling import Scaling
    from marginals.schedule import NoiseSchedule

    _refuse_unknown(words, {"classifier", *_CLASSIFIER})
    body = _network(words["classifier"], given, classifier_body)
    types = {"levels": Levels, "label": NoiseSchedule, "scaling": Scaling}
    return NoisyClassifier(body, **_parts(words, types))


def _describe_ladder(ladder: "Ladder") -> dict[str, Any]:
    from marginals.codec import Autoencoder
    from marginals.io.header import encode
    from marginals.io.registry import CUSTOM

    recipe = dict(ladder.recipe)
    kind = recipe.pop("kind", CUSTOM)
    words = {"ladder": {"kind": kind, "config": recipe}}
    fields = (*_LADDER, "stats") if isinstance(ladder, Autoencoder) else _LADDER
    return words | {field: encode(getattr(ladder, field)) for field in fields}


def _rebuild_ladder(words: dict[str, Any], given: "nn.Module | None") -> "Ladder":
    from marginals.autoencoders import hvae
    from marginals.codec import LatentStats, autoencoder
    from marginals.decoders import Decoder
    from marginals.io.registry import CUSTOM, latents
    from marginals.ladder import Ladder
    from marginals.rung import KlObjective

    _refuse_unknown(words, {"ladder", *_LADDER, "stats"})
    stats = {"stats": LatentStats | None} if "stats" in words else {}
    parts = _parts(words, {"decoder": Decoder, "objective": KlObjective} | stats)
    kind, config = _kind_and_config(words["ladder"], "ladder")
    if kind == CUSTOM:
        if isinstance(given, Ladder):
            return given
        raise MarginalsError(
            "it holds the weights of a ladder of someone's own; build that ladder and pass it: "
            "load_model(path, backbone=ladder)"
        )
    if given is not None:
        raise MarginalsError(f"it brings its own networks, those of a {kind}; leave backbone out")
    network = _built(kind, lambda: latents(kind)(**config))
    return (autoencoder if stats else hvae)(cast(Any, network), **parts)


def _describe_model(model: "Model") -> dict[str, Any]:
    """{"backbone": {"kind", "config"}, prediction, scaling, ...}."""
    from marginals.coupling import Independent
    from marginals.io.header import encode
    from marginals.io.registry import backbone_kind

    backbone = model.net.backbone
    words: dict[str, Any] = {"backbone": _network_words(backbone, backbone_kind(backbone))}
    words |= {field: encode(getattr(model.net, field)) for field in _NET}
    words |= {field: encode(getattr(model, field)) for field in _MODEL}
    later = {field: getattr(model, field) for field in _LATER}
    return words | {
        field: encode(x) for field, x in later.items() if x not in (None, Independent())
    }


def _network_words(network: "nn.Module", kind: str) -> dict[str, Any]:
    """{"kind", "config"}; of a network of one's own, the name of its class."""
    from marginals.io.registry import CUSTOM

    name = f"{type(network).__module__}.{type(network).__qualname__}"
    return {"kind": kind, "config": {"class": name} if kind == CUSTOM else network.config}


def _rebuild_model(words: dict[str, Any], given: "nn.Module | None") -> "Model":
    from marginals.denoiser import Net
    from marginals.io.registry import backbone
    from marginals.learned import sharing
    from marginals.models import Model

    _refuse_unknown(words, {"backbone", *_NET, *_MODEL, *_LATER})
    body = _network(words["backbone"], given, backbone)
    types = {field: kind for field, kind in _later_types().items() if field in words}
    parts = _parts(words, _model_types() | types)
    net = Net(body, **{field: parts[field] for field in _NET})
    parts["objective"] = sharing(parts["objective"], parts["schedule"])
    return Model(net, **{field: parts[field] for field in (*_MODEL, *types)})


def _refuse_unknown(words: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(words.keys() - known):
        raise MarginalsError(
            f"its description has the unknown entry {unknown[0]!r}; it was probably made by a "
            "newer version, so update marginals"
        )


def _model_types() -> dict[str, Any]:
    from marginals.objective import Objective
    from marginals.predict import Prediction
    from marginals.scaling import Scaling
    from marginals.schedule import NoiseSchedule

    types: dict[str, Any] = {"prediction": Prediction, "objective": Objective}
    types |= dict.fromkeys(("scaling", "input_scaling"), Scaling)
    types |= dict.fromkeys(("label", "schedule"), NoiseSchedule)
    return types | {"lam_min": float, "lam_max": float}


def _later_types() -> dict[str, Any]:
    from marginals.coupling import Coupling
    from marginals.solvers import FittedTable

    return {"coupling": Coupling, "walk": FittedTable}


def _parts(words: dict[str, Any], types: dict[str, Any]) -> dict[str, Any]:
    """Everything but the network, each of the type that its place asks for."""
    from marginals.generative import DataStats
    from marginals.io.header import decode, fits

    types = types | {"data": DataStats | None}
    parts = {field: decode(words[field]) for field in types}
    for field, part in parts.items():
        finite = not isinstance(part, float) or math.isfinite(part)
        if not fits(part, types[field]) or not finite:
            raise MarginalsError(f"its description is damaged: it has no fitting {field!r}")
    data = parts["data"]
    if data is not None and not (
        data.shape and min(data.shape) > 0 and math.isfinite(data.mean) and 0 < data.std < math.inf
    ):
        raise MarginalsError("its description is damaged: there are no data of such a shape")
    return parts


def _network(
    words: Any, given: "nn.Module | None", known: "Callable[[str], type[nn.Module]]"
) -> "nn.Module":
    """The network of a description: one of the classes ``known`` by name, or the ``given`` one."""
    from marginals.io.registry import CUSTOM

    kind, config = _kind_and_config(words, "network")
    if kind == CUSTOM:
        if given is None:
            raise MarginalsError(
                f"it holds the weights of a network of someone's own ({config['class']}); build "
                "that network and pass it: load_model(path, backbone=network)"
            )
        return given
    if given is not None:
        raise MarginalsError(f"it brings its own network, a {kind}; leave backbone out")
    return _built(kind, lambda: known(kind)(**config))


def _kind_and_config(words: Any, what: str) -> tuple[str, dict[str, Any]]:
    kind, config = (words["kind"], words["config"]) if isinstance(words, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(config, dict):
        raise MarginalsError(f"its description is damaged: it does not name a {what}")
    return kind, config


def _built(kind: str, build: Callable[[], T]) -> T:
    """What `build` makes; what goes wrong with settings from a file becomes one sentence."""
    try:
        return build()
    except TypeError as error:
        raise MarginalsError(
            f"its {kind} has settings this version does not know ({error}); it was probably made "
            "by a newer version, so update marginals"
        ) from None
    except (ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise MarginalsError(f"its {kind} cannot be built with its settings: {reason}") from None
