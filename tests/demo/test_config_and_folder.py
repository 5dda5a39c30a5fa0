"""The demo's settings, and the folder that is its own and nobody else's."""

import subprocess
import sys

import pytest

from marginals.demo.config import DemoConfig
from marginals.demo.folder import open_folder
from marginals.errors import MarginalsError


def test_settings_need_no_torch():
    code = "import sys, marginals.demo; marginals.demo.DemoConfig(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_folder_is_named_after_the_data():
    assert str(DemoConfig().folder) == "demo-run/fashion"
    assert str(DemoConfig(data="a/b/shoes").folder) == "demo-run/shoes"
    assert str(DemoConfig(out="x").folder) == "x"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"images": 5, "minutes": 1}, "--images or --minutes"),
        ({"images": 0}, "images"),
        ({"minutes": -1}, "minutes"),
        ({"sead": 1}, "sead"),
    ],
)
def test_impossible_settings_are_one_sentence(values, named):
    with pytest.raises(MarginalsError) as caught:
        DemoConfig(**values)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_demo_goes_on(tmp_path):
    config = DemoConfig(out=tmp_path / "d", seed=3)
    open_folder(config)
    (tmp_path / "d" / "kept").write_text("")
    open_folder(config)
    assert (tmp_path / "d" / "kept").exists()


def test_another_demo_is_refused_until_it_is_asked_for(tmp_path):
    open_folder(DemoConfig(out=tmp_path / "d", seed=3))
    (tmp_path / "d" / "old").write_text("")
    with pytest.raises(MarginalsError, match="seed 3, now 4"):
        open_folder(DemoConfig(out=tmp_path / "d", seed=4))
    assert (tmp_path / "d" / "old").exists()
    open_folder(DemoConfig(out=tmp_path / "d", seed=4, fresh=True))
    assert not (tmp_path / "d" / "old").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_somebody_elses_folder_is_never_touched(tmp_path, fresh):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(MarginalsError, match="not the folder of a demo"):
        open_folder(DemoConfig(out=tmp_path, fresh=fresh))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(MarginalsError, match="is a file"):
        open_folder(DemoConfig(out=tmp_path / "f"))
