"""Pictures with captions: what a text-to-image model learns from.

A picture has one or more captions, of which training draws one, all as likely, each time it shows
the picture: saying the same thing in several ways is how a model learns that they mean the same.
Beside them stands what is known of the picture: *what* it shows (its concept: "crab"), *how* it is
drawn (its style: "flat"), the group of things it belongs to, and its licence.

Concepts in several styles make an honest test possible: hold out some (concept, style) pairs, such
that the concept is learned in other styles and the style from other concepts. A model that draws
such a pair has combined the two (`held_out_pairs`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import MarginalsError
from .pictures import Pictures, PictureSource, pick, pick_labels, split_indices
from .report import FolderReport

FACTS = ("concepts", "styles", "groups", "licences")
"""What may be known of every picture beside its captions, by field of `Captioned`."""


@dataclass(frozen=True, eq=False)
class Captioned:
    """`images` uint8 (N, C, H, W) and for each of them a tuple of captions, maybe an empty one.

    `concepts`, `styles`, `groups` and `licences` have one entry per picture, or none at all.
    A PictureSource without classes: `labels` is None.
    """

    images: Tensor
    captions: tuple[tuple[str, ...], ...]
    concepts: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    name: str = "captioned pictures"
    note: str = ""
    flip: bool = False
    report: FolderReport | None = None

    def __post_init__(self) -> None:
        Pictures(self.images)  # raises for what are no pictures
        object.__setattr__(self, "captions", tuple(tuple(texts) for texts in self.captions))
        if len(self.captions) != len(self.images):
            raise MarginalsError(
                f"{self.name} needs captions for every picture (an empty tuple where there are "
                f"none): {len(self.images)} pictures, captions for {len(self.captions)}."
            )
        for field in FACTS:
            facts = tuple(getattr(self, field))
            object.__setattr__(self, field, facts)
            if facts and len(facts) != len(self.images):
                raise MarginalsError(
                    f"{self.name} has {len(facts)} {field} for {len(self.images)} pictures; give "
                    "one for each, or none."
                )

    @property
    def labels(self) -> Tensor | None:
        return None

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        _, c, h, w = self.images.shape
        return c, h, w

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return pick(self.images, indices), pick_labels(None, indices)

    def ahead(self, indices: Tensor) -> None:
        """Nothing to prepare: the pictures are in memory."""

    def near(self, device: torch.device, limit: int) -> Captioned:
        """The same with the pictures on the device, if they take at most `limit` bytes."""
        if device.type == "cpu" or self.images.nbytes > limit:
            return self
        return replace(self, images=self.images.to(device))

    def subset(self, indices: Tensor) -> Captioned:
        """Only these pictures, in this order, with all that is known of them."""
        chosen = indices.tolist()
        facts = {f: tuple(x[i] for i in chosen) for f in FACTS if (x := getattr(self, f))}
        captions = tuple(self.captions[i] for i in chosen)
        return replace(self, images=pick(self.images, indices), captions=captions, **facts)

    def split(self, held_out: int | float = 0.1, seed: int = 0) -> tuple[Captioned, Captioned]:
        """(train, held out) picture by picture; see `pictures.split` and `held_out_pairs`."""
        train, held = split_indices(len(self), None, held_out, seed)
        return self.subset(train), self.subset(held)

    def resized(self, size: int) -> Captioned:
        """As `Pictures.resized`: a square of (size, size), by an antialiased filter."""
        return replace(self, images=Pictures(self.images).resized(size).images)

    def checksum(self) -> str:
        """SHA-256 (64 hexadecimal digits) over the shape, every pixel and every word."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().tobytes())
        for words in (self.captions, *(getattr(self, field) for field in FACTS)):
            digest.update(repr(words).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def captions_of(source: PictureSource) -> tuple[tuple[str, ...], ...]:
    """The captions of every picture of any source; nothing at all where it has none."""
    captions = getattr(source, "captions", ())
    return captions if any(captions) else ()


def styles_of(source: PictureSource) -> tuple[str, ...]:
    """The styles of any source's pictures by name, the most common first."""
    return tuple(style for style, _ in Counter(getattr(source, "styles", ())).most_common())


def held_out_pairs(
    concepts: Sequence[str], styles: Sequence[str], share: float, seed: int = 0
) -> list[bool]:
    """Which pictures to hold out: about `share` of them, each a (concept, style) pair.

    Of every pair held out, the concept stays in at least two other styles and the style in other
    concepts. All pictures of a pair go together. The order in which pairs are considered is that
    of a SHA-256 of (seed, concept, style), so it does not depend on what else is in the set, on
    its order, or on any library's random numbers.
    """
    pairs = Counter(zip(concepts, styles, strict=True))
    of_concept = Counter(concept for concept, _ in pairs)
    of_style = Counter(style for _, style in pairs)
    left, held = round(share * len(concepts)), set()
    for pair in sorted(pairs, key=lambda pair: _key(seed, *pair)):
        concept, style = pair
        if pairs[pair] > left or of_concept[concept] < 3 or of_style[style] < 2:
            continue
        held.add(pair)
        left -= pairs[pair]
        of_concept[concept] -= 1
        of_style[style] -= 1
    return [pair in held for pair in zip(concepts, styles, strict=True)]


def cut(source: Captioned, held: Sequence[bool]) -> tuple[Captioned, Captioned]:
    """(those where `held` is false, those where it is true, named so)."""
    mask = torch.tensor(held, dtype=torch.bool)
    test = source.subset(torch.nonzero(mask)[:, 0])
    train = source.subset(torch.nonzero(~mask)[:, 0])
    return train, replace(test, name=f"{source.name} (held out)")


def _key(seed: int, *words: str) -> bytes:
    return hashlib.sha256(repr((seed, *words)).encode("utf-8", "surrogatepass")).digest()
