"""The report card's table: a row for each point, as text and as CSV."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kdjax.report.many.comparison import Comparison
from kdjax.report.many.overrides import SEED, is_number, shown
from kdjax.report.many.points import Point
from kdjax.report.summary import ABSENT, METRICS, cell, summarise
from kdjax.results.data import TEST, VALIDATION
from kdjax.results.measured import Results

# Short labels, since the table is wide; the report of each point has the long ones.
_METRICS = {
    "bits_per_byte": "bits/byte \u2193",
    "forward_kl": "KL to teacher \u2193",
    "agreement": "agreement (%) \u2191",
}
# The label in the table, and the name in points.csv.
_COLUMNS = {
    "seeds": "seeds",
    **{label: name for name, label in _METRICS.items()},
    "test bits/byte \u2193": "test_bits_per_byte",
    "beats twin by \u2191": "better_than_twin",
    "gap closed (%) \u2191": "gap_closed",
    "steps": "steps",
    "parameters \u2193": "parameters",
    "tokens/s \u2191": "forward_tokens_per_second",
    "training FLOPs \u2193": "training_flops",
    "device-s \u2193": "training_seconds",
}
_CONSTANT = ("steps", "seeds")  # left out where all points agree


class Cell(NamedTuple):
    """A value as it is shown, and what rows are sorted by: a number or text."""

    text: str
    value: Any = None


class Row(NamedTuple):
    """A point in the table.

    Attributes:
        point: The point.
        cells: Its values by column.
        is_best: Whether it belongs to the best setting.
    """

    point: Point
    cells: dict[str, Cell]
    is_best: bool


def rows(comparison: Comparison) -> list[Row]:
    """Returns a row for each point, in which all rows have the same columns.

    Columns without any value are left out, and those of steps and seeds where all
    points have the same.
    """
    best = comparison.best.points if comparison.best else ()
    seeds = any(SEED in point.overrides for point in comparison.points)
    keys = {**comparison.names, **({SEED: "first seed"} if seeds else {})}
    found = []
    for point in comparison.points:
        cells = {
            label: _override(point.overrides, key) for key, label in keys.items()
        } | _measured(point.results)
        found.append(Row(point, cells, point.name in best))
    texts = {
        label: {row.cells[label].text for row in found} - {ABSENT}
        for label in found[0].cells
    }
    kept = [k for k, v in texts.items() if len(v) > 1 or (v and k not in _CONSTANT)]
    return [row._replace(cells={k: row.cells[k] for k in kept}) for row in found]


def _override(overrides: Mapping[str, Any], key: str) -> Cell:
    if key not in overrides:
        return Cell(ABSENT)
    value = overrides[key]
    return Cell(shown(value), float(value) if is_number(value) else shown(value))


def _measured(results: Results | None) -> dict[str, Cell]:
    if results is None:
        return dict.fromkeys(_COLUMNS, Cell(ABSENT))
    return dict(zip(_COLUMNS, _values(results), strict=True))


def _values(results: Results) -> Iterator[Cell]:
    """Yields the cells of `_COLUMNS`."""
    summary = summarise(results)
    student = summary.roles["student"]
    final = student.final[VALIDATION]
    model = results.models[student.model]
    seeds = [run.seed for run in results.runs if run.role == "student"]
    yield Cell(", ".join(map(str, seeds)), len(seeds))
    for name in _METRICS:
        metric = METRICS[name]
        text = cell(final[name], metric.decimals, metric.scale)
        yield Cell(text, final[name].mean)
    test = student.final[TEST]["bits_per_byte"] if results.headline == TEST else None
    yield Cell(cell(test, 4), test.mean if test else None)
    for found, decimals, scale in (
        (summary.difference, 4, 1.0),
        (summary.gap_closed, 1, 100.0),
    ):
        yield Cell(cell(found, decimals, scale), found.mean if found else None)
    steps = results.config.student.train.steps
    yield Cell(f"{steps:,}", steps)
    yield Cell(f"{model.parameters:,}", model.parameters)
    speed = model.forward_tokens_per_second
    yield Cell(f"{speed:,.0f}", speed)
    flops, seconds = student.flops, student.seconds
    yield Cell(f"{flops.mean:.2e}", flops.mean) if flops else Cell(ABSENT)
    yield Cell(cell(seconds, 1), seconds.mean if seconds else None)


def about() -> list[str]:
    """Returns the labels of what is measured; the other columns are keys."""
    return [*_COLUMNS]


def csv_text(comparison: Comparison) -> str:
    """Returns the points as CSV: means over seeds, and numbers in full."""
    found = rows(comparison)
    keys = {label: key for key, label in comparison.names.items()}
    content = io.StringIO()
    writer = csv.writer(content)
    columns = [*found[0].cells]
    head = [_COLUMNS.get(column) or keys.get(column, SEED) for column in columns]
    writer.writerow(["point", "state", "best", *head, "workdir", "command", "note"])
    for row in found:
        point = row.point
        values = ["" if c.value is None else c.value for c in row.cells.values()]
        mark = "yes" if row.is_best else ""
        rest = point.directory, point.command, point.note
        writer.writerow([point.name, point.state, mark, *values, *rest])
    return content.getvalue()
