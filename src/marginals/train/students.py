"""Models that learn from a trained one: students of few steps, and the next rectified flow."""

from pathlib import Path
from typing import Any

from marginals.distill import reflow, student
from marginals.errors import MarginalsError
from marginals.generative import DataStats
from marginals.io.checkpoint import load_diffusion
from marginals.models import Model
from marginals.train.config import TrainConfig

__all__ = ["learn_from"]


def learn_from(config: TrainConfig, stats: DataStats) -> Model:
    """The untrained student of `config.teacher`: its weights are the teacher's.

    `student_steps` None is reflow. Raises MarginalsError for a teacher of other pictures.
    """
    assert config.teacher is not None
    teacher = load_diffusion(Path(config.teacher))
    known = teacher.data
    if known is None or (known.shape, known.classes) != (stats.shape, stats.classes):
        raise MarginalsError(
            f"{config.teacher} has learned other pictures or classes than those of {stats.name}: "
            "give the data it was trained on"
        )
    guidance = config.teacher_guidance
    options: dict[str, Any] = {"guidance": 1.0 if guidance is None else guidance}
    if config.teacher_evaluations is not None:
        options["evaluations"] = config.teacher_evaluations
    if config.student_steps is None:
        return reflow(teacher, **options)
    return student(teacher, config.student_steps, **options)
