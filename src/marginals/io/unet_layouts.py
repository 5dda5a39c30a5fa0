"""How the codes of ADM and EDM name and shape the tensors of their networks.

`adm_sizes` and `edm_sizes` read a network's settings off its tensors; `adm_homes` and `edm_homes`
say where each layer of our `ADM` is kept there.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from marginals.nn import ADM

__all__ = ["adm_homes", "adm_sizes", "edm_homes", "edm_sizes"]

_ADM = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "told": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "skip": "skip_connection",
}  # fmt: skip
_EDM = {
    "norm1": "norm0", "conv1": "conv0", "told": "affine", "norm2": "norm1", "conv2": "conv1",
    "skip": "skip", "attention.norm": "norm2", "attention.qkv": "qkv", "attention.proj": "proj",
}  # fmt: skip


def adm_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tensors of an ADM say about it; KeyError names one that is not there."""
    width = tensors["time_embed.0.weight"].shape[1]
    ups = _matches(tensors, r"output_blocks\.(\d+)\.0\.in_layers\.0\.weight")
    grow = _matches(tensors, r"output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight")
    levels = 1 + len(grow)
    if len(ups) % levels or len(ups) < 2 * levels:
        raise KeyError("output_blocks")
    blocks = len(ups) // levels - 1
    first = [f"input_blocks.{1 + i * (blocks + 1)}" for i in range(levels)]
    entrance, exit_ = tensors["input_blocks.0.0.weight"], tensors["out.2.weight"]
    return {
        "channels": entrance.shape[1],
        "width": width,
        "mults": [tensors[f"{n}.0.in_layers.2.weight"].shape[0] / width for n in first],
        "blocks": blocks,
        "attention": [i for i, n in enumerate(first) if f"{n}.1.qkv.weight" in tensors],
        "num_classes": len(tensors.get("label_emb.weight", ())),
        "outputs": max(1, exit_.shape[0] // entrance.shape[1]),
    }


def edm_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tensors of one of EDM's networks say about it; KeyError names one that lacks."""
    sides = sorted(_matches(tensors, r"enc\.(\d+)x\d+_block0\.conv0\.weight"), reverse=True)
    if not sides:
        raise KeyError("enc.*_block0.conv0.weight")
    size = sides[0]
    width = tensors["map_layer0.weight"].shape[0] // 4
    first = [f"enc.{s}x{s}_block0" for s in sides]
    song = f"dec.{size}x{size}_aux_conv.weight" in tensors
    label = tensors.get("map_label.weight")
    return {
        "channels": tensors[f"enc.{size}x{size}_conv.weight"].shape[1],
        "size": size,
        "width": width,
        "mults": [tensors[f"{n}.conv0.weight"].shape[0] / width for n in first],
        "blocks": len(_matches(tensors, rf"enc\.{size}x{size}_block(\d+)\.conv0\.weight")),
        "attention": [i for i, n in enumerate(first) if f"{n}.qkv.weight" in tensors],
        "num_classes": 0 if label is None else label.shape[1],
        "heads": 1 if song else 0,
        "kind": ("ncsnpp" if "map_noise.freqs" in tensors else "ddpmpp") if song else "adm",
    }


def _matches(names: Iterable[str], pattern: str) -> set[int]:
    """The numbers that a pattern finds in the names."""
    return {int(m[1]) for m in map(re.compile(pattern).fullmatch, names) if m}


def adm_homes(net: ADM) -> dict[str, str]:
    """Our layers and where ADM's code keeps them."""
    homes = {
        "told.fc1": "time_embed.0", "told.fc2": "time_embed.2", "told.label": "label_emb",
        "enter": "input_blocks.0.0", "norm": "out.0", "leave": "out.2",
    }  # fmt: skip

    def place(mine: str, block: str, attention: str = "") -> None:
        homes.update({f"{mine}.{a}": f"{block}.{b}" for a, b in _ADM.items()})
        for a, b in {"norm": "norm", "qkv": "qkv", "proj": "proj_out"}.items():
            homes[f"{mine}.attention.{a}"] = f"{attention}.{b}"

    blocks, attends = net.config["blocks"], net.config["attention"]
    n = 1
    for i in range(len(net.down)):
        if i:
            place(f"shrink.{i - 1}", f"input_blocks.{n}.0")
            n += 1
        for j in range(blocks):
            place(f"down.{i}.{j}", f"input_blocks.{n}.0", f"input_blocks.{n}.1")
            n += 1
    place("middle.0", "middle_block.0", "middle_block.1")
    place("middle.1", "middle_block.2")
    n = 0
    for i in reversed(range(len(net.up))):
        for j in range(blocks + 1):
            place(f"up.{i}.{j}", f"output_blocks.{n}.0", f"output_blocks.{n}.1")
            n += 1
        place(f"grow.{i - 1}", f"output_blocks.{n - 1}.{1 + (i in attends)}")
    return homes


def edm_homes(net: ADM) -> dict[str, str]:
    """Our layers and where EDM's code keeps them."""
    sides = [f"{net.size >> i}x{net.size >> i}" for i in range(len(net.down))]
    song = net.config["kind"] != "adm"
    homes = {
        "told.fc1": "map_layer0", "told.fc2": "map_layer1", "told.label": "map_label",
        "told": "map_noise", "enter": f"enc.{sides[0]}_conv",
        "norm": f"dec.{sides[0]}_aux_norm" if song else "out_norm",
        "leave": f"dec.{sides[0]}_aux_conv" if song else "out_conv",
    }  # fmt: skip
    blocks = {f"middle.{k}": f"dec.{sides[-1]}_in{k}" for k in range(2)}
    rows = net.config["blocks"]
    for i, side in enumerate(sides):
        blocks |= {f"shrink.{i - 1}": f"enc.{side}_down", f"grow.{i}": f"dec.{side}_up"}
        homes[f"side.{i - 1}.conv"] = f"enc.{side}_aux_residual"
        blocks |= {f"down.{i}.{j}": f"enc.{side}_block{j}" for j in range(rows)}
        blocks |= {f"up.{i}.{j}": f"dec.{side}_block{j}" for j in range(rows + 1)}
    for mine, theirs in blocks.items():
        homes |= {f"{mine}.{a}": f"{theirs}.{b}" for a, b in _EDM.items()}
    return homes
