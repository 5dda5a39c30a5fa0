"""`marginals import`: weights published by others, as a model of this package."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from tyro.conf import Positional, arg

from marginals.commands.common import Command
from marginals.errors import MarginalsError

if TYPE_CHECKING:
    from marginals.models import Model


class Import(Command):
    """Turn the published weights of a DiT, SiT, ADM or EDM into a model file.

    The file is that of the authors, its tensors saved as safetensors without renaming; pickles, .pt
    or .pkl, are refused. DiT and SiT draw latents of an autoencoder, which is not part of them; ADM
    and EDM draw pictures. `marginals info` describes the result.

    What an ADM file does not say is known of the published ones, ImageNet 64 to 512 and LSUN; of
    others say --size, --heads or --head, --order and --chain. ADM and EDM with classes draw nothing
    without one. More in docs/importing.md.

    Examples:
      marginals import DiT-XL-2-256x256.safetensors --layout dit --out dit.safetensors
      marginals import 256x256_diffusion_uncond.safetensors --layout adm
      marginals import edm-cifar10-32x32-uncond-vp.safetensors --layout edm
    """

    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """Weights (.safetensors)."""
    layout: Annotated[Literal["dit", "sit", "adm", "edm"], arg(metavar="NAME")]
    """Whose they are: dit (Peebles & Xie 2023), sit (Ma et al. 2024; velocity, linear path),
    adm by Dhariwal & Nichol 2021, edm by Karras et al. 2022: DDPM++, NCSN++ or ADM, trained with
    EDM's own preconditioning."""
    heads: Annotated[int | None, arg(metavar="INT"), Field(ge=1)] = None
    """Heads of attention (dit, sit, adm); by default those of the published size."""
    head: Annotated[int | None, arg(metavar="INT"), Field(ge=1)] = None
    """Channels per head of attention, if that is what is fixed (adm)."""
    size: Annotated[int | None, arg(metavar="INT"), Field(ge=1)] = None
    """Height and width of the pictures (adm)."""
    order: Annotated[Literal["legacy", "new"] | None, arg(metavar="NAME")] = None
    """How queries, keys and values lie (adm): legacy, or new, the flag use_new_attention_order."""
    chain: Annotated[Literal["linear", "cosine"] | None, arg(metavar="NAME")] = None
    """The 1000 noise levels it was trained on (adm): linear or cosine."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write; by default FILE-marginals.safetensors."""

    def run(self) -> int:
        from marginals.io.checkpoint import save_model

        out = self.out or self.file.with_name(f"{self.file.stem}-marginals.safetensors")
        if out.suffix != ".safetensors":
            raise MarginalsError(f"a model file ends in .safetensors, so --out cannot be {out}")
        if out.exists():
            raise MarginalsError(f"{out} exists already; give another --out")
        model = self._read()
        save_model(out, model, {"trained_on": f"imported from {self.file.name}"})
        count = sum(p.numel() for p in model.parameters())
        print(f"{out}: {self.layout}, {count / 1e6:.1f} M parameters")
        return 0

    def _read(self) -> "Model":
        from marginals.io import published, unets

        read, knows = {
            "dit": (published.dit, {"heads"}),
            "sit": (published.sit, {"heads"}),
            "adm": (unets.adm, {"heads", "head", "size", "order", "chain"}),
            "edm": (unets.edm, set()),
        }[self.layout]
        said: dict[str, Any] = {
            name: getattr(self, name) for name in ("heads", "head", "size", "order", "chain")
        }
        said = {name: value for name, value in said.items() if value is not None}
        if wrong := sorted(said.keys() - knows):
            raise MarginalsError(f"--{wrong[0]} says nothing about {self.layout}: leave it out")
        return read(self.file, **said)
