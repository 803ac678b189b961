"""What all plots share: size, colours, legends, PNG files in memory."""

import io
import itertools
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib import axes, figure

# Okabe and Ito's colours, which colour-blind eyes tell apart too: their green, blue and
# vermilion for what most experiments have, more for further teachers and students.
_STYLES = {
    "teacher": ("#444444", "D"),
    "start": ("#009E73", "^"),
    "student": ("#0072B2", "o"),
    "twin": ("#D55E00", "s"),
}
MORE_COLORS = ("#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#8B5A2B")
MORE_MARKERS = ("v", "P", "X", "<", ">", "*")  # one more: 30 pairs before any repeats
LABELS = {"start": "before any training", "twin": "hard-label twin"}
_WIDTH = 5.4  # inches
_LABEL_WIDTH = 52  # characters that fit into it
_LABEL_HEIGHT = 0.21  # inches of a line of the legend

Style = dict[str, str]  # what matplotlib calls color and marker


def is_teacher(role: str) -> bool:
    """Returns whether a role is the teacher, or one of several."""
    return role == "teacher" or role.startswith("teacher ")


def styles(roles: Iterable[str]) -> dict[str, Style]:
    """Returns colour and marker of each role, the same in every plot and table."""
    more = zip(itertools.cycle(MORE_COLORS), itertools.cycle(MORE_MARKERS))
    pairs = {role: _STYLES.get(role) or next(more) for role in roles}
    return {role: {"color": c, "marker": m} for role, (c, m) in pairs.items()}


def add_legend(
    drawing: figure.Figure,
    plot: axes.Axes,
    entries: Sequence[tuple[Any, str]] | None = None,
) -> None:
    """Puts the legend beneath the plot, which keeps its size, whatever is in it.

    Args:
        drawing: The whole drawing.
        plot: The axes that it is about.
        entries: What to name, and how; None: everything that has a label.
    """
    found = entries
    if found is None:
        found = [*zip(*plot.get_legend_handles_labels(), strict=True)]
    if not found:
        return
    lines, labels = [line for line, _ in found], [label for _, label in found]
    labels = [textwrap.fill(label, _LABEL_WIDTH) for label in labels]
    rows = sum(1 + label.count("\n") for label in labels)
    drawing.set_figheight(drawing.get_figheight() + _LABEL_HEIGHT * rows)
    drawing.legend(lines, labels, loc="outside lower center", frameon=False)


def make_axes(height: float) -> tuple[figure.Figure, axes.Axes]:
    """Returns a drawing, `height` inches high, and its axes."""
    drawing = make_drawing(height)
    plot = drawing.add_subplot()
    tidy(plot)
    return drawing, plot


def make_drawing(height: float, width: float = _WIDTH) -> figure.Figure:
    """Returns an empty drawing of some inches."""
    return figure.Figure(figsize=(width, height), dpi=180, layout="constrained")


def tidy(plot: axes.Axes) -> None:
    """Gives axes the look that all plots share."""
    plot.spines[["top", "right"]].set_visible(False)
    plot.grid(color="#DDDDDD", lw=0.6)
    plot.set_axisbelow(True)


def png(drawing: figure.Figure) -> bytes:
    """Returns the content of a PNG file."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # Of a user's names in other scripts; the page around the plot has them too.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        drawing.savefig(content, format="png")
    return content.getvalue()
