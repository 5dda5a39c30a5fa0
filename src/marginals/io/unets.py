"""Weights published with ADM and EDM (Dhariwal & Nichol 2021; Karras et al. 2022), read into `ADM`.

Sizes are read off the tensors. What is only bookkeeping differs, so an import computes what the
original computes:

* rows of the layer for queries, keys and values come in three orders there: (head, which, channel)
  in ADM's first order, (which, head, channel) in its newer one and here, (head, channel, which) in
  EDM;
* ADM is told the step 0..999 where we count 1..1000; EDM ln(σ)/4, which is −λ/8;
* EDM's output F is our −v in units of its σ_data = 0.5: the exit is negated;
* what EDM says of augmented pictures is left out: for pictures that are not, it adds nothing.

ADM files do not say the size of the pictures, the heads of attention, the order and the chain. The
published ones are recognised by their sizes (`PUBLISHED`); of others the caller must say it.
"""

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from marginals.errors import MarginalsError
from marginals.io.tensors import read_foreign
from marginals.io.unet_layouts import adm_homes, adm_sizes, edm_homes, edm_sizes
from marginals.nn import ADM
from marginals.nn.residual import KINDS

if TYPE_CHECKING:
    from marginals.models import Model

__all__ = ["PUBLISHED", "adm", "edm"]

Order = Literal["legacy", "new"]
Chain = Literal["linear", "cosine"]

PUBLISHED: dict[tuple[int, tuple[float, ...], int], dict[str, Any]] = {
    (192, (1, 2, 3, 4), 3): {"size": 64, "head": 64, "order": "new", "chain": "cosine"},
    (256, (1, 1, 2, 3, 4), 2): {"size": 128, "heads": 4, "order": "legacy", "chain": "linear"},
    (256, (1, 1, 2, 2, 4, 4), 2): {"size": 256, "head": 64, "order": "legacy", "chain": "linear"},
    (256, (0.5, 1, 1, 2, 2, 4, 4), 2): {
        "size": 512, "head": 64, "order": "legacy", "chain": "linear",
    },
}  # fmt: skip
"""(width, mults, blocks) of the authors' files (ImageNet 64 to 512, LSUN) and what the files do not
say (the flags in the README of their code)."""

_STATE = "save its tensors where you trust it: safetensors.torch.save_file({state}, FILE)"


def adm(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    heads: int | None = None,
    head: int | None = None,
    order: Order | None = None,
    chain: Chain | None = None,
) -> "Model":
    """A published ADM as a model of pictures: a chain of 1000 steps (VP) and ε, with the variance
    of a step if the network says it.

    ``size`` of the pictures, ``heads`` of attention or channels per ``head``, ``order`` of queries,
    keys and values, and the ``chain``: what the file does not say, known of published ones. Raises
    MarginalsError for files that are none.
    """
    from marginals.io.published import chain_model
    from marginals.schedule import Tabulated

    tensors = read_foreign(path, _STATE.format(state="torch.load(..., weights_only=True)"))
    found = _read(adm_sizes, tensors, path, "ADM")
    known = PUBLISHED.get((found["width"], tuple(found["mults"]), found["blocks"]), {})
    said = {"size": size, "order": order, "chain": chain}
    said = {name: known.get(name) if value is None else value for name, value in said.items()}
    said["head"], said["heads"] = head, heads
    if head is None and heads is None:
        said["head"], said["heads"] = known.get("head"), known.get("heads")
    missing = [name for name in ("size", "order", "chain") if said[name] is None]
    missing += [] if said["head"] or said["heads"] else ["heads"]
    if missing:
        raise MarginalsError(
            f"{path} is none of the published sizes of ADM, and a file does not say its "
            f"{', '.join(missing)}: say --" + ", --".join(missing)
        )
    net = _build(
        path, **found, size=said["size"], head=said["head"] or 64, heads=said["heads"] or 0,
        null=False, time=(-1.0, 1000.0),
    )  # fmt: skip
    turn = (1, 0, 2) if said["order"] == "legacy" else (0, 1, 2)
    _load(net, adm_homes(net), tensors, turn, path, "ADM")
    table = Tabulated.cosine(1000) if said["chain"] == "cosine" else Tabulated.ddpm(1000)
    return chain_model(net, table, _stats(net))


def edm(path: str | os.PathLike[str]) -> "Model":
    """A network published with EDM, trained with EDM's own preconditioning, as an EDM: the denoiser
    D(x; σ) of Karras et al. (2022, Eq. 7) with σ_data = 0.5.

    ADM, DDPM++ and NCSN++ are told apart by their tensors; the preconditioning cannot be seen
    there. Raises MarginalsError for files that are none.
    """
    from marginals import formulations
    from marginals.schedule import LogLinear

    tensors = read_foreign(path, _STATE.format(state="pickle.load(...)['ema'].state_dict()"))
    tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    if "u" in tensors:
        raise MarginalsError(f"{path} has the preconditioning of iDDPM; only EDM's own can be read")
    found = _read(edm_sizes, tensors, path, "EDM")
    last = 40.0  # told is −λ/8, exact for σ from e⁻²⁰ to e²⁰
    net = _build(path, **found, null=False, least=4, time=(-last / 8.0, last / 4.0))
    homes = edm_homes(net)
    _require_filters(tensors, KINDS[found["kind"]].taps, path)
    tensors = {
        k: v
        for k, v in tensors.items()
        if not k.endswith(("resample_filter", "map_augment.weight"))
    }
    tensors[f"{homes['leave']}.weight"] = -tensors[f"{homes['leave']}.weight"]
    tensors[f"{homes['leave']}.bias"] = -tensors[f"{homes['leave']}.bias"]
    _load(net, homes, _as_table(tensors), (2, 0, 1), path, "EDM")
    model = formulations.edm(net, data=_stats(net, std=0.5))
    model.net.label = LogLinear(last, -last)
    return model


def _stats(net: ADM, std: float = 1.0):  # noqa: ANN202
    from marginals.generative import DataStats

    shape = (net.channels, net.size, net.size)
    return DataStats(shape, std=std, classes=tuple(str(i) for i in range(net.num_classes)))


def _read(sizes: Any, tensors: Mapping[str, Tensor], path: Any, what: str) -> dict[str, Any]:
    try:
        found = sizes(tensors)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise _foreign(path, what, f"it lacks {error}") from None
    if found["channels"] > 4:
        raise MarginalsError(
            f"{path} takes {found['channels']} channels: it enlarges small pictures, which is not "
            "supported"
        )
    return found


def _build(path: Any, **config: Any) -> ADM:
    try:
        return ADM(**config)
    except MarginalsError as error:
        raise MarginalsError(f"{path} cannot be built as a network: {error}") from None


def _as_table(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """EDM's linear layer of one-hot classes as a table; DDPM++'s stretches them and adds a bias."""
    tensors = dict(tensors)
    if "map_label.weight" in tensors:
        rows = tensors["map_label.weight"].double().T
        bias = tensors.pop("map_label.bias", None)
        table = rows if bias is None else rows * math.sqrt(len(rows)) + bias
        tensors["map_label.weight"] = table.contiguous()
    if "map_noise.freqs" in tensors:
        tensors["map_noise.frequencies"] = tensors.pop("map_noise.freqs")
    return tensors


def _load(
    net: ADM, homes: dict[str, str], tensors: dict[str, Tensor], turn: tuple[int, ...],
    path: Any, what: str,
) -> None:  # fmt: skip
    """Every tensor of the file to its place; `turn`: where (which, head, channel) are among the
    three numbers that make up a row's place there."""
    placed, used = {}, set()
    for name, mine in net.state_dict().items():
        layer, _, part = name.rpartition(".")
        theirs = f"{homes[layer]}.{part}"
        if theirs not in tensors:
            raise _foreign(path, what, f"it lacks {theirs!r}")
        tensor = tensors[theirs]
        if tensor.shape[:2] != mine.shape[:2] or tensor.numel() != mine.numel():
            raise _foreign(path, what, f"{theirs!r} has the shape {tuple(tensor.shape)}")
        if layer.endswith("attention.qkv"):
            tensor = _rows(tensor, net.get_submodule(layer.removesuffix(".qkv")).heads, turn)
        placed[name] = tensor.reshape(mine.shape)
        used.add(theirs)
    if more := sorted(tensors.keys() - used):
        raise _foreign(path, what, f"it also holds {more[0]!r}")
    net.load_state_dict(placed)


def _rows(tensor: Tensor, heads: Any, turn: tuple[int, ...]) -> Tensor:
    """Rows in another order of (which, head, channel) → ours."""
    counts = (3, int(heads), len(tensor) // (3 * int(heads)))
    theirs = [counts[turn.index(place)] for place in range(3)]
    split = tensor.reshape(*theirs, *tensor.shape[1:])
    return split.permute(*turn, *range(3, split.ndim)).reshape(tensor.shape)


def _require_filters(tensors: dict[str, Tensor], taps: tuple[int, ...], path: Any) -> None:
    line = torch.tensor(taps, dtype=torch.float64) / sum(taps)
    for name, tensor in tensors.items():
        if not name.endswith("resample_filter"):
            continue
        same = tensor.shape[-2:] == (len(taps),) * 2
        if not same or (tensor.double() - torch.outer(line, line)).abs().max() > 1e-6:
            raise _foreign(path, "EDM", f"{name!r} is another filter")


def _foreign(path: Any, what: str, reason: str) -> MarginalsError:
    return MarginalsError(
        f"{path} is not laid out like the weights published with {what} ({reason}); give the file "
        "of the authors, its tensors saved as safetensors without renaming"
    )
