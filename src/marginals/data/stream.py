"""Pictures that stay in their files and are decoded when asked for, a little ahead of time."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ..errors import MarginalsError
from .decode import CHANNELS, Mode, Unreadable, attempt, decode
from .pictures import pick_labels
from .report import FolderReport
from .scan import Store

AHEAD = 4096
"""At most this many pictures are decoded before they are asked for."""


class Reader:
    """Decodes files of a store to one shape, on its own threads."""

    def __init__(self, store: Store, size: int, mode: Mode) -> None:
        self.store, self.size = store, size
        self.mode: Mode = mode
        self.shape = (CHANNELS[mode], size, size)
        self._pool: ThreadPoolExecutor | None = None

    def read(self, name: str) -> Tensor:
        """uint8 (C, size, size); Unreadable with the reason when that fails."""
        return attempt(self.store, name, lambda file: decode(file, self.size, self.mode))

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Made at first use, so that a source which is never read starts no threads."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        return self._pool


class StreamingFolder:
    """A `PictureSource` over files that were all readable when it was made.

    A file that has since vanished or been damaged does not stop a run: the next readable one (with
    its own label) takes its place, and `failed` says so.
    """

    def __init__(
        self,
        reader: Reader,
        names: tuple[str, ...],
        labels: Tensor | None,
        classes: tuple[str, ...],
        name: str,
        report: FolderReport | None,
    ) -> None:
        self._reader, self._names = reader, names
        self.labels, self.classes, self.name, self.report = labels, classes, name, report
        self.note = ""
        self.flip = False
        self.shape = reader.shape
        self.failed: dict[str, str] = {}
        self._waiting: dict[int, Future[tuple[Tensor, int]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._names)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        futures = [self._take(index) for index in indices.tolist()]
        results = [future.result() for future in futures]
        images = torch.empty(len(results), *self.shape, dtype=torch.uint8)
        for row, (pixels, _) in enumerate(results):
            images[row] = pixels
        used = torch.tensor([index for _, index in results], dtype=torch.long)
        return images, pick_labels(self.labels, used)

    def ahead(self, indices: Tensor) -> None:
        with self._lock:
            for index in indices.tolist():
                if index not in self._waiting:
                    self._waiting[index] = self._reader.pool.submit(self._read, index)
            while len(self._waiting) > AHEAD:  # the oldest was announced and never asked for
                self._waiting.pop(next(iter(self._waiting))).cancel()

    def subset(self, indices: Tensor) -> StreamingFolder:
        names = tuple(self._names[i] for i in indices.tolist())
        labels = None if self.labels is None else self.labels[indices]
        return StreamingFolder(self._reader, names, labels, self.classes, self.name, self.report)

    def stamps(self) -> Iterator[tuple[str, int, int]]:
        """Name, size and date of every file: what changes when the pictures do."""
        for name in self._names:
            try:
                yield name, *self._reader.store.stamp(name)
            except OSError:  # it vanished a moment ago; reading it will say so
                yield name, -1, -1

    def _take(self, index: int) -> Future[tuple[Tensor, int]]:
        with self._lock:
            future = self._waiting.pop(index, None)
        return future or self._reader.pool.submit(self._read, index)

    def _read(self, index: int) -> tuple[Tensor, int]:
        """(pixels, index of the picture they belong to)."""
        for offset in range(len(self)):
            candidate = (index + offset) % len(self)
            name = self._names[candidate]
            try:
                return self._reader.read(name), candidate
            except Unreadable as error:
                self._note_failure(name, str(error))
        raise MarginalsError(f"none of the pictures of {self.name} can be read any more.")

    def _note_failure(self, name: str, reason: str) -> None:
        with self._lock:
            first = name not in self.failed
            self.failed[name] = reason
        if first:
            warnings.warn(f"{name} became unreadable: {reason}; skipped", stacklevel=2)
