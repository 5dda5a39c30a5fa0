"""The command line with a VAE: what it makes, what it says, and which flags it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marginals.cli import main

pytestmark = pytest.mark.xdist_group("cli_ladders")  # one worker trains the model they share


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: a small hierarchical VAE that has seen 960 digits."""
    out = tmp_path_factory.mktemp("runs") / "hvae"
    words = ["--data", "digits", "--model", "hvae", "--images", "960", "--sample-every", "0"]
    assert main(["train", *words, "--out", str(out), "--free-bits", "0.1", "--kl-warmup", "0"]) == 0
    return out


def test_info_tells_the_rungs(run: Path, said):
    about = json.loads(said("info", run, "--json")[1])
    assert about["config"]["model"] == "hvae" and about["config"]["free_bits"] == 0.1
    assert about["model"]["ladder"]["kind"] == "grids"
    assert about["model"]["objective"] == {"kind": "KlObjective", "beta": 1.0, "free_bits": 0.1,
                                           "warmup": 0}  # fmt: skip
    assert set(about["last"]["rungs"]) == {str(i + 1) for i in range(len(about["last"]["rungs"]))}
    assert "levels" not in about["last"]
    code, out, _ = said("info", run)
    assert code == 0 and "rungs" in out and "grids(" in out


def test_samples_do_not_depend_on_the_batch_and_say_how_they_were_made(run: Path, tmp_path, said):
    few = ("--label", "3", "--seed", 7, "-n", 5, "--temperature", 0.5)
    assert said("sample", run, *few, "--out", tmp_path / "a")[0] == 0
    assert said("sample", run, *few, "--out", tmp_path / "b", "--batch", 2)[0] == 0
    for seed in range(7, 12):
        one, two = (np.asarray(Image.open(tmp_path / d / f"{seed:05d}.png"), int) for d in "ab")
        assert one.shape == (8, 8) and abs(one - two).max() <= 1
    made = json.loads(said("info", tmp_path / "a" / "00009.png", "--json")[1])
    assert (made["seed"], made["label"], made["temperature"]) == (9, "3", 0.5)
    assert not made.keys() & {"solver", "steps", "guidance"}
    code, _, err = said("sample", run, "-n", 2, "--out", tmp_path / "a")
    assert code == 2 and "other settings made" in err


def test_the_temperature_matters(run: Path, tmp_path, said):
    for folder, value in (("cold", 0.0), ("warm", 1.0)):
        words = ("--label", "3", "-n", 3, "--temperature", value, "--out", tmp_path / folder)
        assert said("sample", run, *words)[0] == 0
    cold = [np.asarray(Image.open(tmp_path / "cold" / f"{i:05d}.png")) for i in range(3)]
    warm = [np.asarray(Image.open(tmp_path / "warm" / f"{i:05d}.png")) for i in range(3)]
    assert (cold[0] == cold[1]).all() and not (warm[0] == warm[1]).all()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--solver", "ddim"), "--solver is for diffusion models"),
        (("--steps", 5), "--steps is for diffusion models"),
        (("--guidance", 2), "--temperature below 1"),
        (("--scaling", "ve"), "--scaling is for diffusion models"),
    ],
)
def test_flags_of_diffusion_models_are_refused(run: Path, tmp_path, said, flags, says: str):
    code, out, err = said("sample", run, *flags, "--out", tmp_path / "x")
    assert (code, out) == (2, "") and says in err and not (tmp_path / "x").exists()


def test_a_vae_cannot_be_converted(run: Path, tmp_path, said):
    code, _, err = said("convert", run, "--to", "ve", "--out", tmp_path / "x.safetensors")
    assert code == 2 and "units belong to noise levels" in err
    assert not (tmp_path / "x.safetensors").exists()


def test_eval_has_both_bounds_and_every_rung(run: Path, said):
    few = ("--pictures", 70, "--importance", 4, "--samples", 0)
    code, out, _ = said("eval", run, *few, "--json")
    assert code == 0
    elbo, iwae = json.loads(out)["likelihood"]["routes"]
    assert iwae["bits_per_dim"] < elbo["bits_per_dim"] and elbo["evaluations"] == 4
    assert sum(elbo["terms"].values()) == pytest.approx(elbo["bits_per_dim"], rel=1e-6)
    nats = sum(elbo["rungs"].values())
    bits = -64 * np.log(2) * (elbo["terms"]["prior"] + elbo["terms"].get("matching", 0.0))
    assert nats == pytest.approx(-bits, rel=1e-6)
    code, out, _ = said("eval", run, *few)
    assert code == 0 and "bound of whole-number pixels" in out
    assert all(f"rung {rung} " in out for rung in elbo["rungs"])
    assert "the probability of the stored values 0..255 themselves" in out


def test_eval_tells_the_samples_of_a_vae(run: Path, said):
    few = ("--pictures", 2, "--importance", 2, "--samples", 12)
    code, out, err = said("eval", run, *few, "--data", "digits")
    assert code == 0, err
    assert "12 samples by one draw of the latents each" in out and "Fréchet distance" in out
    code, _, err = said("eval", run, *few, "--steps", 3)
    assert code == 2 and "--steps is for diffusion models" in err
