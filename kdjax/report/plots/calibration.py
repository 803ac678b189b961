"""Accuracy against confidence."""

import collections
from collections.abc import Iterable
from typing import Any

from matplotlib import figure

from kdjax.report.plots.canvas import LABELS, add_legend, make_axes, png, styles
from kdjax.report.summary import METRICS, Summary, cell
from kdjax.results.measured import CalibrationBin, Results


def calibration(results: Results, summary: Summary) -> bytes:
    """Returns a PNG of the accuracy against the confidence of the top-1 prediction.

    Args:
        results: What the experiment measured.
        summary: What `summarise` says of it.

    Returns:
        The content of the file.
    """
    return png(_draw_calibration(results, summary))


def _draw_calibration(results: Results, summary: Summary) -> figure.Figure:
    metric = METRICS["calibration_error"]
    drawing, plot = make_axes(height=5.4)
    plot.plot([0, 100], [0, 100], color="#888888", lw=1.2, ls=":")
    looks = styles(summary.roles)
    for role, found in summary.roles.items():
        bins = _pool(
            part
            for run in results.runs
            if run.role == role
            for part in run.final[results.headline].calibration
        )
        total = sum(part.count for part in bins)
        x = [100 * part.confidence for part in bins]
        y = [100 * part.accuracy for part in bins]
        areas = [12 + 250 * part.count / total for part in bins]
        error = found.final[results.headline]["calibration_error"]
        shown = cell(error, metric.decimals, metric.scale)
        label = f"{LABELS.get(role, role)}: error {shown} %"
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
    add_legend(drawing, plot)
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
