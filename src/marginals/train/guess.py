"""The first thing a network with a guess learns: the mean picture of every text, by regression.

A text is asked once per picture, and not once per token and noise level; `bench/guess.py` measures
what that gains (`marginals.nn.guess` says what it is for).
"""

import torch
from torch import Tensor
from torch.optim import AdamW
from tqdm import tqdm

from marginals.generative import Generative
from marginals.latent import walked
from marginals.nn.dit import DiT, to_patches
from marginals.nn.guess import NOISE, Guess, GuessedText
from marginals.nn.text import pool_states
from marginals.pixels import to_float
from marginals.train.feed import Feed, step_seed

__all__ = ["SHOWINGS", "fit_guess", "guessing", "is_fresh"]

SHOWINGS = 100
"""How often every picture is shown by default."""
_BATCH, _LR, _DECAY = 512, 2e-3, 0.5


def guessing(model: Generative) -> DiT | None:
    """The network of the model, if it is one with a guess."""
    net = getattr(getattr(walked(model), "net", None), "backbone", None)
    return net if isinstance(net, DiT) and isinstance(net.text, GuessedText) else None


def is_fresh(net: DiT) -> bool:
    """Whether its guess has learned nothing yet."""
    assert isinstance(net.text, GuessedText)
    return not bool(net.text.guess.fc3.weight.any())


def fit_guess(
    net: DiT, feed: Feed, images: int, *, bf16: bool = False, progress: bool = False
) -> float:
    """Fit the guess of ``net`` to the pictures (or latents) and captions of ``feed``; returns the
    share of the variance that it explained in the last hundredth of the way.

    The loss is the mean square |guess(text) − x₀|², over ``images`` showings of a picture with one
    of its captions; AdamW, of which the rate falls to 0 over the last half. A function of the
    feed's seed.
    """
    assert isinstance(net.text, GuessedText) and feed.captions is not None
    guess = net.text.guess
    some = torch.linspace(0, len(feed.source) - 1, min(len(feed.source), 4096)).long()
    pictures = _pictures(feed, some)
    variance = pictures.var(0, correction=0).mean()
    _begin(guess, feed, to_patches(pictures.mean(0, keepdim=True), net.patch))
    weights = list(guess.parameters())
    optimizer = AdamW(weights, lr=_LR, betas=(0.9, 0.99), weight_decay=0.0)
    steps = max(images // _BATCH, 1)
    losses: list[float] = []
    off = None if progress else True
    bar = tqdm(
        range(steps), desc="first guess", unit_scale=_BATCH, unit=" texts", mininterval=0.5,
        disable=off,
    )  # fmt: skip
    for step in bar:
        generator = torch.Generator().manual_seed(step_seed(feed.seed, step, -1))
        rate = min((step + 1) / 50, 1.0, (steps - step) / (_DECAY * steps))
        for group in optimizer.param_groups:
            group["lr"] = _LR * rate
        loss = _loss(guess, net.patch, feed, generator, bf16)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step >= 0.99 * steps:
            losses.append(loss.item())
            bar.set_postfix_str(f"{1 - losses[-1] / variance:.0%} of the variance")
    last = losses[-max(steps // 100, 1) :]
    return 1.0 - sum(last) / len(last) / float(variance)


def _loss(guess: Guess, patch: int, feed: Feed, generator: torch.Generator, bf16: bool) -> Tensor:
    assert feed.captions is not None
    chosen = torch.randint(len(feed.source), (_BATCH,), generator=generator)
    x = _pictures(feed, chosen)
    pooled, spoken = guess.pooled(feed.captions.draw(chosen, generator).to(feed.device))
    pooled = pooled + NOISE * torch.randn(pooled.shape, generator=generator).to(pooled)
    with torch.autocast(feed.device.type, torch.bfloat16, enabled=bf16):
        answer = guess(pooled)
    square = (answer.float() - to_patches(x, patch)).square().mean((1, 2))
    return (square * spoken).sum() / spoken.sum().clamp(min=1)


def _pictures(feed: Feed, chosen: Tensor) -> Tensor:
    x = feed.source.batch(chosen)[0].to(feed.device)
    return x if x.is_floating_point() else to_float(x)


@torch.no_grad()
def _begin(guess: Guess, feed: Feed, mean: Tensor) -> None:
    """Shift and spread of the mean states of all captions; the first guess is the mean picture."""
    assert feed.captions is not None
    table = feed.captions.table
    parts = torch.arange(len(table)).split(1024)
    means = torch.cat([pool_states(table(part))[0] for part in parts])
    if not bool(guess.fc3.weight.any()):
        guess.fc3.bias.copy_(mean.flatten())
    guess.shift.copy_(means.mean(0))
    guess.spread.copy_((means - means.mean(0)).square().mean().sqrt().clamp(min=1e-6))
