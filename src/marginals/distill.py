"""Few steps: a student that learns where a trained model's paths go.

Take a path of the probability-flow ODE of a teacher from level a to level b: it starts at x_a and
ends at y. One straight line leads there too, and a straight line is a picture with a noise,

    x_a = α_a·X + σ_a·E,        y = α_b·X + σ_b·E:        X = (σ_a·y − σ_b·x_a)/(σ_a·α_b − σ_b·α_a).

So the paths of a teacher are a coupling (:mod:`.coupling`): the pair (x0, ε) that says where the
path begins is replaced by (X, E), and a model trained on it by the ordinary loss is at y after one
DDIM step. Which levels it is trained at decides what that is called:

| segments a → b          | levels in training | name                                            |
|-------------------------|--------------------|-------------------------------------------------|
| one, from noise to data | all                | reflow, 2-rectified flow (Liu et al. 2022)      |
| several                 | all                | piecewise rectified flow (Yan et al. 2024)      |
| the steps of a walk     | where steps begin  | progressive distillation (Salimans & Ho 2022),  |
|                         |                    | from the teacher at once instead of by halving  |
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from .coupling import Coupling
from .denoiser import Net
from .errors import MarginalsError
from .models import Grid, Model
from .objective import Mse, Objective, WalkLevels
from .predict import X0, determinant
from .sampling import sample
from .scaling import VP, Level
from .solvers import FittedTable, auto, ddim, grid, straight

_WHOLE_PATH = 16
"""Evaluations of a teacher along its whole path, where nothing else is asked for."""

_MOST_GAIN = 4.0
"""How much a student's first step may magnify an error of its network (v, velocity: 1; ε: 90)."""


@dataclass(frozen=True)
class TeacherPaths(Coupling):
    """The pairs on whose straight lines a teacher's paths begin and end.

    ``lams``: where the segments begin, noise first, and where the last one ends (λ = ∞). A picture
    at level λ is on the segment that holds λ. ``evaluations``: of the teacher along a segment.
    ``guidance``: of the teacher; the student learns it and needs none. The teacher itself is not
    part of a file: :meth:`of` gives one to a coupling that has none.
    """

    lams: tuple[float, ...]
    evaluations: int = 4
    guidance: float = 1.0
    teacher: Model | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.lams) < 2 or any(a >= b for a, b in itertools.pairwise(self.lams)):
            raise MarginalsError("Paths need at least two levels that rise, from noise to data.")
        if self.evaluations < 1:
            raise MarginalsError("A teacher must be asked at least once on every segment.")

    def of(self, teacher: Model) -> Self:
        """The same coupling with the paths of this teacher."""
        bound = replace(self)
        object.__setattr__(bound, "teacher", teacher.eval().requires_grad_(False))
        return bound

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # an average of the student's weights follows the same teacher

    @torch.no_grad()
    def __call__(
        self, x0: Tensor, eps: Tensor, lam: Tensor, cond: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        inner = torch.tensor(self.lams[1:-1], dtype=lam.dtype, device=lam.device)
        segment = torch.bucketize(lam, inner, right=True)
        data, noise = torch.empty_like(x0), torch.empty_like(eps)
        for k, (a, b) in enumerate(itertools.pairwise(self.lams)):
            mine = segment == k
            if bool(mine.any()):
                told = None if cond is None else cond[mine]
                data[mine], noise[mine] = self._line(x0[mine], eps[mine], a, b, told)
        return data, noise

    def _line(
        self, x0: Tensor, eps: Tensor, a: float, b: float, cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(X, E) of one segment."""
        teacher = self._at_hand(x0.device)
        start, end = (teacher.scaling(lam) for lam in (a, b))
        x = start.alpha * x0 + start.sigma * eps
        lams = segment_levels(a, b, teacher.lam_max, self.evaluations)
        with teacher._evaluating():
            denoiser = teacher.guided(self.guidance)
            rule = auto(guided=denoiser is not teacher.net)
            y = sample(denoiser, x, lams, rule, cond=cond).x
        return line(x, start, y, end)

    def _at_hand(self, device: torch.device) -> Model:
        if self.teacher is None:
            raise MarginalsError(
                "The teacher of this student is not here, so it cannot be trained further: give it "
                "one with coupling.of(teacher)."
            )
        if self.teacher.device != device:
            self.teacher.to(device)
        return self.teacher


def line(x: Tensor, a: Level[float], y: Tensor, b: Level[float]) -> tuple[Tensor, Tensor]:
    """The pair (X, E) with x = α_a·X + σ_a·E and y = α_b·X + σ_b·E."""
    det = a.sigma * b.alpha - b.sigma * a.alpha
    return (a.sigma * y - b.sigma * x) / det, (b.alpha * x - a.alpha * y) / det


def segment_levels(a: float, b: float, lam_max: float, evaluations: int) -> list[float]:
    """The levels of a teacher's walk from a to b: evenly in the angle atan(σ/α)-like time of
    :func:`~.solvers.grids.straight`; the last segment goes straight from its last level to b."""
    if math.isinf(b):
        return grid(straight(a, max(lam_max, a + 1.0)), evaluations)
    return grid(straight(a, b), evaluations, final=False)


def student(
    teacher: Model,
    steps: int,
    *,
    evaluations: int | None = None,
    guidance: float = 1.0,
    levels: Grid | Sequence[float] = straight,
) -> Model:
    """A copy of the teacher, to be trained to make its pictures in ``steps`` evaluations.

    Its loss is plain MSE of what its network predicts, at the levels where the steps of its walk
    begin, on the teacher's paths (:class:`TeacherPaths`). ``evaluations``: of the teacher for each
    step of the student, by default 16 for the whole path; the student cannot be nearer to the
    teacher's flow than a walk of so many.
    ``levels``: a grid, or the levels themselves, the last of them ∞. The walk is part of its file:
    ``sample`` takes it. Raises MarginalsError where the network predicts ε: at the noisy end that
    says nothing of the picture, and a walk of few steps has nothing else to go by.
    """
    lams = grid(levels(teacher.lam_min, teacher.lam_max), steps) if callable(levels) else levels
    _require_sight(teacher.net, float(lams[0]))
    walk = FittedTable.of(ddim(), lams)
    at = WalkLevels(walk.lams)
    objective = Objective(Mse(teacher.net.prediction, at), at)
    each = max(2, -(-_WHOLE_PATH // len(walk.lams))) if evaluations is None else evaluations
    paths = TeacherPaths(walk.levels, each, guidance).of(teacher)
    return _copy(teacher, objective, paths, walk)


def reflow(teacher: Model, *, evaluations: int = 20, guidance: float = 1.0) -> Model:
    """A copy of the teacher, to be trained on the ends of its paths: the next rectified flow.

    Its own objective at all levels, on the pairs (noise, picture) that the teacher's flow joins
    (Liu et al. 2022, Algorithm 1). It is an ordinary flow, straighter than the teacher's.
    """
    paths = TeacherPaths((teacher.lam_min, math.inf), evaluations, guidance).of(teacher)
    return _copy(teacher, teacher.objective, paths, None)


def _copy(
    teacher: Model, objective: Objective, paths: TeacherPaths, walk: FittedTable | None
) -> Model:
    net, old = copy.deepcopy(teacher.net).requires_grad_(True), teacher
    ends = {"lam_min": old.lam_min, "lam_max": old.lam_max}
    return Model(net, old.schedule, objective, **ends, data=old.data, coupling=paths, walk=walk)


def _require_sight(net: Net, lam: float) -> None:
    """Refuse a network whose first step would magnify its errors."""
    gain = abs(determinant(X0, VP, lam) / determinant(net.prediction, VP, lam))
    if not gain <= _MOST_GAIN:
        raise MarginalsError(
            f"A walk of few steps begins at pure noise, where {type(net.prediction).__name__} says "
            f"nothing of the picture (its errors count {gain:.0f} times): distil a model that "
            "predicts v or the velocity (v, edm, flow)."
        )
