"""What the demo is told: a few settings, and none of them is needed. Free of torch, for the CLI."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from marginals.errors import MarginalsError

__all__ = ["DemoConfig"]


class DemoConfig(BaseModel):
    """Settings of the demo. Raises MarginalsError, in one sentence, for impossible values."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    data: str = "fashion"
    """Pictures to learn: fashion, digits (faster), your own folder (sub-folders are classes), or
    an .npz file."""
    out: Path | None = None
    """Folder for everything the demo makes; by default demo-run/NAME of the data."""
    images: int | None = Field(default=None, ge=1)
    """How many pictures to train on (each showing counts); by default what suits the data."""
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How long to train, instead of --images; the views take about two minutes more."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Decides the first weights, the order of the data and all the noise."""
    fresh: bool = False
    """Replace an earlier demo in the folder instead of going on with it."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; by default what a short trial finds to be the fastest."""

    if not TYPE_CHECKING:  # the typed signature pydantic gives is the better one for editors

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                problems = (_problem(dict(e)) for e in error.errors(include_url=False))
                raise MarginalsError("; ".join(problems)) from None

    @model_validator(mode="after")
    def _one_budget(self) -> "DemoConfig":
        if self.images is not None and self.minutes is not None:
            raise ValueError("give --images or --minutes, which both say how long to train")
        return self

    @property
    def folder(self) -> Path:
        """Where everything goes: `out`, or demo-run/NAME."""
        return self.out if self.out is not None else Path("demo-run") / Path(self.data).stem


def _problem(error: dict[str, Any]) -> str:
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if not error["loc"]:
        return message
    return f"{'.'.join(map(str, error['loc']))} {message} (it is {error['input']!r})"
