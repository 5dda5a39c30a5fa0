"""A configuration is checked at once, in sentences, and survives YAML; it needs no torch."""

import subprocess
import sys

import pytest

from marginals.errors import MarginalsError
from marginals.train.config import TrainConfig
from marginals.train.presets import PRESETS


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "exactly one of images and minutes"),
        ({"images": 1, "minutes": 1}, "exactly one of images and minutes"),
        ({"images": 1, "lr": -1}, "lr should be greater than 0 (it is -1)"),
        ({"images": 1, "ema_halflife": 3}, "'ema_halflife'; did you mean 'ema_half_life'"),
        ({"images": 1, "model": "gan"}, "model should be 'vae'"),
        ({"minutes": float("inf")}, "minutes should be a finite number"),
        ({"images": 0}, "images should be greater than or equal to 1"),
        ({"images": 1, "data": " "}, "name a data set, a folder"),
        ({"images": 1, "out": ""}, "name a folder for the run"),
        ({"images": 1, "out": "  "}, "name a folder for the run"),
        ({"images": 1, "lr": 2, "batch": 0}, "; lr should be"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(values, says):
    with pytest.raises(MarginalsError) as caught:
        TrainConfig(**values)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_yaml(tmp_path, name):
    config = TrainConfig.preset(name, data="digits", network_options={"width": 16}, seed=2**40)
    config.to_yaml(tmp_path / "config.yaml")
    assert TrainConfig.from_yaml(tmp_path / "config.yaml") == config
    assert config.minutes == PRESETS[name]["minutes"]


def test_images_replace_the_time_of_a_preset():
    config = TrainConfig.preset("10min", images=640)
    assert (config.images, config.minutes) == (640, None)
    assert TrainConfig.preset("shapes", images=640).images == 640  # a task has no time to replace


def test_only_what_touches_a_step_is_a_difference():
    config = TrainConfig(images=100)
    longer = config.with_changes(images=500, save_every=10, out="elsewhere", threads=2)
    assert config.differences(longer) == []
    assert config.differences(longer.with_changes(lr=0.5, batch=7)) == ["batch", "lr"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("images: [1", "as YAML"),
        ("- images", "setting: value"),
        ("5: 3", "there is no setting 5"),
        ("images: 3\nspeed: 9", "there is no setting 'speed'"),
        ("images: 3\nformulation: v", "'formulation' of older versions is now called 'model'"),
    ],
)
def test_bad_yaml_is_named(tmp_path, text, says):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(MarginalsError, match=says) as caught:
        TrainConfig.from_yaml(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_missing_preset():
    with pytest.raises(MarginalsError, match="no configuration file"):
        TrainConfig.from_yaml("nowhere.yaml")
    with pytest.raises(MarginalsError, match="choose one of 2min"):
        TrainConfig.preset("forever")


def test_it_needs_no_torch():
    code = "import sys, marginals.train; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
