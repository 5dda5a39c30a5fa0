"""Captions of a person's own pictures: `crab.txt` beside `crab.png`, one caption per line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from ..errors import MarginalsError
from .scan import Store, printable

MOST = 64 * 1024
"""Bytes of a text file; a longer one is no caption."""


def folder_captions(store: Store, names: Sequence[str]) -> tuple[tuple[str, ...], ...] | None:
    """The captions of these pictures, or None where no picture has a text of its own.

    MarginalsError when only some have, or when a text is empty or not UTF-8.
    """
    texts = [str(PurePosixPath(name).with_suffix(".txt")) for name in names]
    there = set(store.files())
    without = [name for name, text in zip(names, texts, strict=True) if text not in there]
    if len(without) == len(names):
        return None
    captions = {text: _lines(store, text) for text in texts if text in there}
    if without:
        raise MarginalsError(
            f"{len(without)} of the {len(names)} pictures in {store.path} have no caption; put a "
            f"text file beside each (the first: {printable(texts[names.index(without[0])])}), or "
            "take the text files away to learn without captions."
        )
    if empty := [text for text, lines in captions.items() if not lines]:
        raise MarginalsError(
            f"{len(empty)} of the captions in {store.path} are empty; write at least one line in "
            f"each (the first: {printable(empty[0])})."
        )
    return tuple(captions[text] for text in texts)


def _lines(store: Store, name: str) -> tuple[str, ...]:
    with store.open(name) as file:
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise MarginalsError(f"{printable(name)} is too long for a caption; keep it short.")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise MarginalsError(f"{printable(name)} is not UTF-8; save the caption as such.") from None
    return tuple(dict.fromkeys(filter(None, (" ".join(line.split()) for line in lines))))
