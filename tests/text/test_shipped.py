"""Models that come with the package: small, described, and drawing what they are told."""

import os
import socket

import pytest
import torch

from marginals.cli import main
from marginals.io.checkpoint import read_header
from marginals.io.shipped import find, names
from marginals.text.draw import TextToImage
from marginals.text.minilm import available

needs_words = pytest.mark.skipif(not available(), reason="the text encoder is not installed")


@pytest.mark.parametrize("name", names())
def test_it_is_small_and_has_a_card_with_licences(name):
    path = find(name)
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert path.stat().st_size <= 16e6
    assert "licence" in card and "cannot" in card
    assert read_header(path)["extra"]["trained_on"]


def test_emoji_is_there():
    assert "emoji" in names()


@needs_words
def test_colours_are_those_asked_for():
    """The plainest thing a text can say: hearts of three colours, by their mean ink."""
    draw = TextToImage.load("emoji")
    ink = {}
    for colour in ("red", "green", "blue"):
        x = draw(f"a {colour} heart, flat style", 4, seed=0)
        dark = x.amin(1, keepdim=True) < 0.2
        ink[colour] = [float(x[:, c : c + 1][dark].mean()) for c in range(3)]
    for place, colour in enumerate(ink):
        assert max(range(3), key=lambda c: ink[colour][c]) == place, ink


@needs_words
def test_it_draws_without_a_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something wanted to go online")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    words = ["generate", "a red heart", "-n", "1", "--steps", "4", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a-red-heart-0.png", "grid.png"}
    assert os.path.getsize(tmp_path / "out" / "a-red-heart-0.png") > 500
    assert torch.is_grad_enabled()
