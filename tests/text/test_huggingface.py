"""Encoders through transformers: tiny networks with random weights, saved to disk as published ones
are. What they say is compared with the library asked directly, one text at a time."""

import json
import socket

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.text import encode_table, encoder, huggingface

TEXTS = ["a red crab", "", "crab", "a crab a crab a red crab", "  "]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip(library, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    words = ["a</w>", "red</w>", "crab</w>", *"abcder", "b</w>", "d</w>"]
    merges = ["r e", "re d</w>", "c r", "cr a", "cra b</w>"]
    words += ["re", "cr", "cra", "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = library.CLIPTokenizer(
        vocab=vocab, merges=[tuple(m.split()) for m in merges], model_max_length=12
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = sizes | {"num_hidden_layers": 2, "vocab_size": len(vocab)}
    text |= {"max_position_embeddings": 12, "eos_token_id": vocab["<|endoftext|>"]}
    vision = sizes | {"num_hidden_layers": 1, "image_size": 8, "patch_size": 4}
    net = library.CLIPModel(library.CLIPConfig(text_config=text, vision_config=vision))
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(library, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
    vocab += [("▁a", -1.0), ("▁red", -2.0), ("▁crab", -2.0), ("▁", -3.0)]
    library.T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(folder)
    torch.manual_seed(0)
    net = library.T5ForConditionalGeneration(
        library.T5Config(vocab_size=16, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )
    net.save_pretrained(folder)
    return folder


def reference(library, folder, text, kind):
    net = getattr(library, kind).from_pretrained(folder).eval()
    ids = library.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return net(input_ids=ids).last_hidden_state[0]


@pytest.mark.parametrize("kind", ["CLIPTextModel", "T5EncoderModel"])
def test_states_are_the_last_layer_and_zeros(library, request, capsys, kind):
    folder = request.getfixturevalue("clip" if "CLIP" in kind else "t5")
    capsys.readouterr()
    encode = encoder(f"hf:{folder}")
    assert capsys.readouterr() == ("", "")  # transformers reports of weights that are not used
    states = encode(TEXTS)
    assert encode.width == 16 and states.shape[::2] == (5, 16) and states.dtype == torch.float32
    for text, found in zip(TEXTS, states):
        length = 0
        if text.strip():
            expected = reference(library, folder, text, kind)
            length = len(expected)
            torch.testing.assert_close(found[:length], expected, rtol=0, atol=1e-5)
        assert not found[length:].any()
    assert not torch.equal(states[0, 1:2], states[2, 1:2])  # the words are told apart
    assert not any(p.requires_grad for p in encode.net.parameters()) and not encode.net.training


def test_a_long_text_is_cut_where_the_model_ends(clip):
    assert encoder(f"hf:{clip}")(["crab " * 50]).shape[1] == 12


def test_its_table_depends_on_its_weights(library, clip, tmp_path):
    encode = encoder(f"hf:{clip}")
    table = encode_table(TEXTS, encode, tmp_path / "cache", progress=False)
    states = table(torch.arange(len(TEXTS)))
    torch.testing.assert_close(states, encode(TEXTS), rtol=1e-3, atol=1e-4)
    same, other = encoder(f"hf:{clip}"), encoder(f"hf:{clip}")
    other.net.get_input_embeddings().weight[0, 0] += 1e-3
    assert encode.identity == same.identity != other.identity


def test_nothing_is_downloaded(library, tmp_path, monkeypatch):
    for place in ("openai/no-such-model-here", str(tmp_path / "missing"), str(tmp_path)):
        with pytest.raises(MarginalsError, match="nothing is downloaded"):
            encoder(f"hf:{place}")


def test_weights_that_lack_a_part_are_refused(library, clip, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(
        name for name in weights if name.endswith("text_model.encoder.layers.0.mlp.fc1.bias")
    )
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MarginalsError, match=r"lack .*fc1\.bias"):
        encoder(f"hf:{tmp_path}")


def test_models_of_another_kind_are_refused(library, clip, tmp_path):
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(MarginalsError, match="choose one of the kinds clip"):
        encoder(f"hf:{tmp_path}")


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    with pytest.raises(MarginalsError, match="pip install transformers"):
        encoder("hf:openai/clip-vit-base-patch32")
