"""Many texts, encoded once: the states of every caption of a data set, ready to be looked up.

A training step needs the states of some captions, thousands of times over; encoding them takes far
longer than looking them up. So a table holds the states of all texts, one after the other and
without padding, in float16 (their rounding, 5e-4 of a number, is far below what a network notices;
a text of 10 tokens takes 8 kB at width 384). Texts that occur more than once are held once.

Tables are kept as files in the cache folder. The name of such a file is a digest of the encoder's
weights and of the texts, so that a changed caption or encoder makes another table.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from marginals.data.fetch import cache_folder
from marginals.device import send
from marginals.errors import MarginalsError
from marginals.io.atomic import safe_name
from marginals.io.tensors import read_contents, read_tensors, write_tensors
from marginals.text.base import TextEncoder

__all__ = ["TextTable", "encode_table"]

_KIND = "states of texts, 1"


class TextTable:
    """``table(indices)`` gives the states of texts number ``indices``, as an encoder would.

    ``states`` (all tokens, width) float16; text i has the tokens starts[i] to starts[i] +
    lengths[i] − 1 of it, on the CPU, where a batch is planned. ``width`` is that of the encoder.
    """

    def __init__(self, states: Tensor, starts: Tensor, lengths: Tensor) -> None:
        self.states, self.starts, self.lengths = states, starts, lengths

    def __call__(self, indices: Tensor) -> Tensor:
        """indices (B,) -> (B, T, width) float32 on the table's device, zeros after the end of each
        text; T is the number of tokens of the longest, at least 1."""
        indices = indices.cpu()
        lengths = self.lengths[indices, None]
        if not len(self.states):  # no text has a word
            return self.states.new_zeros((len(indices), 1, self.width), dtype=torch.float32)
        place = torch.arange(max(1, int(lengths.max()) if len(lengths) else 0))
        there = place < lengths
        rows = torch.where(there, self.starts[indices, None] + place, 0)
        device = self.states.device
        found = self.states[send(rows, device)].float()
        return found.masked_fill(~send(there, device)[..., None], 0.0)

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.lengths)

    @property
    def width(self) -> int:
        return self.states.shape[1]

    def to(self, device: torch.device | str) -> "TextTable":
        """The same table with its states on a device."""
        return TextTable(self.states.to(device), self.starts, self.lengths)


def encode_table(
    texts: Sequence[str],
    encoder: TextEncoder,
    cache: Path | str | None = None,
    progress: bool = True,
) -> TextTable:
    """The table of these texts, in their order: read from the folder ``cache`` (by default the
    folder `text` in the cache of marginals), else computed and written there.

    A file that is damaged or not that table is replaced, with a warning. An interrupted run leaves
    no file. A folder that cannot be written to costs the file, not the table.
    """
    if isinstance(texts, str):
        raise MarginalsError(f"a table takes a list of texts: write [{texts!r}]")
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    header = {
        "kind": _KIND,
        "encoder": encoder.name,
        "weights": encoder.identity,
        "texts": hashlib.sha256(json.dumps(list(place)).encode()).hexdigest(),
        "count": len(place),
        "width": encoder.width,
    }
    key = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:24]
    folder = Path(cache).expanduser() if cache is not None else cache_folder() / "text"
    path = folder / f"{safe_name(encoder.name)}-{key}.safetensors"
    table = _read(path, header)
    if table is None:
        table = _encoded(list(place), encoder, progress)
        _write(path, table, header)
    rows = torch.tensor([place[text] for text in texts], dtype=torch.long)
    return TextTable(table.states, table.starts[rows], table.lengths[rows])


def _encoded(texts: list[str], encoder: TextEncoder, progress: bool) -> TextTable:
    tokens = encoder.tokens(texts)
    lengths = torch.tensor([len(t) for t in tokens], dtype=torch.long)
    starts = lengths.cumsum(0) - lengths
    states = torch.zeros(int(lengths.sum()), encoder.width, dtype=torch.float16)
    bar = tqdm(
        total=len(states),
        desc=f"encoding {len(texts)} texts",
        unit="token",
        unit_scale=True,
        disable=None if progress else True,
    )
    with bar:
        for part in encoder.batches(tokens):
            found = part.states.to("cpu", torch.float16)
            if not found.isfinite().all():
                raise MarginalsError(
                    f"the states of {encoder.name} do not fit into 16 bits; use another encoder"
                )
            for i, row, length in zip(part.rows, found, part.lengths):
                states[starts[i] : starts[i] + length] = row[:length]
            bar.update(sum(part.lengths))
    return TextTable(states, starts, lengths)


def _write(path: Path, table: TextTable, header: dict[str, object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {"states": table.states, "lengths": table.lengths}, header)
    except (OSError, MarginalsError) as error:
        warnings.warn(f"the encoded texts are not kept: {error}", stacklevel=3)


def _read(path: Path, header: dict[str, object]) -> TextTable | None:
    """The table in a file; None, with a warning if there is a file, when it is not that table."""
    if not path.is_file():
        return None
    try:
        contents = read_contents(path)
        if contents.header != header:
            raise MarginalsError("it is of other texts or another encoder")
        tensors = read_tensors(path)
        states, lengths = tensors["states"], tensors["lengths"]
        shapes = (int(lengths.sum()), header["width"]), (header["count"],)
        if (*states.shape,) != shapes[0] or (*lengths.shape,) != shapes[1]:
            raise MarginalsError("its tensors do not fit together")
    except (MarginalsError, KeyError) as error:
        warnings.warn(f"{path} is encoded again: {error}", stacklevel=3)
        return None
    return TextTable(states, lengths.cumsum(0) - lengths, lengths)
