"""Which emoji an icon shows: names, keywords and groups of the emoji, and icons matched to them.

Every set names its icons in its own way ("soccer-ball", "soccerball", "flag-for-france"). An icon
is matched by the official name, then by the code points the set gives for it, then by the other
names in use for the emoji (shortcodes of several platforms, the Unicode character names). Skin
tones are dropped with that: they have no name of their own.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GROUPS = {
    0: "smileys",
    1: "people",
    3: "animals",
    4: "food",
    5: "travel",
    6: "activities",
    7: "objects",
    8: "symbols",
    9: "flags",
}
"""Emojibase's groups by number; what has none (letters of flags, skin tones) is no picture."""

_SHORTCODES = ("cldr", "emojibase", "emojibase-legacy", "github", "iamcal", "joypixels")
_SHORTEST = 4
"""Other names below this length are not to be trusted: "+1", "on", "m"."""


@dataclass(frozen=True)
class Concept:
    """What a picture shows."""

    label: str
    """The official English name."""
    keywords: tuple[str, ...]
    group: str
    hexcode: str


class Names:
    """All concepts, in the official order, and the ways to find one."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """`files`: the package emojibase-data, by name."""
        entries = [
            entry
            for entry in json.loads(files["package/en/data.json"])
            if entry.get("group") in GROUPS
        ]
        entries.sort(key=lambda entry: entry["order"])
        self.concepts = tuple(_concept(entry) for entry in entries)
        self._by_label = {squeezed(c.label): c for c in self.concepts}
        self._by_code = {_plain(c.hexcode): c for c in self.concepts}
        self._by_other: dict[str, Concept] = {}
        unicode_names = json.loads(files["package/meta/unicode-names.json"])
        tables = [unicode_names] + [
            json.loads(files[f"package/en/shortcodes/{name}.json"]) for name in _SHORTCODES
        ]
        for table in tables:
            for concept in self.concepts:
                given = table.get(concept.hexcode, [])
                self._also(concept, [given] if isinstance(given, str) else given)
        for concept in self.concepts:
            if concept.label.startswith("flag: "):
                self._also(concept, [concept.label.replace(":", " for" + more) for more in _FLAG])

    def match(self, icons: Mapping[str, Any], chars: Mapping[str, str]) -> dict[Concept, str]:
        """The best icon of every concept that the set draws, in the order of the concepts.

        `icons`: properties by icon name; `chars`: icon name by code points.
        """
        codes = {name: _plain(code) for code, name in chars.items()}
        found: dict[Concept, tuple[bool, int, str]] = {}
        for name, icon in icons.items():
            way, concept = self._find(name, codes.get(name))
            if concept is not None:
                rank = (bool(icon.get("hidden")), way, name)
                found[concept] = min(found.get(concept, rank), rank)
        return {c: found[c][2] for c in self.concepts if c in found}

    def _find(self, name: str, code: str | None) -> tuple[int, Concept | None]:
        key = squeezed(name)
        if key in self._by_label:
            return 0, self._by_label[key]
        if code is not None:
            return 1, self._by_code.get(code)
        return 2, self._by_other.get(key)

    def _also(self, concept: Concept, names: list[str]) -> None:
        for key in map(squeezed, names):
            if len(key) >= _SHORTEST:
                self._by_other.setdefault(key, concept)


_FLAG = ("", " flag")
"""Some sets write "flag for France", some "flag for flag France"."""


def squeezed(name: str) -> str:
    """Letters and digits only: what names of one thing in several spellings have in common."""
    plain = unicodedata.normalize("NFKD", name.replace("&", "and")).lower()
    return re.sub(r"[^a-z0-9]", "", plain)


def _plain(code: str) -> str:
    """Code points without the selector that asks for a colour picture."""
    return code.lower().replace("-fe0f", "")


def _concept(entry: Mapping[str, Any]) -> Concept:
    tags = tuple(tag.replace("’", "'") for tag in entry.get("tags", ()))
    return Concept(entry["label"], tags, GROUPS[entry["group"]], entry["hexcode"])
