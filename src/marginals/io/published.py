"""Weights published with DiT and SiT (Peebles & Xie 2023; Ma et al. 2024), read into our classes.

Both come as one table of tensors with the same names, those of the authors' code. What our `DiT`
does otherwise is only bookkeeping, so an import computes what the original computes:

* the entrance is a convolution there and a matrix over unfolded patches here, in the same order;
* the exit answers (row, column, channel) inside a patch there, (channel, row, column) here;
* DiT is told the step 0..999 where we count 1..1000, SiT the time 1 − t, unscaled;
* SiT's velocity points to the data and ours to the noise: its exit is negated, and of its two
  answers only the first was trained.

Files are safetensors: other formats may run code when they are read, and are refused.
"""

import math
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from marginals.errors import MarginalsError
from marginals.io.tensors import read_foreign
from marginals.nn import ADM, DIT_SIZES, DiT

if TYPE_CHECKING:
    from marginals.generative import DataStats
    from marginals.models import Model
    from marginals.schedule import Tabulated

__all__ = ["chain_model", "dit", "sit"]

_BLOCK = {
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "adaLN_modulation.1": "adaln",
}
_WHOLE = {
    "t_embedder.mlp.0": "time.fc1",
    "t_embedder.mlp.2": "time.fc2",
    "final_layer.adaLN_modulation.1": "last",
}


def dit(path: str | os.PathLike[str], heads: int | None = None) -> "Model":
    """A published DiT as a model of its latents: DDPM's chain of 1000 steps, ε and the variance of
    a step (VP). Raises MarginalsError for files that are none."""
    from marginals.schedule import Tabulated

    backbone = _network(_tensors(path), path, heads, outputs=2, time=(-1.0, 1000.0), sign=1.0)
    return chain_model(backbone, Tabulated.ddpm(1000), _stats(backbone))


def chain_model(backbone: DiT | ADM, chain: "Tabulated", data: "DataStats") -> "Model":
    """A network that was trained on the steps of a chain to say ε (VP), with what trains it
    further: also the bound on the variance of its steps, if it says that."""
    from marginals.ancestral import Hybrid, StepLevels
    from marginals.denoiser import Net
    from marginals.models import Model
    from marginals.objective import Mse, Objective, UniformTime
    from marginals.predict import EPS
    from marginals.scaling import VP

    net, loss = Net(backbone, prediction=EPS, scaling=VP, label=chain), Mse(EPS, chain)
    learned = backbone.config["outputs"] == 2
    objective = Hybrid(loss, StepLevels(chain)) if learned else Objective(loss, UniformTime(chain))
    low, high = chain.lams[-1], chain.lams[0]
    return Model(net, chain, objective, lam_min=low, lam_max=high, data=data)


def sit(path: str | os.PathLike[str], heads: int | None = None) -> "Model":
    """A published SiT with velocity prediction and the linear path as a rectified flow of its
    latents. Raises MarginalsError for files that are none."""
    from marginals.formulations import rectified_flow

    backbone = _network(_tensors(path), path, heads, outputs=1, time=(1.0, -1.0), sign=-1.0)
    return rectified_flow(backbone, data=_stats(backbone))


def _tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    return read_foreign(
        path,
        "save its tensors where you trust it: "
        "safetensors.torch.save_file(torch.load(..., weights_only=True), FILE)",
    )


def _stats(backbone: DiT):  # noqa: ANN202
    from marginals.generative import DataStats

    shape = (backbone.channels, backbone.size, backbone.size)
    return DataStats(shape, classes=tuple(str(i) for i in range(backbone.num_classes)))


def _network(
    tensors: dict[str, Tensor],
    path: str | os.PathLike[str],
    heads: int | None,
    *,
    outputs: int,
    time: tuple[float, float],
    sign: float,
) -> DiT:
    """Our network with these weights; every tensor of the file must find its place."""
    try:
        entrance, positions = tensors["x_embedder.proj.weight"], tensors["pos_embed"]
        table, exit_ = tensors["y_embedder.embedding_table.weight"], "final_layer.linear"
        if len(table) < 2:  # one row is that of no class
            raise ValueError("its table of classes names no class")
        width, channels, patch, _ = entrance.shape
        depth = 1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("blocks."))
        known = {size["width"]: size["heads"] for size in DIT_SIZES.values()}
        heads = heads or known.get(width) or max(1, width // 64)
        side = math.isqrt(positions.shape[1])
        net = DiT(
            channels, side * patch, patch, width, depth, heads,
            num_classes=len(table) - 1, outputs=outputs, time=time,
        )  # fmt: skip
        placed = {"label.weight": table, "enter.weight": entrance.flatten(1)}
        placed["enter.bias"] = tensors["x_embedder.proj.bias"]
        names = dict(_WHOLE)
        for i in range(depth):
            names |= {f"blocks.{i}.{a}": f"blocks.{i}.{b}" for a, b in _BLOCK.items()}
        for theirs, mine in names.items():
            for part in ("weight", "bias"):
                placed[f"{mine}.{part}"] = tensors[f"{theirs}.{part}"]
        for part in ("weight", "bias"):
            placed[f"leave.{part}"] = (
                sign
                * _exit(tensors[f"{exit_}.{part}"], patch, channels)[
                    : outputs * channels * patch**2
                ]
            )
        net.load_state_dict(placed)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MarginalsError(
            f"{path} is not laid out like the published DiT and SiT weights ({reason}); give the "
            "file of the authors, converted to safetensors without renaming"
        ) from None
    _require_all_used(tensors, depth, path)
    return net


def _exit(weight: Tensor, patch: int, channels: int) -> Tensor:
    """Rows (row, column, channel) → (channel, row, column)."""
    rest = weight.shape[1:]
    return weight.reshape(patch, patch, -1, *rest).movedim(2, 0).reshape(-1, *rest)


def _require_all_used(tensors: dict[str, Tensor], depth: int, path: str | os.PathLike[str]) -> None:
    expected = {"pos_embed", "y_embedder.embedding_table.weight"}
    for name in ("x_embedder.proj", "final_layer.linear", *_WHOLE):
        expected |= {f"{name}.weight", f"{name}.bias"}
    for i in range(depth):
        expected |= {f"blocks.{i}.{name}.{part}" for name in _BLOCK for part in ("weight", "bias")}
    if more := sorted(tensors.keys() - expected):
        raise MarginalsError(
            f"{path} also holds {more[0]!r}, which DiT and SiT do not have: it is another network"
        )
    net_positions = torch.as_tensor(tensors["pos_embed"])[0]
    from marginals.nn.attention import grid_positions

    side = math.isqrt(len(net_positions))
    ours = grid_positions(side, side, net_positions.shape[1])
    if (net_positions.float() - ours).abs().max() > 1e-4:
        raise MarginalsError(
            f"{path} has learned or other positions than the published ones; they cannot be kept"
        )
