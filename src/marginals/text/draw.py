"""Pictures of texts: a model that is told texts, with the encoder it was trained with.

draw = TextToImage.load("emoji")
pictures = draw("a red crab, flat style", n=8, seed=3)      # (8, C, H, W) in [-1, 1]
pictures = draw("a red crab", n=7)                          # one in every style it knows
"""

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from marginals.editing import image_to_image, inpaint
from marginals.errors import MarginalsError
from marginals.generative import Generative, check_count
from marginals.io.checkpoint import load_model, read_header
from marginals.io.shipped import find
from marginals.latent import Latent, walked
from marginals.sampling import Progress
from marginals.text.encoders import TextEncoder, encoder

__all__ = ["TextToImage", "spelled"]

STEPS, GUIDANCE = 12, 3.0
"""Solver steps and γ where nothing else is asked for."""

_UNSPOKEN = "\ufe0f\u200d"


class TextToImage:
    """``draw(prompts, n)``: pictures of texts, by classifier-free guidance (Ho & Salimans 2022).

    Picture j of every prompt has seed ``seed + j``: it is the same whatever else is drawn, and
    the pictures of two prompts with one seed start from the same noise.

    ``styles``: names that the model learned as "crab, flat style", the most common first. Told
    no style, a model draws mixtures of them, so a prompt that names none is given one: the picture
    with seed s gets ``styles[s % len(styles)]``. ``silent``: whether it also learned pictures
    without their text, which guidance compares with.
    """

    def __init__(
        self,
        model: Generative,
        text: TextEncoder | None = None,
        styles: Sequence[str] = (),
        silent: bool = True,
    ) -> None:
        if not (model.data and model.data.text):
            raise MarginalsError(
                "This model is not told texts: train one on captioned pictures, such as "
                "`marginals train --preset shapes`."
            )
        self.model = model
        self.encoder = encoder(model.data.text, model.device) if text is None else text
        self.styles, self.silent = tuple(styles), silent

    @classmethod
    def load(
        cls, name: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> "TextToImage":
        """A model that comes with the package ("emoji"), a run folder, or a model file."""
        path = find(name)
        extra = read_header(path)["extra"]
        silent = extra.get("label_dropout") != 0
        return cls(load_model(path, device), styles=extra.get("styles", ()), silent=silent)

    def settings(self, steps: int | None = None, guidance: float | None = None) -> dict[str, Any]:
        """{"steps", "guidance"} with what is best where nothing is asked for: 12 steps and γ = 3; a
        model that was distilled has a walk of its own (steps None), and its teacher's guidance.

        Raises MarginalsError for guidance of a model that knows no pictures without a text.
        """
        walk = walked(self.model)
        own = walk is not None and walk.walk is not None
        if guidance not in (None, 1.0) and not self.silent:
            raise MarginalsError(
                "This model was trained with label_dropout 0 and knows no pictures without a text "
                "to compare with: leave the guidance out."
            )
        if guidance is None:
            guidance = 1.0 if own or not self.silent else GUIDANCE
        return {"steps": steps or (None if own else STEPS), "guidance": guidance}

    def captions(self, prompt: str, seeds: Sequence[int], style: str | None = None) -> list[str]:
        """What the model is told for the picture of every seed; emoji in it are spelled out.

        ``style``: for prompts that name none, one of ``styles``; None for another with every seed;
        "any" for the prompt as it is. "flat style" anywhere names one; "a flat crab" does unless a
        ``style`` is given. Raises MarginalsError for a style the model does not know, and for a
        prompt of which its encoder can read nothing, or not the end.
        """
        if style not in (None, "any", *self.styles):
            known = ", ".join(self.styles) or "none by name"
            raise MarginalsError(f"There is no style {style!r} (this model knows {known}), or any.")
        prompt = spelled(prompt)
        styles = self.styles if style is None else () if style == "any" else (style,)
        if not prompt.strip() or self._names_style(prompt, adjectives=style is None):
            styles = ()
        told = [f"{prompt}, {styles[s % len(styles)]} style" if styles else prompt for s in seeds]
        for caption in dict.fromkeys(told):
            self.encoder.check(caption)
        return told

    def _names_style(self, prompt: str, adjectives: bool) -> bool:
        """Whether it says "flat style", or begins like "a flat crab"."""
        names = "|".join(map(re.escape, self.styles))
        forms = [
            rf"\b({names}) style\b",
            *([rf"^\W*(an? |the )?({names})\b"] if adjectives else []),
        ]
        return bool(names) and any(re.search(form, prompt, re.IGNORECASE) for form in forms)

    def states(self, prompts: Sequence[str]) -> Tensor:
        """What the model is told: the states of every prompt's tokens, (len(prompts), T, D)."""
        return self.encoder(prompts).to(self.model.device, self.model.dtype)

    def _prompts(self, prompts: str | Sequence[str], n: int) -> list[str]:
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise MarginalsError("There is nothing to draw: give at least one text.")
        check_count(n, 1)
        return prompts

    def _told(self, prompt: str, seeds: Sequence[int], style: str | None) -> tuple[Tensor, bool]:
        """The states (n, T, D) of a prompt's pictures, and whether they say anything."""
        captions = self.captions(prompt, seeds, style)
        place = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
        states = self.states(list(place))
        rows = torch.tensor([place[caption] for caption in captions], device=states.device)
        return states[rows], bool((states != 0).any())

    def __call__(
        self,
        prompts: str | Sequence[str],
        n: int = 1,
        *,
        seed: int = 0,
        guidance: float | None = None,
        steps: int | None = None,
        style: str | None = None,
        batch: int = 32,
        callback: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Tensor:
        """n pictures of every prompt, prompt by prompt: (len(prompts)·n, C, H, W) in [-1, 1].

        ``guidance``: γ, 1 = none; more says the text louder, at the cost of variety; by default 3,
        in 12 ``steps`` (:meth:`settings`). ``style``: see :meth:`captions`. ``options`` are those
        of ``model.sample``: ``solver``, ``levels``, ...
        """
        prompts = self._prompts(prompts, n)
        about = self.settings(steps, guidance) | {"batch": batch, "callback": callback} | options
        drawn = []
        for prompt in prompts:
            states, spoken = self._told(prompt, range(seed, seed + n), style)
            mine = about if spoken else about | {"guidance": 1.0}
            drawn.append(self.model.sample(n, cond=states, seed=seed, **mine).x)
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
        guidance: float | None = None,
        steps: int | None = None,
        style: str | None = None,
        batch: int = 32,
        callback: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Tensor:
        """n pictures of every prompt that begin at ``picture`` (C, H, W): (len(prompts)·n, ...).

        Without a ``mask`` the picture is noised and drawn anew (:func:`.editing.image_to_image`):
        ``strength`` near 0 hardly changes it, 1 ignores it. With a mask (H, W), True where to
        draw, only that part is drawn, given the rest (:func:`.editing.inpaint`); a latent model
        draws whole squares of its latents, and the rest of the picture is put back. ``options`` are
        those of the two functions.
        """
        prompts = self._prompts(prompts, n)
        model, walk = self.model, walked(self.model)
        if walk is None:
            raise MarginalsError("Only a diffusion model can go on from a picture.")
        x = model._checked(picture[None]).to(model.device)
        if mask is not None and tuple(mask.shape) != tuple(x.shape[-2:]):
            raise MarginalsError(
                f"The mask has shape {tuple(mask.shape)}, the picture {tuple(x.shape[-2:])}."
            )
        with torch.no_grad():
            state = model.encode(x) if isinstance(model, Latent) else x
        start = state.expand(n, *state.shape[1:])
        about = self.settings(steps or STEPS, guidance) | options
        about |= {"seed": seed, "batch": batch, "callback": callback}
        loud, drawn = about["guidance"], []
        for prompt in prompts:
            told, spoken = self._told(prompt, range(seed, seed + n), style)
            about |= {"cond": told, "guidance": loud if spoken else 1.0}
            if mask is None:
                z = image_to_image(walk, start, strength, **about)
            else:
                z = inpaint(walk, start, ~_squares(mask, state.shape[-1]), **about)
            with torch.no_grad():
                drawn.append(model.decode(z) if isinstance(model, Latent) else z)
        new = torch.cat(drawn).float()
        if mask is not None:
            new = torch.where(mask.to(new.device).bool(), new, x.to(new))
        return new.clamp(-1, 1)


def _squares(mask: Tensor, side: int) -> Tensor:
    """The squares of a latent that a mask of pixels touches, (side, side)."""
    return F.max_pool2d(mask[None, None].float(), mask.shape[0] // side)[0, 0] > 0


def spelled(text: str) -> str:
    """The text with its emoji as words, by their names in Unicode: "a 🦀" is "a crab"."""
    return " ".join("".join(map(_spelled, text)).split())


def _spelled(c: str) -> str:
    name = unicodedata.name(c, "")
    if c in _UNSPOKEN or "FITZPATRICK" in name:  # what joins emoji, and skin tones
        return ""
    return f" {name.lower()} " if unicodedata.category(c) == "So" else c
