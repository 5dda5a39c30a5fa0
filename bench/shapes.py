"""Captioned shapes: are prompts that were never trained on drawn right, in every attribute?

    python bench/shapes.py                  # five seeds, three minutes of training each
    python bench/shapes.py --seeds 1

Trains `--preset shapes` (40,000 pictures; --threads 2 by default), prints how long it took, draws
every held-out prompt several times as `marginals generate` does (12 steps, guidance 3), and reads
size, colour, shape and place back from the pictures in closed form (`marginals.metrics.shapes`).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from marginals.data import load
from marginals.data.shapes import VALUES
from marginals.io.pictures import grid, save_png, to_uint8
from marginals.metrics.shapes import right_shapes
from marginals.text.draw import GUIDANCE, STEPS, TextToImage
from marginals.train import TrainConfig, train

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def one(seed: int, threads: int, folder: Path, options: dict, args: argparse.Namespace) -> dict:
    """Train once and ask for every held-out prompt."""
    began = time.perf_counter()
    changes = options | {"seed": seed, "threads": threads, "out": str(folder / f"{seed}")}
    run = train(TrainConfig.preset("shapes", **changes), on_event=lambda event: None)
    minutes = (time.perf_counter() - began) / 60
    _, held = load("shapes")
    prompts = list(dict.fromkeys(texts[0] for texts in held.captions))
    asked = [p for p in prompts for _ in range(args.count)]
    draw = TextToImage.load(run.path)
    walk = {"steps": args.steps, "guidance": args.guidance, "seed": 1000, "batch": 64}
    drawn = draw.model.sample(len(asked), cond=draw.states(asked), **walk).x
    pictures = to_uint8(drawn)
    right = right_shapes(pictures, asked)
    share = right.all(1).double()
    print(
        f"seed {seed}: {minutes:.2f} min, all right {share.mean():.1%} of {len(asked)} ("
        + ", ".join(f"{n} {x:.1%}" for n, x in zip(VALUES, right.double().mean(0), strict=True))
        + ")",
        flush=True,
    )
    sheet = grid(pictures[:: args.count], 6, labels=prompts)
    save_png(folder / f"shapes-{seed}.png", sheet, {"seed": seed, **walk})
    return {
        "seed": seed,
        "minutes": minutes,
        "images": run.images_seen,
        "asked": len(asked),
        "right": float(share.mean()),
        "by attribute": dict(zip(VALUES, right.double().mean(0).tolist(), strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=10, help="pictures of every prompt")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--option", action="append", default=[], help="NAME=JSON of training")
    parser.add_argument("--out", type=Path, help="folder for runs and sheets")
    args = parser.parse_args()
    options = {k: json.loads(v) for k, v in (o.split("=", 1) for o in args.option)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [one(seed, args.threads, folder, options, args) for seed in range(args.seeds)]
        shares = torch.tensor([row["right"] for row in rows]).double()
        error = float(shares.std() / len(rows) ** 0.5) if len(rows) > 1 else float("nan")
        print(
            f"held-out prompts right in all attributes: {shares.mean():.1%} ± {error:.1%} (worst "
            f"seed {shares.min():.1%}); longest training {max(r['minutes'] for r in rows):.2f} min"
        )
        if not options and args.seeds >= 5:
            RESULTS.mkdir(parents=True, exist_ok=True)
            text = json.dumps(rows, indent=1) + "\n"
            (RESULTS / "shapes.json").write_text(text, encoding="utf-8")
            sheet = (folder / "shapes-0.png").read_bytes()
            (RESULTS / "shapes.png").write_bytes(sheet)


if __name__ == "__main__":
    main()
