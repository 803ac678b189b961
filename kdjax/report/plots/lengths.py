"""Quality against the length of training, in steps and in time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib import axes, figure, ticker

from kdjax.report.plots.canvas import (
    LABELS,
    add_legend,
    make_drawing,
    png,
    styles,
    tidy,
)

_PAID = "student, its teacher's training counted"
_FEW_DECADES = 2000  # the most that labels at 1, 2 and 5 have room for


class Length(NamedTuple):
    """The models of a role that were trained for one length.

    Attributes:
        steps: Those of the student that they belong to.
        seconds: What their own training took; None: unknown.
        mean: Of their bits/byte over seeds.
        spread: The sample standard deviation; 0 for a single seed.
    """

    steps: int
    seconds: float | None
    mean: float
    spread: float


class Line(NamedTuple):
    """A role at all lengths, the shortest first."""

    role: str
    lengths: Sequence[Length]


class Level(NamedTuple):
    """A teacher's bits/byte and what its training took; None: unknown."""

    bits_per_byte: float
    seconds: float | None


def lengths(lines: Sequence[Line], teacher: Level, unit: str = "device") -> bytes:
    """Returns a PNG of bits/byte against the student's steps and against time.

    Args:
        lines: The student's and those of its twins.
        teacher: Of all of them.
        unit: Whose seconds they are, "device" or "CPU".
    """
    return png(draw_lengths(lines, teacher, unit))


def draw_lengths(
    lines: Sequence[Line], teacher: Level, unit: str = "device"
) -> figure.Figure:
    """Returns the drawing of `lengths`."""
    timed = all(each.seconds for line in lines for each in line.lengths)
    drawing = make_drawing(6.0 if timed else 3.3)
    plots = drawing.subplots(2 if timed else 1, 1, squeeze=False)[:, 0]
    looks = styles(line.role for line in lines)
    for line in lines:
        steps = [float(each.steps) for each in line.lengths]
        _draw(plots[0], line, steps, looks[line.role])
    steps = sorted({each.steps for line in lines for each in line.lengths})
    plots[0].set_title("Held-out bits/byte by length of training")
    plots[0].set(xlabel="the student's training steps", xscale="log")
    plots[0].set_xticks(steps, [f"{each:,}" for each in steps])
    plots[0].xaxis.set_minor_locator(ticker.NullLocator())
    if timed:
        _draw_times(plots[1], lines, teacher, looks)
        plots[1].set_xlabel(f"{unit}-seconds of training (log scale)")
    for plot in plots:
        plot.axhline(teacher.bits_per_byte, color="#444444", lw=1.5, ls="--")
        plot.annotate(
            f"teacher: {teacher.bits_per_byte:.4f}",
            xy=(0.01, teacher.bits_per_byte),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color="#444444",
        )
        plot.set_ylabel("bits/byte")
        tidy(plot)
    # matplotlib puts plain lines first.
    handles, labels = plots[-1].get_legend_handles_labels()
    entries = sorted(zip(handles, labels, strict=True), key=lambda e: e[1] == _PAID)
    add_legend(drawing, plots[-1], entries)
    return drawing


def _draw_times(
    plot: axes.Axes, lines: Sequence[Line], teacher: Level, looks: Any
) -> None:
    for line in lines:
        seconds = [each.seconds or 0.0 for each in line.lengths]
        _draw(plot, line, seconds, looks[line.role])
        if line.role == "student" and teacher.seconds:
            plot.plot(
                [each + teacher.seconds for each in seconds],
                [each.mean for each in line.lengths],
                color=looks[line.role]["color"],
                ls=":",
                lw=1.4,
                label=_PAID,
            )
    plot.set_xscale("log")
    low, high = plot.get_xlim()
    subs = (1.0, 2.0, 5.0) if high < _FEW_DECADES * low else (1.0,)
    plot.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
    # No "20m", which would be read as minutes.
    plot.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    plot.xaxis.set_minor_locator(ticker.NullLocator())


def _draw(plot: axes.Axes, line: Line, x: Sequence[float], look: Any) -> None:
    plot.errorbar(
        x,
        [each.mean for each in line.lengths],
        yerr=[each.spread for each in line.lengths],
        label=LABELS.get(line.role, line.role),
        ms=5,
        lw=1.8,
        capsize=4,
        **look,
    )
