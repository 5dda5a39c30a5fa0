"""Networks that are known to work: `UNet(channels, size, num_classes=k, **PRESETS["demo"])`."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 32, "mults": [1, 2], "blocks": 1, "attention": [], "patch": 1},
    "demo": {"width": 32, "mults": [1, 2], "blocks": 1, "attention": [], "patch": 2},
    "small": {"width": 64, "mults": [1, 2], "blocks": 2, "attention": [], "patch": 2},
    "base": {"width": 96, "mults": [1, 2], "blocks": 2, "attention": [], "patch": 2},
}
