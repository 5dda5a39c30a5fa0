"""Noise that belongs to one picture: the same seed gives the same picture in any batch.

Every picture has its own seed, and each draw of noise for it comes from its own stream, keyed by
(seed, draw). Nothing depends on the size of the batch or on the picture's place in it.

A walk takes its noise from a *source*: :class:`Fresh` draws anew for every row that asks;
:class:`BrownianPath` gives the increments of one Brownian motion for each picture, which is the
same whatever the steps are, so that 20 and 40 steps of an SDE solver follow the same path.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .device import send
from .errors import MarginalsError

_MASK = (1 << 32) - 1


def _mix(word: int) -> int:
    """Scramble 32 bits, one to one (the finaliser of MurmurHash3, Appleby 2011)."""
    word ^= word >> 16
    word = (word * 0x85EBCA6B) & _MASK
    word ^= word >> 13
    word = (word * 0xC2B2AE35) & _MASK
    return word ^ (word >> 16)


def stream_seed(*key: int) -> int:
    """Mix whole numbers into one well-spread 32-bit seed: all that torch's CPU generator reads.

    Every stage is one to one. So at the same draw, seeds that differ by less than 2³² are always
    different streams, where a hash would give two of a hundred thousand pictures the same noise.
    """
    state = 0
    for part in key:
        for word in (part & _MASK, (part >> 32) & _MASK):
            state = _mix((state + word + 0x9E3779B9) & _MASK)
    return state


def item_noise(
    seeds: Sequence[int],
    shape: Sequence[int],
    draw: int = 0,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise (len(seeds), *shape); row i depends on (seeds[i], draw) alone.

    Drawn on the CPU in float32, so that a seed gives the same picture on every device and in every
    precision.
    """
    return send(_normal(seeds, shape, draw).to(dtype), device)


def _normal(seeds: Sequence[int], shape: Sequence[int], *key: int) -> Tensor:
    """Standard normal numbers (len(seeds), *shape); row i is keyed (seeds[i], *key)."""
    generator = torch.Generator()
    rows = [
        torch.randn(*shape, generator=generator.manual_seed(stream_seed(seed, *key)))
        for seed in seeds
    ]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


Span = tuple[float, float, float]
"""(λ_t, λ_s, rate): the noise of a step, as an increment of B in the clock τ = e^(rate·λ)."""


class Fresh:
    """Independent noise for every row; the k-th one is keyed (seed, k). Draw 0 made the start."""

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seeds, self.shape = seeds, shape
        self.device, self.dtype = device, dtype
        self.draws = 0

    def __call__(self, span: Span | None = None) -> Tensor:
        """Standard normal noise for the next row."""
        self.draws += 1
        return item_noise(self.seeds, self.shape, self.draws, device=self.device, dtype=self.dtype)


_EDGE = 32.0
"""Paths live on λ from −32 to 32, and at λ = −∞, where the clock is at 0."""
_TREE, _HALVINGS = 1 << 40, 14


class BrownianPath(Fresh):
    """The increments of one Brownian motion B(τ) for every picture, in the clock τ = e^(rate·λ).

    That is the clock in which the noise of the reverse SDE of strength η (rate = η²) is a plain
    Brownian motion. The path is a virtual Brownian tree (Li et al. 2020) over λ: B is drawn at
    both ends, then in the middle given both ends, and so on, each draw keyed (seed, place in the
    tree). So B(τ) at a level is the same however the levels around it are chosen. Levels are
    rounded to 2⁻⁸ in λ (finer if two of them would fall together) and increments are divided by
    their own standard deviation: the noise of a walk is exactly standard normal and independent
    from step to step, as fresh noise is.

    A row without a span (Langevin moves, churn) gets fresh noise. A path costs about twenty times
    as much as fresh noise.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        spans: Sequence[Span],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(seeds, shape, device=device, dtype=dtype)
        ends = {end for span in spans for end in span[:2] if math.isfinite(end)}
        if any(abs(end) > _EDGE for end in ends):
            raise MarginalsError(
                "A Brownian path lives between λ = -32 and λ = 32: choose levels within that, or "
                "fresh noise."
            )
        self.halvings = _HALVINGS
        while len({self._place(end) for end in ends}) < len(ends) and self.halvings < 50:
            self.halvings += 1
        self.rate: float | None = None
        self.stack: list[tuple[int, int, Tensor, Tensor]] = []

    def __call__(self, span: Span | None = None) -> Tensor:
        """(B(τ_s) − B(τ_t))/√(τ_s − τ_t), standard normal."""
        if span is None:
            return super().__call__()
        start, end, rate = span
        if rate != self.rate:
            self.rate, self.stack = rate, []
        first, last = self._level(self._place(start)), self._level(self._place(end))
        before = self._at(start) if math.isfinite(start) else 0.0
        gap = math.exp(rate * last) * -math.expm1(rate * (first - last))
        return send(((self._at(end) - before) / math.sqrt(gap)).to(self.dtype), self.device)

    def _place(self, lam: float) -> int:
        """The number of a level among the 2^halvings + 1 points of the tree."""
        if math.isinf(lam):
            return -(1 << 60)
        return round((lam + _EDGE) / (2.0 * _EDGE) * (1 << self.halvings))

    def _level(self, place: int) -> float:
        if place < 0:
            return -math.inf
        return -_EDGE + 2.0 * _EDGE * place / (1 << self.halvings)

    def _at(self, lam: float) -> Tensor:
        """B at a level: down the tree, from the lowest interval in hand that holds it."""
        place = self._place(lam)
        while self.stack and not self.stack[-1][0] <= place <= self.stack[-1][1]:
            self.stack.pop()
        if not self.stack:
            self.stack.append(self._root())
        while True:
            low, high, left, right = self.stack[-1]
            if place in (low, high):
                return left if place == low else right
            middle = (low + high) // 2
            value = self._between(low, middle, high, left, right)
            below = place <= middle
            self.stack.append((low, middle, left, value) if below else (middle, high, value, right))

    def _root(self) -> tuple[int, int, Tensor, Tensor]:
        assert self.rate is not None
        ends = 0, 1 << self.halvings
        left = math.exp(-0.5 * self.rate * _EDGE) * self._draw(0)
        gap = math.exp(self.rate * _EDGE) * -math.expm1(-2.0 * self.rate * _EDGE)
        return *ends, left, left + math.sqrt(gap) * self._draw(1)

    def _between(self, low: int, middle: int, high: int, left: Tensor, right: Tensor) -> Tensor:
        """A Brownian bridge: N((1 − u)·B_low + u·B_high, (τ_m − τ_low)(τ_high − τ_m)/(τ_high −
        τ_low)) with u the share of the clock."""
        assert self.rate is not None
        a, m, b = (self.rate * self._level(place) for place in (low, middle, high))
        u = math.expm1(m - a) / math.expm1(b - a)
        spread = math.exp(0.5 * m) * math.sqrt(u * math.expm1(b - m))
        # the place in the finest tree, so that a finer one begins with the same path
        key = middle << (50 - self.halvings)
        return (1.0 - u) * left + u * right + spread * self._draw(key)

    def _draw(self, key: int) -> Tensor:
        return _normal(self.seeds, self.shape, _TREE, key).double()
