"""marginals: one process, one denoiser, many views.

    import marginals
    model = marginals.ddpm(net)     # or vdm, edm, rectified_flow, score_sde
    loss = model.loss(x)            # x: pictures (B, C, H, W) in [-1, 1]
    x = model.sample(16).x

The names below are loaded when first used, so `import marginals` costs nothing and the command
line can print its help without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .autoencoders import hvae as hvae
    from .autoencoders import vae as vae
    from .codec import autoencoder as autoencoder
    from .denoiser import Estimate as Estimate
    from .denoiser import Net as Net
    from .denoiser import Rescaled as Rescaled
    from .errors import MarginalsError as MarginalsError
    from .formulations import ddpm as ddpm
    from .formulations import edm as edm
    from .formulations import iddpm as iddpm
    from .formulations import rectified_flow as rectified_flow
    from .formulations import score_sde as score_sde
    from .formulations import v_diffusion as v_diffusion
    from .formulations import vdm as vdm
    from .generative import DataStats as DataStats
    from .guidance import Guided as Guided
    from .ladder import Ladder as Ladder
    from .latent import Latent as Latent
    from .models import Model as Model
    from .rung import KlObjective as KlObjective
    from .sampling import sample as sample
    from .scaling import FLOW as FLOW
    from .scaling import SUB_VP as SUB_VP
    from .scaling import VE as VE
    from .scaling import VP as VP

# public name -> the module that defines it
_HOME = {
    "DataStats": "generative",
    "Estimate": "denoiser",
    "FLOW": "scaling",
    "Guided": "guidance",
    "KlObjective": "rung",
    "Ladder": "ladder",
    "Latent": "latent",
    "MarginalsError": "errors",
    "Model": "models",
    "Net": "denoiser",
    "Rescaled": "denoiser",
    "SUB_VP": "scaling",
    "VE": "scaling",
    "VP": "scaling",
    "autoencoder": "codec",
    "ddpm": "formulations",
    "edm": "formulations",
    "iddpm": "formulations",
    "hvae": "autoencoders",
    "rectified_flow": "formulations",
    "sample": "sampling",
    "score_sde": "formulations",
    "v_diffusion": "formulations",
    "vae": "autoencoders",
    "vdm": "formulations",
}

__all__ = [
    "FLOW",
    "SUB_VP",
    "VE",
    "VP",
    "DataStats",
    "Estimate",
    "Guided",
    "KlObjective",
    "Ladder",
    "Latent",
    "MarginalsError",
    "Model",
    "Net",
    "Rescaled",
    "__version__",
    "autoencoder",
    "ddpm",
    "edm",
    "hvae",
    "iddpm",
    "rectified_flow",
    "sample",
    "score_sde",
    "v_diffusion",
    "vae",
    "vdm",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'marginals' has no attribute {name!r}")
    value = getattr(import_module(f"marginals.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
