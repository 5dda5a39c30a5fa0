"""p(x | latents): the law of a picture given what is at the bottom of a ladder.

A network ends in ``params`` numbers per entry of the picture, and a :class:`Decoder` says what law
they are the parameters of. Three kinds of law, and their nats do not compare with each other:

* a **density** on real numbers (:class:`GaussianDecoder`): −log p can be negative without end;
* a probability of **whole-number** pixels 0..255 (:class:`DiscretisedLogistic`,
  :class:`DiscretisedGaussian`, :class:`Categorical`): a density's probability of each of the 256
  bins of :mod:`.pixels`, the first and the last bin open to ∓∞, so that the 256 sum to one;
* a probability of **black and white** (:class:`Bernoulli`).

Bins have the width w = 2/256 and the centres c_k = (2k + 1)/256 − 1.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from .errors import MarginalsError
from .gaussian import log_normal_bin, sum_dims
from .pixels import BIN_WIDTH, BINS, to_float, to_uint8

_HALF = 0.5 * BIN_WIDTH
_WIDEST = 14.0


class Decoder(ABC):
    """The law of an example x given the network's ``out``; entries are independent.

    ``out`` is (B, params·C, H, W) for pictures (B, C, H, W) and (B, params·D) for vectors (B, D):
    the first C channels are every entry's first parameter, and so on. ``density``: the law is a
    density of real x; otherwise it is a probability of whole numbers, x being uint8. ``binary``:
    pixels are cut to black (k < 128) and white first.
    """

    density: ClassVar[bool] = False
    binary: ClassVar[bool] = False

    @property
    @abstractmethod
    def params(self) -> int:
        """Numbers the network gives for every entry of x."""

    @abstractmethod
    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """log p(x | out) in nats, summed over entries, (B,), float64.

        Raises MarginalsError for x of the wrong kind (real for whole numbers, or the reverse) and
        for an ``out`` whose shape does not belong to x.
        """

    @abstractmethod
    def mean(self, out: Tensor) -> Tensor:
        """The mean picture, of x's shape, in [-1, 1] for laws of pixels."""

    @abstractmethod
    def sample(self, out: Tensor, u: Tensor) -> Tensor:
        """A picture drawn from the law, as real numbers (bin centres for whole numbers), from u ~
        U(0, 1) of x's shape: one per entry, by inverting the distribution function."""

    def shown(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x as real numbers: what an encoder is shown of exactly that which ``log_prob`` rates."""
        return x.to(dtype) if self.density else to_float(x, dtype)

    def _split(self, out: Tensor) -> Tensor:
        """(B, params·C, ...) → (B, params, C, ...), in float32 at least: half precision cannot tell
        neighbouring grey values apart."""
        if out.shape[1] % self.params:
            raise MarginalsError(
                f"{type(self).__name__} reads {self.params} numbers per entry, but the network "
                f"gives {out.shape[1]} channels: give it {self.params} times those of the picture."
            )
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        return out.unflatten(1, (self.params, -1))

    def _read(self, x: Tensor, out: Tensor) -> Tensor:
        """``out`` split into parameters, after looking whether x is what they are about."""
        name = type(self).__name__
        if self.density and not x.is_floating_point():
            raise MarginalsError(
                f"{name} is a density of real numbers: spread whole-number pixels over their bins "
                "first with marginals.pixels.dequantise."
            )
        if not self.density and x.dtype != torch.uint8:
            raise MarginalsError(
                f"{name} is a probability of whole-number pixels: give it uint8 pictures, not "
                f"{x.dtype} (marginals.pixels.to_uint8 makes them)."
            )
        parts = self._split(out)
        if parts.shape[2:] != x.shape[1:]:
            raise MarginalsError(
                f"{name} needs {self.params} numbers for each entry of pictures "
                f"{tuple(x.shape[1:])}, but the network's output has shape {tuple(out.shape[1:])}."
            )
        return parts


@dataclass(frozen=True)
class Bernoulli(Decoder):
    """Black-and-white pixels: P(white) = sigmoid(out), one logit each. Black is −1, white is 1."""

    binary: ClassVar[bool] = True

    @property
    def params(self) -> int:
        return 1

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        logit = self._read(x, out)[:, 0]
        return sum_dims(logsigmoid(torch.where(x >= BINS // 2, logit, -logit)))

    def mean(self, out: Tensor) -> Tensor:
        return (0.5 * self._split(out)[:, 0]).tanh()

    def sample(self, out: Tensor, u: Tensor) -> Tensor:
        p = self._split(out)[:, 0].sigmoid()
        return torch.where(u < p, 1.0, -1.0).to(p.dtype)

    def shown(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return (x >= BINS // 2).to(dtype).mul_(2.0).sub_(1.0)


@dataclass(frozen=True)
class _Spread(Decoder):
    """A law with a mean and a spread: ``std`` fixed (one number), or learned as its log (two).

    A log-spread beyond ±14 is read as ±14: a millionth and a million are as good as 0 and ∞.
    """

    std: float | None = None

    def __post_init__(self) -> None:
        if self.std is not None and not 0.0 < self.std < math.inf:
            raise MarginalsError(
                f"The fixed std of a decoder must be positive and finite, not {self.std}; leave "
                "it out to have it learned."
            )

    @property
    def params(self) -> int:
        return 2 if self.std is None else 1

    def moments(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Location and log-spread from ``out`` split into parameters."""
        mean = parts[:, 0]
        if self.std is not None:
            return mean, torch.full_like(mean, math.log(self.std))
        return mean, parts[:, 1].clamp(-_WIDEST, _WIDEST)


@dataclass(frozen=True)
class GaussianDecoder(_Spread):
    """N(x; mean, std²): out = (mean, log std), or the mean alone with a fixed ``std`` (Luo Eq. 19
    with a squared-error reconstruction). A density: data that lie on whole numbers must be
    dequantised, or a shrinking std makes it infinite."""

    density: ClassVar[bool] = True

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        mean, log_std = self.moments(self._read(x, out))
        z = (x - mean) * (-log_std).exp()
        return sum_dims(-0.5 * z.square() - log_std - 0.5 * math.log(2.0 * math.pi))

    def mean(self, out: Tensor) -> Tensor:
        return self._split(out)[:, 0]

    def sample(self, out: Tensor, u: Tensor) -> Tensor:
        mean, log_std = self.moments(self._split(out))
        return mean + log_std.exp() * torch.special.ndtri(u).to(mean)


@dataclass(frozen=True)
class DiscretisedGaussian(_Spread):
    """P(k) = ∫ over bin k of N(mean, std²): DDPM's decoder (:func:`discretised_gaussian`), here
    with out = (mean, log std), or the mean alone with a fixed ``std``."""

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        mean, log_std = self.moments(self._read(x, out))
        return discretised_gaussian(x, mean, log_std.double().exp())

    def mean(self, out: Tensor) -> Tensor:
        """Of N(mean, std²) cut off at ∓1, within half a bin of the mean of the whole numbers."""
        mean, log_std = self.moments(self._split(out))
        std = log_std.exp()

        def above(edge: float) -> Tensor:  # E[max(edge − x, 0)]
            z = (edge - mean) / std
            density = (-0.5 * z.square()).exp() / math.sqrt(2.0 * math.pi)
            return std * (z * torch.special.ndtr(z) + density)

        return (1.0 - above(1.0) + above(-1.0)).clamp(-1.0, 1.0)

    def sample(self, out: Tensor, u: Tensor) -> Tensor:
        mean, log_std = self.moments(self._split(out))
        return _to_centre(mean + log_std.exp() * torch.special.ndtri(u).to(mean))


@dataclass(frozen=True)
class DiscretisedLogistic(_Spread):
    """P(k) = F((c_k + w/2 − m)/s) − F((c_k − w/2 − m)/s) with F = sigmoid: the logistic law binned
    (Salimans et al. 2017, one component; Kingma et al. 2016). out = (m, log s), or m alone with a
    fixed scale ``std`` (s itself; the standard deviation is π/√3 times that).

    With a and b the two arguments, log(F(a) − F(b)) = log F(a) + log F(−b) + log(1 − e^(−w/s)),
    which nothing can cancel in.
    """

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        mean, log_scale = self.moments(self._read(x, out))
        centre, rate = to_float(x, mean.dtype) - mean, (-log_scale).exp()
        below = logsigmoid((centre + _HALF) * rate).masked_fill(x == BINS - 1, 0.0)
        above = logsigmoid((_HALF - centre) * rate).masked_fill(x == 0, 0.0)
        inside = (-torch.expm1(-BIN_WIDTH * rate)).log()
        inside = inside.masked_fill((x == 0) | (x == BINS - 1), 0.0)
        return sum_dims(below + above + inside)

    def mean(self, out: Tensor) -> Tensor:
        """Of the logistic cut off at ∓1, within half a bin of the mean of the whole numbers."""
        mean, log_scale = self.moments(self._split(out))
        scale = log_scale.exp()
        area = softplus((1.0 - mean) / scale) - softplus((-1.0 - mean) / scale)
        return (1.0 - scale * area).clamp(-1.0, 1.0)

    def sample(self, out: Tensor, u: Tensor) -> Tensor:
        mean, log_scale = self.moments(self._split(out))
        return _to_centre(mean + log_scale.exp() * torch.logit(u).to(mean))


@dataclass(frozen=True)
class Categorical(Decoder):
    """Any law on 0..255: P(k) = softmax(out)_k, 256 logits for each entry (PixelCNN's, van den Oord
    et al. 2016). It knows nothing of which values are close to each other."""

    @property
    def params(self) -> int:
        return BINS

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        log_probs = self._read(x, out).log_softmax(1)
        return sum_dims(log_probs.gather(1, x.long().unsqueeze(1)))

    def mean(self, out: Tensor) -> Tensor:
        probs = self._split(out).softmax(1)
        centres = to_float(torch.arange(BINS, dtype=torch.uint8, device=out.device), probs.dtype)
        return torch.einsum("bk...,k->b...", probs, centres)

    def sample(self, out: Tensor, u: Tensor) -> Tensor:
        logits = self._split(out)
        below = logits.double().softmax(1).cumsum(1)[:, :-1]
        return to_float((below <= u.unsqueeze(1)).sum(1).to(torch.uint8), logits.dtype)


def whole_numbers(x: Tensor) -> Tensor:
    """Pixels as uint8, whether given so or as real numbers in [-1, 1], which go into their bins."""
    if x.dtype == torch.uint8:
        return x
    if x.device.type == "cpu" and x.numel() and not float(x.abs().max()) <= 1.0:
        raise MarginalsError(
            "This model rates pixels: give pictures as uint8 or as floats in [-1, 1], or build it "
            "with a GaussianDecoder for other data."
        )
    return to_uint8(x)


def _to_centre(x: Tensor) -> Tensor:
    """Real numbers into the middle of their bins, the outer bins being open."""
    return to_float(to_uint8(x), x.dtype)


def discretised_gaussian(pixels: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    """log P(k) = Σ log ∫ over bin k of N(x; mean, std²), in nats, (B,) in float64.

    DDPM's last step (Ho et al. 2020, Eq. 13) on the bins of :mod:`.pixels`; the outer bins reach to
    ∓∞. ``pixels``: uint8; ``mean``: of that shape; ``std``: a number or what broadcasts. Exact for
    every std from 1e-6 to 1e6 and every distance, with finite gradients (:func:`.log_normal_bin`).
    """
    if pixels.dtype != torch.uint8:
        raise MarginalsError(
            f"discretised_gaussian rates whole-number pixels (uint8), not {pixels.dtype}."
        )
    std = torch.as_tensor(std, dtype=torch.float64, device=mean.device)
    gap = to_float(pixels, torch.float64) - mean.double()
    first, last = pixels == 0, pixels == BINS - 1
    # at the open ends the bin is a tail, and what log_normal_bin is given does not matter
    inside = log_normal_bin((gap / std).masked_fill(first | last, 0.0), BIN_WIDTH / std)
    below = torch.special.log_ndtr((gap + _HALF) / std)
    above = torch.special.log_ndtr((_HALF - gap) / std)
    return sum_dims(torch.where(first, below, torch.where(last, above, inside)))
