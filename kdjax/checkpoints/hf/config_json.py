"""A checkpoint's `config.json`, read with checks."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from kdjax.core.errors import UsageError

MOST_LAYERS = 4096  # more than any model has; a damaged file may claim anything
MOST = 2**31 - 1  # of any integer: the largest int32, JAX's default
_LARGEST = 1e38  # of any other number: what JAX's float32 holds

Value = TypeVar("Value", bool, int, float, str)


class Fields:
    """The values of a `config.json`, each checked when it is read."""

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        self._values, self._path = values, path

    def get(self, names: str, default: Value | None, null: Value | None) -> Any:
        """Returns the value of the first name that is present.

        Args:
            names: All spellings, separated by spaces.
            default: The value if none is present. None: one is required.
            null: The value if it is null. None: the default.

        Raises:
            UsageError: Nothing is given, or two spellings have different values.
        """
        present = {n: self._values[n] for n in names.split() if n in self._values}
        given = {name: value for name, value in present.items() if value is not None}
        for name, value in given.items():
            first = next(iter(given))
            if value != given[first]:
                self.refuse(first, f"and {name} disagree; remove one", given[first])
        if given:
            return next(iter(given.values()))
        if present and null is not None:
            return null
        if default is None:
            self.refuse(names.split()[0], "must be given")
        return default

    def gives(self, names: str) -> bool:
        """Returns whether any of the names has a value other than null."""
        return any(self._values.get(name) is not None for name in names.split())

    def integer(self, names: str, default: int | None = None, null: Any = None) -> int:
        """Returns an integer from 0 to `MOST`."""
        value = self.get(names, default, null)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(names, "must be a whole number", value)
        if not 0 <= value <= MOST:
            self.refuse(names, "is out of range", value)
        return value

    def number(
        self, names: str, default: float | None = None, null: Any = None
    ) -> float:
        """Returns a number as a float."""
        value = self.get(names, default, null)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(names, "must be a number", value)
        if not abs(value) <= _LARGEST:
            self.refuse(names, "is out of range", value)
        return float(value)

    def boolean(
        self, names: str, default: bool | None = None, null: Any = None
    ) -> bool:
        """Returns true or false."""
        value = self.get(names, default, null)
        if not isinstance(value, bool):
            self.refuse(names, "must be true or false", value)
        return value

    def choice(
        self, names: str, choices: Mapping[str, str], default: str | None = None
    ) -> str:
        """Returns the meaning of one of the known words."""
        value = self.get(names, default, None)
        if not isinstance(value, str) or value not in choices:
            self.refuse(names, f"must be one of {', '.join(choices)}", value)
        return choices[value]

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Returns a JSON object; empty if it is absent or null."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(name, "must be an object", value)
        return value or {}

    def words(self, name: str, count: int) -> Sequence[str] | None:
        """Returns a list of `count` strings, or None if it is absent or null."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count:
            self.refuse(name, f"must be a list of {count} names", value)
        return [str(item) for item in value]

    def require(self, values: Mapping[str, Any]) -> None:
        """Raises unless each key is absent or has a supported value.

        Args:
            values: For each key, the only supported value, or a tuple of them.
        """
        for name, wanted in values.items():
            known = wanted if isinstance(wanted, tuple) else (wanted,)
            if name in self._values and self._values[name] not in known:
                words = " or ".join(_in_json(value) for value in known)
                self.refuse(name, f"must be {words} for kdjax", self._values[name])

    def refuse(self, names: str, rule: str, value: Any = None) -> NoReturn:
        """Raises, naming the key, the rule and what was found."""
        found = "" if value is None else f"; it is {reprlib.repr(value)}"
        raise UsageError(f"{self._path}: {names.split()[0]} {rule}{found}")

    def nested(self, values: Mapping[str, Any], name: str) -> "Fields":
        """Wraps a nested object, for error messages that name it."""
        return Fields(values, f"{self._path}: {name}")


def _in_json(value: Any) -> str:
    """Returns a value as it is written in the file, words without their quotes."""
    return value if isinstance(value, str) else json.dumps(value)
