"""The first guess: what it converges to is known, and a run fits it once."""

import pytest
import torch

import marginals.text
from marginals.data.captioned import Captioned
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_model
from marginals.nn import DiT
from marginals.nn.dit import from_patches
from marginals.text.base import TextEncoder
from marginals.train import TrainConfig, resume, train
from marginals.train.captions import Captions
from marginals.train.feed import Feed
from marginals.train.guess import fit_guess, guessing, is_fresh

SIZES = {"patch": 4, "width": 32, "depth": 1, "heads": 2, "guess": 32}
OPTIONS = {
    "network": "dit-demo", "network_options": SIZES, "model": "v", "batch": 16, "threads": 1,
    "sample_every": 0, "text": "letters", "images": 32, "guess_images": 40_000,
}  # fmt: skip


@pytest.fixture(autouse=True)
def encoder(monkeypatch, tmp_path, letters):
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(marginals.text, "encoder", lambda name, device="cpu": letters)


def pictures() -> Captioned:
    """Gray squares: "dark" and "light", by their captions only."""
    values = torch.tensor([40, 210]).repeat(8)
    images = values[:, None, None, None].expand(-1, 1, 8, 8).to(torch.uint8).contiguous()
    images[:, :, ::2] += 9
    return Captioned(images, tuple(("dark",) if v < 100 else ("light", "pale") for v in values))


def quiet(_event) -> None:
    pass


def feed_of(source: Captioned, letters: TextEncoder) -> Feed:
    return Feed(
        source, batch=8, seed=0, augment=lambda x, _: x, conditional=True,
        captions=Captions(source.captions, letters), label_dropout=0.1,
        device=torch.device("cpu"),
    )  # fmt: skip


@torch.no_grad()
def guessed(net: DiT, states: torch.Tensor) -> torch.Tensor:
    guess = net.text.guess
    return from_patches(guess(guess.pooled(states)[0]), net.patch, net.size)[0]


def test_the_guess_of_a_text_is_the_mean_of_its_pictures(letters):
    """Six texts with two pictures each: the mean of the two is the best that can be said, and it
    explains the share of the variance that lies between texts. Texts are noised, so that the guess
    is a little nearer to the mean of all."""
    torch.manual_seed(0)
    texts = ["a", "bb", "c", "d", "ef", "g"]
    images = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8)
    source = Captioned(images, tuple((texts[i // 2],) for i in range(12)))
    net = DiT(1, 8, text_width=27, **SIZES)
    share = fit_guess(net, feed_of(source, letters), 400_000)
    x = images.float() / 127.5 - 1
    means = x.unflatten(0, (6, 2)).mean(1)
    between = float((means - x.mean(0)).square().mean() / x.var(0, correction=0).mean())
    assert share == pytest.approx(between, abs=0.05)
    for text, mean in zip(texts, means, strict=True):
        assert float((guessed(net, letters([text])) - mean).square().mean()) < 0.1 * float(
            mean.square().mean()
        )


def knows(run, letters):
    """The weights of a run's guess, after a look at whether it knows dark from pale."""
    net = load_model(run.path).net.backbone
    assert float(guessed(net, letters(["dark"])).mean()) < -0.5
    assert float(guessed(net, letters(["pale"])).mean()) > 0.5
    return net.text.guess.state_dict()


def test_a_run_fits_its_guess_before_the_first_step_and_once(tmp_path, letters):
    said = []
    listen = {"on_event": lambda e: said.append(e.text), "source": pictures()}
    run = train(TrainConfig(**OPTIONS, out=str(tmp_path / "run")), **listen)
    assert sum("first guess" in text for text in said) == 1
    model = load_model(run.path)
    assert not is_fresh(guessing(model))
    before = knows(run, letters)
    run = resume(run.path, images=64, **listen)
    after = knows(run, letters)
    assert sum("first guess" in text for text in said) == 1
    assert not torch.equal(before["fc3.weight"], after["fc3.weight"])  # it learns on
    more = {**OPTIONS, "images": 16, "lr": 1e-8, "guess_images": None, "start": str(run.path)}
    on = train(TrainConfig(**more, out=str(tmp_path / "on")), **listen)
    taken = knows(on, letters)
    assert sum("first guess" in text for text in said) == 1
    assert all(torch.allclose(after[k], taken[k], atol=1e-5) for k in after)
    more["guess_images"] = 2_000
    train(TrainConfig(**more, out=str(tmp_path / "again")), **listen)
    assert sum("first guess" in text for text in said) == 2


def test_pictures_without_a_text_are_not_guessed(letters):
    """They teach the guess nothing, and a batch of nothing else costs nothing."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    silent = Captioned(images, ((),) * 7 + (("a",),))
    net = DiT(1, 8, text_width=27, **SIZES)
    fit_guess(net, feed_of(silent, letters), 100_000)
    x = images[7].float() / 127.5 - 1
    assert float((guessed(net, letters(["a"])) - x).square().mean()) < 0.01
    feed = feed_of(silent, letters)
    feed.captions.counts[:] = 0
    fit_guess(net, feed, 2_000)
    assert all(bool(p.isfinite().all()) for p in net.text.guess.parameters())


def test_the_same_seed_fits_the_same_guess_and_resuming_changes_no_bit(tmp_path):
    short = {**OPTIONS, "decay": 0.0, "guess_images": 4_000, "images": 64}
    given = {"on_event": quiet, "source": pictures()}
    whole = train(TrainConfig(**short, out=str(tmp_path / "whole")), **given)
    half = train(TrainConfig(**{**short, "images": 32}, out=str(tmp_path / "half")), **given)
    half = resume(half.path, images=64, **given)
    one, two = (load_model(run.path).state_dict() for run in (whole, half))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_without_captions_there_is_nothing_to_guess_from(tmp_path):
    config = TrainConfig(**{**OPTIONS, "data": "digits", "text": "minilm"}, out=str(tmp_path / "x"))
    with pytest.raises(MarginalsError, match="from text"):
        train(config, on_event=quiet)
