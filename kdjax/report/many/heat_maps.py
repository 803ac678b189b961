"""The report card's heat maps: two axes, and how students fare beside their twins."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from kdjax.report.many.comparison import Comparison, Setting
from kdjax.report.many.overrides import place, tick
from kdjax.report.plots.heat import Cell, heat
from kdjax.report.statistics import outcome
from kdjax.results.data import VALIDATION

_MOST = 3
_TITLE = "Validation bits/byte"
Cells = Mapping[tuple[int, int], Setting]


def heat_maps(comparison: Comparison) -> Iterator[tuple[str, str, bytes]]:
    """Yields the name, a description and the PNG of each heat map.

    Args:
        comparison: The settings; only ranked ones are drawn.
    """
    for number, pair in enumerate(_pairs(comparison), start=1):
        cells = _cells(comparison, pair)
        names = comparison.names[pair[0]], comparison.names[pair[1]]
        labels = [[*map(tick, comparison.axes[key])] for key in pair]
        rest = "\n(the best of all other axes)" if len(comparison.axes) > 2 else ""
        about = f"for {names[0]} and {names[1]}."
        yield (
            f"heat-{number}",
            f"Bits per byte {about}",
            heat(names, _beside_twins(labels, cells), _scores(cells), _TITLE + rest),
        )
        if differences := _differences(cells):
            split = next(iter(cells.values())).results.headline.capitalize()
            title = f"{split} bits/byte better (+) or worse (\u2212) than its twin"
            title += rest + _certainty(cells)
            yield (
                f"heat-{number}-twin",
                f"How much better than its own twin a student is {about}",
                heat(
                    names,
                    (labels[0], labels[1]),
                    differences,
                    title,
                    is_difference=True,
                ),
            )


def _pairs(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Yields pairs of axes of which enough combinations have been tried."""
    found = 0
    for x, y in itertools.combinations(comparison.axes, 2):
        cells = _cells(comparison, (x, y))
        columns = {column for column, _ in cells}
        rows = {row for _, row in cells}
        if min(len(columns), len(rows)) < 2 or found == _MOST:
            continue
        # A random search tries hardly any value twice: that is no map.
        if 2 * len(cells) >= len(columns) * len(rows):
            found += 1
            yield x, y


def _cells(comparison: Comparison, pair: tuple[str, str]) -> Cells:
    """Returns the best setting at each pair of values, the best of all first."""
    cells: dict[tuple[int, int], Setting] = {}
    for setting in comparison.ranked:  # the best first
        if all(key in setting.overrides for key in pair):
            x, y = (place(comparison.axes[k], setting.overrides[k]) for k in pair)
            cells.setdefault((x, y), setting)
    return cells


def _scores(cells: Cells) -> dict[tuple[int, int], Cell]:
    best = next(iter(cells))
    return {
        at: Cell(
            setting.score.mean,
            f"{setting.score.mean:.4f}" + ("\nbest" if at == best else ""),
            is_best=at == best,
        )
        for at, setting in cells.items()
    }


def _differences(cells: Cells) -> dict[tuple[int, int], Cell]:
    """Returns how much better than their own twins the students are."""
    found = {}
    for at, setting in cells.items():
        difference = setting.summary.difference
        if difference is not None:
            text = f"{difference.mean:+.4f}".replace("-", "\u2212")
            if outcome(difference) == "unclear":
                text = f"({text})"
            found[at] = Cell(difference.mean, text)
    return found


def _certainty(cells: Cells) -> str:
    """Returns a line of the title on how sure the differences are, if there is any."""
    found = [setting.summary.difference for setting in cells.values()]
    differences = [difference for difference in found if difference is not None]
    if all(difference.half_width is None for difference in differences):
        return "\n(one seed each)"
    if any(outcome(difference) == "unclear" for difference in differences):
        return "\n(in brackets: not beyond the seeds' spread)"
    return ""


def _beside_twins(
    labels: Sequence[Sequence[str]], cells: Cells
) -> tuple[Sequence[str], Sequence[str]]:
    """Returns the labels, with the twin's score on the axis that determines it.

    Twins depend on the axis of the students' steps, say, but on no axis of teachers.
    """
    written = []
    for axis, values in enumerate(labels):
        twins: dict[int, set[float]] = {}
        for at, setting in cells.items():
            twin = setting.summary.roles.get("twin")
            bits = twin.final[VALIDATION]["bits_per_byte"].mean if twin else -1.0
            twins.setdefault(at[axis], set()).add(bits)
        is_determined = all(len(found) == 1 for found in twins.values())
        scores = {at: found.pop() for at, found in twins.items()}
        if is_determined and len({*scores.values()}) > 1:
            values = [
                f"{value}\ntwin {scores[at]:.4f}" if scores.get(at, -1) >= 0 else value
                for at, value in enumerate(values)
            ]
        written.append(values)
    return written[0], written[1]
