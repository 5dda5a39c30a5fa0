"""Weights in the layouts of ADM and EDM, and what their papers say a network of them computes.

The reference here is written from the papers: a few functions of named tensors, one head of
attention at a time, in float64.
"""

import itertools
import math
import pickle
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from marginals.ancestral import Hybrid
from marginals.cli import main
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_model
from marginals.io.unets import PUBLISHED, adm, edm

ADM_PARTS = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
EDM_PARTS = ("norm0", "conv0", "affine", "norm1", "conv1")


@dataclass
class Authors:
    """A small network under the names of one of the two codes: `tensors`, and what it answers."""

    code: str = "adm"  # or edm
    kind: str = "adm"  # or ddpmpp, ncsnpp
    width: int = 32
    mults: tuple[float, ...] = (1, 2, 2)
    blocks: int = 2
    attends: tuple[int, ...] = (1,)
    heads: int = 2
    order: str = "legacy"
    classes: int = 3
    answers: int = 2
    size: int = 8
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)
        self.beside = 3
        self.song = self.kind != "adm"
        self.waves = self.width * (2 if self.kind == "ncsnpp" else 1)
        emb = 4 * self.width
        first, second = {"adm": ("time_embed.0", "time_embed.2")}.get(
            self.code, ("map_layer0", "map_layer1")
        )
        self.layer(first, emb, self.waves)
        self.layer(second, emb, emb)
        self.mapping = first, second
        if self.code == "adm":
            self.tensors["label_emb.weight"] = self.draw(self.classes, emb)
        else:
            told = self.waves if self.song else emb
            self.layer("map_label", told, self.classes, bias=self.song)
            self.layer("map_augment", self.waves, 9, bias=False)
        if self.kind == "ncsnpp":
            self.tensors["map_noise.freqs"] = self.draw(self.waves // 2) * 16
        self.plan = list(self.rows())
        for _, name, inputs, outputs, change, attention in self.plan:
            self.block(name, inputs, outputs, change, attention)
        last = int(self.width * self.mults[0])
        side = f"{self.size}x{self.size}"
        self.exit = {"adm": ("out.0", "out.2")}.get(self.code, ("out_norm", "out_conv"))
        if self.song:
            self.exit = f"dec.{side}_aux_norm", f"dec.{side}_aux_conv"
        self.norm(self.exit[0], last)
        self.layer(self.exit[1], 3 * self.answers, last, 3, 3)
        self.entrance = "input_blocks.0.0" if self.code == "adm" else f"enc.{side}_conv"
        self.layer(self.entrance, self.width if self.song else last, 3, 3, 3)

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.random)

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        self.tensors[f"{name}.weight"] = self.draw(*shape) / math.prod(shape[1:]) ** 0.5
        if bias:
            self.tensors[f"{name}.bias"] = 0.3 * self.draw(shape[0])

    def norm(self, name: str, channels: int) -> None:
        self.tensors[f"{name}.weight"] = 1.0 + 0.3 * self.draw(channels)
        self.tensors[f"{name}.bias"] = 0.3 * self.draw(channels)

    def rows(self):
        """(phase, name, inputs, outputs, change, name of attention) in the order of the walk."""
        ours, w = self.code == "adm", self.width
        now = w if self.song else int(w * self.mults[0])
        found, n, levels = [now], 1, len(self.mults)
        for i, mult in enumerate(self.mults):
            side = f"enc.{self.size >> i}x{self.size >> i}"
            if i:
                yield "down", f"input_blocks.{n}.0" if ours else f"{side}_down", now, now, -1, ""
                found.append(now)
                n += 1
            for j in range(self.blocks):
                name = f"input_blocks.{n}.0" if ours else f"{side}_block{j}"
                see = (f"input_blocks.{n}.1" if ours else name) if i in self.attends else ""
                yield "down", name, now, int(mult * w), 0, see
                now = int(mult * w)
                found.append(now)
                n += 1
        side = f"dec.{self.size >> (levels - 1)}x{self.size >> (levels - 1)}"
        see = "middle_block.1" if ours else f"{side}_in0"
        yield "middle", "middle_block.0" if ours else f"{side}_in0", now, now, 0, see
        yield "middle", "middle_block.2" if ours else f"{side}_in1", now, now, 0, ""
        n = 0
        for i in reversed(range(levels)):
            side = f"dec.{self.size >> i}x{self.size >> i}"
            if i < levels - 1:
                name = f"output_blocks.{n - 1}.{2 if i + 1 in self.attends else 1}"
                yield "middle", name if ours else f"{side}_up", now, now, 1, ""
            for j in range(self.blocks + 1):
                name = f"output_blocks.{n}.0" if ours else f"{side}_block{j}"
                attends = i in self.attends and (j == self.blocks or not self.song)
                see = (f"output_blocks.{n}.1" if ours else name) if attends else ""
                yield "up", name, now + found.pop(), int(self.mults[i] * w), 0, see
                now = int(self.mults[i] * w)
                n += 1

    def block(self, name: str, inputs: int, outputs: int, change: int, attention: str) -> None:
        norm1, conv1, told, norm2, conv2 = ADM_PARTS if self.code == "adm" else EDM_PARTS
        self.norm(f"{name}.{norm1}", inputs)
        self.layer(f"{name}.{conv1}", outputs, inputs, 3, 3)
        self.layer(f"{name}.{told}", outputs * (1 if self.song else 2), 4 * self.width)
        self.norm(f"{name}.{norm2}", outputs)
        self.layer(f"{name}.{conv2}", outputs, outputs, 3, 3)
        if inputs != outputs or (change and self.song):
            skip = "skip_connection" if self.code == "adm" else "skip"
            self.layer(f"{name}.{skip}", outputs, inputs, 1, 1)
        if attention:
            parts = ("norm", "qkv", "proj_out") if self.code == "adm" else ("norm2", "qkv", "proj")
            ones = (1,) if self.code == "adm" else (1, 1)
            self.norm(f"{attention}.{parts[0]}", outputs)
            self.layer(f"{attention}.{parts[1]}", 3 * outputs, outputs, *ones)
            self.layer(f"{attention}.{parts[2]}", outputs, outputs, *ones)
        if change and self.code == "edm":
            self.tensors[f"{name}.conv0.resample_filter"] = self.filter().float()[None, None]
            self.tensors[f"{name}.skip.resample_filter"] = self.filter().float()[None, None]
        if change < 0 and self.kind == "ncsnpp":
            self.layer(f"{name[:-4]}aux_residual", outputs, self.beside, 3, 3)
            self.tensors[f"{name[:-4]}aux_residual.resample_filter"] = self.filter().float()[
                None, None
            ]
            self.beside = outputs

    def filter(self) -> torch.Tensor:
        line = torch.tensor([1.0, 3.0, 3.0, 1.0] if self.kind == "ncsnpp" else [1.0, 1.0])
        return torch.outer(line, line).double() / line.sum() ** 2

    def save(self, path):
        save_file({name: t.contiguous() for name, t in self.tensors.items()}, path)
        return path

    # What a network of these tensors answers.

    def get(self, name: str) -> torch.Tensor | None:
        return self.tensors[name].double() if name in self.tensors else None

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def conv(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight = self.get(f"{name}.weight")
        return F.conv2d(x, weight, self.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def normed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        groups = 32 if self.code == "adm" else min(32, x.shape[1] // 4)
        eps = 1e-6 if self.song else 1e-5
        split = x.reshape(len(x), groups, -1)
        split = split - split.mean(-1, keepdim=True)
        split = split / (split.square().mean(-1, keepdim=True) + eps).sqrt()
        scale, shift = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        return split.reshape(x.shape) * scale[:, None, None] + shift[:, None, None]

    def resized(self, x: torch.Tensor, change: int) -> torch.Tensor:
        """Zeros between (or every second of) the pixels, filtered in a loop over the taps."""
        taps, (b, c, h, w) = self.filter(), x.shape
        k = len(taps)
        pad = (k - 1) // 2
        if change > 0:
            wide = x.new_zeros(b, c, 2 * h + k - 2, 2 * w + k - 2)
            for i in range(k):
                for j in range(k):
                    wide[:, :, i : i + 2 * h : 2, j : j + 2 * w : 2] += 4.0 * taps[i, j] * x
            return wide[:, :, pad : pad + 2 * h, pad : pad + 2 * w]
        wide = F.pad(x, (pad,) * 4)
        parts = [
            taps[i, j] * wide[:, :, i : i + h : 2, j : j + w : 2]
            for i in range(k)
            for j in range(k)
        ]
        return sum(parts)

    def walk(self, x: torch.Tensor, told: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        emb, gain = self.vector(told, classes), 0.5**0.5 if self.song else 1.0
        h = self.conv(self.entrance, x)
        found, beside = [h], x
        for phase, name, _, _, change, attention in self.plan:
            if phase == "up":
                h = torch.cat([h, found.pop()], 1)
            h = self.residual(name, h, emb, change) * gain
            if attention:
                h = self.attended(attention, h) * gain
            if change < 0 and self.kind == "ncsnpp":
                h = beside = (h + self.beside_down(f"{name[:-4]}aux_residual", beside)) * gain
            if phase == "down":
                found.append(h)
        return self.conv(self.exit[1], F.silu(self.normed(self.exit[0], h)))

    def vector(self, told: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        n = self.waves // 2
        if self.kind == "ncsnpp":
            frequencies = 2 * math.pi * self.get("map_noise.freqs")
        else:
            frequencies = 1e-4 ** (torch.arange(n).double() / (n - self.song))
        angles = told[:, None] * frequencies
        waves = [angles.sin(), angles.cos()] if self.song else [angles.cos(), angles.sin()]
        h, (first, second) = torch.cat(waves, 1), self.mapping
        one_hot = F.one_hot(classes, self.classes).double()
        if self.song:
            h = h + self.linear("map_label", one_hot * self.classes**0.5)
            return F.silu(self.linear(second, F.silu(self.linear(first, h))))
        table = self.get("label_emb.weight")
        label = table[classes] if table is not None else self.linear("map_label", one_hot)
        return F.silu(self.linear(second, F.silu(self.linear(first, h))) + label)

    def residual(self, name: str, x: torch.Tensor, emb: torch.Tensor, change: int):
        norm1, conv1, told, norm2, conv2 = (
            f"{name}.{part}" for part in (ADM_PARTS if self.code == "adm" else EDM_PARTS)
        )
        h = F.silu(self.normed(norm1, x))
        if change:
            h, x = self.resized(h, change), self.resized(x, change)
        h, told = self.conv(conv1, h), self.linear(told, emb)[:, :, None, None]
        if self.song:
            h = self.normed(norm2, h + told)
        else:
            scale, shift = told.chunk(2, 1)
            h = self.normed(norm2, h) * (1 + scale) + shift
        skip = f"{name}.{'skip_connection' if self.code == 'adm' else 'skip'}"
        own = f"{skip}.weight" in self.tensors
        return (self.conv(skip, x) if own else x) + self.conv(conv2, F.silu(h))

    def attended(self, name: str, x: torch.Tensor) -> torch.Tensor:
        parts = ("norm", "qkv", "proj_out") if self.code == "adm" else ("norm2", "qkv", "proj")
        norm, qkv, proj = (f"{name}.{part}" for part in parts)
        b, c = x.shape[:2]
        heads = 1 if self.song else self.heads
        n = c // heads
        weight = self.get(f"{qkv}.weight").reshape(3 * c, c)
        rows = F.conv1d(self.normed(norm, x).reshape(b, c, -1), weight[..., None],
                        self.get(f"{qkv}.bias"))  # fmt: skip
        out = []
        for head in range(heads):
            channel = torch.arange(n)
            q, k, v = (
                rows[:, {
                    "legacy": head * 3 * n + which * n + channel,
                    "new": which * c + head * n + channel,
                    "edm": head * 3 * n + channel * 3 + which,
                }[self.order if self.code == "adm" else "edm"]]
                for which in range(3)
            )  # fmt: skip
            seen = torch.softmax(q.transpose(1, 2) @ k / n**0.5, -1)
            out.append(v @ seen.transpose(1, 2))
        proj_weight = self.get(f"{proj}.weight").reshape(c, c, 1)
        out = F.conv1d(torch.cat(out, 1), proj_weight, self.get(f"{proj}.bias"))
        return x + out.reshape(x.shape)

    def beside_down(self, name: str, picture: torch.Tensor) -> torch.Tensor:
        """3x3 convolution of the picture with zeros all around it, then filter and halve."""
        wide = F.conv2d(F.pad(picture, (2, 2, 2, 2)), self.get(f"{name}.weight"))
        small = F.conv2d(
            wide, self.filter().expand(wide.shape[1], 1, 4, 4), stride=2, groups=wide.shape[1]
        )
        return small + self.get(f"{name}.bias")[:, None, None]


def pictures(n: int = 3, size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, 3, size, size, generator=generator, dtype=torch.float64)


LABELS = torch.tensor([0, 2, 1])


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({}, {"heads": 2}),
        ({"order": "new", "attends": (0, 2)}, {"heads": 2}),
        ({"mults": (1, 1, 2), "blocks": 1, "attends": (2,)}, {"head": 32}),
        ({"width": 64, "mults": (0.5, 1), "blocks": 1, "answers": 1}, {"heads": 2}),
    ],
)
def test_an_adm_answers_what_its_paper_computes(tmp_path, options, say):
    theirs = Authors(**options)
    order, chain = theirs.order, "cosine" if "attends" in options else "linear"
    file = theirs.save(tmp_path / "adm.safetensors")
    model = adm(file, size=8, order=order, chain=chain, **say).double().eval()
    x = pictures()
    for step in (0, 400, 999):
        with torch.no_grad():
            expected = theirs.walk(x, torch.full((3,), float(step)).double(), LABELS)
            estimate = model.net(x, model.schedule.lams[step], LABELS)
        assert torch.allclose(estimate.eps, expected[:, :3], atol=1e-9)
        if theirs.answers == 2:  # −1: the small variance of a step, 1: the large one
            assert torch.allclose(estimate.mix, 0.5 + 0.5 * expected[:, 3:], atol=1e-9)
        else:
            assert estimate.mix is None
    assert isinstance(model.objective, Hybrid) == (theirs.answers == 2)
    assert torch.isfinite(model.losses(x.clamp(-1, 1), LABELS)[0]).all()


def test_the_two_chains_are_the_authors(tmp_path):
    """ᾱ of 1000 steps: β linear from 10⁻⁴ to 0.02, and the cosine with β at most 0.999."""
    file = Authors().save(tmp_path / "adm.safetensors")
    betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    f = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    cosine = [min(1 - b / a, 0.999) for a, b in itertools.pairwise(f)]
    for chain, beta in (("linear", betas), ("cosine", cosine)):
        model = adm(file, size=8, heads=2, order="legacy", chain=chain)
        for step in (1, 500, 1000):
            bar = math.prod(1 - b for b in beta[:step])
            assert model.schedule.lams[step - 1] == pytest.approx(math.log(bar / (1 - bar)))


@pytest.mark.parametrize("kind", ["adm", "ddpmpp", "ncsnpp"])
def test_an_edm_is_the_denoiser_of_its_paper(tmp_path, kind):
    """D(x; σ) = c_skip·x + c_out·F(c_in·x; ln(σ)/4), Karras et al. 2022, Table 1, σ_data = 0.5."""
    options = {
        "adm": {"width": 64, "mults": (1, 2), "blocks": 1},
        "ncsnpp": {"mults": (2, 1, 2), "blocks": 1},  # the entrance is narrower than level 0
    }
    theirs = Authors("edm", kind, answers=1, **options.get(kind, {}))
    model = edm(theirs.save(tmp_path / "edm.safetensors")).double().eval()
    assert model.net.backbone.config["kind"] == kind
    for sigma in (1e-3, 0.3, 5.0, 200.0):
        x = pictures() * math.hypot(sigma, 0.5)
        told = torch.full((3,), math.log(sigma) / 4).double()
        with torch.no_grad():
            network = theirs.walk(x / math.hypot(sigma, 0.5), told, LABELS)
            clean = model.net(x, -2.0 * math.log(sigma), LABELS).x0
        expected = x * 0.25 / (sigma**2 + 0.25)
        expected += sigma * 0.5 / math.hypot(sigma, 0.5) * network
        assert torch.allclose(clean, expected, atol=1e-6 if theirs.song else 1e-9)


def test_an_edm_may_be_the_state_of_the_whole_denoiser(tmp_path):
    """Their object holds the network as `model`; the names then begin with that."""
    theirs = Authors("edm", "ddpmpp", answers=1)
    plain = edm(theirs.save(tmp_path / "plain.safetensors"))
    theirs.tensors = {f"model.{name}": t for name, t in theirs.tensors.items()}
    whole = edm(theirs.save(tmp_path / "whole.safetensors"))
    assert all(map(torch.equal, plain.state_dict().values(), whole.state_dict().values()))
    assert whole.data.std == 0.5 and whole.data.classes == ("0", "1", "2")


def test_the_published_sizes_are_known():
    """Every published size names all that a file does not say."""
    for (_, mults, _), known in PUBLISHED.items():
        assert {"size", "order", "chain"} < known.keys() and {"head", "heads"} & known.keys()
        assert known["size"] == {4: 64, 5: 128, 6: 256, 7: 512}[len(mults)]


def test_the_commands_write_models_that_draw(tmp_path, capsys):
    one, two = Authors(), Authors("edm", "ncsnpp", answers=1)
    one.save(tmp_path / "a.safetensors")
    two.save(tmp_path / "e.safetensors")
    words = ["--size", "8", "--heads", "2", "--order", "legacy", "--chain", "cosine"]
    for name, more in (("a", ["--layout", "adm", *words]), ("e", ["--layout", "edm"])):
        assert main(["import", str(tmp_path / f"{name}.safetensors"), *more]) == 0
        model = load_model(tmp_path / f"{name}-marginals.safetensors")
        assert torch.isfinite(model.sample(2, steps=2, cond=1).x).all()
        with pytest.raises(MarginalsError, match="with a class for every picture"):
            model.sample(1, steps=1)
        with pytest.raises(MarginalsError, match="with a class for every picture"):
            model.sample(1, steps=1, cond=1, guidance=2.0)
    said = ["import", str(tmp_path / "e.safetensors"), "--layout", "edm", "--order", "new"]
    assert main([*said, "--out", str(tmp_path / "o.safetensors")]) == 2
    assert "--order says nothing about edm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "change", "says"),
    [
        ("adm", lambda t: t.pop("middle_block.2.in_layers.2.bias"), "lacks 'middle_block.2.in_lay"),
        ("adm", lambda t: t.pop("time_embed.0.weight"), "lacks 'time_embed.0.weight'"),
        ("adm", lambda t: t.update({"extra.weight": torch.zeros(2)}), "also holds 'extra.weight'"),
        ("adm", lambda t: t.update({"out.2.weight": torch.zeros(6, 32, 1, 1)}), "has the shape"),
        (
            "adm",
            lambda t: t.update({"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}),
            "enlarg",
        ),
        ("edm", lambda t: t.pop("dec.2x2_in1.affine.weight"), "lacks 'dec.2x2_in1.affine.weight'"),
        ("edm", lambda t: t.update({"u": torch.zeros(3)}), "preconditioning of iDDPM"),
        ("edm", lambda t: t["enc.4x4_down.skip.resample_filter"].mul_(0.5), "another filter"),
        ("edm", lambda t: t.update({"dec.4x4_aux_up.weight": torch.zeros(1)}), "also holds"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, code, change, says):
    theirs = Authors() if code == "adm" else Authors("edm", "ddpmpp", answers=1)
    change(theirs.tensors)
    file = theirs.save(tmp_path / "other.safetensors")
    with pytest.raises(MarginalsError, match=says) as caught:
        edm(file) if code == "edm" else adm(file, size=8, heads=2, order="new", chain="linear")
    assert "\n" not in str(caught.value)


def test_the_files_of_each_other_are_refused(tmp_path):
    one = Authors().save(tmp_path / "a.safetensors")
    two = Authors("edm", answers=1, width=64).save(tmp_path / "e.safetensors")
    with pytest.raises(MarginalsError, match="published with EDM"):
        edm(one)
    with pytest.raises(MarginalsError, match="published with ADM"):
        adm(two)


def test_what_a_file_does_not_say_is_asked_for(tmp_path):
    file = Authors().save(tmp_path / "adm.safetensors")
    with pytest.raises(MarginalsError, match="say --size, --order, --chain, --heads"):
        adm(file)
    with pytest.raises(MarginalsError, match="say --chain"):
        adm(file, size=8, head=16, order="new")


@pytest.mark.parametrize("read", [adm, edm])
def test_a_pickle_is_refused_with_what_to_do(tmp_path, read):
    (tmp_path / "network.pkl").write_bytes(pickle.dumps({"ema": 1}))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "network.pt")
    for name in ("network.pkl", "network.pt"):
        with pytest.raises(
            MarginalsError, match=r"pickle.*any code.*safetensors\.torch\.save_file"
        ):
            read(tmp_path / name)
    with pytest.raises(MarginalsError, match="there is no file"):
        read(tmp_path / "nothing.safetensors")
