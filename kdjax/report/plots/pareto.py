"""Quality against what it costs, and the models that nothing else beats in both."""

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


class Measure(NamedTuple):
    """A cost: its label, and whether less of it is better."""

    label: str
    less_is_better: bool


class Model(NamedTuple):
    """A model of a setting: its costs, in the order of the measures; None: unknown."""

    role: str
    costs: tuple[float | None, ...]
    bits_per_byte: float
    is_best: bool


def pareto(measures: Sequence[Measure], models: Sequence[Model]) -> bytes | None:
    """Returns a PNG of bits/byte against each cost; None if no cost is known."""
    drawing = draw_pareto(measures, models)
    return None if drawing is None else png(drawing)


def draw_pareto(
    measures: Sequence[Measure], models: Sequence[Model]
) -> figure.Figure | None:
    """Returns the drawing of `pareto`."""
    used = []
    for index, measure in enumerate(measures):
        costs = [(model, model.costs[index]) for model in models]
        known = [(model, cost) for model, cost in costs if cost is not None]
        if known:
            used.append((measure, known))
    if not used:
        return None
    drawing = make_drawing(2.6 * len(used))
    plots = drawing.subplots(len(used), 1, squeeze=False)[:, 0]
    for plot, (measure, known) in zip(plots, used, strict=True):
        _draw_measure(plot, measure, known)
        tidy(plot)
    plots[0].set_title("Quality against cost")
    add_legend(drawing, plots[0])
    return drawing


def _draw_measure(
    plot: axes.Axes, measure: Measure, known: Sequence[tuple[Model, float]]
) -> None:
    looks = styles(dict.fromkeys(model.role for model, _ in known))
    for role, look in looks.items():
        own = [(cost, m.bits_per_byte) for m, cost in known if m.role == role]
        style: dict[str, Any] = {**look, "ls": "none", "alpha": 0.8, "ms": 6}
        plot.plot(*zip(*own, strict=True), label=LABELS.get(role, role), **style)
    every = [(cost, model.bits_per_byte) for model, cost in known]
    front = frontier(every, less_is_better=measure.less_is_better)
    where: Any = "post" if measure.less_is_better else "pre"
    line: dict[str, Any] = {"color": "#555555", "lw": 1, "ls": ":", "where": where}
    plot.step(*zip(*front, strict=True), label="best for the cost", **line)
    for model, cost in known:
        if model.is_best:
            ring: dict[str, Any] = {"mfc": "none", "mec": "#000000", "ls": "none"}
            at = [cost], [model.bits_per_byte]
            plot.plot(*at, marker="o", ms=13, label="best setting", **ring)
    costs = [cost for _, cost in known]
    plot.xaxis.set_major_locator(ticker.MaxNLocator(5))
    if min(costs) > 0 and max(costs) > 3 * min(costs):
        plot.set_xscale("log")
        is_wide = max(costs) > 100 * min(costs)
        marks = (1.0,) if is_wide else (1.0, 2.0, 5.0)
        plot.xaxis.set_major_locator(ticker.LogLocator(subs=marks))
        plot.xaxis.set_minor_formatter(ticker.NullFormatter())
    plot.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    plot.set(xlabel=measure.label, ylabel="validation bits/byte")


def frontier(
    points: Sequence[tuple[float, float]], *, less_is_better: bool
) -> list[tuple[float, float]]:
    """Returns the points (cost, loss) that no other beats in both, by cost.

    Example:
        >>> frontier([(1.0, 3.0), (2.0, 2.0), (3.0, 2.5)], less_is_better=True)
        [(1.0, 3.0), (2.0, 2.0)]
    """
    found: list[tuple[float, float]] = []
    sign = 1 if less_is_better else -1
    for cost, loss in sorted(points, key=lambda point: (sign * point[0], point[1])):
        if not found or loss < found[-1][1]:
            found.append((cost, loss))
    return sorted(found)
