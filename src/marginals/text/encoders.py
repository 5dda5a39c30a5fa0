"""The text encoders by name."""

import torch

from marginals.errors import MarginalsError
from marginals.text.base import TextEncoder

__all__ = ["TextEncoder", "encoder"]


def encoder(name: str, device: torch.device | str = "cpu") -> TextEncoder:
    """A text encoder by name.

    | name          | states                                                                    |
    |---------------|---------------------------------------------------------------------------|
    | minilm        | all-MiniLM-L6-v2, 384 wide, as installed or fetched                       |
    | minilm:FOLDER | the same from a folder with its model.safetensors and vocab.txt           |
    | hf:MODEL      | CLIP, T5 or BERT through transformers: a folder, or a model already local |

    Nothing is downloaded. Raises MarginalsError when the name is unknown or the files are missing.
    """
    kind, _, place = name.partition(":")
    if kind == "minilm":
        from marginals.text.minilm import MiniLM

        return MiniLM(place or None, device)
    if kind == "hf" and place:
        from marginals.text.huggingface import Transformers

        return Transformers(place, device)
    raise MarginalsError(
        f"there is no text encoder {name!r}; choose minilm, minilm:FOLDER or hf:MODEL"
    )
