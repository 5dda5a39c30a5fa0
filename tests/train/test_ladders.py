"""Ladders (VAEs) go through the same trainer: exact resume, warm-up, the KL of every rung."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from marginals.decoders import DiscretisedLogistic
from marginals.gaussian import Normal
from marginals.io.checkpoint import load_model
from marginals.io.tensors import read_tensors
from marginals.ladder import KlObjective, Ladder
from marginals.train import Diverged, Run, Stop, Stopped, TrainConfig, resume, train
from marginals.train.levels import LevelMeter
from marginals.train.progress import Event, ProgressBar
from marginals.train.rungs import silent as silent_rungs

SETTINGS = {
    "data": "digits", "conditional": False, "images": 640, "batch": 32, "save_every": 160,
    "samples": 3, "threads": 1,
}  # fmt: skip


class Line(nn.Module):
    """A rung of four latents in a Markov ladder; everything is linear."""

    def __init__(self, evidence: int, above: int) -> None:
        super().__init__()
        self.up = nn.Linear(evidence + above, 8)
        self.down = nn.Linear(above, 8) if above else None

    def prior(self, above):
        if self.down is None:
            nothing = self.up.weight.new_zeros(1, 4)
            return Normal(nothing, nothing)
        return Normal(*self.down(above).chunk(2, 1))

    def posterior(self, evidence, above):
        seen = evidence if above is None else torch.cat([evidence, above], 1)
        return Normal(*self.up(seen).chunk(2, 1))

    def carry(self, z, above):
        return z


class Paint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 128)

    def forward(self, z):
        return self.line(z).unflatten(1, (2, 8, 8))


def ladder(rungs: int = 2, **objective) -> Ladder:
    torch.manual_seed(0)
    walls = [Line(64, 4 if i else 0) for i in range(rungs)]
    decoder = DiscretisedLogistic()
    return Ladder(
        walls, Paint(), decoder, evidence=lambda x, cond: x.flatten(1),
        objective=KlObjective(**objective),
    )  # fmt: skip


def settings(folder: Path, **changes) -> TrainConfig:
    return TrainConfig(**(SETTINGS | {"out": str(folder)} | changes))


def silent(event) -> None:
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(settings(folder), model=ladder(warmup=500), on_event=silent)


def timeless(run: Run) -> list[dict]:
    return [{k: v for k, v in e.items() if "second" not in k} for e in run.log()]


@pytest.mark.parametrize("at", [160, 416])
def test_stopped_and_resumed_is_never_stopped(tmp_path, whole, at):
    """Within the warm-up and after it: β is a function of the images seen."""
    stop = Stop()

    def listen(event) -> None:
        if event.kind == "step" and event.images == at:
            stop.request()

    with pytest.raises(Stopped):
        config = settings(tmp_path / "r")
        train(config, model=ladder(warmup=500), stop=stop, on_event=listen)
    run = resume(tmp_path / "r", model=ladder(warmup=500), on_event=silent)
    one, other = read_tensors(run.state_path), read_tensors(whole.state_path)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert timeless(run) == timeless(whole)
    strips = [(r.path / "samples").iterdir() for r in (run, whole)]
    assert len({frozenset((p.name, p.read_bytes()) for p in strip) for strip in strips}) == 1


def test_the_warm_up_reaches_the_loss(tmp_path, whole):
    """A run without it takes other steps from the same weights."""
    cold = train(settings(tmp_path / "r"), model=ladder(), on_event=silent)
    one, other = read_tensors(cold.state_path), read_tensors(whole.state_path)
    assert any(not torch.equal(one[k], other[k]) for k in one if k.startswith("model."))


def test_the_log_tells_what_every_rung_carries(whole):
    for entry in whole.log():
        assert "levels" not in entry and entry["rungs"].keys() == {"1", "2"}
        nats = entry["reconstruction"] - sum(entry["rungs"].values())
        assert entry["bits_per_dim"] == pytest.approx(-nats / (64 * math.log(2)), rel=1e-5)
    assert whole.log()[-1]["bits_per_dim"] < whole.log()[0]["bits_per_dim"]


def test_a_ladder_of_ones_own_comes_back_into_the_ladder_it_was(whole):
    back = load_model(whole.path / "model.safetensors", backbone=ladder())
    state = read_tensors(whole.state_path)
    assert all(torch.equal(v, state[f"ema.{k}"]) for k, v in back.state_dict().items())


def test_a_loss_without_levels_that_is_no_number_is_named():
    meter, bad = LevelMeter(), torch.tensor([1.0, math.nan])
    meter.add(64, torch.ones(2), None, torch.tensor(1.0))
    assert meter.take() == {"loss": 1.0, "gradient": 1.0}
    meter.add(96, bad, None, torch.tensor(1.0))
    with pytest.raises(Diverged, match="the loss is not a number, after 96 images"):
        meter.check()


def test_the_bar_tells_the_rungs(capsys):
    bar = ProgressBar()
    bar(Event("start", 0, 64))
    bar(Event("log", 32, 64, values={"loss": 1.0, "rungs": {"1": 12.25, "2": 0.0}}))
    bar(Event("snapshot", 32, 64))
    bar(Event("end", 64, 64))
    assert "KL by rung, in nats: 1 12.25  2 0.00" in capsys.readouterr().err


class Mute(Line):
    """A rung whose posterior is its prior."""

    def posterior(self, evidence, above):
        nothing = evidence.new_zeros(len(evidence), 4)
        return Normal(nothing, nothing)


def test_what_a_rung_is_is_said_and_one_that_carries_nothing_is_named(tmp_path, capsys):
    model = ladder(2)
    model.rungs[0] = Mute(64, 0)  # pyright: ignore[reportIndexIssue]
    train(settings(tmp_path / "r", images=64), model=model)
    said = capsys.readouterr().err
    assert "each rung is one group of them" in said and "in nats (1 nat = 1.44 bits)" in said
    assert "warning: rung 2 carries less than 0.05 nats" in said
    assert "--free-bits" in said and "--kl-warmup" in said


def test_rungs_that_carry_something_get_no_warning():
    assert silent_rungs({"1": 3.0, "2": -0.4}) == silent_rungs({}) == ""
    assert "rungs 1, 3 carry less" in silent_rungs({"1": 0.01, "2": 3.0, "3": -0.01})
