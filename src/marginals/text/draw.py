"""Pictures of texts: a model that is told texts, with the encoder it was trained with.

draw = TextToImage.load("emoji")
pictures = draw("a red crab, flat style", n=8, seed=3)      # (8, C, H, W) in [-1, 1]
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from marginals.errors import MarginalsError
from marginals.generative import Generative
from marginals.io.checkpoint import load_model
from marginals.io.shipped import find
from marginals.sampling import Progress
from marginals.text.encoders import TextEncoder, encoder

__all__ = ["TextToImage"]


class TextToImage:
    """``draw(prompts, n)``: pictures of texts, by classifier-free guidance (Ho & Salimans 2022).

    Picture j of every prompt has seed ``seed + j``: it is the same whatever else is drawn, and
    the pictures of two prompts with one seed start from the same noise.
    """

    def __init__(self, model: Generative, text: TextEncoder | None = None) -> None:
        if not (model.data and model.data.text):
            raise MarginalsError(
                "This model is not told texts: train one on captioned pictures, such as "
                "`marginals train --preset shapes`."
            )
        self.model = model
        self.encoder = encoder(model.data.text, model.device) if text is None else text

    @classmethod
    def load(
        cls, name: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> "TextToImage":
        """A model that comes with the package ("emoji"), a run folder, or a model file."""
        return cls(load_model(find(name), device))

    def states(self, prompts: Sequence[str]) -> Tensor:
        """What the model is told: the states of every prompt's tokens, (len(prompts), T, D)."""
        return self.encoder(prompts).to(self.model.device, self.model.dtype)

    def __call__(
        self,
        prompts: str | Sequence[str],
        n: int = 1,
        *,
        seed: int = 0,
        guidance: float = 3.0,
        steps: int = 12,
        batch: int = 32,
        callback: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Tensor:
        """n pictures of every prompt, prompt by prompt: (len(prompts)·n, C, H, W) in [-1, 1].

        ``guidance``: γ, 1 = none; more says the text louder, at the cost of variety. ``options``
        are those of ``model.sample``: ``solver``, ``levels``, ...
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise MarginalsError("There is nothing to draw: give at least one text.")
        options |= {"steps": steps, "batch": batch, "callback": callback, "seed": seed}
        drawn = []
        for states in self.states(prompts):
            silent = not bool((states != 0).any())
            options["guidance"] = 1.0 if silent else guidance
            drawn.append(self.model.sample(n, cond=states, **options).x)
        return torch.cat(drawn).float().clamp(-1, 1)
