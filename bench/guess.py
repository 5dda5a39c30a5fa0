"""What does a first guess of the picture gain? Two transformers of emoji at one budget.

    python bench/guess.py                  # about ten minutes of one core

The latents of the emoji (the autoencoder of the package) are learned twice for the same processor
time, the fit of the guess included: once by the preset, and once by the same transformer without a
guess, which hears the text as tokens. Printed is the share of the latents' variance that the
denoiser explains, by noise level, on captions it was trained on and on held-out (thing, style)
pairs. What is learned early stands at the low λ.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from typing import cast

import torch

from marginals.data import load
from marginals.data.captioned import captions_of
from marginals.io.checkpoint import load_model
from marginals.latent import Latent
from marginals.models import Model
from marginals.text import encoder
from marginals.train import TrainConfig, train
from marginals.train.captions import Captions
from marginals.train.stop import Stop, Stopped

LAMS = (-9.0, -3.0, -1.0, 0.0, 1.0, 3.0)
COUNT = 494


def trained(folder: Path, guess_images: int | None, seconds: float) -> Latent:
    """A run of the emoji preset in small batches, stopped when the processor has worked so long."""
    config = TrainConfig.preset(
        "emoji", network_options={} if guess_images else {"guess": 0}, guess_images=guess_images,
        threads=1, decay=0.0, out=str(folder), sample_every=0, log_every=512, ema_half_life=8_000,
        batch=128, warmup=5_000,
    )  # fmt: skip
    stop, began = Stop(), time.process_time()

    def watch(event: object) -> None:
        if time.process_time() - began > seconds:
            stop.request()

    with contextlib.suppress(Stopped):
        train(config, on_event=watch, stop=stop)
    model = load_model(folder)
    assert isinstance(model, Latent) and isinstance(model.inner, Model)
    return model


@torch.no_grad()
def explained(model: Latent, held_out: bool) -> list[float]:
    """1 − E|x̂0 − x0|²/E|x0 − mean|² at every level of LAMS, told the first caption."""
    source = load("emoji", size=64)[held_out]
    chosen = torch.linspace(0, len(source) - 1, COUNT).long()
    x = torch.cat([model.encode(source.batch(part)[0]) for part in chosen.split(64)])
    texts = captions_of(source)
    captions = Captions([texts[i][:1] for i in chosen.tolist()], encoder("minilm"))
    cond = captions.examples(COUNT)
    shares, denoiser = [], cast(Model, model.inner).net
    for i, lam in enumerate(LAMS):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        _, alpha, sigma = denoiser.scaling(lam)
        parts = [
            denoiser(alpha * x[k] + sigma * noise[k], lam, cond[k]).x0
            for k in torch.arange(COUNT).split(64)
        ]
        error = (torch.cat(parts) - x).square().sum()
        shares.append(float(1 - error / (x - x.mean(0)).square().sum()))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240.0, help="of the processor, for each")
    parser.add_argument("--guess-images", type=int, default=1_000_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("variance explained at λ =", ", ".join(f"{lam:g}" for lam in LAMS))
    with tempfile.TemporaryDirectory() as folder:
        for name, images in (("text tokens", None), ("first guess", args.guess_images)):
            model = trained(Path(folder) / name, images, args.seconds)
            for part in (False, True):
                row = "  ".join(f"{share:6.1%}" for share in explained(model, part))
                print(f"{name}, {'held out' if part else 'trained on'}: {row}", flush=True)


if __name__ == "__main__":
    main()
