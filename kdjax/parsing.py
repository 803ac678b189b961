"""Nested mappings to frozen dataclasses, with errors that name the key."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from kdjax.errors import UsageError


def from_mapping(cls: type[Any], values: Mapping[str, Any], path: str) -> Any:
    """Returns `cls` made from a nested mapping; `path` names it in error messages."""
    hints = typing.get_type_hints(cls)
    for key in values:
        check_key(cls, str(key), path)
    return cls(
        **{k: _convert(v, hints[k], f"{path}.{k}") for k, v in values.items()},
    )


def check_key(cls: type[Any], key: str, path: str) -> None:
    """Raises, naming the nearest one, if a dotted key leads nowhere in `cls`."""
    name, _, rest = key.partition(".")
    hints = typing.get_type_hints(cls)
    if name not in hints:
        near = difflib.get_close_matches(name, hints, n=1, cutoff=0.0)
        raise UsageError(f"{path}.{name} does not exist; did you mean {near[0]}?")
    if rest and dataclasses.is_dataclass(hints[name]):
        check_key(hints[name], rest, f"{path}.{name}")


def _convert(value: Any, hint: Any, path: str) -> Any:
    """Returns `value` as the annotated type, or raises naming the key."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(typing.cast(type, hint), value, path)
    if origin is types.UnionType:
        return _convert(value, _choose(value, choices), path)
    if origin is Literal:
        if value not in choices:
            listed = ", ".join(map(repr, choices))
            raise UsageError(f"{path} must be one of {listed}; it is {value!r}")
        return value
    if origin is tuple:
        return _convert_tuple(value, choices, path)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        name = "a mapping" if dataclasses.is_dataclass(hint) else hint.__name__
        raise UsageError(
            f"{path} must be {name}; it is {value!r} ({type(value).__name__})"
        )
    return value


def _choose(value: Any, choices: tuple[Any, ...]) -> Any:
    """Returns the member of a union that the value means."""
    if value is None and type(None) in choices:
        return type(None)
    if isinstance(value, Mapping):
        return next(filter(dataclasses.is_dataclass, choices), choices[0])
    return choices[0]


def _convert_tuple(value: Any, items: tuple[Any, ...], path: str) -> Any:
    """Returns nested tuples, from the lists that JSON makes of them as well."""
    if not isinstance(value, tuple | list):
        raise UsageError(f"{path} must be a tuple; it is {value!r}")
    if items[-1] is ...:
        items = items[:1] * len(value)
    if len(items) != len(value):
        raise UsageError(f"{path} must have {len(items)} items; it is {value!r}")
    return tuple(
        _convert(item, hint, f"{path}[{index}]")
        for index, (item, hint) in enumerate(zip(value, items, strict=True))
    )


def at_least(value: int, least: int, path: str) -> None:
    """Raises unless a value of the config is large enough; `path` names it."""
    if value < least:
        raise UsageError(f"{path} must be at least {least}; it is {value}")


def between(value: float, low: float, high: float, path: str) -> None:
    """Raises unless a value of the config is in [low, high]; `path` names it."""
    if not low <= value <= high:
        raise UsageError(f"{path} must be in [{low:g}, {high:g}]; it is {value:g}")
