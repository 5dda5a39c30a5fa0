"""Pictures to learn from: shipped, fetched, or a person's own."""

from .augment import Augment
from .captioned import Captioned
from .load import load
from .order import batches, indices
from .pictures import Pictures, PictureSource, class_counts, split

__all__ = [
    "Augment",
    "Captioned",
    "PictureSource",
    "Pictures",
    "batches",
    "class_counts",
    "indices",
    "load",
    "split",
]
