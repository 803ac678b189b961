"""The plots of the report, as PNG files in memory."""

import collections
import io
import itertools
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib import axes, figure

from kdjax.summary import METRICS, VALIDATION, cell

# Okabe and Ito's green, blue and vermilion, which colour-blind eyes tell apart too.
COLORS = {
    "teacher": "#444444",
    "start": "#009E73",
    "student": "#0072B2",
    "twin": "#D55E00",
}
_MARKERS = {"teacher": "D", "start": "^", "student": "o", "twin": "s"}
_LABELS = {
    "teacher": "teacher",
    "start": "before any training",
    "student": "student",
    "twin": "hard-label twin",
}

Points = Sequence[tuple[int, float]]  # bits/byte by step


def curves(results: dict[str, Any], summary: dict[str, Any]) -> bytes:
    """Returns a PNG of held-out bits/byte against the training step.

    Args:
        results: What the experiment measured.
        summary: What `summarise` says of it.

    Returns:
        The content of the file.
    """
    drawing, plot = _axes(height=3.9)
    teacher = summary["roles"]["teacher"]["final"][VALIDATION]
    level = teacher["bits_per_byte"]["mean"]
    points: list[tuple[int, float]] = []
    for role in ("twin", "student"):  # the student last: it lies on top
        lines = [
            [(point["step"], point["bits_per_byte"]) for point in run["curve"]]
            for run in results["runs"]
            if run["role"] == role and run["curve"]
        ]
        _draw_lines(plot, role, lines)
        points += itertools.chain.from_iterable(lines)
    plot.axhline(level, color=COLORS["teacher"], lw=1.5, ls="--")
    plot.annotate(
        f"teacher, final: {level:.4f}",
        xy=(0.01, level),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        color=COLORS["teacher"],
    )
    low, high = _y_range(points, level)
    cut = any(value > high for _, value in points)
    plot.set(
        title="Held-out bits/byte while training"
        + (" (the first steps lie above)" if cut else ""),
        xlabel="training step",
        ylabel="held-out bits/byte",
        ylim=(low, high),
    )
    plot.legend(loc="upper right", frameon=False, reverse=True)
    return _png(drawing)


def _draw_lines(plot: axes.Axes, role: str, lines: Sequence[Points]) -> None:
    """Draws each of several seeds as a thin line and their mean as a thick one."""
    if not lines:
        return
    label = _LABELS[role]
    if len(lines) > 1:
        label += f", mean of {len(lines)} seeds"
        for line in lines:
            plot.plot(*zip(*line, strict=True), color=COLORS[role], lw=0.9, alpha=0.6)
    by_step: dict[int, list[float]] = collections.defaultdict(list)
    for step, value in itertools.chain.from_iterable(lines):
        by_step[step].append(value)
    # A mean over fewer seeds than at the step before would jump for no reason.
    steps = sorted(step for step in by_step if len(by_step[step]) == len(lines))
    means = [statistics.fmean(by_step[step]) for step in steps]
    style: dict[str, Any] = {
        "color": COLORS[role],
        "marker": _MARKERS[role],
        "ms": 4,
        "lw": 2,
    }
    plot.plot(steps, means, label=label, **style)


def _y_range(points: Points, teacher: float) -> tuple[float, float]:
    """Returns limits that hold the teacher and all but the first fifth of training.

    The untrained model's loss would press everything of interest into one line.
    """
    last = max((step for step, _ in points), default=0)
    shown = [teacher, *(value for step, value in points if step > last / 5)]
    margin = 0.1 * (max(shown) - min(shown)) or 0.1
    return min(shown) - margin, max(shown) + margin


def calibration(results: dict[str, Any], summary: dict[str, Any]) -> bytes:
    """Returns a PNG of the accuracy against the confidence of the top-1 prediction.

    Args:
        results: What the experiment measured.
        summary: What `summarise` says of it.

    Returns:
        The content of the file.
    """
    metric = METRICS["calibration_error"]
    drawing, plot = _axes(height=5.4)
    plot.plot([0, 100], [0, 100], color="#888888", lw=1.2, ls=":")
    for role, found in summary["roles"].items():
        bins = _pool(
            part
            for run in results["runs"]
            if run["role"] == role
            for part in run["final"][VALIDATION]["calibration"]
        )
        total = sum(count for _, _, count in bins)
        x = [100 * confidence for confidence, _, _ in bins]
        y = [100 * accuracy for _, accuracy, _ in bins]
        areas = [12 + 250 * count / total for _, _, count in bins]
        error = found["final"][VALIDATION]["calibration_error"]
        shown = cell(error, metric.decimals, metric.scale)
        label = f"{_LABELS[role]}: error {shown} %"
        style: dict[str, Any] = {"color": COLORS[role], "marker": _MARKERS[role]}
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
    plot.legend(loc="upper left", frameon=False)
    return _png(drawing)


def _pool(parts: Iterable[dict[str, Any]]) -> list[tuple[float, float, int]]:
    """Returns confidence, accuracy and count of all seeds' bins, by deciles."""
    pools = collections.defaultdict(list)
    for part in parts:
        if part["count"]:
            pools[min(int(part["confidence"] * 10), 9)].append(part)
    result = []
    for _, pool in sorted(pools.items()):
        count = sum(part["count"] for part in pool)
        confidence = sum(part["confidence"] * part["count"] for part in pool) / count
        accuracy = sum(part["accuracy"] * part["count"] for part in pool) / count
        result.append((confidence, accuracy, count))
    return result


def _axes(height: float) -> tuple[figure.Figure, axes.Axes]:
    drawing = figure.Figure(figsize=(6.2, height), dpi=220, layout="constrained")
    plot = drawing.add_subplot()
    plot.spines[["top", "right"]].set_visible(False)
    plot.grid(color="#DDDDDD", lw=0.6)
    plot.set_axisbelow(True)
    return drawing, plot


def _png(drawing: figure.Figure) -> bytes:
    content = io.BytesIO()
    drawing.savefig(content, format="png")
    return content.getvalue()
