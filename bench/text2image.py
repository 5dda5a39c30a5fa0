"""Does the emoji model draw what it is told? Retrieval, quality, memory, variety, guidance.

    marginals data build emoji
    python bench/text2image.py                                  # about ten minutes on two cores
    python bench/text2image.py --model runs/emoji --count 100 --guidance 3 --out try

Everything is measured in the features of EfficientNet-Lite0, against real drawings of the training
part; the same figures of *real* held-out drawings stand beside them, and those of seen drawings
after the autoencoder, which no model of its latents should be asked to beat. Writes
docs/results/text2image.{md,json}, the guidance curve and a contact sheet of 64 prompts.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch

from marginals.data import load
from marginals.data.captioned import Captioned
from marginals.data.emoji_captions import with_article
from marginals.io.pictures import grid, save_png
from marginals.latent import Latent
from marginals.metrics.features import extract, lite0
from marginals.metrics.frechet import frechet_distance, kernel_distance
from marginals.metrics.retrieval import Retrieval, nearest, retrieval, spread
from marginals.text.draw import TextToImage

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
PHRASED = 2.0
"""Guidance of the sheet and of prompts said in several ways."""

PROMPTS = """a red apple, flat style; a green apple, 3d style; a banana; a slice of pizza, 3d style
a hamburger; a birthday cake, vivid style; a cup of coffee; an ice cream, glossy style
a cat, flat style; a dog, 3d style; a rabbit; a fox, vivid style
a crab, flat style; a red crab, glossy style; an octopus; a blue whale, 3d style
a frog, blob style; a penguin; an owl, pastel style; a butterfly, flat style
a red heart, glossy style; a blue heart, 3d style; a green heart, flat style; a broken heart
a grinning face; a crying face, 3d style; an angry face, blob style; a face with sunglasses
a ghost; a robot, vivid style; an alien; a skull, 3d style
the sun; a crescent moon, pastel style; a rainbow; a snowflake, glossy style
a tree, flat style; a cactus, 3d style; a red rose; a sunflower, vivid style
a house, glossy style; a castle, flat style; a rocket, 3d style; a sailboat
a red car, flat style; a bicycle; a fire engine, vivid style; an airplane, glossy style
a soccer ball; a guitar, 3d style; a trophy, flat style; a wrapped gift
a key; a light bulb, glossy style; a book, flat style; a pair of scissors, 3d style
flag of Japan; flag of France, flat style; a red circle; a blue square, flat style
a purple cat; a green dog, 3d style; a blue apple; a smiling pizza"""


def prompts() -> list[str]:
    return [p.strip() for line in PROMPTS.splitlines() for p in line.split(";")]


class Bench:
    """The model, the real drawings and their features."""

    def __init__(self, model: str, steps: int, count: int) -> None:
        self.draw, self.steps, self.count = TextToImage.load(model), steps, count
        size = self.draw.model.data.shape[-1]
        self.train, self.held = load("emoji", size=size)
        self.look = lite0()
        self.real = self.features(self.train.images)
        self.real_held = self.features(self.held.images)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        return extract(self.look, pictures, progress=True)

    def drawn(self, captions: list[str], guidance: float, seed: int = 0) -> torch.Tensor:
        """One picture of every caption, each with its own seed."""
        states = self.draw.states(captions)
        options = {"steps": self.steps, "guidance": guidance, "seed": seed, "batch": 64}
        return self.draw.model.sample(len(captions), cond=states, **options).x.clamp(-1, 1)

    def found(self, features: torch.Tensor, concepts: list[str]) -> str:
        return retrieval(features, concepts, self.real, self.train.concepts)


def chosen(source: Captioned, count: int) -> list[int]:
    return sorted(random.Random(0).sample(range(len(source)), min(count, len(source))))


def asked(source: Captioned, places: list[int]) -> tuple[list[str], list[str]]:
    """The first caption ("crab, flat style") and the concept of each."""
    return [source.captions[i][0] for i in places], [source.concepts[i] for i in places]


def measure(bench: Bench, guidance: float) -> dict:
    """Everything at one guidance."""
    train, held = bench.train, bench.held
    seen_at, held_at = chosen(train, bench.count), chosen(held, bench.count)
    seen_text, seen_concepts = asked(train, seen_at)
    held_text, held_concepts = asked(held, held_at)
    known = set(train.concepts)
    assert set(held_concepts) <= known, "held-out pairs show concepts that training never saw"
    began = time.perf_counter()
    seen = bench.features(bench.drawn(seen_text, guidance))
    new = bench.features(bench.drawn(held_text, guidance, seed=10_000))
    seconds = (time.perf_counter() - began) / (len(seen_text) + len(held_text))
    real = bench.real_held[held_at]
    reference = bench.real[chosen(train, len(held_at))]
    several = bench.drawn([t for t in seen_text[:64] for _ in range(4)], guidance, seed=20_000)
    mmd = kernel_distance(new, reference)
    return {
        "guidance": guidance,
        "seen": bench.found(seen, seen_concepts),
        "held out": bench.found(new, held_concepts),
        "real held-out drawings": bench.found(real, held_concepts),
        "fd": frechet_distance(new, reference),
        "fd floor": frechet_distance(real, reference),
        "n": len(held_at),
        "mmd": (mmd.value, mmd.stderr),
        "nearest training drawing, seen": float(nearest(seen, bench.real).similarity.mean()),
        "nearest training drawing, held out": float(nearest(new, bench.real).similarity.mean()),
        "nearest training drawing, real": float(nearest(real, bench.real).similarity.mean()),
        "variety": spread(bench.features(several).unflatten(0, (-1, 4))),
        "seconds per picture": seconds,
    }


PHRASES = {
    "crab, flat style (as in training)": "{name}, {style} style",
    "a crab, flat style": "{one}, {style} style",
    "please draw a crab in the flat style": "please draw {one} in the {style} style",
    "a crab, as it is (`--style any`)": "{one}",
}
"""Ways to ask for the same."""


def phrased(bench: Bench, guidance: float) -> dict[str, Retrieval]:
    """The same seen prompts, said in other ways, and without a style as `generate` draws them."""
    train, places = bench.train, chosen(bench.train, bench.count)
    captions, concepts = asked(train, places)
    styles = [train.styles[i] for i in places]
    names = [c.removesuffix(f", {s} style") for c, s in zip(captions, styles, strict=True)]
    ones = [with_article(n, train.groups[i]) for n, i in zip(names, places, strict=True)]
    said = {
        label: [words.format(name=n, one=o, style=s) for n, o, s in zip(names, ones, styles)]
        for label, words in PHRASES.items()
    }
    given = [bench.draw.captions(one, [seed])[0] for seed, one in enumerate(ones)]
    said["a crab, a style for every seed (the default)"] = given
    return {
        label: bench.found(bench.features(bench.drawn(texts, guidance)), concepts)
        for label, texts in said.items()
    }


def through_the_codec(bench: Bench):
    """Seen drawings, encoded and decoded: what is found in them."""
    places = chosen(bench.train, bench.count)
    model = bench.draw.model
    if not isinstance(model, Latent):
        return None
    pictures = bench.train.batch(torch.tensor(places))[0]
    with torch.no_grad():
        again = torch.cat([model.decode(model.encode(part)) for part in pictures.split(64)])
    return bench.found(
        bench.features(again.clamp(-1, 1)), [bench.train.concepts[i] for i in places]
    )


def variety_of_styles(bench: Bench) -> float:
    """The same number of real drawings: four styles of one concept."""
    by: dict[str, list[int]] = {}
    for i, concept in enumerate(bench.train.concepts):
        by.setdefault(concept, []).append(i)
    some = [rows[:4] for rows in by.values() if len(rows) >= 4][:256]
    return spread(torch.stack([bench.real[rows] for rows in some]))


def report(rows: list[dict], styles: float, phrases: dict, codec, args) -> str:
    lines = [
        "# Text to image: the emoji model, measured",
        "",
        f"`python bench/text2image.py --model {args.model} --count {args.count} --guidance "
        f"{' '.join(f'{g:g}' for g in args.guidance)}` ({args.steps} steps, features of "
        "EfficientNet-Lite0; ± is one standard error).",
        "",
        "| γ | concept found, seen prompts: top-1, top-5 | held-out (concept, style) pairs: top-1, "
        "top-5 | FD-lite0 (held-out prompts) | variety | similarity to the nearest training "
        "drawing: seen, held-out |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['guidance']:g} | {shares(row['seen'])} | {shares(row['held out'])} | "
            f"{row['fd']:.0f} | {row['variety']:.3f} | "
            f"{row['nearest training drawing, seen']:.3f}, "
            f"{row['nearest training drawing, held out']:.3f} |"
        )
    row = rows[0]
    lines += [
        f"| real held-out drawings | | {shares(row['real held-out drawings'])} | "
        f"{row['fd floor']:.0f} (floor, n = {row['n']}) | {styles:.3f} (four styles of a concept) |"
        f" {row['nearest training drawing, real']:.3f} |",
        "",
        *([f"Seen drawings after the autoencoder alone: {shares(codec)}.", ""] if codec else []),
        f"How a thing is asked for (seen prompts, γ = {PHRASED:g}), top-1, top-5:",
        "",
        "| asked as | concept found |",
        "|---|---|",
        *[f"| {label} | {shares(found)} |" for label, found in phrases.items()],
        "",
        f"{row['seen'].n} seen prompts and {row['held out'].n} held-out ones; about "
        f"{rows[-1]['seconds per picture']:.2f} s per picture here, features included. The concept "
        f"is looked for among all concepts of the training drawings.",
        "",
        "![guidance](text2image.png)",
        "",
        f"Sixty-four prompts, nothing chosen, γ = {PHRASED:g}; prompt i has seed i, and with it a "
        "style where it names none:",
        "",
        "![64 prompts](text2image-prompts.png)",
    ]
    return "\n".join(lines) + "\n"


def shares(found) -> str:
    return f"{found.top1:.1%} ± {found.top1_se:.1%}, {found.top5:.1%} ± {found.top5_se:.1%}"


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    gammas = [row["guidance"] for row in rows]
    for name, colour in (("seen", "#1f6f8b"), ("held out", "#c65d21")):
        shares_ = [row[name].top5 for row in rows]
        errors = [row[name].top5_se for row in rows]
        left.errorbar(gammas, shares_, errors, label=name, color=colour, marker="o", capsize=3)
    left.set(xlabel="guidance γ", ylabel="concept among the first five", ylim=(0, 1))
    left.legend()
    right.plot([row["variety"] for row in rows], [row["fd"] for row in rows], "o-", color="#1f6f8b")
    for row in rows:
        right.annotate(f"γ = {row['guidance']:g}", (row["variety"], row["fd"]), fontsize=8)
    right.axhline(rows[0]["fd floor"], color="gray", ls=":")
    right.set(xlabel="variety of four drawings of one prompt", ylabel="FD-lite0 (dotted: floor)")
    figure.savefig(path, dpi=110)


def sheet(bench: Bench, path: Path) -> None:
    """The prompts as `marginals generate` draws them, each with its own seed."""
    texts = prompts()
    walk = {"guidance": PHRASED, "steps": bench.steps}
    pictures = torch.cat([bench.draw(text, 1, seed=i, **walk) for i, text in enumerate(texts)])
    save_png(path, grid(pictures, 8, scale=2, labels=texts), walk | {"prompt": "; ".join(texts)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--count", type=int, default=494, help="prompts, at most 494")
    parser.add_argument("--guidance", type=float, nargs="+", default=GUIDANCE)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    bench = Bench(args.model, args.steps, args.count)
    rows = [measure(bench, g) for g in args.guidance]
    phrases, codec = phrased(bench, PHRASED), through_the_codec(bench)
    text = report(rows, variety_of_styles(bench), phrases, codec, args)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    sheet(bench, args.out / "text2image-prompts.png")
    plot(rows, args.out / "text2image.png")
    (args.out / "text2image.md").write_text(text, encoding="utf-8")
    record = {"guidance": rows, "phrases": phrases, "codec": codec}
    (args.out / "text2image.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
