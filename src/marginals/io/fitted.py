"""Solvers fitted to a model, kept beside its file: `model.safetensors` → `model.fitted.json`.

One entry for every number of steps and guidance weight, with the errors that were measured on noise
it was not fitted to. The file names the model by its contents: a model that has been trained
further since is another one, and its old fits are refused.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import marginals
from marginals.errors import MarginalsError
from marginals.io.atomic import write_json
from marginals.io.header import decode, encode

if TYPE_CHECKING:
    from marginals.solvers import FittedTable

__all__ = [
    "Foreign",
    "check_place",
    "fingerprint",
    "fitted_path",
    "load_fitted",
    "save_fitted",
    "table_mark",
]

_KIND, _VERSION = "marginals fitted solvers", 1


class Foreign(MarginalsError):
    """The file is somebody else's, so it is neither read nor replaced."""


def fingerprint(path: Path) -> str:
    """The first ten digits of the file's SHA-256, by which other programs know models too."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:10]


def fitted_path(model: Path) -> Path:
    """Where the fitted solvers of a model file are."""
    return model.with_suffix(".fitted.json")


def check_place(model: Path) -> list[dict[str, Any]]:
    """The fits that are there and of use; refuses, as `save_fitted` does, a file of others and a
    place where nothing can be written."""
    path = fitted_path(model)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise MarginalsError(
            f"the fitted solver cannot be kept in {path}: copy the model to a folder of your own"
        )
    try:
        return _entries(model)
    except Foreign:
        raise
    except MarginalsError:
        return []  # none, of another state of the model, or damaged


def save_fitted(
    model: Path, table: "FittedTable", guidance: float, about: Mapping[str, Any]
) -> Path:
    """Keep a table, in place of an earlier one for the same steps and guidance; returns the file.

    ``about``: JSON values that say how it was made and how good it is. Fits of an earlier state of
    the model are dropped.
    """
    path, steps = fitted_path(model), len(table.lams)
    entries = check_place(model)
    others = [e for e in entries if (e["steps"], e["guidance"]) != (steps, guidance)]
    made = {"steps": steps, "guidance": guidance, "about": dict(about), "table": encode(table)}
    entries = sorted([*others, made], key=lambda e: (e["steps"], e["guidance"]))
    head = {"format": _KIND, "format_version": _VERSION, "package_version": marginals.__version__}
    write_json(path, head | {"model_hash": fingerprint(model), "fits": entries})
    return path


def table_mark(table: "FittedTable") -> str:
    """Eight digits by which the pictures of two fits are told apart."""
    return hashlib.sha256(json.dumps(encode(table)).encode()).hexdigest()[:8]


def load_fitted(model: Path, steps: int | None, guidance: float = 1.0) -> "FittedTable":
    """The table fitted to this model for so many steps (None: the only one there is) and this
    guidance weight. Raises MarginalsError, in one sentence, if there is none or it is damaged."""
    entries = _entries(model)
    suited = [e for e in entries if e["guidance"] == guidance and steps in (None, e["steps"])]
    if len(suited) == 1:
        return _table(fitted_path(model), suited[0])
    have = ", ".join(f"{e['steps']} steps at guidance {e['guidance']:g}" for e in entries)
    if suited:
        raise MarginalsError(f"several solvers are fitted to this model ({have}): give --steps")
    asked = f"{steps} steps" if steps is not None else "any number of steps"
    raise MarginalsError(
        f"no solver is fitted to this model for {asked} at guidance {guidance:g}, there are: "
        f"{have}; fit one with `{_command(model, steps, guidance)}`"
    )


def _is_entry(entry: Any) -> bool:
    steps, guidance, _ = entry["steps"], entry["guidance"], entry["table"]
    fine = isinstance(steps, int) and isinstance(guidance, int | float)
    return fine and not isinstance(steps, bool)


def _table(path: Path, entry: Mapping[str, Any]) -> "FittedTable":
    from marginals.solvers import FittedTable

    try:
        table = decode(entry["table"])
    except MarginalsError as error:
        raise MarginalsError(f"{_damaged(path)} ({error})") from None
    if not isinstance(table, FittedTable) or len(table.lams) != entry["steps"]:
        raise MarginalsError(_damaged(path))
    return table


def _damaged(path: Path) -> str:
    return f"{path} is damaged: delete it and fit again with `marginals fit`"


def _command(model: Path, steps: int | None, guidance: float) -> str:
    run = model.parent if model.name == "model.safetensors" else model
    words = f"marginals fit {run} --nfe {min(40, max(2, steps or 8))}"
    return words if guidance == 1.0 else f"{words} --guidance {guidance:g}"


def _entries(model: Path) -> list[dict[str, Any]]:
    path = fitted_path(model)
    if not path.is_file():
        raise MarginalsError(
            f"no solver is fitted to {model}: fit one with `{_command(model, None, 1.0)}`"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise MarginalsError(_damaged(path)) from None
    ours = isinstance(content, dict) and content.get("format") == _KIND
    version = content.get("format_version") if ours else None
    known = isinstance(version, int) and version <= _VERSION
    try:
        entries, owner = content["fits"], content["model_hash"]
        fine = bool(entries) and isinstance(entries, list) and all(map(_is_entry, entries))
        fine = fine and len({(e["steps"], e["guidance"]) for e in entries}) == len(entries)
    except (KeyError, TypeError):
        fine, entries, owner = False, [], None
    if not known:
        raise Foreign(
            f"{path} was made by another program or a newer version of marginals: move it away, or "
            "update marginals"
        )
    if not fine:
        raise MarginalsError(_damaged(path))
    if owner != fingerprint(model):
        last = entries[-1]
        raise MarginalsError(
            f"{path} is about another state of this model, which has changed since: fit again with "
            f"`{_command(model, last['steps'], last['guidance'])}`"
        )
    return entries
