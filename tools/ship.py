"""Put a trained model into the package, in 16 bits, with a card.

    python tools/ship.py runs/emoji emoji

Writes src/marginals/shipped/NAME.safetensors and says how far its pictures are from those of the
run. The card, NAME.md beside it, is written by hand; its licences table is printed here.
"""

import argparse
from collections import Counter
from pathlib import Path

import torch

import marginals
from marginals.data import load
from marginals.data.captioned import Captioned
from marginals.io.checkpoint import load_model, read_header, save_model
from marginals.io.shipped import find

SHIPPED = Path(marginals.__file__).parent / "shipped"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("name")
    args = parser.parse_args()
    path = find(args.run)
    model, extra = load_model(path), read_header(path)["extra"]
    SHIPPED.mkdir(exist_ok=True)
    out = SHIPPED / f"{args.name}.safetensors"
    save_model(out, load_model(path).half(), {k: v for k, v in extra.items() if k != "ema"})
    cond = torch.randn(4, 6, 384, generator=torch.Generator().manual_seed(0))
    one, two = (m.sample(4, cond=cond, steps=12, seed=0).x for m in (model, load_model(out)))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB; pictures differ by {(one - two).std():.1e}")
    train, held = load(extra["trained_on"], size=model.data.shape[-1])
    if isinstance(train, Captioned):
        count = Counter(zip(train.styles, train.licences, strict=True))
        print("\n".join(f"| {s} | {n} | {licence} |" for (s, licence), n in sorted(count.items())))
        print(f"{len(held)} held-out pictures were not trained on")


if __name__ == "__main__":
    main()
