"""From a text to word pieces: the uncased tokenizer of BERT (Devlin et al. 2019).

A text is cleaned (control characters go, white space of every kind becomes a space, accents are
dropped, letters become small), cut into words at spaces, at every punctuation mark and around every
Chinese character, and each word is spelled with pieces of a vocabulary, the longest piece first;
pieces inside a word are written ##piece (Wu et al. 2016, §4.1). A word that cannot be spelled is
[UNK]. The result stands between [CLS] and [SEP].

    "A café-owner's crabs" -> [CLS] a cafe - owner ' s crabs [SEP]
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from marginals.errors import MarginalsError

__all__ = ["LONGEST", "WordPiece"]

LONGEST = 128
"""Pieces that are read of a text, [CLS] and [SEP] among them; the rest of a longer one is not."""

_LONGEST_WORD = 100  # letters; a longer word is [UNK]
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

# Blocks of Chinese characters; each character is a word by itself.
_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """Texts to numbers of pieces.

    ``vocabulary`` lists the pieces in the order of their numbers; [PAD], [UNK], [CLS] and [SEP] are
    among them. These names have no power inside a text: "[SEP]" there is three pieces.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.numbers = {piece: number for number, piece in enumerate(vocabulary)}
        if missing := [piece for piece in _SPECIAL if piece not in self.numbers]:
            raise MarginalsError(
                f"this vocabulary has no piece {missing[0]}; use the vocab.txt of an uncased BERT"
            )
        self.padding, self.unknown, self._start, self._end = (self.numbers[p] for p in _SPECIAL)
        self._spelled: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """The numbers of [CLS] pieces... [SEP], at most `LONGEST`; none at all for a text without
        words."""
        pieces = self.pieces(text)
        return [self._start, *pieces[: LONGEST - 2], self._end] if pieces else []

    def pieces(self, text: str) -> list[int]:
        """The numbers of all pieces of a text, however many."""
        return [number for word in words(text) for number in self._pieces(word)]

    def _pieces(self, word: str) -> list[int]:
        if word not in self._spelled:
            self._spelled[word] = self._spell(word)
        return self._spelled[word]

    def _spell(self, word: str) -> list[int]:
        """Always the longest piece that fits."""
        pieces, start = [], 0
        while start < len(word) <= _LONGEST_WORD:
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.numbers:
                    pieces.append(self.numbers[piece])
                    start = end
                    break
            else:
                return [self.unknown]
        return pieces or [self.unknown]


def words(text: str) -> list[str]:
    """The words of a text as BERT sees them: small letters without accents; marks by themselves."""
    plain = unicodedata.normalize("NFD", "".join(map(_cleaned, text)))
    letters = [c for c in plain if unicodedata.category(c) != "Mn"]
    # letter by letter: the small sigma at the end of a Greek word stays the one of its middle
    return "".join(_apart(small) for c in letters for small in c.lower()).split()


@lru_cache(4096)
def _cleaned(c: str) -> str:
    """A character before decomposition: white space is a space, control characters are nothing."""
    if c in "\t\n\r":
        return " "
    if c == "\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs"):
        return ""
    if c.isspace():
        return " "
    return f" {c} " if any(first <= ord(c) <= last for first, last in _CHINESE) else c


@lru_cache(4096)
def _apart(c: str) -> str:
    """Punctuation is a word by itself; in ASCII, every sign is punctuation."""
    sign = c.isascii() and c.isprintable() and not c.isalnum() and c != " "
    return f" {c} " if sign or unicodedata.category(c).startswith("P") else c
