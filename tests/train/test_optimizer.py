"""Muon and AdamW as one optimiser: each does its own part, and a run of them resumes exactly."""

import copy

import pytest
import torch

import marginals
from marginals.errors import MarginalsError
from marginals.nn import DiT, UNet
from marginals.train import TrainConfig, resume, train
from marginals.train.optimizer import MuonAdamW, make_optimizer

CONFIG = TrainConfig(images=100, optimizer="muon", lr=1e-2)


def small() -> marginals.Model:
    torch.manual_seed(0)
    return marginals.rectified_flow(DiT(1, 4, width=16, depth=2, heads=2, num_classes=2))


def backward(model: marginals.Model) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 1, 4, 4, generator=generator)
    model.loss(x, torch.tensor([0, 1, 1, -1]), generator).backward()


def test_matrices_step_as_muon_and_the_rest_as_adamw():
    """The same steps as two separate optimisers of torch, to the bit."""
    model, twin = small(), small()
    for m in (model, twin):  # open every gate, so that gradients reach all weights
        torch.manual_seed(2)
        for p in m.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.3)
    blocks = "net.backbone.blocks."
    inside = [p for n, p in twin.named_parameters() if n.startswith(blocks) and p.ndim == 2]
    rest = [p for n, p in twin.named_parameters() if not (n.startswith(blocks) and p.ndim == 2)]
    muon = torch.optim.Muon(inside, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    joint = make_optimizer(CONFIG, model)
    for _ in range(3):
        for m in (model, twin):
            m.zero_grad()
            backward(m)
        joint.step(), muon.step(), adamw.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))
    assert len(inside) == 2 * 5 and len(rest) > 10


@pytest.mark.parametrize("guess", [False, True])
def test_every_weight_is_in_exactly_one_group(guess):
    told = {"text_width": 3, "guess": 8} if guess else {"num_classes": 2}
    model = marginals.rectified_flow(DiT(1, 4, width=16, depth=2, heads=2, **told))
    optimizer = make_optimizer(CONFIG, model)
    owned = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())


def test_the_rate_set_from_outside_is_the_one_used():
    model = small()
    optimizer = make_optimizer(CONFIG, model)
    backward(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_its_state_comes_back():
    model, twin = small(), small()
    mine, other = make_optimizer(CONFIG, model), make_optimizer(CONFIG, twin)
    backward(model)
    mine.step()
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(mine.state_dict()))
    for m, o in ((model, mine), (twin, other)):
        o.zero_grad()
        backward(m)
        o.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))
    assert isinstance(other, MuonAdamW)


def test_a_run_with_muon_resumes_to_the_bit(tmp_path):
    options = {
        "data": "digits", "network": "dit-demo", "optimizer": "muon", "batch": 16, "warmup": 64,
        "network_options": {"width": 16, "depth": 1, "heads": 2}, "sample_every": 0, "threads": 1,
        "on_event": None,
    }  # fmt: skip
    options.pop("on_event")
    quiet = {"on_event": lambda event: None}
    whole = train(TrainConfig(**options, images=128, out=str(tmp_path / "whole")), **quiet)
    train(TrainConfig(**options, images=64, decay=0.0, out=str(tmp_path / "part")), **quiet)
    part = resume(tmp_path / "part", images=128, **quiet)
    plain = train(TrainConfig(**options, images=128, decay=0.0, out=str(tmp_path / "p")), **quiet)
    a, b, c = (r.path / "model.safetensors" for r in (plain, part, whole))
    from safetensors.torch import load_file

    a, b, c = load_file(a), load_file(b), load_file(c)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)  # the decay is heard


def test_muon_needs_a_transformer():
    model = marginals.rectified_flow(UNet(1, 8, width=16))
    with pytest.raises(MarginalsError, match="adamw"):
        make_optimizer(CONFIG, model)
