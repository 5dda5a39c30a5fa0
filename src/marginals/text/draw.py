"""Pictures of texts: a model that is told texts, with the encoder it was trained with.

draw = TextToImage.load("emoji")
pictures = draw("a red crab, flat style", n=8, seed=3)      # (8, C, H, W) in [-1, 1]
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from marginals.editing import image_to_image, inpaint
from marginals.errors import MarginalsError
from marginals.generative import Generative
from marginals.io.checkpoint import load_model
from marginals.io.shipped import find
from marginals.latent import Latent, walked
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

    def edit(
        self,
        prompts: str | Sequence[str],
        picture: Tensor,
        n: int = 1,
        *,
        strength: float = 0.7,
        mask: Tensor | None = None,
        seed: int = 0,
        guidance: float = 3.0,
        steps: int = 12,
        batch: int = 32,
        **options: Any,
    ) -> Tensor:
        """n pictures of every prompt that begin at ``picture`` (C, H, W): (len(prompts)·n, ...).

        Without a ``mask`` the picture is noised and drawn anew (:func:`.editing.image_to_image`):
        ``strength`` near 0 hardly changes it, 1 ignores it. With a mask (H, W), True where to
        draw, only that part is drawn, given the rest (:func:`.editing.inpaint`); a latent model
        draws whole squares of its latents, and the rest of the picture is put back.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        model, walk = self.model, walked(self.model)
        if walk is None:
            raise MarginalsError("Only a diffusion model can go on from a picture.")
        x = model._checked(picture[None]).to(model.device)
        with torch.no_grad():
            state = model.encode(x) if isinstance(model, Latent) else x
        start = state.expand(n, *state.shape[1:])
        about = {"steps": steps, "seed": seed, "batch": batch, **options}
        drawn = []
        for told in self.states(prompts):
            about |= {"cond": told, "guidance": guidance if bool((told != 0).any()) else 1.0}
            if mask is None:
                z = image_to_image(walk, start, strength, **about)
            else:
                z = inpaint(walk, start, ~_squares(mask, state.shape[-1]), **about)
            with torch.no_grad():
                drawn.append(model.decode(z) if isinstance(model, Latent) else z)
        new = torch.cat(drawn).float()
        if mask is not None:
            new = torch.where(mask.to(new.device), new, x.to(new))
        return new.clamp(-1, 1)


def _squares(mask: Tensor, side: int) -> Tensor:
    """The squares of a latent that a mask of pixels touches, (side, side)."""
    if mask.ndim != 2 or mask.shape[0] % side:
        raise MarginalsError(
            f"A mask has the height and width of the picture, not {tuple(mask.shape)}."
        )
    step = mask.shape[0] // side
    return F.max_pool2d(mask[None, None].float(), step)[0, 0] > 0
