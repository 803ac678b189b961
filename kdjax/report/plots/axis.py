"""A metric against one key of the config, with the spread of the seeds."""

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import axes, figure, ticker

from kdjax.report.plots.canvas import (
    LABELS,
    MORE_COLORS,
    MORE_MARKERS,
    add_legend,
    make_drawing,
    png,
    styles,
    tidy,
)

MOST_LINES = 6  # of other settings; beyond them, lines are thin and unnamed
_LOGARITHMIC = ("temperature", "learning_rate")
_MOST_TICKS = 8


class Mark(NamedTuple):
    """One setting's place in a plot.

    Attributes:
        place: The position of its value among the axis's values.
        line: What the settings of its line have in common, in words; may be empty.
        means: The mean of each metric.
        spreads: Their sample standard deviations over seeds; 0 for a single seed.
        twin: The twin's mean of the first metric; None without a twin.
        is_best: Whether it is the best setting.
    """

    place: int
    line: str
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    twin: float | None
    is_best: bool


def axis(
    name: str,
    values: Sequence[Any],
    labels: Sequence[str],
    metrics: Sequence[str],
    marks: Sequence[Mark],
) -> bytes:
    """Returns a PNG of metrics against a key's values.

    Args:
        name: The key.
        values: All of its values, in order.
        labels: The same in words.
        metrics: The labels of the metrics, one below the other.
        marks: The settings.
    """
    return png(draw_axis(name, values, labels, metrics, marks))


def draw_axis(
    name: str,
    values: Sequence[Any],
    labels: Sequence[str],
    metrics: Sequence[str],
    marks: Sequence[Mark],
) -> figure.Figure:
    """Returns the drawing of `axis`."""
    drawing = make_drawing(1.2 + 2.4 * len(metrics))
    plots = drawing.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    is_numeric = all(_is_number(value) for value in values)
    places = [*values] if is_numeric else [*range(len(values))]
    for index, (plot, metric) in enumerate(zip(plots, metrics, strict=True)):
        _draw_metric(plot, index, marks, places)
        tidy(plot)
        plot.set_ylabel(metric)
    plots[0].set_title(f"Validation metrics against {name}")
    last = plots[-1]
    last.set_xlabel(name)
    if is_numeric and is_logarithmic(name, values):
        last.set_xscale("log")
        last.set_xlabel(f"{name} (log scale)")
    if not is_numeric or len(values) <= _MOST_TICKS:
        last.set_xticks(places, labels)
        last.xaxis.set_minor_locator(ticker.NullLocator())
    if not is_numeric and max(map(len, labels)) > 8:
        last.tick_params("x", rotation=30)
    add_legend(drawing, plots[0])
    return drawing


def is_logarithmic(name: str, values: Sequence[int | float]) -> bool:
    """Returns whether a key belongs on a logarithmic axis.

    A temperature and a learning rate do, and positive values that are closer to even
    steps in their ratios than in their differences.

    Example:
        >>> is_logarithmic("alpha", [0.25, 0.5, 0.75]), is_logarithmic("w", [1, 8, 64])
        (False, True)
    """
    if len(values) < 2 or min(values) <= 0:
        return False
    if name.endswith(_LOGARITHMIC):
        return True
    if len(values) < 3 or max(values) < 4 * min(values):
        return False
    pairs = [*itertools.pairwise(sorted(values))]
    ratios, steps = [b / a for a, b in pairs], [b - a for a, b in pairs]
    return max(ratios) / min(ratios) < max(steps) / min(steps)


def _draw_metric(
    plot: axes.Axes, index: int, marks: Sequence[Mark], places: Sequence[Any]
) -> None:
    lines = [*dict.fromkeys(mark.line for mark in marks)]
    if len(lines) > MOST_LINES:
        _draw_crowd(plot, index, marks, places)
    else:
        _draw_lines(plot, index, marks, places)
    for mark in marks:
        if mark.is_best:
            ring: dict[str, Any] = {"mfc": "none", "mec": "#000000", "ls": "none"}
            at = [places[mark.place]], [mark.means[index]]
            plot.plot(*at, marker="o", ms=13, label="best", **ring)
    if index == 0:
        _draw_twins(plot, marks, places)


def _draw_twins(plot: axes.Axes, marks: Sequence[Mark], places: Sequence[Any]) -> None:
    """Draws the twins: one line, or one for each setting's line where they differ."""
    lines = [*dict.fromkeys(mark.line for mark in marks)]
    marks = [mark for mark in marks if mark.twin is not None]
    means = _means(marks, _twin)
    # Another axis, as of the steps, may have changed the twin too.
    is_one = all(abs(_twin(mark) - means[mark.place]) < 1e-9 for mark in marks)
    style: dict[str, Any] = {"ls": "--", "lw": 1.4, "ms": 4} | styles(["twin"])["twin"]
    if is_one or len(lines) > MOST_LINES:
        x = [places[place] for place in means]
        label = LABELS["twin"] + ("" if is_one else ", mean of all settings")
        if means:
            plot.plot(x, [*means.values()], label=label, **style)
        return
    label = f"{LABELS['twin']}s, each in its student's colour"
    for line, color in zip(lines, itertools.cycle(_colors())):
        own = sorted(mark for mark in marks if mark.line == line)
        if own:
            x = [places[mark.place] for mark in own]
            style["color"] = color
            plot.plot(x, [*map(_twin, own)], label=label, **style)
            label = "_"  # once is enough


def _draw_lines(
    plot: axes.Axes, index: int, marks: Sequence[Mark], places: Sequence[Any]
) -> None:
    student = styles(["student"])["student"]
    colors = itertools.cycle(_colors())
    shapes = itertools.cycle([student["marker"], *MORE_MARKERS])
    for line in dict.fromkeys(mark.line for mark in marks):
        own = sorted(m for m in marks if m.line == line)
        plot.errorbar(
            [places[mark.place] for mark in own],
            [mark.means[index] for mark in own],
            yerr=[mark.spreads[index] for mark in own],
            label=line or "student",
            color=next(colors),
            marker=next(shapes),
            ms=5,
            lw=1.8,
            capsize=4,
        )


def _colors() -> list[str]:
    return [styles(["student"])["student"]["color"], *MORE_COLORS]


def _draw_crowd(
    plot: axes.Axes, index: int, marks: Sequence[Mark], places: Sequence[Any]
) -> None:
    """Draws many settings as thin lines, and the mean of all of them."""
    color = styles(["student"])["student"]["color"]
    for line in dict.fromkeys(mark.line for mark in marks):
        own = sorted(m for m in marks if m.line == line)
        x = [places[mark.place] for mark in own]
        y = [mark.means[index] for mark in own]
        plot.plot(x, y, color=color, lw=0.8, alpha=0.5, marker=".")
    means = _means(marks, lambda mark: mark.means[index])
    x = [places[place] for place in means]
    label = "mean of all settings"
    plot.plot(x, [*means.values()], color=color, lw=2.4, marker="o", label=label)


def _means(
    marks: Iterable[Mark], value: Callable[[Mark], float]
) -> Mapping[int, float]:
    """Returns the mean of a value over the settings at each place."""
    found: dict[int, list[float]] = {}
    for mark in sorted(marks, key=lambda mark: mark.place):
        found.setdefault(mark.place, []).append(value(mark))
    return {place: statistics.fmean(values) for place, values in found.items()}


def _twin(mark: Mark) -> float:
    return mark.twin if mark.twin is not None else 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
