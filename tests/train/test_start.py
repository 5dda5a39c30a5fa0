"""Beginning with the weights of another model: what fits is taken, what does not is said."""

import pytest
import torch

import marginals
import marginals.nn
from marginals.data import load
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_model, save_model
from marginals.nn import DiT
from marginals.train import TrainConfig, resume, train
from marginals.train.start import take_over

OPTIONS = {"data": "digits", "network": "dit-demo", "batch": 16, "sample_every": 0, "threads": 1}
SMALL = {"width": 16, "depth": 1, "heads": 2}


def quiet(_event) -> None:
    pass


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("start") / "first")
    config = TrainConfig(**OPTIONS, network_options=SMALL, images=64, out=out, seed=3)
    return train(config, on_event=quiet)


def test_a_run_begins_with_the_weights_of_another(first, tmp_path):
    said = []
    config = TrainConfig(
        **OPTIONS, network_options=SMALL, images=16, lr=1e-9, out=str(tmp_path / "next"),
        start=str(first.path),
    )  # fmt: skip
    run = train(config, on_event=lambda e: said.append(e.text))
    old, new = (load_model(r.path).state_dict() for r in (first, run))
    assert all(torch.allclose(old[k], new[k], atol=1e-6) for k in old)
    assert any("100%" in text and "starting" in text for text in said)


def test_a_resumed_run_does_not_begin_again(first, tmp_path):
    config = TrainConfig(
        **OPTIONS, network_options=SMALL, images=32, lr=1e-2, out=str(tmp_path / "more"),
        start=str(first.path),
    )  # fmt: skip
    run = train(config, on_event=quiet)
    before = load_model(run.path).state_dict()
    after = load_model(resume(run.path, images=48, on_event=quiet).path).state_dict()
    old = load_model(first.path).state_dict()
    weight = "net.backbone.blocks.0.attn.qkv.weight"
    moved = (after[weight] - before[weight]).norm(), (after[weight] - old[weight]).norm()
    assert moved[0] < moved[1]


def test_layers_that_meet_other_pictures_keep_their_first_values(tmp_path):
    """A body moves from small pictures to large ones; entrance and exit are new."""

    def model(channels: int, patch: int, seed: int) -> marginals.Model:
        torch.manual_seed(seed)
        return marginals.rectified_flow(DiT(channels, 8, patch=patch, **SMALL))

    source, target, untouched = model(1, 2, 0), model(3, 2, 1), model(3, 2, 1)
    save_model(tmp_path / "source.safetensors", source)
    said = take_over(target, str(tmp_path / "source.safetensors"))
    a, b, c = (m.state_dict() for m in (source, target, untouched))
    for name, value in b.items():
        same = a[name].shape == value.shape
        assert torch.equal(value, a[name] if same else c[name]), name
    assert "net.backbone.enter.weight" in b and "%" in said
    assert a["net.backbone.enter.weight"].shape != b["net.backbone.enter.weight"].shape


def test_nothing_in_common_is_refused(first, tmp_path):
    path = tmp_path / "mlp.safetensors"
    save_model(path, marginals.rectified_flow(marginals.nn.MLP(2)))
    config = TrainConfig(
        **OPTIONS, network_options=SMALL, images=16, out=str(tmp_path / "no"), start=str(path)
    )
    with pytest.raises(MarginalsError, match="no weight"):
        train(config, source=load("digits")[0], on_event=quiet)
