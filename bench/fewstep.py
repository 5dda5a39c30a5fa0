"""Few evaluations: which way of learning a teacher's paths gets nearest to it for the same work.

    python bench/fewstep.py points [--seconds 10 --seeds 3]
    python bench/fewstep.py pictures TEACHER STUDENT ... [--samples 2000 --seeds 3]

``points``: five spots on a ring, a small flow as teacher, and students trained for the same
processor time by progressive distillation from the teacher at once, by piecewise rectified flow
(all levels, same pairs), by consistency distillation (the pairs end where the student itself would,
after one step of the teacher; Heek et al. 2024) and by reflow. The error is the root mean square
distance from where the teacher's flow goes from the same noise.

``pictures``: runs of `marginals distill`, with Fréchet distance and label agreement at their own
number of evaluations, beside the teacher with as many and with 20.
"""

import argparse
import copy
import itertools
import math
import time
from statistics import mean, stdev

import torch

import marginals
from marginals import DataStats
from marginals.distill import TeacherPaths, line, reflow, student
from marginals.nn import MLP
from marginals.objective import Mse, Objective, UniformTime, WalkLevels
from marginals.oracle import Mixture
from marginals.schedule import Logit, Truncated
from marginals.solvers import ddim, grid, straight

ANGLES = torch.arange(5) * 0.4 * math.pi
RING = Mixture(1.2 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1), 0.12)


class Consistency(TeacherPaths):
    """The pair through x and the end of its segment as the student says it, one teacher step on."""

    def begin(self, net, between):
        """``net``: the student's; ``between``: levels of a segment, its end included, for each."""
        for name, value in (("net", net), ("between", between)):
            object.__setattr__(self, name, value)
        return self

    @torch.no_grad()
    def __call__(self, x0, eps, lam, cond=None):
        data, noise = torch.empty_like(x0), torch.empty_like(eps)
        for levels in self.between:
            end = self.teacher.scaling(levels[-1])
            for now, then in itertools.pairwise(levels):
                mine = (lam - now).abs() < 1e-9
                if not bool(mine.any()):
                    continue
                told = None if cond is None else cond[mine]
                a, b = self.teacher.scaling(now), self.teacher.scaling(then)
                x = a.alpha * x0[mine] + a.sigma * eps[mine]
                est = self.teacher.net(x, now, told)
                y = b.alpha * est.x0 + b.sigma * est.eps
                if then != levels[-1]:
                    est = self.net(y, then, told)
                    y = end.alpha * est.x0 + end.sigma * est.eps
                data[mine], noise[mine] = line(x, a, y, end)
        return data, noise


def consistency(teacher, steps, inner=4):
    """A student by consistency distillation on the segments of its walk."""
    model = student(teacher, steps)
    ends = model.walk.levels
    between = []
    for a, b in itertools.pairwise(ends):
        last = math.isinf(b)
        levels = grid(straight(a, max(teacher.lam_max, a + 1) if last else b), inner, final=last)
        between.append([a, *levels[1:-1], b])
    at = WalkLevels(tuple(level for levels in between for level in levels[:-1]))
    model.objective = Objective(Mse(model.net.prediction, at), at)
    paths = Consistency(ends).of(teacher)
    model.coupling = paths.begin(model.net, between)
    return model


def piecewise(teacher, steps):
    """A student on the same pairs at all levels, uniform in flow time."""
    model = student(teacher, steps)
    time = Truncated(Logit(), teacher.lam_max, teacher.lam_min)
    model.objective = Objective(Mse(model.net.prediction, time), UniformTime(time))
    return model


WAYS = {
    "progressive": student,
    "piecewise": piecewise,
    "consistency": consistency,
    "reflow": lambda teacher, steps: reflow(teacher, evaluations=8),
}


def fit(model, seconds=None, steps=None, seed=0, lr=4e-3, batch=128):
    """AdamW for some processor time or some steps; the average of the weights."""
    points = RING.sample(4096, seed=1)[0].float()
    generator, began, step = torch.Generator().manual_seed(seed), time.process_time(), 0
    weights = list(model.net.parameters())
    optimiser = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    average = copy.deepcopy(model)
    while True:
        share = step / steps if steps else (time.process_time() - began) / seconds
        if share >= 1.0:
            return average, step
        optimiser.param_groups[0]["lr"] = lr * min(1.0, 2.0 * (1.0 - share))
        x = points[torch.randint(len(points), (batch,), generator=generator)]
        optimiser.zero_grad()
        model.loss(x, generator=generator).backward()
        optimiser.step()
        step += 1
        keep = min(0.98, step / (9 + step))
        for a, b in zip(average.parameters(), weights, strict=True):
            a.data.lerp_(b.data, 1.0 - keep)


def points(options):
    torch.manual_seed(0)
    flow = marginals.rectified_flow(MLP(2, width=48, depth=2), data=DataStats((2,), 0.0, 0.86))
    teacher, _ = fit(flow, steps=1500)
    truth = teacher.sample(1024, steps=100).x
    print(f"| evaluations | teacher | {' | '.join(WAYS)} |\n|{'---|' * (2 + len(WAYS))}")
    for steps in (1, 2, 4):
        lams = grid(straight(teacher.lam_min, teacher.lam_max), steps)

        def error(model, lams=lams):
            x = model.sample(1024, solver=ddim(), levels=lams).x
            return (x - truth).square().mean().sqrt().item()

        cells = [f"{error(teacher):.3f}"]
        for make in WAYS.values():
            runs = [
                fit(make(teacher, steps), options.seconds, seed=s) for s in range(options.seeds)
            ]
            found = [error(model) for model, _ in runs]
            cells.append(f"{spread(found)} ({runs[0][1]} steps)")
        print(f"| {steps} | {' | '.join(cells)} |", flush=True)


def pictures(options):
    from marginals.data import load
    from marginals.io.checkpoint import load_diffusion
    from marginals.metrics import classifier
    from marginals.metrics.features import extract, lite0
    from marginals.metrics.frechet import frechet_distance

    models = [load_diffusion(path) for path in options.runs]
    train, held_out = load(models[0].data.name)
    n, features = min(options.samples, len(held_out)), lite0()
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(5))[:n]
    real, labels = train.batch(chosen)[0], torch.arange(n) % len(train.classes)
    unseen, its_labels = held_out.batch(torch.arange(n))
    judge = classifier.train_classifier(
        train.images, train.labels, unseen, its_labels, train.classes, images=60_000
    )
    known = extract(features, real)
    floor = frechet_distance(extract(features, unseen), known)
    print(f"{n} pictures, {options.seeds} seeds; other real pictures: {floor:.0f}, ", end="")
    print(f"labels {judge.accuracy}\n")
    print("| model | evaluations | Fréchet distance | labels |\n|---|---|---|---|")

    def row(name, model, **walk):
        distances, agreed, nfe = [], [], 0
        for seed in range(options.seeds):
            result = model.sample(n, seed=seed * n, cond=labels, **walk)
            distances.append(frechet_distance(extract(features, result.x), known))
            agreed.append(100 * classifier.agreement(judge, result.x, labels).value)
            nfe = result.nfe
        name = f"{name} | {nfe} | {spread(distances, 0)} | {spread(agreed, 1)} %"
        print(f"| {name} |", flush=True)

    teacher, *students = models
    row("teacher, auto", teacher, steps=20)
    for model in students:
        count = len(model.walk.lams)
        row("teacher, auto", teacher, steps=count)
        row("teacher, ddim", teacher, steps=count, solver=ddim())
        row("student", model)


def spread(values, digits=3):
    error = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{error}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["points", "pictures"])
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    {"points": points, "pictures": pictures}[chosen.what](chosen)
