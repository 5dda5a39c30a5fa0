"""Our DiT with weights in the authors' layout answers what diffusers' DiT answers with them."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from marginals.io.published import dit

sys.path.append(str(Path(__file__).parents[1] / "io"))
from test_published import CHANNELS, CLASSES, DEPTH, PATCH, SIDE, WIDTH, authors


def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under diffusers' names: time and class are stored once for every block."""
    new = {f"pos_embed.proj.{p}": tensors[f"x_embedder.proj.{p}"] for p in ("weight", "bias")}
    for p in ("weight", "bias"):
        new[f"proj_out_1.{p}"] = tensors[f"final_layer.adaLN_modulation.1.{p}"]
        new[f"proj_out_2.{p}"] = tensors[f"final_layer.linear.{p}"]
    for i in range(DEPTH):
        mine, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        emb = f"{theirs}.norm1.emb"
        table = "embedding_table.weight"
        new[f"{emb}.class_embedder.{table}"] = tensors[f"y_embedder.{table}"]
        for p in ("weight", "bias"):
            new[f"{emb}.timestep_embedder.linear_1.{p}"] = tensors[f"t_embedder.mlp.0.{p}"]
            new[f"{emb}.timestep_embedder.linear_2.{p}"] = tensors[f"t_embedder.mlp.2.{p}"]
            new[f"{theirs}.norm1.linear.{p}"] = tensors[f"{mine}.adaLN_modulation.1.{p}"]
            q, k, v = tensors[f"{mine}.attn.qkv.{p}"].chunk(3)
            for name, value in (("to_q", q), ("to_k", k), ("to_v", v)):
                new[f"{theirs}.attn1.{name}.{p}"] = value.contiguous()
            new[f"{theirs}.attn1.to_out.0.{p}"] = tensors[f"{mine}.attn.proj.{p}"]
            new[f"{theirs}.ff.net.0.proj.{p}"] = tensors[f"{mine}.mlp.fc1.{p}"]
            new[f"{theirs}.ff.net.2.{p}"] = tensors[f"{mine}.mlp.fc2.{p}"]
    return new


def test_both_answer_the_same(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    tensors = authors()
    save_file(tensors, tmp_path / "dit.safetensors")
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=WIDTH, in_channels=CHANNELS,
        out_channels=2 * CHANNELS, num_layers=DEPTH, sample_size=SIDE * PATCH, patch_size=PATCH,
        num_embeds_ada_norm=CLASSES, norm_eps=1e-6,
    )  # fmt: skip
    theirs.load_state_dict(renamed(tensors))  # strictly: every name is known, none is missing
    theirs.eval()
    # Their angles go by k/127 where the authors' go by k/128: set right for the comparison.
    for block in theirs.transformer_blocks:
        assert block.norm1.emb.time_proj.downscale_freq_shift == 1
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    model = dit(tmp_path / "dit.safetensors")
    x, steps = torch.randn(3, CHANNELS, SIDE * PATCH, SIDE * PATCH), torch.tensor([0, 250, 999])
    labels = torch.tensor([0, 4, CLASSES])
    with torch.no_grad():
        expected = theirs(x, steps, class_labels=labels).sample
        cond = torch.where(labels == CLASSES, -1, labels)
        ours = model.net.backbone(x, (steps + 1.0) / 1000.0, cond)
    assert torch.allclose(ours, expected, atol=2e-4), float((ours - expected).abs().max())
