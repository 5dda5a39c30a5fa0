"""The small parts of the trainer: the average, the feed, the rate, the loss by level, the log."""

import copy
import json

import pytest
import torch
from PIL import Image
from torch import nn

from marginals.data import Augment, Pictures
from marginals.data.folder import load_folder
from marginals.errors import MarginalsError
from marginals.train import records
from marginals.train.build import build_model, data_stats, look_at
from marginals.train.config import TrainConfig
from marginals.train.ema import Ema
from marginals.train.feed import Feed, step_seed
from marginals.train.levels import EDGES, LevelMeter, bin_name
from marginals.train.loop import learning_rate
from marginals.train.setup import fingerprint
from marginals.train.stop import Diverged

CLASSES = ("even", "odd")


def pictures(count: int = 10) -> Pictures:
    """Picture i is filled with i, and one corner marks its right side."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).clone()
    images[..., 0, -1] = 200
    return Pictures(images, torch.arange(count) % 2, CLASSES, "numbers")


def feed(**changes) -> Feed:
    options = {"batch": 4, "seed": 3, "augment": Augment(), "conditional": True}
    options |= {"label_dropout": 0.0, "device": torch.device("cpu")}
    return Feed(pictures(), **(options | changes))


# ---------------------------------------------------------------------------------- average


def test_half_life_is_the_time_in_which_half_of_the_old_average_is_left():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = Ema(model, half_life=1000, ramp=1e9)
    nn.init.zeros_(model.weight)
    for seen in range(50, 1050, 50):
        ema.update(model, 50, seen)
    assert ema.model.weight.item() == pytest.approx(0.5, abs=1e-6)


def test_the_ramp_forgets_the_first_weights():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = Ema(model, half_life=1e6, ramp=0.05)
    nn.init.zeros_(model.weight)
    for seen in range(10, 1010, 10):
        ema.update(model, 10, seen)
    assert ema.model.weight.item() < 1e-3
    assert ema.keep(10, 10**9) == pytest.approx(0.5 ** (10 / 1e6))


def test_without_a_half_life_the_average_is_the_weights():
    model = nn.Linear(2, 2)
    ema = Ema(model, half_life=0)
    nn.init.normal_(model.weight)
    ema.update(model, 8, 8)
    assert torch.equal(ema.model.weight, model.weight)


def test_evaluating_the_average_cannot_write_into_the_weights():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    ema = Ema(model, half_life=100)
    before = copy.deepcopy(model.state_dict())
    ema.model.train()(torch.randn(5, 2))
    with torch.no_grad():
        for parameter in ema.model.parameters():
            parameter.zero_()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_buffers_follow():
    model = nn.BatchNorm1d(3)
    ema = Ema(model, half_life=100)
    model(torch.randn(50, 3) + 7)
    ema.update(model, 50, 50)
    assert torch.equal(ema.model.running_mean, model.running_mean)
    assert torch.equal(ema.model.num_batches_tracked, model.num_batches_tracked)


# ------------------------------------------------------------------------------------- feed


def test_an_epoch_shows_every_picture_once():
    seen = [int(i) for at in (0, 4) for i in feed()(at).x[:, 0, 3, 3]]
    seen += [int(i) for i in feed()(8).x[:2, 0, 3, 3]]
    assert sorted(seen) == list(range(10))


def test_a_batch_depends_on_the_images_seen_and_on_nothing_else():
    one, other = feed(label_dropout=0.5), feed(label_dropout=0.5)
    for at in (0, 4, 8):
        one(at)
    torch.rand(17)
    a, b = one(12), other(12)
    assert torch.equal(a.x, b.x) and torch.equal(a.cond, b.cond)
    assert torch.equal(torch.rand(3, generator=a.generator), torch.rand(3, generator=b.generator))


def test_dropout_layers_are_seeded_too():
    feed()(4)
    first = torch.rand(3)
    torch.rand(5)
    feed()(4)
    assert torch.equal(torch.rand(3), first)


def test_noise_differs_between_steps_ranks_and_seeds():
    keys = [(s, n, r) for s in (0, 1) for n in (0, 1, 10, 11) for r in (0, 1)]
    assert len({step_seed(*key) for key in keys}) == len(keys)


def test_ranks_share_the_batch_out():
    whole = feed()(4)
    parts = [feed(rank=r, world=2)(4) for r in range(2)]
    both = torch.cat([p.x for p in parts])
    assert sorted(both[:, 0, 3, 3].tolist()) == sorted(whole.x[:, 0, 3, 3].tolist())
    assert all(len(p.x) == 2 for p in parts)


def test_labels_are_hidden_as_often_as_asked():
    many = feed(batch=4000, label_dropout=0.25)(0)
    assert many.cond is not None
    assert (many.cond == -1).float().mean().item() == pytest.approx(0.25, abs=0.03)
    kept = many.cond >= 0
    assert torch.equal(many.cond[kept], many.x[kept][:, 0, 3, 3].long() % 2)
    assert feed(conditional=False)(0).cond is None


def test_half_of_the_pictures_are_mirrored_when_asked():
    x = feed(batch=4000, augment=Augment(flip=True))(0).x
    assert (x[:, 0, 0, 0] == 200).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (feed(batch=40)(0).x[:, 0, 0, -1] == 200).all()


# ------------------------------------------------------------------------------------- rate


def test_the_rate_rises_stays_and_falls_to_nothing():
    config = TrainConfig(images=1000, batch=10, lr=0.1, warmup=100, decay=0.4)
    rate = [learning_rate(config, n) for n in range(0, 1000, 10)]
    assert rate[0] == pytest.approx(0.01) and rate[9] == pytest.approx(0.1)
    assert rate[10:60] == pytest.approx([0.1] * 50)
    assert rate[80] == pytest.approx(0.05)
    assert learning_rate(config, 1000) == 0.0
    assert all(r > 0 for r in rate)


# ------------------------------------------------------------------------------ loss by level


def test_losses_are_sorted_by_level():
    meter = LevelMeter()
    lam = torch.tensor([-20.0, -1.0, -1.5, 1.0, 30.0])
    meter.add(0, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), lam, torch.tensor(0.5))
    means = meter.take()
    assert means["levels"] == {"..-9": 1.0, "-3..0": 3.0, "0..3": 8.0, "9..": 16.0}
    assert means["loss"] == pytest.approx(31 / 5) and means["gradient"] == 0.5
    assert meter.take()["levels"] == {}
    assert len({bin_name(i) for i in range(len(EDGES) + 1)}) == len(EDGES) + 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_its_level(bad):
    meter = LevelMeter()
    lam = torch.tensor([1.0, 2.5, 3.0])
    meter.add(640, torch.tensor([1.0, bad, 1.0]), lam, torch.tensor(1.0))
    with pytest.raises(Diverged, match=r"λ = 2\.50, after 640 images"):
        meter.check()


def test_a_gradient_that_is_no_number_is_seen():
    meter = LevelMeter()
    meter.add(64, torch.tensor([1.0, 9.0]), torch.tensor([0.0, 4.0]), torch.tensor(float("inf")))
    with pytest.raises(Diverged, match=r"gradient is not a number.*λ = 4\.00"):
        meter.check()


# -------------------------------------------------------------------------------------- log


def test_a_torn_line_and_lines_after_the_checkpoint_are_forgotten(tmp_path):
    path = tmp_path / "log.jsonl"
    for images in (10, 20, 30):
        records.append(path, {"images": images})
    with path.open("a") as file:
        file.write('{"images": 4')
    assert [e["images"] for e in records.read(path)] == [10, 20, 30]
    records.truncate(path, 20)
    assert [json.loads(line)["images"] for line in path.read_text().splitlines()] == [10, 20]


def test_lines_that_cannot_be_read_hide_no_others(tmp_path):
    path = tmp_path / "log.jsonl"
    bad = [b"{", b"\xff\xfe", b"", b"7", b'{"loss": 1}', b'{"images": "x"}', '"\u2028"'.encode()]
    lines = [b'{"images": %d}' % i for i in range(len(bad))]
    path.write_bytes(b"\n".join(line for pair in zip(lines, bad) for line in pair))
    assert [e["images"] for e in records.read(path)] == list(range(len(bad)))
    records.truncate(path, 3)
    assert path.read_text() == "".join(f'{{"images": {i}}}\n' for i in range(4))


# -------------------------------------------------------------------------------- the data


def test_a_look_at_the_data_finds_what_is_wrong():
    dark = Pictures(torch.randint(0, 2, (20, 1, 4, 4), dtype=torch.uint8), name="dark")
    (sentence,) = look_at(dark, 8, True)
    assert "divided by 255" in sentence
    flat = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8)
    flat[:3] = 7
    assert "3 of 20 pictures" in look_at(Pictures(flat), 8, True)[0]
    assert "fewer than a batch" in look_at(Pictures(flat[3:]), 64, True)[0]
    assert look_at(Pictures(flat[3:]), 8, True) == []
    single = Pictures(flat[3:], torch.zeros(17, dtype=torch.long), ("cat",))
    assert "only one class (cat)" in look_at(single, 8, True)[0]
    assert look_at(single, 8, False) == []


def test_one_changed_byte_or_label_anywhere_changes_the_fingerprint():
    images, labels = torch.zeros(1000, 1, 4, 4, dtype=torch.uint8), torch.arange(1000) % 2
    before = fingerprint(Pictures(images, labels, CLASSES))
    assert before == fingerprint(Pictures(images.clone(), labels.clone(), CLASSES))
    assert before["count"] == 1000
    for i in (0, 1, 501, 999):
        changed = images.clone()
        changed[i, 0, 2, 3] = 1
        relabelled = labels.clone()
        relabelled[i] = 1 - relabelled[i]
        assert fingerprint(Pictures(changed, labels, CLASSES)) != before
        assert fingerprint(Pictures(images, relabelled, CLASSES)) != before
    assert fingerprint(Pictures(images.view(1000, 1, 2, 8), labels, CLASSES)) != before


def test_any_changed_file_of_a_streamed_folder_changes_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(200):
        Image.new("L", (8, 8), i).save(folder / f"{i:03d}.png")

    def now() -> dict[str, int]:
        source = load_folder(folder, budget=0, progress=False)[0]
        assert source.report.streamed
        return fingerprint(source)

    before = now()
    assert before == now() and before["count"] == 200
    Image.new("L", (8, 8), 255).save(folder / "102.png")
    assert now() != before


def test_sources_of_other_kinds_have_a_fingerprint_too():
    class Wrapped:
        def __init__(self, inner):
            self.inner = inner

        def __len__(self):
            return len(self.inner)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    other = pictures()
    other.images[7] = 0
    assert fingerprint(Wrapped(pictures())) != fingerprint(Wrapped(other))


def test_nothing_to_learn_is_refused():
    with pytest.raises(MarginalsError, match="no pictures"):
        look_at(Pictures(torch.zeros(0, 1, 4, 4, dtype=torch.uint8)), 8, True)
    with pytest.raises(MarginalsError, match="all pictures of twins are the same"):
        look_at(Pictures(torch.full((9, 1, 4, 4), 5, dtype=torch.uint8), name="twins"), 8, True)


def test_the_statistics_of_the_data():
    half = torch.zeros(8, 1, 4, 4, dtype=torch.uint8)
    half[:4] = 255
    stats = data_stats(Pictures(half, torch.tensor([0, 1] * 4), CLASSES))
    assert stats.mean == pytest.approx(0, abs=1e-6) and stats.std == pytest.approx(1, abs=0.01)
    assert stats.shape == (1, 4, 4) and stats.classes == CLASSES
    assert data_stats(Pictures(half, torch.tensor([0, 1] * 4), CLASSES), False).classes == ()


def test_first_weights_depend_on_the_seed_alone():
    stats = data_stats(pictures())
    config = TrainConfig(images=1, network="mlp", network_options={"width": 8}, seed=5)
    torch.rand(3)
    a, b = (build_model(config, stats).state_dict() for _ in range(2))
    c = build_model(config.with_changes(seed=6), stats).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"network": "enormous"}, "no network preset 'enormous'"),
        ({"network_options": {"colour": 3}}, "network_options do not fit a UNet"),
        ({"network_options": {"mults": [1, 2, 2, 2]}}, "size divisible by 8"),
    ],
)
def test_networks_that_do_not_exist(changes, says):
    config = TrainConfig(images=1, **({"network": "tiny"} | changes))
    with pytest.raises(MarginalsError, match=says):
        build_model(config, data_stats(pictures()))
