"""A decoder of several logistics: pixels with two likely values, and a spike at black.

One logistic cannot say "black, or else about this grey", which is what a latent-variable model
knows of most pixels near an edge. A mixture can, and costs far less than a free choice among 256.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from .decoders import Decoder
from .errors import MarginalsError
from .gaussian import sum_dims
from .pixels import BIN_WIDTH, BINS, to_float, to_uint8

_NARROWEST = -7.0  # log s: such a logistic lies in one bin, and narrower ones only overflow
_WIDEST = 7.0  # and such a one is flat over all the bins; beyond, their shares underflow
_ANY = 1e-5  # the share of a law that is spread evenly over all 256 values
_TYPICAL = -3.0  # log s at output 0: a tenth of the way from black to white


@dataclass(frozen=True)
class LogisticMixture(Decoder):
    """P(k) = Σ_i π_i·[F((c_k + w/2 − m_i)/s_i) − F((c_k − w/2 − m_i)/s_i)], F = sigmoid, outer bins
    open (Salimans et al. 2017, PixelCNN++, without its links between colours).

    ``components`` of them, 3 numbers each: all logits of π, all means m, all widths, with log s
    kept between −7 and 7. Black (k = 0) and white are the tails of the law, so a mean far outside
    [−1, 1] is a spike there. One part in 100 000 of the law is spread evenly over the 256 values:
    no pixel, however unexpected, costs more than 17 nats or throws a training run off its way.
    """

    components: int = 5

    def __post_init__(self) -> None:
        if self.components < 1:
            raise MarginalsError(f"A mixture needs 1 component or more, not {self.components}.")

    @property
    def params(self) -> int:
        return 3 * self.components

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        logits, mean, log_scale = self._laws(self._read(x, out))
        x = x.unsqueeze(1)
        centre, rate = to_float(x, mean.dtype) - mean, (-log_scale).exp()
        below = logsigmoid((centre + 0.5 * BIN_WIDTH) * rate).masked_fill(x == BINS - 1, 0.0)
        above = logsigmoid((0.5 * BIN_WIDTH - centre) * rate).masked_fill(x == 0, 0.0)
        inside = (-torch.expm1(-BIN_WIDTH * rate)).log()
        inside = inside.masked_fill((x == 0) | (x == BINS - 1), 0.0)
        nats = (logits.log_softmax(1) + below + above + inside).logsumexp(1) + math.log1p(-_ANY)
        return sum_dims(torch.logaddexp(nats, nats.new_full((), math.log(_ANY / BINS))))

    def mean(self, out: Tensor) -> Tensor:
        """Of the mixture cut off at ∓1, within half a bin of the mean of the whole numbers."""
        logits, mean, log_scale = self._laws(self._split(out))
        scale = log_scale.exp()
        area = softplus((1.0 - mean) / scale) - softplus((-1.0 - mean) / scale)
        return (1.0 - _ANY) * (logits.softmax(1) * (1.0 - scale * area).clamp(-1.0, 1.0)).sum(1)

    def sample(self, out: Tensor, u: Tensor) -> Tensor:
        """One u chooses the component and, stretched again to (0, 1), the value."""
        even, u = 2.0 * u / _ANY - 1.0, (u - _ANY) / (1.0 - _ANY)
        logits, mean, log_scale = self._laws(self._split(out))
        share = logits.double().softmax(1)
        upper = share.cumsum(1)
        chosen = (upper[:, :-1] <= u.unsqueeze(1)).sum(1, keepdim=True)
        low, width = (upper - share).gather(1, chosen), share.gather(1, chosen)
        within = ((u.unsqueeze(1) - low) / width).clamp(1e-12, 1.0 - 1e-12)
        mean, scale = mean.gather(1, chosen), log_scale.gather(1, chosen).exp()
        drawn = (mean + scale * torch.logit(within).to(mean)).squeeze(1)
        return to_float(to_uint8(torch.where(u < 0.0, even.to(drawn), drawn)), out.dtype)

    def _laws(self, parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3n, C, ...) → logits, means, log s, each (B, n, C, ...)."""
        logits, mean, width = parts.chunk(3, dim=1)
        log_scale = _NARROWEST + softplus(width + (_TYPICAL - _NARROWEST))
        return logits, mean, log_scale.clamp(max=_WIDEST)
