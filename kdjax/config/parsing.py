"""Nested mappings to frozen dataclasses, with errors that name the key."""

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from kdjax.core.errors import UsageError

_LARGEST = int(sys.float_info.max)
_LARGEST_WHOLE = 2**64  # more than any key takes, and few enough digits to print
_LONGEST = 100  # the most characters of a value that an error message quotes
_LONGEST_NAME = 4095  # bytes, as Linux has it
_MOST_KEYS = 12  # the most keys that an error message lists


def from_mapping(cls: type[Any], values: Mapping[str, Any], path: str) -> Any:
    """Returns `cls` made from a nested mapping; `path` names it in error messages.

    Raises:
        UsageError: A key is unknown or missing, or a value has the wrong type.
    """
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise _unknown(hints, in_line(key), path)
    for field in dataclasses.fields(cls):
        empty = dataclasses.MISSING
        is_required = field.default is empty and field.default_factory is empty
        if is_required and field.name not in values:
            raise UsageError(f"{path}.{field.name} is missing")
    return cls(
        **{k: convert(v, hints[k], f"{path}.{k}") for k, v in values.items()},
    )


def check_key(
    cls: type[Any], key: str, path: str, root: type[Any] | None = None
) -> Any:
    """Returns the annotation of a dotted key of `cls`, which `convert` takes.

    Args:
        cls: A dataclass.
        key: The key, such as "train.steps".
        path: The dataclass's own path, for messages.
        root: The dataclass of the whole config, whose other keys may be meant; None:
            `cls`.

    Raises:
        UsageError: There is no such key; the message suggests one that exists.
    """
    root = root or cls
    name, _, rest = key.partition(".")
    hints = typing.get_type_hints(cls)
    if name not in hints:
        raise _unknown(hints, name, path, root)
    hint, path = hints[name], f"{path}.{name}"
    if _is_mapping(hint):  # its keys are free
        name, _, rest = rest.partition(".")
        hint, path = typing.get_args(hint)[1], f"{path}.{name}"
    if not rest:
        return hint
    choices = filter(dataclasses.is_dataclass, (hint, *typing.get_args(hint)))
    inner = next(choices, None)
    if inner is None:
        raise UsageError(f"{path} has no keys of its own, so {rest!r} cannot be set")
    return check_key(typing.cast(type, inner), rest, path, root)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Returns the name that was probably meant, or None if none is similar.

    Example:
        >>> nearest("temp", ["alpha", "temperature"])
        'temperature'
        >>> nearest("wandb", ["cache_dir", "seed"])
    """
    listed = list(names)
    if close := difflib.get_close_matches(name, listed, n=1):
        return close[0]
    begun = (other for other in listed if len(name) > 2 and other.startswith(name))
    return next(begun, None)


def advice(name: str, names: Iterable[str], known: str = "the keys here") -> str:
    """Returns the name that was probably meant, or those there are, for a message.

    Args:
        name: One that does not exist.
        names: Those that do.
        known: What the message calls them.
    """
    listed = list(names)
    if near := nearest(name, listed):
        return f"did you mean {near}?"
    more = len(listed) - _MOST_KEYS
    rest = f" and {more} more (docs/config.md)" if more > 0 else ""
    return f"{known} are {', '.join(listed[:_MOST_KEYS])}{rest}"


def _unknown(
    hints: Mapping[str, Any], name: str, path: str, root: type[Any] | None = None
) -> UsageError:
    top = path.partition(".")[0]
    elsewhere = [key for key in _keys(root, top) if key.endswith(f".{name}")]
    if elsewhere:
        return UsageError(
            f"{path}.{name} does not exist; did you mean {' or '.join(elsewhere)}?"
        )
    return UsageError(f"{path}.{name} does not exist; {advice(name, hints)}")


def _keys(cls: Any, path: str) -> Iterator[str]:
    """Yields the dotted path of every key below a dataclass."""
    if not dataclasses.is_dataclass(cls):
        return
    for name, hint in typing.get_type_hints(cls).items():
        yield f"{path}.{name}"
        for inner in (hint, *typing.get_args(hint)):
            if not _is_mapping(hint):
                yield from _keys(inner, f"{path}.{name}")


def convert(value: Any, hint: Any, path: str) -> Any:
    """Converts a plain value to the annotated type; `path` names it in error messages.

    Args:
        value: The value from JSON or a `ConfigDict`: lists may stand for tuples, an
            int for a float.
        hint: A dataclass, a plain type, a `Literal`, a union, a tuple, or a mapping
            from strings; may be nested.
        path: The value's path in the config.

    Raises:
        UsageError: The value does not have that type.
    """
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(typing.cast(type, hint), value, path)
    if origin in (types.UnionType, typing.Union):
        _check_choice(value, choices, path)
        return convert(value, _choose(value, choices), path)
    if origin is Literal:
        # Where a config file has a choice in words, a flag of the key has only text.
        if isinstance(value, str) and value not in choices:
            words = {str(c).lower(): c for c in choices if isinstance(c, bool)}
            value = words.get(value.lower(), value)
        if not any(type(value) is type(c) and value == c for c in choices):
            listed = ", ".join(map(repr, choices))
            raise UsageError(f"{path} must be one of {listed}; it is {shown(value)}")
        return value
    if origin is tuple:
        return _convert_tuple(value, choices, path)
    if _is_mapping(hint) and isinstance(value, Mapping):
        hint = choices[1]
        return {k: convert(v, hint, f"{path}.{in_line(k)}") for k, v in value.items()}
    if hint is float and type(value) is int and abs(value) <= _LARGEST:
        return float(value)
    if type(value) is not hint:
        is_nested = dataclasses.is_dataclass(hint) or _is_mapping(hint)
        name = "a mapping" if is_nested else hint.__name__
        raise UsageError(
            f"{path} must be {name}; it is {shown(value)} ({type(value).__name__})"
        )
    if hint is int and abs(value) > _LARGEST_WHOLE:
        raise UsageError(
            f"{path} must be at most 2**64, with either sign; it is {shown(value)}"
        )
    return value


def _is_mapping(hint: Any) -> bool:
    return typing.get_origin(hint) in (dict, Mapping)


def in_line(key: Any) -> str:
    """Returns a key as a message of one line has it: a file's may hold anything."""
    text = str(key) if str(key).isprintable() else repr(key)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def shown(value: Any) -> str:
    """Returns a value as a message of one line has it."""
    try:
        text = repr(value)
    except Exception:  # too many digits, too deeply nested, or a user's own class
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def check_texts(value: Any, path: str) -> None:
    """Raises unless all text in nested values could be the name of a file.

    Raises:
        UsageError: One has a character that no file name has, or is longer than any.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_texts(inner, f"{path}.{in_line(key)}")
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            check_texts(inner, f"{path}[{index}]")
    elif isinstance(value, str):
        try:
            size = len(value.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            size = -1
        if size < 0 or "\0" in value:
            raise UsageError(
                f"{path} must be Unicode without NUL; it is {shown(value)}"
            )
        if size > _LONGEST_NAME:
            raise UsageError(
                f"{path} must have at most {_LONGEST_NAME:,} bytes; it has {size:,}"
            )


def _check_choice(value: Any, choices: tuple[Any, ...], path: str) -> None:
    """Raises if a value that may be a number or a mapping is neither."""
    nested = [choice for choice in choices if dataclasses.is_dataclass(choice)]
    is_either = isinstance(value, Mapping) or type(value) in (int, *choices)
    if is_either or float not in choices or not nested:
        return
    (cls,) = typing.cast(list[type], nested)
    kind = cls.__name__.removesuffix("Config").lower()
    raise UsageError(
        f"{path} must be a number, or a {kind} such as "
        f'"{dataclasses.asdict(cls())}"; it is {shown(value)}'
    )


def _choose(value: Any, choices: tuple[Any, ...]) -> Any:
    """Returns the member of the union that fits the value."""
    if value is None and type(None) in choices:
        return type(None)
    if isinstance(value, Mapping):
        return next(filter(dataclasses.is_dataclass, choices), choices[0])
    return choices[0]


def _convert_tuple(value: Any, items: tuple[Any, ...], path: str) -> Any:
    """Returns nested tuples; JSON turns tuples into lists, so lists are accepted."""
    if not isinstance(value, tuple | list):
        raise UsageError(f"{path} must be a tuple; it is {shown(value)}")
    if items[-1] is ...:
        items = items[:1] * len(value)
    if len(items) != len(value):
        raise UsageError(f"{path} must have {len(items)} items; it is {shown(value)}")
    return tuple(
        convert(item, hint, f"{path}[{index}]")
        for index, (item, hint) in enumerate(zip(value, items, strict=True))
    )


def at_least(value: int, least: int, path: str) -> None:
    """Raises unless a config value is at least `least`; `path` names it."""
    if value < least:
        raise UsageError(f"{path} must be at least {least}; it is {shown(value)}")


def whole(value: int, least: int, most: int, path: str) -> None:
    """Raises unless a whole number of a config is in [least, most]."""
    at_least(value, least, path)
    if value > most:
        raise UsageError(f"{path} must be at most {most:,}; it is {shown(value)}")


def between(value: float, low: float, high: float, path: str) -> None:
    """Raises unless a config value is in [low, high]; `path` names it."""
    if not low <= value <= high:
        raise UsageError(f"{path} must be in [{low:g}, {high:g}]; it is {value:g}")
