"""What a training run is told: one typed, frozen object for the CLI, YAML files and Python.

This module does not import torch, so that the command line can check a configuration and print its
help at once. Amounts of training are counted in *images seen*, never in steps or epochs: the number
means the same for every batch size, and everything in a run (data order, noise, learning rate, EMA)
is a function of it.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from marginals.errors import MarginalsError
from marginals.io.atomic import write_text
from marginals.train.presets import LADDERS, preset

__all__ = [
    "SAMPLE_STEPS",
    "ModelName",
    "TrainConfig",
]

ModelName = Literal[
    "vae",
    "hvae",
    "autoencoder",
    "ddpm",
    "iddpm",
    "vdm",
    "v",
    "score",
    "edm",
    "flow",
    "score_ve",
    "score_sub_vp",
    "classifier",
]
DecoderName = Literal["mixture", "logistic", "categorical", "gaussian", "bernoulli"]

# Settings that may change when a run continues: they do not reach into the arithmetic of a step.
# The length is one of them, so that a finished run can be trained for longer.
_FREE_ON_RESUME = {
    "images", "minutes", "save_every", "sample_every", "log_every", "samples", "sample_steps",
    "out", "threads",
}  # fmt: skip

_RENAMED = {
    "formulation": "'model' (score_vp is now score); the version that made a run with it can "
    "finish that run, and its model.safetensors works here",
}
"""What older configurations say, and how to say it now."""

SAMPLE_STEPS = 20
"""Solver steps of the sample strip where nothing else is asked for."""

_FOR_LADDERS = ("decoder", "beta", "free_bits", "kl_warmup")
_FOR_DIFFUSION = ("sample_steps", "compile", "codec", "coupling", "teacher")
_NOT_CLASSIFYING = {"label_dropout": 0.0, "sample_every": 0}
_WITH_TEACHER = ("student_steps", "teacher_evaluations", "teacher_guidance")
_FLOWS = ("flow", "v", "edm")


class TrainConfig(BaseModel):
    """Everything that decides a training run. Exactly one of `images` and `minutes` is given.

    Raises MarginalsError, in one sentence, for a value or a name that makes no sense.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    data: str = "fashion"
    """Pictures to learn: a built-in name, a folder (sub-folders are classes), or an .npz file."""
    size: int | None = Field(default=None, ge=4, le=1024)
    """Side of the training pictures in pixels; by default that of the data."""
    conditional: bool = True
    """Learn the classes or the captions too, where the data has them."""
    text: str = "minilm"
    """Text encoder for data with captions."""

    model: ModelName = "v"
    """What to train: vae, hvae and autoencoder learn their latents; classifier learns the classes
    of noisy pictures, to guide with (`sample --classifier`); for all others, which are diffusion
    models, the name decides schedule, prediction and loss weights."""
    network: str | None = None
    """Name of a network preset; by default the one that suits the model."""
    network_options: dict[str, Any] = Field(default_factory=dict)
    """Single settings of the network that replace those of the preset."""

    start: str | None = None
    """Begin with the weights of this model (run folder, model file, or a name such as emoji),
    wherever they fit; the network is still the one described here."""
    codec: str | None = None
    """Diffusion models: learn the latents of this autoencoder (a run folder or a model file) in
    place of pixels; the model's file then holds both."""
    feature_loss: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """autoencoder: weight of a distance between features of EfficientNet-Lite0 (needs the extra
    'metrics'); by default none is charged."""

    coupling: Literal["ot"] | None = None
    """flow, v, edm: ot deals the noise of a batch out to the pictures of a class so that paths
    cross less; the model is then a flow without a score."""
    teacher: str | None = None
    """Diffusion models: learn the paths of this trained model (a run folder or a model file), whose
    kind and network are taken over."""
    student_steps: int | None = Field(default=None, ge=1, le=64)
    """With a teacher: evaluations per picture; by default the student is an ordinary, straighter
    flow (reflow)."""
    teacher_evaluations: int | None = Field(default=None, ge=1, le=1000)
    """With a teacher: its evaluations for each step of the student; by default 16 for the whole
    path, and 20 for reflow."""
    teacher_guidance: float | None = Field(default=None, ge=0, le=100)
    """With a teacher: its guidance, which the student learns and then needs no more; by default 1,
    which is none."""

    guess_images: int | None = Field(default=None, ge=1)
    """Networks with a guess (dit-emoji): how many texts it is fitted to before the first step; by
    default a hundred for every picture, and none where it comes from the model to start with."""

    decoder: DecoderName | None = None
    """vae, hvae: the law of a pixel given the latents; by default a mixture of five logistics (of
    an autoencoder one logistic)."""
    beta: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """vae, hvae: weight of the latents' KL in the loss; 1, the default, is the ELBO."""
    free_bits: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """vae, hvae: nats that every rung of latents may use for nothing; by default 0."""
    kl_warmup: int | None = Field(default=None, ge=0)
    """vae, hvae: images over which beta rises from 0; by default 0."""

    images: int | None = Field(default=None, ge=1)
    """How many images to train on (each showing of a picture counts)."""
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How long to train; a timed trial turns it into `images`, which the run then records."""

    batch: int = Field(default=64, ge=1)
    """Images per step, over all devices together."""
    lr: float = Field(default=1e-3, gt=0, le=1, allow_inf_nan=False)
    """Learning rate after the warm-up."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon for the matrices of a transformer (networks dit-...), which wants fewer images
    for the same loss, at a few percent more time per step."""
    warmup: int = Field(default=5_000, ge=0)
    """The learning rate rises linearly from 0 over this many images."""
    decay: float = Field(default=0.3, ge=0, le=1)
    """The learning rate falls linearly to 0 over this last part of the run."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Decoupled weight decay."""
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Gradients longer than this are shortened to it."""
    ema_half_life: int = Field(default=20_000, ge=0)
    """Half-life, in images, of the running average of the weights; 0 switches it off."""
    ema_ramp: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Early on the half-life is at most this fraction of the images seen."""
    label_dropout: float = Field(default=0.1, ge=0, le=1)
    """How often a label is hidden, so that guidance has an unconditional model; never from a
    classifier."""
    flips: bool | None = None
    """Mirror half of the pictures left to right; by default where the data set allows it."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides the first weights, the order of the data and all the noise."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 mixed precision is faster on GPUs that have it."""
    compile: bool = False
    """Compile the network with torch.compile (needs a C++ compiler)."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; by default torch decides."""

    save_every: int | None = Field(default=None, ge=1)
    """Images between checkpoints; by default a tenth of the run."""
    sample_every: int | None = Field(default=None, ge=0)
    """Images between rows of the sample strip; by default a sixth of the run, 0 draws none."""
    log_every: int | None = Field(default=None, ge=1)
    """Images between lines of log.jsonl; by default a hundredth of the run."""
    samples: int = Field(default=8, ge=1, le=64)
    """Pictures in a row of the sample strip."""
    sample_steps: int | None = Field(default=None, ge=1, le=1000)
    """Solver steps for the sample strip of a diffusion model; by default 20."""
    out: str | None = None
    """Folder of the run; by default runs/DATA-MODEL, numbered."""

    if not TYPE_CHECKING:  # the typed signature pydantic gives is the better one for editors

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise MarginalsError(_sentence(error, values)) from None

    @field_validator("data")
    @classmethod
    def _data_is_named(cls, data: str) -> str:
        if not data.strip():
            raise ValueError("name a data set, a folder of pictures or an .npz file")
        return data

    @field_validator("out")
    @classmethod
    def _out_is_named(cls, out: str | None) -> str | None:
        if out is not None and not out.strip():
            raise ValueError("name a folder for the run")
        return out

    @model_validator(mode="before")
    @classmethod
    def _for_a_classifier(cls, values: Any) -> Any:
        """Labels are all it learns, and it draws nothing."""
        if not isinstance(values, dict) or values.get("model") != "classifier":
            return values
        given = {key: value for key, value in values.items() if value is not None}
        return values | _NOT_CLASSIFYING | given

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.images is None) == (self.minutes is None):
            raise ValueError("give exactly one of images and minutes, which say how long to train")
        return self

    @model_validator(mode="after")
    def _options_mean_something(self) -> Self:
        for names, whose in self._of_others():
            for name in names:
                value = getattr(self, name)
                if value is not None and value is not False:
                    raise ValueError(f"{name} is for {whose} and means nothing to {self.model}")
        if self.model == "classifier":
            for name, only in _NOT_CLASSIFYING.items():
                if getattr(self, name) != only:
                    raise ValueError(
                        f"a classifier learns from labels and draws nothing: leave {name} out"
                    )
            if not self.conditional:
                raise ValueError("a classifier learns the classes: conditional cannot be false")
        if self.feature_loss is not None and self.model != "autoencoder":
            raise ValueError(f"feature_loss is for autoencoder and means nothing to {self.model}")
        for name in () if self.teacher else _WITH_TEACHER:
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is for students: name their teacher, or leave it out")
        if self.teacher and (self.coupling or self.codec):
            raise ValueError("a student learns its teacher's pairs: leave coupling and codec out")
        if self.coupling and self.model not in _FLOWS:
            raise ValueError(f"a coupling is for {', '.join(_FLOWS)}, not for {self.model}")
        if self.codec is not None and self.flips:
            raise ValueError("latents cannot be mirrored: leave flips out, or train without codec")
        return self

    def _of_others(self) -> list[tuple[tuple[str, ...], str]]:
        """Settings that mean nothing to this kind of model, and whose they are."""
        ladders = (_FOR_LADDERS, "vae, hvae and autoencoder")
        if self.model == "classifier":
            return [ladders, (_FOR_DIFFUSION, "diffusion models")]
        return [(_FOR_DIFFUSION, "diffusion models")] if self.model in LADDERS else [ladders]

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """The settings for a time budget ("2min", "10min", "1h", "overnight") or a task ("shapes",
        "emoji"), with `changes`."""
        values = preset(name, changes.get("model", "v")) | changes
        if changes.get("images") is not None:
            values.pop("minutes", None)
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Self:
        """Read a configuration from a YAML file; unknown settings are errors."""
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MarginalsError(f"there is no configuration file {path}") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise MarginalsError(f"cannot read {path} as YAML: {reason}") from None
        if values is not None and not isinstance(values, dict):
            raise MarginalsError(f"{path} should be a list of `setting: value` lines")
        if strange := [key for key in values or {} if not isinstance(key, str)]:
            raise MarginalsError(f"{path}: there is no setting {strange[0]!r}")
        try:
            return cls(**(values or {}))
        except MarginalsError as error:
            raise MarginalsError(f"{path}: {error}") from None

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Write this configuration; `from_yaml` reads back an equal one."""
        write_text(path, yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True))

    def with_changes(self, **changes: Any) -> Self:
        """A checked copy with some settings replaced."""
        return type(self)(**(self.model_dump() | changes))

    def differences(self, other: Self) -> list[str]:
        """Names of the settings that differ and would change the arithmetic of a continued run."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [k for k in mine if k not in _FREE_ON_RESUME and mine[k] != theirs[k]]


def _sentence(error: ValidationError, values: Mapping[str, Any]) -> str:
    """All problems of a configuration in one sentence."""
    return "; ".join(_problem(dict(e), values) for e in error.errors(include_url=False))


def _problem(error: dict[str, Any], values: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden" and name in _RENAMED:
        return f"the setting {name!r} of older versions is now called {_RENAMED[name]}"
    if error["type"] == "extra_forbidden":
        known = [k for k in TrainConfig.model_fields if k not in values]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"there is no setting {name!r}{hint}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if not name:
        return message
    return f"{name} {message} (it is {error['input']!r})"
