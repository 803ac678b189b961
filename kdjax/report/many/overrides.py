"""What distinguishes experiments: keys of their configs, and these in words."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SEED = "seed"
_SCHEDULE = {"kind", "start", "end"}
_ROLES = {"teacher", "student"}
_LONGEST = 24  # characters of a value in a plot
# Where, how long and how often something is done, but no result.
_IRRELEVANT = (
    *(
        "seeds",
        "cache_dir",
        "compile_cache",
        "log_every",
        "profile",
        "wandb",
        "mesh",
        "checkpoint",
    ),
    *("baseline", "member_students", "evaluate.every", "evaluate.batch_size"),
    *("evaluate.rows", "evaluate.tasks", "evaluate.metrics"),  # beside the ranking
)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested config by dotted keys; a schedule is one value.

    Example:
        >>> flat({"distill": {"alpha": {"kind": "linear", "start": 1.0, "end": 0.0}}})
        {'distill.alpha': {'kind': 'linear', 'start': 1.0, 'end': 0.0}}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and set(value) != _SCHEDULE:
            found |= flat(value, f"{path}.")
        else:
            found[path] = [*value] if isinstance(value, tuple) else value
    return found


def differences(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the keys in which flat configs differ and that can change results."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        key
        for key in keys
        if changes_results(key)
        and len({_plain(config.get(key)) for config in configs}) > 1
    ]


def changes_results(key: str) -> bool:
    """Returns whether the value of a key can change what a student becomes."""
    return not f"{key}.".startswith(tuple(f"{each}." for each in _IRRELEVANT))


def axes(overrides: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns the keys with several values, and these in order.

    Seeds are no axis, nor are keys that change no result, nor those that follow
    another: where a student of width 64 has 3 layers with each of several teachers, its
    layers are no axis of their own.
    """
    found: dict[str, dict[str, Any]] = {}
    every = [*overrides]
    for each in every:
        for key, value in each.items():
            found.setdefault(key, {})[_plain(value)] = value
    varied = {
        key: in_order(values.values())
        for key, values in found.items()
        if key != SEED and len(values) > 1 and changes_results(key)
    }
    leading: dict[str, list[Any]] = {}
    # Of keys that follow one another, the first one leads.
    for key in sorted(varied, key=lambda key: len(varied[key]), reverse=True):
        if not any(_follows(key, other, every) for other in leading):
            leading[key] = varied[key]
    return {key: values for key, values in varied.items() if key in leading}


def _follows(key: str, leader: str, every: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether each value of a leader that recurs has one value of the key.

    In a random search hardly any value recurs, and nothing follows from that.
    """
    pairs = {(_plain(each.get(leader)), _plain(each.get(key))) for each in every}
    settings = {setting_key(each) for each in every}
    leaders = {value for value, _ in pairs}
    return len(pairs) == len(leaders) < len(settings)


def in_order(values: Iterable[Any]) -> list[Any]:
    """Returns numbers in ascending order, anything else as it comes."""
    listed = [*values]
    return sorted(listed) if all(map(is_number, listed)) else listed


def is_same(value: Any, other: Any) -> bool:
    """Returns whether two config values are equal, of lists and tuples too."""
    return _plain(value) == _plain(other)


def place(values: Sequence[Any], value: Any) -> int:
    """Returns the position of a value that is among the values."""
    return [*map(_plain, values)].index(_plain(value))


def is_number(value: Any) -> bool:
    """Returns whether a value is a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def setting_key(overrides: Mapping[str, Any]) -> str:
    """Returns what the points of one setting have in common."""
    return _plain(
        {
            key: value
            for key, value in sorted(overrides.items())
            if key != SEED and changes_results(key)
        }
    )


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Returns the last words of dotted keys that tell them apart.

    Where there are keys of teacher and student, theirs are whole.

    Example:
        >>> short_names(["distill.alpha", "teacher.model.layers"])
        {'distill.alpha': 'alpha', 'teacher.model.layers': 'layers'}
        >>> short_names(["student.model.width", "teacher.model.layers"])
        {'student.model.width': 'student.model.width', \
'teacher.model.layers': 'teacher.model.layers'}
    """
    found = {}
    roles = {key.split(".")[0] for key in keys} & _ROLES
    for key in keys:
        words = key.split(".")
        shortest = len(words) if len(roles) > 1 and words[0] in roles else 1
        for length in range(shortest, len(words) + 1):
            name = ".".join(words[-length:])
            alike = [other for other in keys if f".{other}".endswith(f".{name}")]
            if len(alike) == 1:
                break
        found[key] = name
    return found


def shown(value: Any) -> str:
    """Returns a config value as people write it.

    Example:
        >>> [shown(value) for value in (2.0, True, "muon", [0, 2], None)]
        ['2', 'True', 'muon', '0, 2', '-']
    """
    if isinstance(value, Mapping):
        if set(value) == _SCHEDULE:
            start, end = shown(value["start"]), shown(value["end"])
            return f"{start} to {end} ({value['kind']})"
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    return "-" if value is None else str(value) or "none"


def tick(value: Any) -> str:
    """Returns a config value in words that leave room for a plot."""
    words = shown(value)
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 3]}..."


def _plain(value: Any) -> str:
    """Returns equal text for equal values: 2 and 2.0 are the same number."""
    if is_number(value):
        return repr(float(value))
    if isinstance(value, Mapping):
        return repr({key: _plain(each) for key, each in sorted(value.items())})
    if isinstance(value, list | tuple):
        return repr([*map(_plain, value)])
    return repr(value)
