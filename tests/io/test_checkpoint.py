"""A model file says everything or is refused with one clear sentence; nothing is ever guessed."""

import dataclasses
import json
import math
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from marginals.errors import MarginalsError
from marginals.io import registry
from marginals.io.checkpoint import load_model, read_header, rewrite_header, save_model
from marginals.io.header import decode, encode, kinds
from marginals.io.tensors import read_contents
from marginals.learned import LearnedSchedule
from marginals.models import DataStats
from marginals.nn import MLP, UNet
from marginals.objective import Sigmoid
from marginals.scaling import FLOW, VE, VP
from marginals.schedule import Cosine, LinearBeta, Tabulated, Truncated

MODELS = ("ddpm", "iddpm", "vdm", "v", "edm", "flow", "score", "score_ve", "score_sub_vp")
STATS = DataStats((1, 4, 4), 0.1, 0.45, ("cat", "dog"), "pets")


def model(name: str = "vdm", body: nn.Module | None = None):
    """A model whose output layer is not zero, so that every weight matters."""
    torch.manual_seed(0)
    outputs = 2 if name == "iddpm" else 1
    body = body or UNet(1, 4, width=8, mults=(1, 2), blocks=1, num_classes=2, outputs=outputs)
    made = registry.factory(name)(body, data=STATS)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return made.eval()


def losses(made):
    torch.manual_seed(1)
    x, cond = torch.rand(6, 1, 4, 4) * 2 - 1, torch.tensor([0, 1, -1, 0, 1, -1])
    with torch.no_grad():
        return torch.stack(made.losses(x, cond, generator=torch.Generator().manual_seed(2)))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, model(), {"images_seen": 640})
    return path


def change_header(path, edit) -> None:
    """Write the file anew with another JSON header, behind the back of the checks."""
    words = read_header(path)
    edit(words)
    save_file(load_file(path), path, metadata={"marginals": json.dumps(words)})


# ------------------------------------------------------------------------------------ header


@pytest.mark.parametrize("name", MODELS)
def test_every_part_of_every_model_survives_json(name):
    made = model(name)
    parts = (made.net.prediction, made.scaling, made.net.input_scaling, made.net.label)
    for part in (*parts, made.schedule, made.objective, made.data):
        text = json.dumps(encode(part), allow_nan=False)
        back = decode(json.loads(text))
        assert type(back) is type(part) and encode(back) == encode(part)
        assert back == part or "LearnedSchedule" in text  # which has weights of its own


@given(st.floats(allow_nan=False), st.floats(0.01, 100), st.floats(0.01, 100))
def test_numbers_come_back_to_the_last_bit(bias, low, rise):
    for thing in (Sigmoid(bias), LinearBeta(low, low + rise)):
        assert decode(json.loads(json.dumps(encode(thing), allow_nan=False))) == thing


@pytest.mark.parametrize("special", [math.inf, -math.inf])
def test_infinity_is_legal_json(special):
    text = json.dumps(encode((special, 1.0)), allow_nan=False)
    assert decode(json.loads(text)) == (special, 1.0)


def test_nested_kinds():
    thing = Truncated(Tabulated((3.0, 1.0, -2.0)), 2.5, -1.5)
    words = encode(thing)
    assert words["kind"] == "Truncated" and words["base"]["kind"] == "Tabulated"
    assert decode(words) == thing


def test_every_concrete_dataclass_of_the_theory_is_known():
    assert {"Cosine", "UnitVariance", "VPrediction", "MinSnr", "NormalLevels"} <= kinds().keys()
    others = {name for name, kind in kinds().items() if not dataclasses.is_dataclass(kind)}
    assert others == {"LearnedSchedule"}


def test_a_learned_schedule_is_one_object_with_the_weights_it_had(tmp_path):
    made = model("vdm")
    save_model(tmp_path / "model.safetensors", made)
    back = load_model(tmp_path)
    assert back.objective.levels.schedule is back.schedule
    assert back.schedule.lam(0.3) == made.schedule.lam(0.3) != LearnedSchedule().lam(0.3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"kind": "Warp"}, "'Warp'.*newer version"),
        ({"kind": "Cosine", "offset": 0.008}, "Cosine the field 'offset'.*newer version"),
        ({"kind": "LogLinear", "lam_max": 1.0}, "LogLinear lacks its field 'lam_min'"),
        ({"kind": "LogLinear", "lam_max": 0.0, "lam_min": 1.0}, "must fall"),
        ({"kind": "LogLinear", "lam_max": "a", "lam_min": 1.0}, "damaged: LogLinear"),
        ({"lam": 3}, "no kind"),
        ({"float": "many"}, "not a special number"),
    ],
)
def test_a_header_that_is_not_understood_is_refused(words, says):
    with pytest.raises(MarginalsError, match=says):
        decode(words)


def test_what_cannot_come_back_is_not_written():
    with pytest.raises(MarginalsError, match="cannot describe a Generator"):
        encode(torch.Generator())


# -------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_is_the_saved_one(tmp_path, name):
    made = model(name)
    save_model(tmp_path / "model.safetensors", made)
    for path in (tmp_path / "model.safetensors", tmp_path):
        back = load_model(path)
        assert torch.equal(losses(back), losses(made))
        cond = torch.tensor([0, 1])
        drawn = (m.sample(2, steps=3, cond=cond).x for m in (back, made))
        assert torch.equal(*drawn)
        assert (back.scaling, back.data) == (made.scaling, made.data)
        assert back.schedule.lam(0.3) == made.schedule.lam(0.3)
        assert back.ends == made.ends and not back.training


def test_reading_a_header_imports_no_torch(saved):
    code = (
        "import sys; from marginals.io.checkpoint import read_header; "
        f"print(read_header({str(saved)!r})['extra']['images_seen'], 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["640", "False"]


def test_a_conversion_changes_words_only(saved, tmp_path):
    out = tmp_path / "flow.safetensors"

    def to_flow(words):
        words["model"]["scaling"] = encode(FLOW)
        return words

    rewrite_header(saved, out, to_flow)
    tensors = [_tensor_bytes(path) for path in (saved, out)]
    assert tensors[0] == tensors[1]
    back, old = load_model(out), load_model(saved)
    assert back.scaling == FLOW and old.scaling == VP
    a, b = back.sample(2, steps=4).x, old.convert(FLOW).sample(2, steps=4).x
    assert torch.equal(a, b)


def _tensor_bytes(path):
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_the_file_is_the_same_every_time(tmp_path):
    for name in "ab":
        save_model(tmp_path / name, model(), {"one": 1, "two": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Own(nn.Module):
    """A network of someone's own, which no file can hold."""

    def __init__(self):
        super().__init__()
        self.body = MLP(16, width=8, depth=1)

    def forward(self, x, t, cond=None):
        return self.body(x, t)


def test_a_network_of_your_own_is_asked_for(tmp_path):
    path, made = tmp_path / "model.safetensors", model(body=Own())
    save_model(path, made)
    with pytest.raises(MarginalsError, match=r"Own.*backbone=network"):
        load_model(path)
    assert torch.equal(losses(load_model(path, backbone=Own())), losses(made))


def test_a_network_that_is_not_needed_is_refused(saved):
    with pytest.raises(MarginalsError, match="leave backbone out"):
        load_model(saved, backbone=Own())


# ------------------------------------------------------------------------------------ bad files


@pytest.mark.parametrize("part", [0.0, 1e-4, 0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_recognised_wherever_it_ends(saved, part):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(part * len(data))])
    with pytest.raises(MarginalsError, match=r"truncated|empty|not a safetensors"):
        load_model(saved)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_headers_never_end_in_a_traceback(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    if not path.with_suffix(".good").exists():
        save_model(path.with_suffix(".good"), model(body=MLP(16, width=4, depth=1)))
    content = bytearray(path.with_suffix(".good").read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        load_model(path)
    except MarginalsError as error:
        assert "\n" not in str(error)


def test_a_pickle_is_refused_and_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    raw, zipped = tmp_path / "model.safetensors", tmp_path / "model.ckpt"
    raw.write_bytes(pickle.dumps(Trap()))
    torch.save({"weights": torch.zeros(2), "trap": Trap()}, zipped)
    (tmp_path / "sprung").unlink(missing_ok=True)
    for path in (raw, zipped):
        with pytest.raises(MarginalsError, match=r"pickle.*refused.*any code"):
            load_model(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("down_blocks.0.resnets.0.conv1.weight", "a network of diffusers with 1 tensors"),
        ("model.diffusion_model.out.2.bias", "a Stable Diffusion checkpoint"),
        ("lora_unet_down.alpha", "a LoRA"),
    ],
)
def test_a_foreign_file_is_told_apart(tmp_path, name, says):
    save_file({name: torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    with pytest.raises(MarginalsError, match=f"not one of marginals.*{says}.*does not guess"):
        load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda w: w.update(format_version=7, package_version="9.1"), "newer version, marginals 9"),
        (lambda w: w.update(colour="red"), "unknown header entry 'colour'"),
        (lambda w: w["model"].update(warp=1), "unknown entry 'warp'"),
        (lambda w: w["model"].pop("schedule"), "lacks 'schedule'"),
        (lambda w: w["model"]["backbone"].update(kind="hologram"), "no network 'hologram'"),
        (lambda w: w["model"]["backbone"]["config"].update(rank=3), "settings this version does"),
        (lambda w: w["model"]["backbone"]["config"].update(width=16), "has shape .* instead of"),
        (lambda w: w["model"].update(scaling={"kind": "Quantum"}), "'Quantum'"),
        (lambda w: w.pop("extra"), "lacks 'extra'"),
    ],
)
def test_a_header_of_another_version_is_refused(saved, edit, says):
    change_header(saved, edit)
    with pytest.raises(MarginalsError, match=says):
        load_model(saved)


@pytest.mark.parametrize(
    "path",
    [
        *(("model", part) for part in ("prediction", "scaling", "input_scaling", "label")),
        *(("model", part) for part in ("schedule", "objective", "lam_min", "lam_max", "data")),
        ("model", "backbone"),
        ("model", "backbone", "kind"),
        ("model", "backbone", "config"),
        ("model", "backbone", "config", "width"),
        ("model", "objective", "levels"),
        ("model", "objective", "weighting"),
        *(("model", "data", part) for part in ("shape", "mean", "std", "classes", "name")),
        ("model",),
        ("extra",),
    ],
    ids=".".join,
)
def test_values_of_a_wrong_type_are_refused(saved, path):
    """Valid JSON, known words, but in the wrong places."""
    wrong = [
        7,
        -1,
        "seven",
        [],
        [[]],
        {},
        {"kind": "Cosine"},
        {"kind": "UnitVariance", "data_std": 1.0},
    ]
    wrong += [{"float": "nan"}, {"kind": "UnitVariance", "data_std": "wide"}, None, True]
    good = read_header(saved)

    def of(words):
        for key in path[:-1]:
            words = words[key]
        return words

    old = of(good)[path[-1]]
    for value in wrong:
        change_header(saved, lambda words, value=value: of(words).update({path[-1]: value}))
        try:
            load_model(saved).sample(1, steps=1)  # what is accepted must work
        except MarginalsError as error:
            assert "\n" not in str(error)
        else:
            assert isinstance(value, type(old)) or value is None or path[-1] in _NUMBERS
        rewritten = json.loads(json.dumps(good))
        save_file(load_file(saved), saved, metadata={"marginals": json.dumps(rewritten)})


_NUMBERS = {"lam_min", "lam_max", "mean", "std"}


@pytest.mark.parametrize("damage", [{"__metadata__": 3}, {"a": {"data_offsets": [0, 0]}}])
def test_a_damaged_index_is_recognised(saved, damage):
    data = saved.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8 : 8 + length]) | damage).encode()
    saved.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(MarginalsError, match="is damaged"):
        load_model(saved)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: t.pop("net.backbone.enter.bias"), "enter.bias is missing"),
        (lambda t: t.update(more=torch.zeros(1)), "more is not part"),
        (lambda t: t.update({"net.backbone.enter.bias": torch.zeros(3)}), r"\(3,\) instead of"),
    ],
)
def test_weights_that_do_not_fit_are_refused(saved, edit, says):
    words, tensors = read_header(saved), load_file(saved)
    edit(tensors)
    save_file(tensors, saved, metadata={"marginals": json.dumps(words)})
    with pytest.raises(MarginalsError, match=says):
        load_model(saved)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(MarginalsError, match="there is no file"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(MarginalsError, match=r"holds no model\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "x.safetensors").write_text("hello, this is text")
    with pytest.raises(MarginalsError, match="is not a safetensors file"):
        read_contents(tmp_path / "x.safetensors")


# ------------------------------------------------------------------------------------- registry


def test_names_mean_what_people_expect():
    assert registry.scaling("VE") is VE
    assert registry.solver("dpmpp_2m").name == "dpmpp_2m"
    assert registry.factory("score_ve")(MLP(2)).scaling == VE
    assert registry.factory("flow")(MLP(2)).scaling == FLOW


def test_a_wrong_name_gets_a_hint():
    with pytest.raises(MarginalsError, match="did you mean 'heun'"):
        registry.solver("huen")
    with pytest.raises(MarginalsError, match="choose one of"):
        registry.scaling("imperial")


def test_cosine_is_described_by_its_kind_alone():
    assert encode(Cosine()) == {"kind": "Cosine"}
