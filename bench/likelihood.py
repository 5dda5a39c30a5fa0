"""How many bits per pixel value VAE, hierarchical VAE, DDPM and VDM need, trained equally long.

    python bench/likelihood.py --minutes 10

A thin script over `marginals compare`: the same code, on Fashion-MNIST (built in) and on MNIST
where it has been fetched (`marginals data fetch mnist`). Every model gets the same processor time
on one thread, so that nothing else that runs on the machine favours one of them, and every number
has the standard error of its mean over held-out pictures. Runs are kept in --work: the same command
goes on where it was stopped, and repeats nothing that is finished.

Writes docs/results/likelihood.json, .png and .md, with what may be compared with published numbers.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
from pathlib import Path

import torch
from PIL import Image

import marginals
from marginals.compare.plot import plot
from marginals.compare.run import compare
from marginals.compare.settings import Comparison, model_names
from marginals.compare.table import PUBLISHED, markdown, text
from marginals.data.fetch import fetched
from marginals.io.atomic import write_bytes, write_json, write_text

DATA = ("fashion", "mnist")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time per model")
    parser.add_argument("--models", default="vae,hvae,ddpm,vdm")
    parser.add_argument("--data", default="", help="one data set; by default all there are")
    parser.add_argument("--pictures", type=int, default=512, help="held-out pictures measured")
    parser.add_argument("--samples", type=int, default=1000, help="samples for the distance")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/likelihood"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/likelihood"))
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    reports = []
    for data in [args.data] if args.data else DATA:
        if data == "mnist" and fetched("mnist") is None:
            print("mnist is left out; get it with: marginals data fetch mnist")
            continue
        settings = Comparison(
            model_names(args.models), args.work / data, data, args.minutes, args.pictures,
            samples=args.samples, seed=args.seed, threads=args.threads,
        )  # fmt: skip
        reports.append(compare(settings))
        print(text(reports[-1]))
        write(reports, args)  # what is known so far, after every data set


def write(reports: list[dict], args: argparse.Namespace) -> None:
    """The three files of the record."""
    out = args.out
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores"
    about = {"marginals": marginals.__version__, "machine": machine, "published": PUBLISHED}
    write_json(out.with_suffix(".json"), about | {"results": [slim(report) for report in reports]})
    write_bytes(out.with_suffix(".png"), stacked([plot(report) for report in reports]))
    pages = [f"## {report['data']}\n\n{markdown(report)}" for report in reports]
    chosen = ("minutes", "data", "models", "pictures", "samples", "seed", "threads")
    flags = " ".join(f"--{name} {getattr(args, name)}" for name in chosen if getattr(args, name))
    command = f"python bench/likelihood.py {flags}"
    head = f"# Likelihood at an equal budget\n\nWritten by `{command}` ({machine})."
    image = f"![bits/dim, Fréchet distance, time per sample]({out.name}.png)"
    write_text(out.with_suffix(".md"), "\n\n".join([head, image, *pages]))


def slim(report: dict) -> dict:
    """The report without the numbers of single pictures and single noise levels."""

    def route(full: dict) -> dict:
        kept = {k: v for k, v in full.items() if k not in ("bits", "paid")}
        return kept | {"pictures": len(full["bits"])}

    models = [row | {"routes": [route(r) for r in row["routes"]]} for row in report["models"]]
    return report | {"models": models}


def stacked(pictures: list[bytes]) -> bytes:
    """PNGs below one another, as one."""
    images = [Image.open(io.BytesIO(png)).convert("RGB") for png in pictures]
    sheet = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
