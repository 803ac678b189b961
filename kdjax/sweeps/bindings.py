"""Bindings of config keys to values, from flags and from files, each checked."""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from kdjax.config.parsing import check_key, convert
from kdjax.config.schema import Config
from kdjax.core.errors import UsageError
from kdjax.sweeps.values import Distribution, parse

_BINDING = re.compile(r"(zip\s+)?([^\s=]+)\s*=(?!=)\s*(.*)", re.DOTALL)
_INCLUDE = re.compile(r"include\s+(['\"])(.+)\1\s*(#.*)?")
_FORM = "write path.to.key = value, or a list of values"


class Binding(NamedTuple):
    """One key and the values that it takes.

    Attributes:
        key: The dotted key, without "config.".
        values: Its values, of the key's type as JSON has them, or what draws them.
        source: Where it was given, for messages.
        zipped: Whether it is paired with the other zipped ones.
    """

    key: str
    values: tuple[Any, ...] | Distribution
    source: str
    zipped: bool = False


def from_flags(
    sets: Sequence[str], zips: Sequence[str], files: Sequence[str]
) -> list[Binding]:
    """Returns all bindings of a command line, those of files first.

    Raises:
        UsageError: One names no key or has a wrong type, or two contradict each other.
    """
    found = [binding for file in files for binding in read_file(epath.Path(file))]
    found += [_of_text(text, "--set") for text in sets]
    found += [_of_text(text, "--zip")._replace(zipped=True) for text in zips]
    check_contradictions([(binding.key, binding.source) for binding in found])
    _check_zipped([binding for binding in found if binding.zipped])
    return found


def read_file(path: epath.Path, above: tuple[epath.Path, ...] = ()) -> list[Binding]:
    """Returns the bindings in a file and in those that it includes.

    Args:
        path: The file: a binding a line, `zip` before those that are paired, comments
            after #, and include 'FILE', relative to this file. Brackets may span lines.
        above: The files that include it.

    Raises:
        UsageError: It cannot be read, or a line is no binding; the message names both.
    """
    path = path.expanduser()
    if path in above:
        raise UsageError(f"{above[-1]} includes {path}, which includes it")
    try:
        text = path.read_text("utf-8").removeprefix("\ufeff")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"the bindings in {path} cannot be read: {reason}") from None
    found: list[Binding] = []
    for number, line in _lines(text):
        source = f"{path}, line {number}"
        if included := _INCLUDE.fullmatch(line):
            other = path.parent / included[2]
            if not other.exists():
                raise UsageError(f"{source}: there is no {other} to include")
            found += read_file(other, (*above, path))
        else:
            found.append(_of_text(line, source))
    return found


def check_contradictions(given: Sequence[tuple[str, str]]) -> None:
    """Raises if a key is bound twice, or both a section and a key of it.

    Args:
        given: Each key and where it was given.
    """
    for index, (key, source) in enumerate(given):
        for other, earlier in given[:index]:
            if key == other:
                raise UsageError(f"{source}: {key} was bound before ({earlier})")
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise UsageError(
                    f"{source}: {key} contradicts {other} ({earlier}): one is a part "
                    "of the other"
                )


def typed(key: str, value: Any, source: str) -> Any:
    """Returns a value as JSON has it once it was converted to the key's type.

    Raises:
        UsageError: There is no such key, or the value has the wrong type.
    """
    try:
        hint = check_key(Config, key, "config")
        return plain(convert(value, hint, f"config.{key}"))
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None


def plain(value: Any) -> Any:
    """Returns dataclasses as mappings and tuples as lists, as JSON has them."""
    return json.loads(json.dumps(value, default=vars))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields the lines that say something, with their numbers from 1.

    A line whose brackets stay open is yielded with those after it.
    """
    begun, pending = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begun = begun if pending else number
        pending = f"{pending}\n{line}" if pending else line.strip()
        if not _is_open(pending):
            yield begun, pending
            pending = ""
    if pending:
        yield begun, pending


def _is_open(line: str) -> bool:
    """Returns whether brackets were opened and not closed."""
    found = _BINDING.fullmatch(line)
    try:
        ast.parse(found[3] if found else "")
    except SyntaxError as error:
        return "was never closed" in error.msg
    return False


def _of_text(text: str, source: str) -> Binding:
    is_flag = source.startswith("--")
    found = _BINDING.fullmatch(text.strip())
    if found is None or (is_flag and found[1]):
        form = f"{source} 'KEY=[VALUE, VALUE]'" if is_flag else _FORM
        raise UsageError(f"{source}: {text.strip()!r} is no binding; {form}")
    key = found[2].removeprefix("config.")
    named = f"{source} {key}" if is_flag else source
    if not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UsageError(f"{named}: {key!r} is no key; {_FORM}")
    try:
        hint = check_key(Config, key, "config")
        values = parse(found[3], hint)
    except UsageError as error:
        raise UsageError(f"{named}: {error}") from None
    if isinstance(values, Distribution):
        if values.name == "choice":
            chosen = tuple(typed(key, value, named) for value in values.values)
            values = Distribution("choice", (chosen,))
        for value in values.values:
            typed(key, value, named)
        return Binding(key, values, named, bool(found[1]))
    values = tuple(typed(key, value, named) for value in values)
    for index, value in enumerate(values):
        if value in values[:index] and not found[1]:
            raise UsageError(f"{named}: the value {value!r} is given twice")
    return Binding(key, values, named, bool(found[1]))


def _check_zipped(zipped: Sequence[Binding]) -> None:
    """Raises unless the bindings can be paired."""
    if not zipped:
        return
    for binding in zipped:
        if isinstance(binding.values, Distribution):
            raise UsageError(f"{binding.source}: zip pairs lists; it is a draw")
    counts = {binding.key: len(binding.values) for binding in zipped}  # type: ignore[arg-type]
    if len(counts) < 2:
        raise UsageError(f"{zipped[0].source}: zip pairs two keys or more; use --set")
    if len({*counts.values()}) > 1:
        listed = ", ".join(f"{key} has {count}" for key, count in counts.items())
        raise UsageError(f"zip pairs one value with one: {listed}")
