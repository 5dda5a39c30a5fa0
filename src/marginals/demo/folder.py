"""The demo's folder: ours alone, never half-written, never somebody else's.

FOLDER/demo.json      what was asked for; its presence says that the folder is a demo's
FOLDER/run/           the training run with the checkpoint (`marginals train` can resume it)
FOLDER/pictures/      contact sheets as PNG files that carry their parameters
FOLDER/results.json   every number of the report
FOLDER/report.html    the report, in one file
"""

import json
import shutil
from pathlib import Path

from marginals.demo.config import DemoConfig
from marginals.errors import MarginalsError
from marginals.io.atomic import write_json

__all__ = ["open_folder"]

_MARK = "demo.json"
_DECIDES = ("data", "seed", "images", "minutes")


def open_folder(config: DemoConfig) -> Path:
    """Make the folder ready: new, or an earlier demo with the same settings to go on with.

    Raises MarginalsError, touching nothing, for a folder that holds anything else.
    """
    folder = config.folder
    asked = {key: getattr(config, key) for key in _DECIDES}
    if folder.exists():
        earlier = _earlier(folder)
        if earlier is not None and config.fresh:
            shutil.rmtree(folder)
        elif earlier is not None and earlier != asked:
            raise MarginalsError(
                f"{folder} holds a demo with other settings ({_difference(earlier, asked)}); "
                "choose another --out, or replace it with --fresh"
            )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pictures").mkdir(exist_ok=True)
    write_json(folder / _MARK, asked)
    return folder


def _earlier(folder: Path) -> dict[str, object] | None:
    """The settings of the demo that a folder holds, None for an empty one."""
    if not folder.is_dir():
        raise MarginalsError(f"{folder} is a file; choose a folder with --out")
    if not any(folder.iterdir()):
        return None
    try:
        return dict(json.loads((folder / _MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise MarginalsError(
            f"{folder} is not empty and not the folder of a demo; choose another --out"
        ) from None


def _difference(earlier: dict[str, object], asked: dict[str, object]) -> str:
    return ", ".join(
        f"{key} {earlier.get(key)}, now {value}"
        for key, value in asked.items()
        if earlier.get(key) != value
    )
