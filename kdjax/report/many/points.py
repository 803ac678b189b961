"""The points of a report card: experiments on disk, finished or not."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath

from kdjax.config.parsing import from_mapping
from kdjax.config.schema import Config
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json
from kdjax.report.many.commands import command
from kdjax.report.many.overrides import differences, flat
from kdjax.report.progress import read_records
from kdjax.results.data import VALIDATION
from kdjax.results.files import read
from kdjax.results.measured import Results

State = Literal["finished", "unfinished", "failed", "damaged"]
_SWEEP, _CONFIG = "sweep.json", "config.json"


@dataclasses.dataclass(frozen=True)
class Point:
    """One experiment.

    Attributes:
        name: Unique within the card.
        directory: Its workdir.
        state: What became of it.
        note: What there is to say about the state, in a line; may be empty.
        overrides: Its values of the config's keys that distinguish points.
        command: What runs it again; "" where that is unknown.
        results: What it measured; None unless it has finished.
    """

    name: str
    directory: epath.Path
    state: State
    note: str
    overrides: Mapping[str, Any]
    command: str
    results: Results | None = None


def is_sweep(directory: epath.Path) -> bool:
    """Returns whether the directory is that of a sweep."""
    return (directory / _SWEEP).exists()


def is_workdir(directory: epath.Path) -> bool:
    """Returns whether the directory is that of an experiment, finished or not."""
    return (directory / _CONFIG).exists() or (directory / "report").exists()


def read_points(directories: Sequence[epath.Path]) -> list[Point]:
    """Returns the points in workdirs and sweeps' directories, in that order.

    A sweep says what distinguishes its points; anything else is distinguished by the
    keys in which the configs differ.

    Raises:
        UsageError: A directory is neither, or a sweep.json is damaged.
    """
    points: list[Point] = []
    for directory in directories:
        if is_sweep(directory):
            points += _points_of_sweep(directory)
        elif is_workdir(directory):
            points.append(_point(directory.name, directory, {}, ""))
        else:
            raise UsageError(
                f"{directory} is neither an experiment's workdir (no {_CONFIG}) nor a "
                f"sweep's directory (no {_SWEEP}); name one that is"
            )
    if len(directories) > 1 or not is_sweep(directories[0]):
        points = _distinguished(points)
    return _with_own_names(points)


def _points_of_sweep(directory: epath.Path) -> list[Point]:
    path = directory / _SWEEP
    listed = read_json(path).get("points")
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{path} lists no points; run the sweep again")
    points = []
    for index, entry in enumerate(listed):
        where = f"{path}.points[{index}]"
        if not isinstance(entry, dict):
            raise UsageError(f"{where} must be an object; run the sweep again")
        for key, kind in (("name", str), ("workdir", str), ("overrides", dict)):
            if not isinstance(entry.get(key), kind):
                raise UsageError(f"{where}.{key} is missing or damaged")
        command = entry.get("command", "")
        points.append(
            _point(
                entry["name"],
                directory / entry["workdir"],
                entry["overrides"],
                command if isinstance(command, str) else "",
            )
        )
    return points


def _point(
    name: str, directory: epath.Path, overrides: Mapping[str, Any], command: str
) -> Point:
    state, note, results = _state(directory)
    return Point(name, directory, state, note, overrides, command, results)


def _state(directory: epath.Path) -> tuple[State, str, Results | None]:
    path = directory / "report" / "report.json"
    if path.exists():
        try:
            results = read(path)
        except UsageError as error:
            return "damaged", str(error), None
        if diverged := _diverged(results):
            return "failed", diverged, None
        return "finished", "", results
    if (directory / "failed.json").exists():
        return "failed", _reason(directory / "failed.json"), None
    if not directory.exists():
        return "unfinished", "not begun", None
    return "unfinished", _progress(directory), None


def _diverged(results: Results) -> str:
    """Returns which run has no finite loss, if there is one: it cannot be ranked."""
    for run in results.runs:
        for found in (run.final[VALIDATION], run.final[results.headline]):
            if not all(map(math.isfinite, (found.bits_per_byte, found.cross_entropy))):
                return f"the held-out loss of {run.name} is {found.cross_entropy}"
    return ""


def _reason(path: epath.Path) -> str:
    try:
        reason = read_json(path).get("reason")
    except UsageError as error:
        return str(error)
    return " ".join(str(reason or "no reason is given").split())


def _progress(directory: epath.Path) -> str:
    """Returns how far the run that was written to last has come."""
    records = [*directory.glob("*/metrics.jsonl")]
    if not records:
        return "begun"
    newest = max(records, key=lambda path: path.stat().mtime)
    steps = [record["step"] for record in read_records(newest)]
    return f"{newest.parent.name} at step {steps[-1]:,}" if steps else "begun"


def _distinguished(points: Sequence[Point]) -> list[Point]:
    """Returns the points with the keys in which their configs differ as overrides."""
    configs = [_config(point) for point in points]
    every = [_used(config) for config in configs]
    found = differences([config for config in every if config])
    distinguished = []
    for point, config, values in zip(points, configs, every, strict=True):
        if config:
            overrides = {key: values[key] for key in found if key in values}
            line = point.command or command(config, str(point.directory))
            point = dataclasses.replace(point, overrides=overrides, command=line)
        distinguished.append(point)
    return distinguished


def _used(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config's values by key, and the teachers' names as one of them.

    With several teachers, the key `teacher` of a single one does nothing.
    """
    values, several = flat(config), config.get("teachers")
    if several:
        values = {k: v for k, v in values.items() if not k.startswith("teacher.")}
    return values | ({"teachers": [*(several or ["teacher"])]} if config else {})


def _config(point: Point) -> dict[str, Any]:
    """Returns a point's config; empty if it cannot be read."""
    if point.results is not None:
        return dataclasses.asdict(point.results.config)
    try:
        found = from_mapping(Config, read_json(point.directory / _CONFIG), _CONFIG)
    except UsageError:
        return {}
    return dataclasses.asdict(found)


def _with_own_names(points: Sequence[Point]) -> list[Point]:
    """Returns the points, those of equal names with more of their directories."""
    names = [point.name for point in points]
    return [
        dataclasses.replace(point, name=str(point.directory))
        if names.count(point.name) > 1
        else point
        for point in points
    ]
