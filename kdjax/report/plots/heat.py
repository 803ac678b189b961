"""A metric over two keys of the config."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import axes, figure

from kdjax.report.plots.canvas import make_drawing, png

_DARK = 0.45  # of the colour scale, up to which text is white


def heat(
    names: tuple[str, str],
    labels: tuple[Sequence[str], Sequence[str]],
    cells: Mapping[tuple[int, int], float],
    title: str,
) -> bytes:
    """Returns a PNG of a value for each pair of two keys' values.

    Args:
        names: The keys, that of the columns first.
        labels: Their values in words.
        cells: The value at (column, row), lower being better; pairs may be missing.
        title: What the values are.
    """
    return png(draw_heat(names, labels, cells, title))


def draw_heat(
    names: tuple[str, str],
    labels: tuple[Sequence[str], Sequence[str]],
    cells: Mapping[tuple[int, int], float],
    title: str,
) -> figure.Figure:
    """Returns the drawing of `heat`."""
    columns, rows = map(len, labels)
    values = np.full((rows, columns), np.nan)
    for (column, row), value in cells.items():
        values[row, column] = value
    drawing = make_drawing(1.5 + 0.55 * rows, max(5.4, 1.6 + 0.64 * columns))
    plot = drawing.add_subplot()
    image = plot.imshow(values, cmap="viridis", aspect="auto")
    _write_values(plot, values)
    plot.set_xticks(range(columns), labels[0])
    plot.set_yticks(range(rows), labels[1])
    if sum(map(len, labels[0])) > 40:
        plot.tick_params("x", rotation=30)
    plot.set(title=title, xlabel=names[0], ylabel=names[1])
    drawing.colorbar(image, ax=plot)
    return drawing


def _write_values(plot: axes.Axes, values: np.ndarray) -> None:
    low, high = np.nanmin(values), np.nanmax(values)
    for (row, column), value in np.ndenumerate(values):
        text, color = "none", "#777777"
        if not np.isnan(value):
            share = (value - low) / ((high - low) or 1.0)
            text = f"{value:.4f}" + ("\nbest" if value == low else "")
            color = "white" if share < _DARK else "black"
        weight = "bold" if value == low else "normal"
        place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
        plot.text(column, row, text, color=color, fontweight=weight, **place)
