"""The plots of the report, as PNG files in memory."""

import collections
import io
import itertools
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib import axes, figure

from kdjax.report.summary import METRICS, Summary, cell
from kdjax.results.measured import VALIDATION, CalibrationBin, Results

# Okabe and Ito's colours, which colour-blind eyes tell apart too: their green, blue and
# vermilion for what most experiments have, more for further teachers and students.
_STYLES = {
    "teacher": ("#444444", "D"),
    "start": ("#009E73", "^"),
    "student": ("#0072B2", "o"),
    "twin": ("#D55E00", "s"),
}
_MORE_COLORS = ("#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#8B5A2B")
_MORE_MARKERS = ("v", "P", "X", "<", ">", "*")  # one more: 30 pairs before any repeats
_LABELS = {"start": "before any training", "twin": "hard-label twin"}
_WIDTH = 6.2  # inches
_LABEL_WIDTH = 60  # characters that fit into it
_LABEL_HEIGHT = 0.21  # inches of a line of the legend

Points = Sequence[tuple[int, float]]  # bits/byte by step
Style = dict[str, str]  # what matplotlib calls color and marker


def styles(roles: Iterable[str]) -> dict[str, Style]:
    """Returns colour and marker of each role, the same in every plot and table."""
    more = zip(itertools.cycle(_MORE_COLORS), itertools.cycle(_MORE_MARKERS))
    pairs = {role: _STYLES.get(role) or next(more) for role in roles}
    return {role: {"color": c, "marker": m} for role, (c, m) in pairs.items()}


def curves(results: Results, summary: Summary) -> bytes:
    """Returns a PNG of held-out bits/byte against the training step.

    Args:
        results: What the experiment measured.
        summary: What `summarise` says of it.

    Returns:
        The content of the file.
    """
    return _png(_draw_curves(results, summary))


def _draw_curves(results: Results, summary: Summary) -> figure.Figure:
    drawing, plot = _axes(height=3.9)
    looks = styles(summary.roles)
    levels = {
        role: found.final[VALIDATION]["bits_per_byte"].mean
        for role, found in summary.roles.items()
        if _is_teacher(role)
    }
    points: list[tuple[int, float]] = []
    for role in summary.roles:
        if _is_teacher(role):
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
    low, high = _y_range(points, levels.values())
    clipped = any(value > high for _, value in points)
    plot.set(
        title="Held-out bits/byte while training"
        + (" (the first steps lie above)" if clipped else ""),
        xlabel="training step",
        ylabel="held-out bits/byte",
        ylim=(low, high),
    )
    _add_legend(drawing, plot)
    return drawing


def _is_teacher(role: str) -> bool:
    return role == "teacher" or role.startswith("teacher ")


def _draw_lines(
    plot: axes.Axes, role: str, lines: Sequence[Points], style: Style
) -> None:
    """Draws each of several seeds as a thin line and their mean as a thick one."""
    label, over = _LABELS.get(role, role), 3 if role == "student" else 2
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


def _y_range(points: Points, levels: Iterable[float]) -> tuple[float, float]:
    """Returns limits that hold the teachers and all but the first fifth of training.

    The untrained model's loss would press everything of interest into one line.
    """
    last = max((step for step, _ in points), default=0)
    shown = [*levels, *(value for step, value in points if step > last / 5)]
    margin = 0.1 * (max(shown) - min(shown)) or 0.1
    return min(shown) - margin, max(shown) + margin


def calibration(results: Results, summary: Summary) -> bytes:
    """Returns a PNG of the accuracy against the confidence of the top-1 prediction.

    Args:
        results: What the experiment measured.
        summary: What `summarise` says of it.

    Returns:
        The content of the file.
    """
    return _png(_draw_calibration(results, summary))


def _draw_calibration(results: Results, summary: Summary) -> figure.Figure:
    metric = METRICS["calibration_error"]
    drawing, plot = _axes(height=5.4)
    plot.plot([0, 100], [0, 100], color="#888888", lw=1.2, ls=":")
    looks = styles(summary.roles)
    for role, found in summary.roles.items():
        bins = _pool(
            part
            for run in results.runs
            if run.role == role
            for part in run.final[VALIDATION].calibration
        )
        total = sum(part.count for part in bins)
        x = [100 * part.confidence for part in bins]
        y = [100 * part.accuracy for part in bins]
        areas = [12 + 250 * part.count / total for part in bins]
        error = found.final[VALIDATION]["calibration_error"]
        shown = cell(error, metric.decimals, metric.scale)
        label = f"{_LABELS.get(role, role)}: error {shown} %"
        style: dict[str, Any] = {**looks[role]}
        plot.plot(x, y, lw=1.4, ms=3, label=label, **style)
        plot.scatter(x, y, s=areas, lw=0, alpha=0.6, **style)
    plot.set(
        title="Calibration on held-out text",
        xlabel="confidence of the top-1 prediction (%)",
        ylabel="accuracy of the top-1 prediction (%)",
        xlim=(0, 100),
        ylim=(0, 100),
        aspect="equal",
    )
    _add_legend(drawing, plot)
    return drawing


def _pool(parts: Iterable[CalibrationBin]) -> list[CalibrationBin]:
    """Returns all seeds' bins by deciles of confidence, weighted by their tokens."""
    pools = collections.defaultdict(list)
    for part in parts:
        if part.count:
            pools[min(int(part.confidence * 10), 9)].append(part)
    result = []
    for _, pool in sorted(pools.items()):
        count = sum(part.count for part in pool)
        confidence = sum(part.confidence * part.count for part in pool) / count
        accuracy = sum(part.accuracy * part.count for part in pool) / count
        result.append(CalibrationBin(confidence, accuracy, count))
    return result


def _add_legend(drawing: figure.Figure, plot: axes.Axes) -> None:
    """Puts the legend beneath the plot, which keeps its size, whatever is in it."""
    lines, labels = plot.get_legend_handles_labels()
    if not lines:
        return
    labels = [textwrap.fill(label, _LABEL_WIDTH) for label in labels]
    rows = sum(1 + label.count("\n") for label in labels)
    drawing.set_figheight(drawing.get_figheight() + _LABEL_HEIGHT * rows)
    drawing.legend(lines, labels, loc="outside lower center", frameon=False)


def _axes(height: float) -> tuple[figure.Figure, axes.Axes]:
    drawing = figure.Figure(figsize=(_WIDTH, height), dpi=220, layout="constrained")
    plot = drawing.add_subplot()
    plot.spines[["top", "right"]].set_visible(False)
    plot.grid(color="#DDDDDD", lw=0.6)
    plot.set_axisbelow(True)
    return drawing, plot


def _png(drawing: figure.Figure) -> bytes:
    content = io.BytesIO()
    drawing.savefig(content, format="png")
    return content.getvalue()
