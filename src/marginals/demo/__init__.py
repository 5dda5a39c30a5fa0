"""The demo: train one small model on real pictures, then show every view of that one model.

    from marginals.demo import DemoConfig, demo
    result = demo(DemoConfig(data="digits"))

`DemoConfig` can be imported without torch; the rest is loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from marginals.demo.config import DemoConfig

if TYPE_CHECKING:
    from marginals.demo.run import DemoResult as DemoResult
    from marginals.demo.run import demo as demo

__all__ = ["DemoConfig", "DemoResult", "demo"]


def __getattr__(name: str) -> Any:
    if name not in ("DemoResult", "demo"):
        raise AttributeError(f"module 'marginals.demo' has no attribute {name!r}")
    value = getattr(import_module("marginals.demo.run"), name)
    globals()[name] = value
    return value
