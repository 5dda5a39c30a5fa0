"""What every generative model of this package has, whatever is inside: data, labels, one loss.

:class:`Generative` is the base of :class:`.models.Model` (one denoiser, many walks) and of
:class:`.ladder.Ladder` (VAE, hierarchical VAE, diffusion as a chain). A training loop needs
nothing else: ``losses``, ``elbo``, ``sample``, ``data`` and :meth:`Generative.at_progress`.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .bound import Terms
from .device import send
from .errors import MarginalsError
from .pixels import dequantise, to_float
from .sampling import SampleResult

_FAR = 30
"""Standard deviations from the mean beyond which numbers cannot be data (0..255 in float, say)."""

Labels = int | Sequence[int] | Tensor | None
"""What pictures are to show (:mod:`.condition`): one class for all, one for each (−1 for no class),
or the states of a text (T, D) for all or (B, T, D) for each; None: the model is told nothing."""


@dataclass(frozen=True)
class DataStats:
    """What a model knows about its data: shape (C, H, W) of one item, mean and standard deviation
    over all entries, class names in label order, a name for people, and the name of the text
    encoder whose states the model is told instead of a class."""

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 1.0
    classes: tuple[str, ...] = ()
    name: str = ""
    text: str = field(default="", metadata={"later": True})


class Generative(nn.Module):
    """A model of pictures (B, C, H, W), or of other data (B, ...), with an optional class each.

    ``data``: statistics of the training data; without them the data count as mean 0, std 1, and
    the shape is taken from the first batch of ``losses``.
    """

    draws: ClassVar[bool] = True
    """Whether pictures can be drawn from it; not from a classifier, which is only trained alike."""

    def __init__(self, data: DataStats | None = None) -> None:
        super().__init__()
        self.data = data

    @property
    def device(self) -> torch.device:
        """Where the weights live (the CPU for a model without any)."""
        weight = next(self.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights (float64 for a model without any: it is exact)."""
        weight = next(self.parameters(), None)
        return torch.float64 if weight is None else weight.dtype

    @abstractmethod
    def losses(
        self, x: Tensor, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The training loss of every picture, (B,), and the noise level it was measured at, (B,),
        or None for models without noise levels."""

    def loss(
        self, x: Tensor, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean of :meth:`losses`: the number to call ``backward()`` on."""
        return self.losses(x, cond, generator)[0].mean()

    @abstractmethod
    def elbo(self, x: Tensor, cond: Labels = None, **options: Any) -> Terms:
        """The evidence lower bound of every picture, part by part, without training tricks."""

    @abstractmethod
    def sample(self, n: int, **options: Any) -> SampleResult:
        """n pictures; picture i has seed ``seed + i`` and is the same in any batch. Options of all
        models: ``seed``, ``cond``, ``batch``."""

    def at_progress(self, images_seen: int) -> None:
        """Told before every training step how many pictures were seen; most losses do not care."""

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Dropout and its like switched off, and afterwards every module as it was."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _meet(self, x: Tensor) -> None:
        """Take the shape of the data from their first batch, if nothing was known."""
        if self.data is None:
            self.data = DataStats(tuple(x.shape[1:]))

    def _shape(self) -> tuple[int, ...]:
        if self.data is None:
            raise MarginalsError(
                "The model does not know the shape of its data yet: train it first, or build "
                "it with data=DataStats(shape=(channels, height, width))."
            )
        return self.data.shape

    def _checked(self, x: Tensor) -> Tensor:
        """x itself, if it can be data of this model."""
        if self.data is not None and tuple(x.shape[1:]) != self.data.shape:
            raise MarginalsError(
                f"This model knows data of shape {self.data.shape}, not {tuple(x.shape[1:])}."
            )
        if x.dtype == torch.uint8:
            return x
        stats = self.data or DataStats(())
        if x.device.type == "cpu" and x.numel():  # elsewhere, looking would wait for the device
            far = float((x.detach() - stats.mean).abs().max()) / stats.std
            if not far < _FAR:
                raise MarginalsError(
                    f"The data hold NaN, or values more than {_FAR} standard deviations from their "
                    "mean: give pictures as floats in [-1, 1] or as uint8, and other data with "
                    "their own data=DataStats(shape, mean, std)."
                )
        return x

    def _real(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Checked data as real numbers; uint8 pixels are spread over their bins."""
        x = self._checked(x)
        if x.dtype != torch.uint8:
            return x
        u = torch.rand(x.shape, generator=generator)
        return dequantise(x, send(u, x.device)).to(self.dtype)

    def _centres(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Checked data as real numbers; uint8 pixels stay in the middle of their bins."""
        x = self._checked(x)
        return to_float(x, self.dtype) if x.dtype == torch.uint8 else x

    def _labels(self, n: int, cond: Labels) -> Tensor | None:
        """What each picture is to show, the batch first, on the model's device; or None."""
        if cond is None:
            return None
        labels = torch.as_tensor(cond, device=self.device)
        if labels.is_floating_point():
            return self._states(n, labels)
        labels = labels.expand(n) if isinstance(cond, int) else labels
        if labels.shape != (n,):
            raise MarginalsError(f"{n} pictures need {n} labels, not shape {tuple(labels.shape)}.")
        if self.data and self.data.text:
            raise MarginalsError("This model is told texts, not classes: give states of tokens.")
        classes = len(self.data.classes) if self.data else 0
        look = classes > 0 and labels.device.type == "cpu"
        if look and not bool(((labels >= -1) & (labels < classes)).all()):
            raise MarginalsError(f"Labels go from 0 to {classes - 1} (or −1 for no label).")
        return labels

    def _states(self, n: int, states: Tensor) -> Tensor:
        """Token states of one text for all pictures, or of one text for each: (n, T, D)."""
        states = states.expand(n, -1, -1) if states.ndim == 2 else states
        if states.ndim != 3 or len(states) != n:
            raise MarginalsError(
                f"{n} pictures need token states of shape (T, D), or ({n}, T, D) for a text each, "
                f"not {tuple(states.shape)}."
            )
        return states.to(self.dtype)


def check_count(n: int, batch: int) -> None:
    """Refuse to sample less than one picture, or less than one at a time."""
    if n < 1:
        raise MarginalsError(f"Ask for at least 1 picture, not {n}.")
    if batch < 1:
        raise MarginalsError(f"A batch holds at least 1 picture, not {batch}.")
