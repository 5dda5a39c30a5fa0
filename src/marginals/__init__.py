"""marginals: one process, one denoiser, many views.

    import marginals
    model = marginals.ddpm(net)     # or vdm, edm, rectified_flow, score_sde("vp")
    loss = model.loss(x)            # x: pictures (B, C, H, W) in [-1, 1]
    x = model.sample(16).x

The names below are loaded when first used, so `import marginals` costs nothing and the command
line can print its help without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from marginals.errors import MarginalsError as MarginalsError

# public name -> the module that defines it
_HOME = {
    "MarginalsError": "errors",
}

__all__ = ["MarginalsError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'marginals' has no attribute {name!r}")
    value = getattr(import_module(f"marginals.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
