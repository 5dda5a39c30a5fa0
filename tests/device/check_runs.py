"""Whole training runs on the device: trial, steps, log, samples, checkpoints, resuming."""

import pytest
import safetensors.torch
import torch

import marginals.text
from marginals.data.captioned import Captioned
from marginals.data.pictures import Pictures
from marginals.io.checkpoint import load_model
from marginals.train import TrainConfig, resume, train

UNET = {"width": 8, "mults": [1], "blocks": 1, "patch": 2}
DIT = {"patch": 4, "width": 16, "depth": 1, "heads": 2}
COMMON = {
    "data": "small", "images": 32, "batch": 8, "samples": 2, "warmup": 0,
    "save_every": 16, "sample_every": 16, "log_every": 16, "text": "letters",
}  # fmt: skip


class PretendedEngine:
    """`marginals.train.engine.Engine` for one process on the pretended device, without Fabric."""

    rank, world, is_main = 0, 1, True

    def __init__(self, precision="fp32"):
        self.device = torch.device("pretended", 0)

    def place(self, module):
        return module.to(self.device)

    def setup(self, model, optimizer):
        self.model = model
        return optimizer

    def losses(self, x, cond, generator):
        return self.model.losses(x, cond, generator=generator)

    def gradients(self, loss, optimizer, clip):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)

    def any(self, flag):
        return flag

    def same(self, value):
        return value

    def barrier(self):
        pass


@pytest.fixture(autouse=True)
def engine(device, monkeypatch, small, tmp_path):
    """The real engine finds a GPU by itself."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(marginals.text, "encoder", lambda name, device="cpu": small.letters)
    if device.type == "pretended":
        monkeypatch.setattr("marginals.train.run.Engine", PretendedEngine)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(safetensors.torch, "save_file", save_file)


def save_file(tensors, *rest, save=safetensors.torch.save_file, **options):
    """safetensors copies to the CPU itself, but it does not know this device."""
    save({name: tensor.cpu() for name, tensor in tensors.items()}, *rest, **options)


def labelled(small):
    return Pictures(small.pixels(32), torch.arange(32) % 2, ("a", "b"), name="small")


def captioned(small):
    words = [("red crab", "a crab"), ("blue",), ()] * 10
    return Captioned(small.pixels(30), tuple(words), name="small")


def ran(source, out, device, **options):
    """A run of a few steps, resumed for a few more; the model it wrote."""
    config = TrainConfig(**(COMMON | options), out=str(out))
    events = []
    train(config, source=source, on_event=events.append)
    resume(out, images=48, source=source, on_event=events.append)
    assert not [e for e in events if e.kind == "warning" and "samples" in e.text]
    assert len((out / "log.jsonl").read_text().splitlines()) == 3
    return load_model(out / "model.safetensors", device)


RUNS = {
    "v": {"model": "v", "network": "base", "network_options": UNET},
    "vdm": {"model": "vdm", "network": "base", "network_options": UNET},
    "ot": {"model": "flow", "network": "base", "network_options": UNET, "coupling": "ot"},
    "muon": {"model": "flow", "network": "dit-demo", "network_options": DIT, "optimizer": "muon"},
    "hvae": {
        "model": "hvae",
        "network_options": {"top": 4, "latents": [2], "rungs": [1], "widths": [8], "blocks": 1},
    },
    "vae": {"model": "vae"},
    "classifier": {
        "model": "classifier", "network_options": {"width": 8, "mults": [1]}, "sample_every": None
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run(name, small, device, tmp_path):
    model = ran(labelled(small), tmp_path / "run", device, **RUNS[name])
    assert all(weight.device == device for weight in model.parameters())


@pytest.mark.parametrize("guess", [0, 16])
def test_a_run_with_texts(guess, small, device, tmp_path):
    options = DIT | {"guess": guess}
    model = ran(
        captioned(small), tmp_path / "run", device, model="flow", network="dit-emoji",
        network_options=options, **({"guess_images": 1024} if guess else {}),
    )  # fmt: skip
    assert model.sample(2, steps=2, cond=small.letters(["crab"])[0]).x.device == device


def test_a_run_in_the_latents_of_another_and_a_student(small, device, tmp_path):
    widths = {"latents": 2, "widths": [8, 8], "blocks": [1, 1], "patch": 1}
    ran(labelled(small), tmp_path / "codec", device, model="autoencoder", network_options=widths)
    inside = {"network": "dit-latent", "network_options": DIT | {"patch": 1}}
    ran(
        labelled(small), tmp_path / "latent", device, model="flow",
        codec=str(tmp_path / "codec"), **inside,
    )  # fmt: skip
    ran(labelled(small), tmp_path / "teacher", device, **RUNS["v"])
    ran(
        labelled(small), tmp_path / "student", device, teacher=str(tmp_path / "teacher"),
        student_steps=2, teacher_evaluations=2,
    )  # fmt: skip
