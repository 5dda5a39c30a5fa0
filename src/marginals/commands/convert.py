"""`marginals convert`: the same model presented in other units."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from marginals.commands.common import Command, Run, find_model
from marginals.errors import MarginalsError


class Convert(Command):
    """Rewrite a model's header so that it presents itself in other units.

    A model trained as DDPM can be walked as a rectified flow (flow), in exploding noise (ve), and
    so on, because these are units of one process. No weight changes: the samples are the same.

    Examples:
      marginals convert runs/fashion --to flow
      marginals convert runs/fashion --to ve --out fashion-ve.safetensors
    """

    model: Run
    to: Annotated[Literal["vp", "ve", "flow", "sub_vp"], arg(metavar="NAME")]
    """The units: vp, ve, flow or sub_vp."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write; by default beside the model, with the units in its name."""
    check: bool = True
    """Draw two pictures from both models and print how far they are apart."""

    def run(self) -> int:
        from marginals.io.checkpoint import read_header, rewrite_header
        from marginals.io.header import encode
        from marginals.io.registry import scaling

        path = find_model(self.model)
        out = self.out or path.with_name(f"{path.stem}-{self.to}{path.suffix}")
        if out.suffix != ".safetensors":
            raise MarginalsError(f"a model file ends in .safetensors, so --out cannot be {out}")
        if "ladder" in read_header(path)["model"]:
            raise MarginalsError(
                f"{path} is a ladder of latents (a VAE), and units belong to noise levels; convert "
                "a diffusion model"
            )
        _require_replaceable(out)
        units = encode(scaling(self.to))

        def change(header: dict[str, Any]) -> dict[str, Any]:
            return header | {"model": header["model"] | {"scaling": units}}

        before = _pictures(path) if self.check else None
        rewrite_header(path, out, change)
        print(f"{out}: the same weights in {self.to} units")
        if before is not None:
            gap = (_pictures(out) - before).abs().max().item()
            print(f"two pictures from both, from the same noise, differ by at most {gap:.1e}")
        return 0


def _require_replaceable(out: Path) -> None:
    """A model may be replaced; a training state or somebody else's file may not."""
    from marginals.io.checkpoint import read_header

    if not out.exists():
        return
    try:
        if out.is_dir():
            raise MarginalsError("it is a folder")
        read_header(out)
    except MarginalsError:
        raise MarginalsError(
            f"{out} exists and is no model of marginals, so it will not be replaced; give another "
            "--out"
        ) from None


def _pictures(path: Path) -> Any:
    """Two small walks, (2, C, H, W)."""
    from marginals.io.checkpoint import load_diffusion

    return load_diffusion(path).sample(2, steps=5).x
