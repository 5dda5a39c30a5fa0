"""CLIP, T5 and BERT as text encoders, for people who have them: through the package transformers.

The states are those of the last layer: of CLIP's text half as in Stable Diffusion 1 (Radford et al.
2021), of T5's encoder as in Imagen and DeepFloyd (Raffel et al. 2020). Nothing is downloaded: the
name is a folder, or a model that is already in the cache of Hugging Face. Only safetensors files
are read.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from marginals.errors import MarginalsError
from marginals.text.base import TextEncoder

__all__ = ["Transformers"]

LONGEST = 256
"""Tokens that are read of a text, where the model itself allows more."""


class Transformers(TextEncoder):
    """The text encoder "hf:PLACE" with states in float32."""

    def __init__(self, place: str, device: torch.device | str = "cpu") -> None:
        if find_spec("transformers") is None:
            raise MarginalsError(
                f"the text encoder hf:{place} needs the package transformers; install it with: "
                "pip install transformers"
            )
        self.name = f"hf:{place}"
        where = os.path.expanduser(place)
        with _explained(place), _quiet() as library:
            self.tokenizer = library.AutoTokenizer.from_pretrained(where, local_files_only=True)
            self.net = _network(library, where).float().requires_grad_(False).eval().to(device)
        self.width = int(self.net.config.get_text_config().hidden_size)
        self.padding = self.tokenizer.pad_token_id or 0
        self.longest = min(LONGEST, self.tokenizer.model_max_length)

    @cached_property
    def identity(self) -> str:
        """Of the weights and of the tokenizer, which says what their rows mean."""
        digest = hashlib.sha256(repr(sorted(self.tokenizer.get_vocab().items())).encode())
        for name, weight in sorted(self.net.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        return self.net.device

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        said = [text for text in texts if text.strip()]
        found = self.tokenizer(said, truncation=True, max_length=self.longest) if said else {}
        ids = iter(found.get("input_ids", []))
        return [list(next(ids)) if text.strip() else [] for text in texts]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.net(input_ids=ids, attention_mask=mask.long()).last_hidden_state


def _network(library: Any, where: str) -> Any:
    """The half of the model that reads texts."""
    kind = library.AutoConfig.from_pretrained(where, local_files_only=True)
    readers = {
        "clip": "CLIPTextModel",
        "clip_text_model": "CLIPTextModel",
        "t5": "T5EncoderModel",
        "mt5": "MT5EncoderModel",
        "umt5": "UMT5EncoderModel",
        "bert": "BertModel",
    }
    if kind.model_type not in readers:
        raise MarginalsError(
            f"{where} is a model of the kind {kind.model_type!r}; as text encoder choose one of "
            f"the kinds {', '.join(readers)}"
        )
    network, report = getattr(library, readers[kind.model_type]).from_pretrained(
        where, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    # transformers would go on with random numbers; a vector for whole texts is not used here
    if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key):
        raise MarginalsError(
            f"the weights of {where} lack {missing[0]!r} and {len(missing) - 1} more; copy or "
            "download them again"
        )
    return network


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """transformers, without its bars and its reports of weights that are not used here."""
    library = import_module("transformers")
    log = library.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield library
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


@contextlib.contextmanager
def _explained(place: str) -> Iterator[None]:
    """What transformers raises for files that are not there or not readable, in one sentence."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MarginalsError(
            f"the text encoder hf:{place} is not whole on this machine, and nothing is downloaded; "
            f"give a folder with config.json, tokenizer files and model.safetensors ({first})"
        ) from None
