"""A person's own folder of pictures (or a zip of one), in memory or decoded on demand.

Every file is looked at before learning starts: its header for the size, its pixels to be sure
they can be decoded. What cannot be read is skipped and listed in the report.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import MarginalsError
from .captioned import Captioned
from .captions import folder_captions
from .decode import Header, Mode, Unreadable, attempt, is_gray, quiet, read_header
from .pictures import Pictures, PictureSource, check_size
from .remember import note, note_path, recall
from .report import BadFile, FolderReport
from .scan import Listing, printable, scan
from .stream import Reader, StreamingFolder

Colours = Literal["auto", "gray", "rgb", "rgba"]
MODES: dict[Colours, Mode] = {"gray": "L", "rgb": "RGB", "rgba": "RGBA"}
BUDGET = 2 << 30
"""Bytes of decoded pictures up to which a folder is held in memory."""
LEAST = 8
"""Fewer usable pictures than this are refused: nothing can be learned and held out from them."""

A = TypeVar("A")
B = TypeVar("B")


def load_folder(
    path: Path | str,
    *,
    size: int | None = None,
    colours: Colours = "auto",
    budget: int = BUDGET,
    progress: bool = True,
) -> tuple[PictureSource, PictureSource | None]:
    """(pictures, official held-out part or None) of a folder or zip file.

    `size` is the side in pixels; by default the median short side rounded to a multiple of 8, at
    most 64. `colours`: auto gives gray when every picture is gray, else RGB with transparency laid
    on white. Above `budget` bytes the pictures are decoded on demand, with the same result.
    Raises MarginalsError when there is no such folder or fewer than 8 usable pictures in it.
    """
    if size is not None:
        check_size(size)
    listing = scan(Path(path).expanduser())
    bad: dict[int, str] = {}
    with quiet():
        headers = _headers(listing, bad, progress)
        good = sorted(headers)
        _enough(listing, good, bad)
        side = size or default_size(list(headers.values()))
        mode = _mode(colours, listing, headers, side, progress)
        reader = Reader(listing.store, side, mode)
        streamed = len(good) * math.prod(reader.shape) > budget
        images = None
        if streamed:
            _verify(reader, listing, good, bad, progress)
        else:
            images = _decode_all(reader, listing, good, bad, progress)
    good = [i for i in good if i not in bad]
    _enough(listing, good, bad)
    report = _report(listing, headers, good, bad, reader, streamed)
    labels, classes = _labels(listing, good)
    captions = None if classes else folder_captions(listing.store, _names(listing, good))
    if captions is not None:
        others = report.other_files - len(captions)
        report = replace(report, captions=sum(map(len, captions)), other_files=others)
    about: dict[str, Any] = {"classes": classes, "name": listing.store.path.name, "report": report}
    source: PictureSource
    if captions is not None:
        if images is None:
            raise MarginalsError(
                f"{listing.store.path} has captions, and such pictures are kept in memory, where "
                "these have no room; choose a smaller --size."
            )
        source = Captioned(images, captions, name=about["name"], report=report)
    elif images is None:
        source = StreamingFolder(reader, tuple(_names(listing, good)), labels, **about)
    else:
        source = Pictures(images, labels, **about)
    return _official_split(source, listing, good)


def default_size(headers: list[Header]) -> int:
    """The median short side, to the nearest multiple of 8 (ties up), between 8 and 64."""
    side = median(min(header.width, header.height) for header in headers)
    return min(64, max(8, 8 * int(side / 8 + 0.5)))


def parallel(work: Callable[[A], B], items: Iterable[A], workers: int = 0) -> Iterator[B]:
    """work(item) for every item, in order, on threads; a bounded number waits at any time."""
    workers = workers or min(16, os.cpu_count() or 1)
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # Ctrl-C: do not work off what is still waiting
            pool.shutdown(wait=False, cancel_futures=True)


def _headers(listing: Listing, bad: dict[int, str], progress: bool) -> dict[int, Header]:
    """The header of every picture by index; what has none goes to `bad`."""

    def look(name: str) -> Header:
        return attempt(listing.store, name, read_header)

    found = parallel(_caught(look), listing.names)
    headers = {}
    for index, header in enumerate(_bar(found, "looking", len(listing.names), progress)):
        if isinstance(header, Unreadable):
            bad[index] = str(header)
        else:
            headers[index] = header
    return headers


def _mode(
    colours: Colours, listing: Listing, headers: dict[int, Header], size: int, progress: bool
) -> Mode:
    """Pillow mode of the result. Deciding gray stops at the first picture with a colour in it."""
    if colours != "auto":
        return MODES[colours]
    reader = Reader(listing.store, size, "RGB")
    doubtful = [listing.names[index] for index, header in headers.items() if not header.gray]
    pictures = _bar(parallel(_caught(reader.read), doubtful), "colours?", len(doubtful), progress)
    return "L" if all(isinstance(p, Unreadable) or is_gray(p) for p in pictures) else "RGB"


def _decode_all(
    reader: Reader, listing: Listing, good: list[int], bad: dict[int, str], progress: bool
) -> Tensor:
    """Every picture that can be decoded, without gaps, uint8 (<= N, C, H, W); failures to `bad`."""
    images = torch.empty(len(good), *reader.shape, dtype=torch.uint8)
    results = _bar(
        parallel(_caught(reader.read), _names(listing, good)), "reading", len(good), progress
    )
    filled = 0
    for index, pixels in zip(good, results, strict=True):
        if isinstance(pixels, Unreadable):
            bad[index] = str(pixels)
        else:
            images[filled] = pixels
            filled += 1
    return images[:filled]


def _verify(
    reader: Reader, listing: Listing, good: list[int], bad: dict[int, str], progress: bool
) -> None:
    """As `_decode_all`, but only to learn which pictures fail, and once per state of the folder."""
    names = _names(listing, good)
    place = note_path(listing.store, names, reader.size, reader.mode)
    reasons = recall(place)
    if reasons is None:
        results = _bar(parallel(_caught(reader.read), names), "checking", len(names), progress)
        failures = zip(names, results, strict=True)
        reasons = {name: str(x) for name, x in failures if isinstance(x, Unreadable)}
        note(place, reasons)
    bad.update((i, reasons[listing.names[i]]) for i in good if listing.names[i] in reasons)


def _names(listing: Listing, indices: list[int]) -> list[str]:
    return [listing.names[i] for i in indices]


def _official_split(
    source: PictureSource, listing: Listing, good: list[int]
) -> tuple[PictureSource, PictureSource | None]:
    """The source cut along the folder's own train and test parts, where it has both."""
    held = torch.tensor([listing.held_out is not None and listing.held_out[i] for i in good])
    if not held.any() or held.all():
        return source, None
    return source.subset(torch.nonzero(~held)[:, 0]), source.subset(torch.nonzero(held)[:, 0])


def _labels(listing: Listing, good: list[int]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels and classes of the usable pictures; classes that lost every picture are closed up."""
    labels = torch.tensor([listing.labels[i] for i in good], dtype=torch.long)
    present = labels.unique()
    present = present[present >= 0].tolist()
    if len(present) < 2:
        return None, ()
    new = torch.full((len(listing.classes) + 1,), -1, dtype=torch.long)
    new[present] = torch.arange(len(present))
    return new[labels], tuple(listing.classes[i] for i in present)  # -1 picks the last entry: -1


def _report(
    listing: Listing,
    headers: dict[int, Header],
    good: list[int],
    bad: dict[int, str],
    reader: Reader,
    streamed: bool,
) -> FolderReport:
    usable = [headers[i] for i in good]
    by_side = sorted(usable, key=lambda header: min(header.width, header.height))
    counts = dict.fromkeys(listing.classes, 0)
    for i in good:
        if listing.labels[i] >= 0:
            counts[listing.classes[listing.labels[i]]] += 1
    emptied = [name for name, count in counts.items() if not count]
    kept = {name: count for name, count in counts.items() if count}
    notes = list(listing.notes)
    if len(kept) == 1:
        notes.append("one class only is usable: the pictures are learned without labels")
    return FolderReport(
        path=str(listing.store.path),
        found=len(listing.names),
        usable=len(good),
        bad=tuple(BadFile(printable(listing.names[i]), bad[i]) for i in sorted(bad)),
        other_files=listing.other_files,
        captions=0,
        classes=kept if len(kept) > 1 else {},
        empty_classes=(*listing.empty_classes, *emptied),
        unlabelled=sum(listing.labels[i] < 0 for i in good) if len(kept) > 1 else len(good),
        smallest=by_side[0][:2],
        largest=by_side[-1][:2],
        size=reader.size,
        channels=reader.shape[0],
        cropped=sum(header.width != header.height for header in usable),
        enlarged=sum(min(header.width, header.height) < reader.size for header in usable),
        transparent=sum(header.transparent for header in usable),
        streamed=streamed,
        notes=tuple(notes),
    )


def _enough(listing: Listing, good: list[int], bad: dict[int, str]) -> None:
    path = listing.store.path
    if not good:
        first = min(bad)
        raise MarginalsError(
            f"none of the {len(bad)} pictures in {path} can be read; the first is "
            f"{printable(listing.names[first])}: {bad[first]}."
        )
    if len(good) < LEAST:
        unreadable = f" ({len(bad)} more cannot be read)" if bad else ""
        raise MarginalsError(
            f"{path} holds {len(good)} usable pictures{unreadable}, but at least {LEAST} are "
            "needed; add some."
        )


def _caught(work: Callable[[A], B]) -> Callable[[A], B | Unreadable]:
    """The same work, with Unreadable as a result instead of an exception."""

    def caught(item: A) -> B | Unreadable:
        try:
            return work(item)
        except Unreadable as error:
            return error

    return caught


def _bar(items: Iterator[B], title: str, total: int, progress: bool) -> Iterator[B]:
    """With a progress bar on a terminal, and without one elsewhere."""
    hidden = None if progress else True
    return iter(tqdm(items, title, total, unit="pic", leave=False, disable=hidden))
