"""Weights in the layout of the authors of DiT and SiT: all find their place, or are refused."""

import pytest
import torch
from safetensors.torch import save_file

from marginals.cli import main
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_model
from marginals.io.published import dit, sit
from marginals.nn.attention import grid_positions

WIDTH, DEPTH, PATCH, CHANNELS, SIDE, CLASSES = 64, 2, 2, 4, 4, 5
TABLE = "y_embedder.embedding_table.weight"


def authors(seed: int = 0) -> dict[str, torch.Tensor]:
    """A small network's weights as their code names and shapes them."""
    generator = torch.Generator().manual_seed(seed)
    w, out = WIDTH, PATCH * PATCH * 2 * CHANNELS
    shapes = {
        "x_embedder.proj": (w, CHANNELS, PATCH, PATCH),
        "t_embedder.mlp.0": (w, 256),
        "t_embedder.mlp.2": (w, w),
        "final_layer.linear": (out, w),
        "final_layer.adaLN_modulation.1": (2 * w, w),
    }
    for i in range(DEPTH):
        shapes |= {
            f"blocks.{i}.attn.qkv": (3 * w, w),
            f"blocks.{i}.attn.proj": (w, w),
            f"blocks.{i}.mlp.fc1": (4 * w, w),
            f"blocks.{i}.mlp.fc2": (w, 4 * w),
            f"blocks.{i}.adaLN_modulation.1": (6 * w, w),
        }
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.1
        tensors[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    tensors[TABLE] = torch.randn(CLASSES + 1, w, generator=generator)
    tensors["pos_embed"] = grid_positions(SIDE, SIDE, w)[None]
    return tensors


@pytest.fixture
def file(tmp_path):
    save_file(authors(), tmp_path / "dit.safetensors")
    return tmp_path / "dit.safetensors"


def test_an_imported_dit_is_a_model_of_its_latents(file):
    model = dit(file)
    assert model.data.shape == (CHANNELS, SIDE * PATCH, SIDE * PATCH)
    assert len(model.data.classes) == CLASSES
    result = model.sample(2, steps=3, cond=[0, 4], guidance=2.0)
    assert result.x.shape == (2, *model.data.shape) and torch.isfinite(result.x).all()
    assert torch.isfinite(model.ancestral(1, cond=1).x).all()  # it says the variance of its steps


def test_the_step_told_is_the_authors(file):
    """Our level number i of the chain is their step i − 1."""
    model = dit(file)
    told = []
    model.net.backbone.time.fc1.register_forward_hook(lambda m, args, out: told.append(args[0]))
    i = 250
    model.net(torch.randn(1, 4, 8, 8), model.schedule.lams[i])
    ramp = torch.exp(-torch.log(torch.tensor(10_000.0)) * torch.arange(128) / 128)
    expected = torch.cat([(i * ramp).cos(), (i * ramp).sin()])
    assert torch.allclose(told[0][0], expected, atol=2e-3)


def test_sit_is_the_same_network_told_other_time_with_its_arrow_turned(file):
    """At one input and one number told, SiT's velocity is minus what DiT's first answer is."""
    first, second = dit(file).net.backbone, sit(file).net.backbone
    x, cond = torch.randn(1, 4, 8, 8), torch.tensor([2])
    told = 0.75
    ours = second(x, torch.tensor([1.0 - told]), cond)
    theirs = first(x, torch.tensor([(told + 1.0) / 1000.0]), cond)[:, :CHANNELS]
    assert torch.allclose(ours, -theirs, atol=1e-4)
    assert sit(file).sample(1, steps=2, cond=3).x.shape == (1, 4, 8, 8)


def test_the_command_writes_a_model_once(file, tmp_path, capsys):
    out = tmp_path / "mine.safetensors"
    words = ["import", str(file), "--layout", "dit", "--out", str(out)]
    assert main(words) == 0 and "dit" in capsys.readouterr().out
    x = torch.randn(1, 4, 8, 8)
    expected = dit(file).net(x, 0.0, torch.tensor([1])).out
    assert torch.equal(load_model(out).net(x, 0.0, torch.tensor([1])).out, expected)
    assert main(words) == 2 and "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("blocks.1.mlp.fc1.bias"), "laid out"),
        (lambda t: t.update({"blocks.0.cross.weight": torch.zeros(2)}), "another network"),
        (lambda t: t.update({"pos_embed": t["pos_embed"] + 0.1}), "positions"),
        (lambda t: t.pop("x_embedder.proj.weight"), "laid out"),
        (lambda t: t.update({TABLE: t[TABLE][:0]}), "laid out.*names no class"),
        (lambda t: t.update({TABLE: t[TABLE][:1]}), "laid out.*names no class"),
    ],
)
def test_other_files_are_refused(tmp_path, change, says):
    tensors = authors()
    change(tensors)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(MarginalsError, match=says):
        dit(tmp_path / "other.safetensors")
