"""Points of a sweep: overrides of the base config, each with a name that stays."""

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kdjax.config.parsing import from_mapping
from kdjax.config.schema import Config
from kdjax.config.validation import validate
from kdjax.core.errors import UsageError
from kdjax.sweeps.bindings import Binding, check_contradictions, plain, typed
from kdjax.sweeps.values import Distribution
from kdjax.sweeps.words import counted

Overrides = Mapping[str, Any]
_LONGEST = 80  # characters of a name before its hash
_MOST_POINTS = 10_000
_MOST_DRAWS = 100  # per sample asked for, until enough different ones are found


class Point(NamedTuple):
    """One experiment of a sweep.

    Attributes:
        name: Its directory: the overrides, shortened, and a hash of them.
        overrides: Values by dotted key, as JSON has them.
        config: The base config with the overrides.
    """

    name: str
    overrides: Overrides
    config: Config


def make_points(
    base: Config,
    bindings: Sequence[Binding],
    *,
    given: Iterable[Overrides] | None = None,
    samples: int = 0,
    seed: int = 0,
) -> list[Point]:
    """Returns the product of all bindings, each point checked.

    Zipped bindings are one factor of it, what a config file's `sweep()` yields another,
    and all random draws together a third.

    Args:
        base: The config that the points change.
        bindings: What is swept.
        given: What `sweep()` yielded; None: there is none.
        samples: The number of random draws.
        seed: Of the random draws. More samples begin with the same ones.

    Raises:
        UsageError: Nothing is swept, or a point contradicts itself or another.
    """
    drawn = [b for b in bindings if isinstance(b.values, Distribution)]
    _check_samples(drawn, samples)
    factors: list[list[Overrides]] = []
    if given is not None:
        factors.append(_yielded(given, bindings))
    if zipped := [b for b in bindings if b.zipped]:
        rows = zip(*(b.values for b in zipped), strict=True)
        factors.append(
            [{b.key: v for b, v in zip(zipped, r, strict=True)} for r in rows]
        )
    for binding in bindings:
        if not binding.zipped and binding not in drawn:
            factors.append([{binding.key: v} for v in binding.values])  # type: ignore[union-attr]
    if drawn:
        factors.append(_draw(drawn, samples, seed))
    if not factors:
        raise UsageError(
            "nothing is swept; give --set 'KEY=[VALUE, VALUE]', --zip, --bindings, or "
            "a sweep() in the config file"
        )
    if (count := math.prod(map(len, factors))) > _MOST_POINTS:
        raise UsageError(
            f"that makes {count:,} points, and {_MOST_POINTS:,} are the most; sweep "
            "fewer keys or values, or draw some of them at random with --samples"
        )
    every = [
        {key: value for part in parts for key, value in part.items()}
        for parts in itertools.product(*factors)
    ]
    return _named(base, every)


def override(base: Config, overrides: Overrides, source: str) -> Config:
    """Returns the base config with other values for some of its keys.

    Raises:
        UsageError: The base has no such key, or the values contradict each other.
    """
    values = plain(base)
    try:
        for key, value in overrides.items():
            *parents, last = key.split(".")
            place, path = values, "config"
            for name in parents:
                path = f"{path}.{name}"
                if not isinstance(place.get(name), dict):
                    raise UsageError(_not_there(path, place, name))
                place = place[name]
            if last not in place:
                raise UsageError(_not_there(f"{path}.{last}", place, last))
            place[last] = value
        return validate(from_mapping(Config, values, "config"))
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None


def name_points(every: Sequence[Overrides]) -> list[str]:
    """Returns a name for each point, which depends on its own overrides alone.

    Example:
        >>> name_points([{"distill.alpha": 0.5, "student.train.steps": 20}])
        ['alpha=0.5,steps=20-e5004fbc']
    """
    return [_name(overrides) for overrides in every]


def _name(overrides: Overrides) -> str:
    canonical = json.dumps(overrides, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    shown = ",".join(
        f"{_short(key, overrides)}={_shown(overrides[key])}"
        for key in sorted(overrides)
    )
    plain_text = re.sub(r"[^\w.,=+-]+", "_", shown, flags=re.ASCII)[:_LONGEST]
    return f"{plain_text.rstrip('_,=')}-{digest}"


def _short(key: str, keys: Iterable[str]) -> str:
    """Returns as many of a key's last parts as tell it from the point's other keys."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if sum(f".{other}".endswith(f".{end}") for other in keys) == 1:
            return end
    return key


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "+".join(_shown(inner) for inner in value.values())
    if isinstance(value, list):
        return "+".join(map(_shown, value))
    return str(value)


def _check_samples(drawn: Sequence[Binding], samples: int) -> None:
    if drawn and samples < 1:
        raise UsageError(
            f"{drawn[0].source} is drawn at random; say how often with --samples=20"
        )
    if samples and not drawn:
        raise UsageError(
            f"--samples={samples}, but no key is drawn at random; bind one to "
            "log_uniform(1e-4, 1e-2), uniform, int_uniform or choice"
        )


def _draw(drawn: Sequence[Binding], samples: int, seed: int) -> list[Overrides]:
    """Returns different draws of all keys together."""
    found: list[Overrides] = []
    for index in range(samples * _MOST_DRAWS):
        point = {
            # By key, so that the order of the bindings does not matter.
            binding.key: typed(
                binding.key,
                binding.values.draw(random.Random(f"{seed}/{binding.key}/{index}")),  # type: ignore[union-attr]
                binding.source,
            )
            for binding in drawn
        }
        if point not in found:
            found.append(point)
        if len(found) == samples:
            return found
    raise UsageError(
        f"--samples={samples}, but only {counted(len(found), 'different point')} "
        "could be drawn; lower it or widen what is drawn from"
    )


def _yielded(
    given: Iterable[Overrides], bindings: Sequence[Binding]
) -> list[Overrides]:
    """Returns what `sweep()` yielded, checked."""
    found: list[Overrides] = []
    others = [(binding.key, binding.source) for binding in bindings]
    for number, overrides in enumerate(given, start=1):
        source = f"point {number} of sweep()"
        if not isinstance(overrides, Mapping) or not overrides:
            raise UsageError(
                f"{source} must be a mapping such as {{'distill.alpha': 0.5}}; it is "
                f"{overrides!r}"
            )
        keys = {str(key).removeprefix("config."): v for key, v in overrides.items()}
        check_contradictions([*((key, source) for key in keys), *others])
        point = {k: typed(k, plain_value(v), source) for k, v in keys.items()}
        if point in found:
            raise UsageError(f"{source} repeats point {found.index(point) + 1}")
        found.append(point)
    if not found:
        raise UsageError("sweep() of the config file yields no point")
    return found


def plain_value(value: Any) -> Any:
    """Returns a `ConfigDict` as a mapping, and anything else as it is."""
    return value.to_dict() if hasattr(value, "to_dict") else value


def _named(base: Config, every: Sequence[Overrides]) -> list[Point]:
    points: list[Point] = []
    names: dict[str, int] = {}
    for overrides, name in zip(every, name_points(every), strict=True):
        if name in names:
            raise UsageError(f"the point {name} comes twice")
        names[name] = len(points)
        points.append(Point(name, overrides, override(base, overrides, name)))
    return points


def _not_there(path: str, place: Mapping[str, Any], name: str) -> str:
    if name in place:
        return (
            f"{path} is {place[name]!r} in this config and has no keys; bind it as a "
            "whole"
        )
    return f"{path}: this config has no {name!r}; it has {', '.join(place) or 'none'}"


def axes(points: Iterable[Point]) -> dict[str, list[Any]]:
    """Returns the different values of each key, in the order of the points."""
    found: dict[str, list[Any]] = {}
    for key, value in _pairs(points):
        values = found.setdefault(key, [])
        if value not in values:
            values.append(value)
    return found


def _pairs(points: Iterable[Point]) -> Iterator[tuple[str, Any]]:
    for point in points:
        yield from point.overrides.items()
