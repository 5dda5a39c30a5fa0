"""`marginals import`: weights published by others, as a model of this package."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional, arg

from marginals.commands.common import Command
from marginals.errors import MarginalsError


class Import(Command):
    """Turn the published weights of a DiT or a SiT into a model file.

    The file is that of the authors, converted to safetensors without renaming. The model is one of
    the latents of an autoencoder, which is not part of it. `marginals info` describes the result.

    Examples:
      marginals import DiT-XL-2-256x256.safetensors --layout dit --out dit.safetensors
    """

    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """Weights (.safetensors)."""
    layout: Annotated[Literal["dit", "sit"], arg(metavar="NAME")]
    """Whose they are: dit (Peebles & Xie 2023) or sit (Ma et al. 2024; velocity, linear path)."""
    heads: Annotated[int | None, arg(metavar="INT"), Field(ge=1)] = None
    """Heads of attention; by default those of the published size."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write; by default FILE-marginals.safetensors."""

    def run(self) -> int:
        from marginals.io import published
        from marginals.io.checkpoint import save_model

        out = self.out or self.file.with_name(f"{self.file.stem}-marginals.safetensors")
        if out.suffix != ".safetensors":
            raise MarginalsError(f"a model file ends in .safetensors, so --out cannot be {out}")
        if out.exists():
            raise MarginalsError(f"{out} exists already; give another --out")
        read = {"dit": published.dit, "sit": published.sit}[self.layout]
        model = read(self.file, self.heads)
        save_model(out, model, {"trained_on": f"imported from {self.file.name}"})
        count = sum(p.numel() for p in model.parameters())
        print(f"{out}: {self.layout}, {count / 1e6:.1f} M parameters")
        return 0
