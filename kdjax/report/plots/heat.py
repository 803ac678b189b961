"""A metric over two keys of the config."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colors, figure

from kdjax.report.plots.canvas import make_drawing, png

_DARK = 0.18  # luminance, below which white text has the better contrast (WCAG 2)
_LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue


class Cell(NamedTuple):
    """A pair of values in a heat map.

    Attributes:
        value: What the colour shows.
        text: What is written.
        is_best: Whether it is written in bold.
    """

    value: float
    text: str
    is_best: bool = False


def heat(
    names: tuple[str, str],
    labels: tuple[Sequence[str], Sequence[str]],
    cells: Mapping[tuple[int, int], Cell],
    title: str,
    *,
    is_difference: bool = False,
) -> bytes:
    """Returns a PNG of a value for each pair of two keys' values.

    Args:
        names: The keys, that of the columns first.
        labels: Their values in words, rows from below.
        cells: What is at (column, row); pairs may be missing.
        title: What the values are.
        is_difference: Whether values above and below 0 have colours of their own, blue
            and red, rather than dark for low ones.
    """
    drawing = draw_heat(names, labels, cells, title, is_difference=is_difference)
    return png(drawing)


def draw_heat(
    names: tuple[str, str],
    labels: tuple[Sequence[str], Sequence[str]],
    cells: Mapping[tuple[int, int], Cell],
    title: str,
    *,
    is_difference: bool = False,
) -> figure.Figure:
    """Returns the drawing of `heat`."""
    columns, rows = map(len, labels)
    values = np.full((rows, columns), np.nan)
    for (column, row), cell in cells.items():
        values[row, column] = cell.value
    drawing = make_drawing(1.5 + 0.55 * rows, max(5.4, 1.6 + 0.64 * columns))
    plot = drawing.add_subplot()
    is_finite = np.isfinite(values)  # a model may have diverged
    values = np.where(is_finite, values, np.nan)
    most = float(np.max(np.abs(values[is_finite]), initial=0.0)) or 1.0
    scale: dict[str, Any] = {"cmap": "viridis"}
    if is_difference:
        scale = {"cmap": "RdBu", "vmin": -most, "vmax": most}
    image = plot.imshow(values, aspect="auto", origin="lower", **scale)
    for (column, row), cell in cells.items():
        is_dark = is_finite[row, column] and _is_dark(image, cell.value)
        plot.text(
            column,
            row,
            cell.text,
            color="white" if is_dark else "black",
            fontweight="bold" if cell.is_best else "normal",
            ha="center",
            va="center",
            fontsize=9,
        )
    plot.set_xticks(range(columns), labels[0])
    plot.set_yticks(range(rows), labels[1])
    longest = [max(map(len, label.split("\n"))) for label in labels[0]]
    if sum(longest) > 40:
        plot.tick_params("x", rotation=30)
    plot.set_title(title, fontsize=11)
    plot.set(xlabel=names[0], ylabel=names[1])
    drawing.colorbar(image, ax=plot)
    return drawing


def _is_dark(image: Any, value: float) -> bool:
    linear = np.power(colors.to_rgb(image.cmap(image.norm(value))), 2.2)
    return bool(np.dot(linear, _LUMINANCE) < _DARK)
