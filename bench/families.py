"""One data set, one budget of processor time, five families of diffusion models.

    python bench/families.py --minutes 5            # about an hour on one core
    python bench/families.py --minutes 0.5 --samples 200 --out /tmp/families

DDPM with a U-Net, flow matching with the same U-Net, flow matching with a Diffusion Transformer,
the same in the latent space of an autoencoder (which is paid for from the same budget), and
students of few steps distilled from a flow U-Net (teacher and student share the budget). Fashion-
MNIST, one thread, features of EfficientNet-Lite0; the floor is what real held-out pictures get.
Runs are kept in --runs, so that an interrupted table goes on. Writes families.{md,json,png}.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from marginals.compare.quality import quality
from marginals.compare.training import pace
from marginals.data import load
from marginals.distill import student
from marginals.generative import Generative
from marginals.io.checkpoint import load_model
from marginals.io.pictures import grid, save_png
from marginals.train import TrainConfig, train
from marginals.train.presets import fitting
from marginals.train.run import Run

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
CODEC_SHARE, TEACHER_SHARE, STEPS = 0.3, 0.6, 20
DIT = {"network": "dit-demo", "precision": "bf16", "lr": 4e-3}
PATCHES = {"patch": 7, "width": 192, "depth": 6, "heads": 4, "skip": True}


class Families:
    """Every family trained on the same pictures for the same time."""

    def __init__(self, folder: Path, minutes: float, seed: int) -> None:
        self.folder, self.minutes, self.seed = folder, minutes, seed
        self.source, self.held = load("fashion")

    def run(self, name: str, share: float, pupil: Generative | None = None, **changes) -> Run:
        """The run of that name: found, or trained for this share of the budget."""
        out = self.folder / name
        if (out / "done").is_file():
            return Run(out)
        minutes = self.minutes * share
        values = fitting(changes.get("model", "v"), minutes) | {"minutes": None, "images": 1}
        values |= {"threads": 1, "seed": self.seed, "out": str(out)} | changes
        config = pace(TrainConfig(**values), minutes, self.source)
        print(f"{name}: {config.images:,} images", flush=True)
        run = train(config, source=self.source, model=pupil, on_event=lambda event: None)
        (out / "done").write_text("")
        return run

    def rows(self) -> list[tuple[str, Run, int | None]]:
        """(what it is, its run, steps of its walk; None where the walk is its own)."""
        flow = {"model": "flow"}
        codec = self.run("codec", CODEC_SHARE, model="autoencoder")
        latent = DIT | flow | {"codec": str(codec.path), "network": "dit-latent", "flips": False}
        latent |= {"network_options": {"width": 128, "depth": 6, "heads": 4}}
        rows: list[tuple[str, Run, int | None]] = [
            ("DDPM, U-Net", self.run("ddpm", 1.0, model="ddpm"), STEPS),
            ("flow, U-Net", self.run("flow", 1.0, **flow), STEPS),
            ("flow, DiT", self.run("dit", 1.0, **DIT, **flow, network_options=PATCHES), STEPS),
            ("flow, latent DiT", self.run("latent", 1.0 - CODEC_SHARE, **latent), STEPS),
        ]
        teacher = self.run("teacher", TEACHER_SHARE, **flow)
        for steps in (2, 4):
            pupil = student(load_model(teacher.path), steps)
            learned = self.distilled(f"student{steps}", pupil)
            rows.append((f"distilled, {steps} steps", learned, None))
        return rows

    def distilled(self, name: str, pupil: Generative) -> Run:
        return self.run(name, 1.0 - TEACHER_SHARE, pupil, model="flow", warmup=500)


def measured(families: Families, run: Run, steps: int | None, samples: int) -> dict:
    """Samples of every class in turn, and how good they are."""
    model = load_model(run.path)
    labels = torch.arange(samples) % len(families.source.classes)
    walk = {} if steps is None else {"steps": steps}
    model.sample(64, cond=labels[:64], seed=0, batch=64, **walk)  # warm
    began = time.process_time()
    result = model.sample(samples, cond=labels, seed=1_000_000, batch=64, **walk)
    seconds = (time.process_time() - began) / samples
    x = result.x.float().clamp(-1, 1)
    found = quality(
        x, labels, families.source, families.held, families.source.classes, families.folder
    )
    return found | {
        "nfe": result.nfe,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "images": run.images_seen,
        "cpu_minutes": run.log()[-1]["cpu_seconds"] / 60,
        "pictures": x[:10],
    }


def table(rows: list[tuple[str, dict]], args: argparse.Namespace) -> str:
    lines = [
        "# Five families at one budget",
        "",
        f"`python bench/families.py --minutes {args.minutes:g} --seed {args.seed}`: Fashion-MNIST, "
        f"{args.minutes:g} minutes of one processor core each, {args.samples} samples "
        "(10 classes, no guidance). ± is one standard error of the labels.",
        "",
        "| family | parameters | images seen | evaluations | FD-lite0 | labels right | "
        "ms of one core per picture |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows:
        labels = row["labels"]
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.2f} M | {row['images']:,} | {row['nfe']} | "
            f"{row['frechet']['distance']:.1f} | {labels['agreement']:.1%} ± "
            f"{labels['stderr']:.1%} | {1000 * row['seconds']:.1f} |"
        )
    floor, judge = rows[0][1]["frechet"]["floor"], rows[0][1]["labels"]["classifier_accuracy"]
    count = rows[0][1]["frechet"]["pictures"]
    lines += [
        f"| real held-out pictures | | | | {floor:.1f} (floor, {count} pictures) | {judge:.1%} | |",
        "",
        f"The latent DiT's autoencoder had {CODEC_SHARE:.0%} of its budget; a student's teacher, a "
        f"flow U-Net, had {TEACHER_SHARE:.0%}. Rows of the sheet are those of the table.",
        "",
        "![samples](families.png)",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/families"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    families = Families(args.runs, args.minutes, args.seed)
    rows = []
    for name, run, steps in families.rows():
        rows.append((name, measured(families, run, steps, args.samples)))
        print(name, {k: v for k, v in rows[-1][1].items() if k != "pictures"}, flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = torch.cat([row.pop("pictures") for _, row in rows])
    sheet = grid(pictures, 10, labels=[name for name, _ in rows])
    save_png(args.out / "families.png", sheet, {"minutes": args.minutes, "seed": 1_000_000})
    text = table(rows, args)
    print(text)
    (args.out / "families.md").write_text(text, encoding="utf-8")
    data = json.dumps(dict(rows), indent=1) + "\n"
    (args.out / "families.json").write_text(data, encoding="utf-8")


if __name__ == "__main__":
    main()
