"""Formulations as JSON: every schedule, scaling, prediction, weighting as `{"kind": ..., fields}`.

    >>> encode(Truncated(Cosine(), 10.0, -10.0))
    {"kind": "Truncated", "base": {"kind": "Cosine"}, "lam_max": 10.0, "lam_min": -10.0}

The objects of the core are frozen dataclasses: a kind and some numbers. That is why a model file
can say in readable JSON which process it belongs to, and why no code has to be stored in it.

JSON has no infinity, so a number that is not finite is written `{"float": "-inf"}`. Python writes
the shortest decimals that read back as the same float64, hence finite numbers survive exactly.
Reading never guesses: an unknown kind, an unknown field or a missing field is an error. A field
that a class got after files with it were written says so, `field(default=..., metadata={"later":
True})`: it is written only where it is not its default. So old files can still be read, and new
ones look like old ones wherever they can.
"""

import dataclasses
import functools
import importlib
import inspect
import math
import typing
from collections.abc import Mapping
from typing import Any

import marginals
from marginals.errors import MarginalsError

__all__ = ["decode", "encode", "fits", "kinds"]

# The modules whose public frozen dataclasses may stand in a header. A new schedule, prediction or
# weighting in one of them needs no registration.
_HOMES = (
    "scaling", "schedule", "shift", "predict", "objective", "generative", "decoders", "mixture",
    "rung", "learned", "ancestral", "codec", "solvers.fitted", "coupling", "distill",
)  # fmt: skip

_SCALARS = (str, int, bool, type(None))


@functools.cache
def kinds() -> Mapping[str, type]:
    """Every class a header may name, by its name. Imports torch (the core needs it)."""
    found: dict[str, type] = {}
    for home in _HOMES:
        module = importlib.import_module(f"marginals.{home}")
        for name, value in vars(module).items():
            if (
                (_is_frozen(value) or _is_learned(value))
                and value.__module__ == module.__name__
                and name[0] != "_"
            ):
                if name in found:
                    raise TypeError(f"two classes are called {name}; headers could not tell them")
                found[name] = value
    return found


def _is_frozen(value: Any) -> bool:
    return (
        inspect.isclass(value)
        and dataclasses.is_dataclass(value)
        and not inspect.isabstract(value)
        and value.__dataclass_params__.frozen  # type: ignore[attr-defined]
    )


def _is_learned(value: Any) -> bool:
    """A part with weights of its own: its ``config`` stands in the header, the weights do not."""
    return inspect.isclass(value) and hasattr(value, "config") and hasattr(value, "state_dict")


def _fields(kind: type) -> dict[str, Any]:
    """The names and types of what a kind is made of."""
    if _is_learned(kind):
        hints = typing.get_type_hints(kind.__init__)
        return {name: hint for name, hint in hints.items() if name != "return"}
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init}


def _later(kind: type) -> dict[str, Any]:
    """The fields a kind got after files with it were written, and what they are without a word."""
    fields = () if _is_learned(kind) else dataclasses.fields(kind)
    return {f.name: f.default for f in fields if f.metadata.get("later")}


def encode(value: Any) -> Any:
    """A frozen dataclass of the core (nested as you like) as JSON values.

    Raises MarginalsError for anything a header cannot hold: it would not come back.
    """
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    name = type(value).__name__
    if kinds().get(name) is type(value):
        source = value.config if _is_learned(type(value)) else vars(value)
        fields = {name: source[name] for name in _fields(type(value))}
        fields = {k: v for k, v in fields.items() if _later(type(value)).get(k, fields) != v}
        return {"kind": name} | {key: encode(item) for key, item in fields.items()}
    raise MarginalsError(
        f"a checkpoint cannot describe a {name}; use a frozen dataclass of the marginals core "
        "(schedules, scalings, predictions, objectives), or save the weights yourself"
    )


def decode(value: Any) -> Any:
    """The inverse of `encode`; lists come back as tuples.

    Raises MarginalsError, in one sentence, for what this version does not know.
    """
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    if set(value) == {"float"}:
        return _not_finite(value["float"])
    if not isinstance(value.get("kind"), str):
        raise MarginalsError(f"the header is damaged: an entry has no kind ({_short(value)})")
    return _build(value["kind"], {k: decode(v) for k, v in value.items() if k != "kind"})


def _build(kind: str, fields: dict[str, Any]) -> Any:
    made_by = "it was probably made by a newer version"
    if kind not in kinds():
        raise MarginalsError(
            f"the header names a {kind!r}, which marginals {marginals.__version__} does not know; "
            f"{made_by}, so update marginals"
        )
    hints = _fields(kinds()[kind])
    known = hints.keys()
    if unknown := sorted(fields.keys() - known):
        raise MarginalsError(
            f"the header gives {kind} the field {unknown[0]!r}, which marginals "
            f"{marginals.__version__} does not know; {made_by}, so update marginals"
        )
    if missing := sorted(known - fields.keys() - _later(kinds()[kind]).keys()):
        raise MarginalsError(f"the header is damaged: {kind} lacks its field {missing[0]!r}")
    for key, value in fields.items():
        if not fits(value, hints[key]):
            raise MarginalsError(
                f"the header is damaged: {kind} cannot have the {key} {_short(value)}"
            )
    try:
        return kinds()[kind](**fields)
    except MarginalsError:
        raise
    except (TypeError, ValueError) as error:
        raise MarginalsError(
            f"the header is damaged: {kind} refuses its values ({error})"
        ) from None


def fits(value: Any, hint: Any) -> bool:
    """Whether a decoded value is what a field of this type may hold. NaN is no number here."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(item, arguments[0]) for item in value)
    if arguments:
        return any(fits(value, argument) for argument in arguments)
    if hint is float:
        number = isinstance(value, float | int) and not isinstance(value, bool)
        return number and not math.isnan(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if getattr(hint, "_is_protocol", False):
        return all(hasattr(value, name) for name in vars(hint) if name[0] != "_")
    return isinstance(value, hint)


def _not_finite(text: Any) -> float:
    if text not in ("inf", "-inf", "nan"):
        raise MarginalsError(f"the header is damaged: {_short(text)} is not a special number")
    return float(text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
