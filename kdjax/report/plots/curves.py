"""Validation loss while training."""

import collections
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib import axes, figure, ticker

from kdjax.report.plots.canvas import (
    LABELS,
    Style,
    add_legend,
    is_teacher,
    make_axes,
    png,
    styles,
)
from kdjax.report.summary import Summary
from kdjax.results.data import VALIDATION
from kdjax.results.measured import Results

Points = Sequence[tuple[int, float]]  # bits/byte by step


def curves(results: Results, summary: Summary) -> bytes:
    """Returns a PNG of validation bits/byte against the training step.

    Args:
        results: What the experiment measured.
        summary: What `summarise` says of it.

    Returns:
        The content of the file.
    """
    return png(_draw_curves(results, summary))


def _draw_curves(results: Results, summary: Summary) -> figure.Figure:
    drawing, plot = make_axes(height=3.9)
    looks = styles(summary.roles)
    levels = {
        role: found.final[VALIDATION]["bits_per_byte"].mean
        for role, found in summary.roles.items()
        if is_teacher(role)
    }
    points: list[tuple[int, float]] = []
    for role in summary.roles:
        if is_teacher(role):
            continue
        lines = [
            [(point.step, point.bits_per_byte) for point in run.curve]
            for run in results.runs
            if run.role == role and run.curve
        ]
        if lines:
            _draw_lines(plot, role, lines, looks[role])
        points += itertools.chain.from_iterable(lines)
    _draw_levels(plot, levels, looks)
    low, high = y_range(points, levels.values())
    clipped = any(value > high for _, value in points)
    plot.set(
        title="Validation bits/byte while training"
        + (" (first steps cut off)" if clipped else ""),
        xlabel="training step",
        ylabel="validation bits/byte",
        ylim=(low, high),
    )
    plot.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    add_legend(drawing, plot)
    return drawing


def _draw_lines(
    plot: axes.Axes, role: str, lines: Sequence[Points], style: Style
) -> None:
    """Draws each of several seeds as a thin line and their mean as a thick one."""
    label, over = LABELS.get(role, role), 3 if role == "student" else 2
    if len(lines) > 1:
        label += f", mean of {len(lines)} seeds"
        for line in lines:
            thin: dict[str, Any] = {"color": style["color"], "lw": 0.9, "alpha": 0.6}
            plot.plot(*zip(*line, strict=True), zorder=over, **thin)
    by_step: dict[int, list[float]] = collections.defaultdict(list)
    for step, value in itertools.chain.from_iterable(lines):
        by_step[step].append(value)
    # A mean over fewer seeds than at the step before would jump for no reason.
    steps = sorted(step for step in by_step if len(by_step[step]) == len(lines))
    means = [statistics.fmean(by_step[step]) for step in steps]
    thick: dict[str, Any] = {**style, "ms": 4, "lw": 2}
    plot.plot(steps, means, label=label, zorder=over, **thick)


def _draw_levels(
    plot: axes.Axes, levels: Mapping[str, float], looks: Mapping[str, Style]
) -> None:
    """Draws a line where each teacher ended; those of single members dotted."""
    for role, level in levels.items():
        color, label = looks[role]["color"], f"{role}, final: {level:.4f}"
        if role != "teacher":  # may lie too close to others to be named where it is
            plot.axhline(level, color=color, lw=1.5, ls=":", label=label)
            continue
        plot.axhline(level, color=color, lw=1.5, ls="--")
        is_alone = len(levels) == 1  # an ensemble is mostly better than its members
        plot.annotate(
            label,
            xy=(0.01, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4 if is_alone else -4),
            textcoords="offset points",
            va="bottom" if is_alone else "top",
            color=color,
        )


def y_range(points: Points, levels: Iterable[float]) -> tuple[float, float]:
    """Returns limits that hold the teachers and all but the first fifth of training.

    The untrained model's loss would press everything of interest into one line.
    """
    last = max((step for step, _ in points), default=0)
    every = [*levels, *(value for step, value in points if step > last / 5)]
    shown = [value for value in every if math.isfinite(value)] or [0.0]
    margin = 0.1 * (max(shown) - min(shown)) or 0.1
    return min(shown) - margin, max(shown) + margin
