"""Models as files: one safetensors file whose JSON header says everything.

    save_model("model.safetensors", model)
    model = load_model("model.safetensors")

The header names the network and its settings, what its output means, the units it is fed and those
it presents, the schedule behind its time label, the objective, the ends of its walk and the
statistics of its data; of a ladder, the recipe of its rungs, the decoder and the objective. Loading
rebuilds exactly that or says in one sentence why it cannot: nothing is guessed, nothing is
unpickled. `read_header` and `rewrite_header` touch no weights and import no torch.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import marginals
from marginals.errors import MarginalsError
from marginals.io.describe import describe, rebuild
from marginals.io.tensors import Contents, read_contents, read_tensors, rewrite, write_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from marginals.generative import Generative
    from marginals.models import Model

__all__ = [
    "FORMAT_VERSION",
    "load_diffusion",
    "load_model",
    "read_header",
    "rewrite_header",
    "save_model",
]

FORMAT_VERSION = 1
_KIND = "marginals model"

PathLike = str | os.PathLike[str]


def save_model(path: PathLike, model: "Generative", extra: Mapping[str, Any] | None = None) -> None:
    """Write a model, atomically. `extra` (JSON values) is kept beside its description.

    A network of your own is described by its class name only; `load_model` then asks for it.
    """
    header = {
        "format": _KIND,
        "format_version": FORMAT_VERSION,
        "package_version": marginals.__version__,
        "model": describe(model),
        "extra": dict(extra or {}),
    }
    write_tensors(path, model.state_dict(), header)


def load_model(
    path: PathLike,
    device: "str | torch.device" = "cpu",
    *,
    backbone: "nn.Module | None" = None,
) -> "Generative":
    """Rebuild a model from its file (or from the run folder that holds model.safetensors).

    `backbone` is needed, and allowed, only for a network (or a whole ladder) of your own. Raises
    MarginalsError for missing, damaged, foreign or newer files, and for weights that do not fit the
    description.
    """
    path = _model_file(path)
    contents = read_contents(path)
    description = _checked(path, contents.header)["model"]
    try:
        model = rebuild(description, backbone)
    except KeyError as error:
        raise MarginalsError(f"{path} is damaged: its header lacks {error}") from None
    except MarginalsError as error:
        raise MarginalsError(f"cannot load {path}: {error}") from None
    _require_fit(path, contents, model)
    model.load_state_dict(read_tensors(path))
    return model.to(device).eval()


def load_diffusion(path: PathLike, device: "str | torch.device" = "cpu") -> "Model":
    """`load_model` for what only diffusion models can do; other models are refused in a sentence.

    A diffusion model has noise levels: it can be walked by a solver and presented in other units.
    """
    from marginals.latent import Latent
    from marginals.models import Model

    model = load_model(path, device)
    if not model.draws:
        raise MarginalsError(f"{path} is a classifier of noisy pictures, and no diffusion model")
    if isinstance(model, Latent):
        raise MarginalsError(
            f"{path} walks in the latents of a codec, and this is for models that walk in pixels"
        )
    if not isinstance(model, Model):
        raise MarginalsError(f"{path} has no noise levels (it is a ladder of latents, like a VAE)")
    return model


def read_header(path: PathLike) -> dict[str, Any]:
    """The header of a model file: "model" (its description), "extra", versions."""
    path = _model_file(path)
    return _checked(path, read_contents(path).header)


def rewrite_header(
    path_in: PathLike, path_out: PathLike, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Write a copy with the header `change(header)`; the weights are copied bit for bit.

    This is all there is to a conversion between equivalent formulations: only words change.
    """
    path_in = _model_file(path_in)
    rewrite(path_in, path_out, _checked(Path(path_out), change(read_header(path_in))))


def _model_file(path: PathLike) -> Path:
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / "model.safetensors").is_file():
        raise MarginalsError(f"the folder {path} holds no model.safetensors; give a run or a model")
    return path / "model.safetensors"


def _checked(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    if header.get("format") != _KIND:
        raise MarginalsError(
            f"{path} holds a {header.get('format', 'nameless thing')}, not a model for use; "
            "look for model.safetensors beside it"
        )
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise MarginalsError(
            f"{path} was made by a newer version, marginals {header.get('package_version')} (file "
            f"format {version}); this is marginals {marginals.__version__}, which reads formats up "
            f"to {FORMAT_VERSION}: update marginals"
        )
    if unknown := sorted(header.keys() - _FIELDS):
        raise MarginalsError(
            f"{path} has the unknown header entry {unknown[0]!r}; it was probably made by a newer "
            "version, so update marginals"
        )
    if missing := sorted(_FIELDS - header.keys()):
        raise MarginalsError(f"{path} is damaged: its header lacks {missing[0]!r}")
    for table in ("model", "extra"):
        if not isinstance(header[table], dict):
            raise MarginalsError(f"{path} is damaged: {table!r} in its header is not a table")
    return header


_FIELDS = {"format", "format_version", "package_version", "model", "extra"}


def _require_fit(path: Path, contents: Contents, model: "Generative") -> None:
    """Names and shapes in the file are those of the model it describes."""
    mine: dict[str, Tensor] = model.state_dict()
    problems = [
        *(f"{name} is missing" for name in mine.keys() - contents.shapes.keys()),
        *(f"{name} is not part of the network" for name in contents.shapes.keys() - mine.keys()),
        *(
            f"{name} has shape {contents.shapes[name]} instead of {tuple(mine[name].shape)}"
            for name in mine.keys() & contents.shapes.keys()
            if contents.shapes[name] != tuple(mine[name].shape)
        ),
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise MarginalsError(
            f"the weights in {path} do not fit the network it describes: {min(problems)}{more}"
        )
