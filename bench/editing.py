"""Inverse problems and editing on held-out pictures of Fashion-MNIST, in numbers and to look at.

    marginals train --data fashion --preset 2min --out runs/fashion     (or any longer run)
    python bench/editing.py runs/fashion        writes docs/results/editing.png

Restored pictures are compared with the originals (root mean square error in [-1, 1], of one draw;
for inpainting, over the hidden part) and with their measurement (noise 0.02). Every method has the
same seeds and steps; all but `ddnm` also pay for products with the network's Jacobian. A draw of
the posterior is not its mean: the error of a perfect draw is √2 times that of the best guess, so
the smallest error is not by itself the best method. `dps` divides by the noise of the measurement,
and needs hundreds of steps where that is small.
"""

import argparse
import math
import time
from pathlib import Path

import torch

from marginals.data import load
from marginals.editing import image_to_image, interpolate, restore, reword
from marginals.errors import MarginalsError
from marginals.inverse import Average, Blur, Mask
from marginals.io.checkpoint import load_model
from marginals.io.pictures import grid, save_png, to_uint8
from marginals.io.shipped import find
from marginals.models import Model
from marginals.pixels import to_float

OUT = Path(__file__).parents[1] / "docs" / "results" / "editing.png"
STD, STEPS = 0.02, 20
METHODS = {
    "mmps": {},
    "mmps, 8 iterations": {"iterations": 8},
    "mmps, all levels": {"trust": -math.inf},
    "pigdm": {},
    "dps": {},
    "ddnm": {},
}


def problems(side: int) -> dict:
    hidden = torch.ones(side, side, dtype=torch.bool)
    hidden[side // 4 : -side // 4, side // 4 : -side // 4] = False
    top = torch.arange(side)[:, None].expand(side, side) < side // 2
    return {
        "a hole": Mask(hidden),
        "lower half": Mask(top),
        "4 x smaller": Average(4),
        "blurred": Blur(2.0),
    }


def measure(model: Model, pictures: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    rows = []
    noise = torch.Generator().manual_seed(1)
    print(f"{'problem':12} {'method':18} {'error':>7} {'misfit':>7} {'s/picture':>9}")
    for name, operator in problems(pictures.shape[-1]).items():
        clean = operator(pictures)
        y = clean + STD * torch.randn(clean.shape, generator=noise)
        weight = ~operator.known if isinstance(operator, Mask) else torch.ones(1)
        weight = weight.expand_as(pictures).to(pictures)
        y = operator(y) if isinstance(operator, Mask) else y
        rows.append((name, _seen(y, operator)))
        for method, settings in METHODS.items():
            began = time.process_time()
            try:
                x = restore(model, y, operator, STD, steps=STEPS, method=method, **settings)
            except MarginalsError:
                print(f"{name:12} {method:18} not finite")
                continue
            spent = (time.process_time() - began) / len(pictures)
            error = ((x - pictures).square() * weight).sum() / weight.sum()
            misfit = (operator(x) - y).square().mean()
            print(f"{name:12} {method:18} {error**0.5:7.3f} {misfit**0.5:7.3f} {spent:9.2f}")
            if method == "mmps":
                rows.append(("restored", x))
    return rows


def _seen(y: torch.Tensor, operator) -> torch.Tensor:
    if isinstance(operator, Mask):
        return torch.where(operator.known, y, 0.0)
    return operator.adjoint(y) * operator.factor**2 if isinstance(operator, Average) else y


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=int, default=12)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(find(chosen.run))
    assert isinstance(model, Model)
    _, held_out = load("fashion", progress=False)
    stored, labels = held_out.batch(torch.arange(chosen.pictures))
    pictures = to_float(stored)
    rows = [("held out", pictures), *measure(model, pictures)]
    for strength in (0.3, 0.5, 0.7):
        x = image_to_image(model, pictures, strength, cond=labels, steps=STEPS)
        rows.append((f"noise {strength}", x))
        moved = (x - pictures).square().mean() ** 0.5
        print(f"image to image, strength {strength}: moved by {moved:.3f}")
    rows.append(("told: bag", reword(model, pictures, labels, 8, tolerance=1e-3)))
    back = reword(model, pictures, labels, labels, tolerance=1e-3)
    print(f"to the noise and back: error {(back - pictures).square().mean() ** 0.5:.4f}")
    ways = [
        interpolate(model, pictures[a], pictures[b], chosen.pictures, tolerance=1e-3)
        for a, b in ((1, 2), (0, 4))
    ]
    rows += [("between", way) for way in ways]
    whole = to_uint8(torch.cat([row for _, row in rows]))
    save_png(OUT, grid(whole, chosen.pictures, labels=[name for name, _ in rows]), {"seed": 0})
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
