"""Validation loss while training, of many settings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib import figure, ticker

from kdjax.report.plots.canvas import (
    LABELS,
    MORE_COLORS,
    add_legend,
    make_axes,
    png,
    styles,
)
from kdjax.report.plots.curves import y_range

MOST_NAMED = 6


class Course(NamedTuple):
    """The mean bits/byte of a setting's seeds by step."""

    name: str
    points: Sequence[tuple[int, float]]


def many_curves(courses: Sequence[Course], twin: Course | None) -> bytes:
    """Returns a PNG of the settings' courses, those of the best ones named.

    Args:
        courses: The settings, best first; beyond the first few they are grey.
        twin: That of the best setting's twin.
    """
    return png(draw_many_curves(courses, twin))


def draw_many_curves(courses: Sequence[Course], twin: Course | None) -> figure.Figure:
    """Returns the drawing of `many_curves`."""
    return _draw(courses, twin, "best: ")


def run_curves(courses: Sequence[Course]) -> bytes:
    """Returns a PNG of the courses of single runs, none of which is marked."""
    return png(_draw(courses, None, ""))


def _draw(courses: Sequence[Course], twin: Course | None, first: str) -> figure.Figure:
    drawing, plot = make_axes(height=3.9)
    looks = styles(["student", "twin"])
    colors = [looks["student"]["color"], *MORE_COLORS][:MOST_NAMED]
    entries = []
    for index, course in enumerate(courses):
        look: dict[str, Any] = {"color": "#AAAAAA", "lw": 0.8, "zorder": 1}
        if index < len(colors):
            look = {"color": colors[index], "lw": 1.5, "zorder": 2}
        if index == 0 and first:
            look |= {"lw": 2.6, "zorder": 3}
        (line,) = plot.plot(*zip(*course.points, strict=True), **look, **_mark(course))
        if index < len(colors):
            entries.append((line, course.name if index else f"{first}{course.name}"))
        elif index == len(colors):
            entries.append((line, f"{len(courses) - index} others"))
    every = [point for course in courses for point in course.points]
    if twin is not None:
        look = {"color": looks["twin"]["color"], "ls": "--", "lw": 1.5}
        (line,) = plot.plot(*zip(*twin.points, strict=True), **look, **_mark(twin))
        entries.append((line, f"{LABELS['twin']} of the best"))
        every += twin.points
    low, high = y_range(every, [])
    is_clipped = any(value > high for _, value in every)
    plot.set(
        title="Validation bits/byte while training"
        + (" (first steps cut off)" if is_clipped else ""),
        xlabel="training step",
        ylabel="validation bits/byte",
        ylim=(low, high),
    )
    plot.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    add_legend(drawing, plot, entries)
    return drawing


def _mark(course: Course) -> dict[str, Any]:
    """Returns what shows a course of one point, through which there is no line."""
    return {"marker": "o", "ms": 5} if len(course.points) == 1 else {}
