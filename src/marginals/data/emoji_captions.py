"""What to say of an emoji: its name as a person would write it, with keywords and a style.

Of one picture several things are said, so that a model understands short prompts and long ones:

    crab, flat style                 the name and the style
    a crab, flat style
    a crab                           no style: any will do
    a flat crab                      the style as an adjective
    crab, cancer, zodiac, flat style with some of the keywords (others in other styles)
    shellfish, flat style            a keyword alone, where few emoji share it and none is called so
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

from .emoji_names import Concept

RARE = 8
"""A keyword that at most so many emoji share says enough to stand alone."""


class Writer:
    """Writes captions; it knows the names of all concepts, and how common each keyword is."""

    def __init__(self, concepts: Iterable[Concept]) -> None:
        concepts = list(concepts)
        self._uses = Counter(word for c in concepts for word in set(_keywords(c)))
        self._names = {spoken(c.label).lower() for c in concepts}

    def captions(self, concept: Concept, style: str) -> tuple[str, ...]:
        """Different texts about one concept in one style, the plainest first."""
        name, words = spoken(concept.label), _keywords(concept)
        one = with_article(name, concept.group)
        texts = [
            f"{name}, {style} style",
            f"{one}, {style} style",
            one,
            with_article(f"{style} {name}", concept.group),
        ]
        if words:
            chosen = sorted(words, key=lambda word: _shuffled(concept.label, style, word))[:2]
            texts.append(", ".join([name, *chosen, f"{style} style"]))
        own = [word for word in words if word.lower() not in self._names]  # "banana" is no monkey
        telling = min(own, key=lambda word: (self._uses[word], word), default="")
        if telling and self._uses[telling] <= RARE:
            texts.append(f"{telling}, {style} style")
        return tuple(dict.fromkeys(texts))


def spoken(label: str) -> str:
    """An official name as a person would write it: "flag: Norway" is "flag of Norway"."""
    label = re.sub("[“”]", "", label).replace("’", "'").replace(" & ", " and ")
    head, _, rest = label.partition(": ")
    if not rest:
        return label
    if head in ("flag", "family"):
        return f"{head} of {rest}"
    if head in ("man", "woman", "person"):
        return f"bald {head}" if rest == "bald" else f"{head} with {rest}"
    return f"{head} {rest}" if rest == "facing right" or head == "keycap" else f"{head}, {rest}"


def with_article(name: str, group: str) -> str:
    """ "a crab", but "scissors" and "flag of Norway" as they are."""
    head = re.split(r" (?:with|of|in|on|at|for|without)\b|,", name)[0].split()[-1]
    many = re.search(r"[^su]s$", head) or head in _NO_ARTICLE
    if many or group in ("symbols", "flags"):
        return name
    an = name[0].lower() in "aeiou" and not re.match("uni|ufo", name, re.IGNORECASE)
    return f"{'an' if an else 'a'} {name}"


_NO_ARTICLE = {"bacon", "bread", "butter", "fire", "fog", "ice", "men", "money", "people", "rice"}
_NO_ARTICLE |= {"salt", "sushi", "water", "women", "wood"}


def _keywords(concept: Concept) -> tuple[str, ...]:
    """Keywords that are words and say something the name does not."""
    name = spoken(concept.label).lower()
    return tuple(
        w for w in concept.keywords if re.fullmatch(r"[^\W\d_][^\d_]{2,}", w) and w not in name
    )


def _shuffled(*words: str) -> bytes:
    return hashlib.sha256("|".join(words).encode()).digest()
