"""How a verdict changes with the length of training, where several were tried."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from kdjax.report.many.comparison import Comparison, Setting
from kdjax.report.many.overrides import is_same
from kdjax.report.statistics import Outcome, difference, outcome
from kdjax.results.measured import EQUAL_COMPUTE, Run

STEPS = "student.train.steps"
_ROUNDING = 1e-3  # of FLOPs, as a twin's steps are whole
_WORDS: Mapping[Outcome, str] = {
    "won": "better",
    "unclear": "not told apart",
    "lost": "worse",
}


def by_length(comparison: Comparison) -> list[Setting]:
    """Returns the settings that differ from the best in their steps alone.

    Returns:
        The shortest first; empty unless there are several.
    """
    best = comparison.best
    if best is None or STEPS not in comparison.axes:
        return []
    found = [
        setting
        for setting in comparison.ranked
        if STEPS in setting.overrides and _is_like(setting, best, comparison.axes)
    ]
    found.sort(key=lambda setting: setting.overrides[STEPS])
    return found if len(found) > 1 else []


def length_sentences(comparison: Comparison) -> Iterator[str]:
    """Yields at which lengths the student beats its twins."""
    settings = by_length(comparison)
    equal_steps = {
        setting.name: setting.scores("twin", setting.results.headline)
        for setting in settings
    }
    equal_compute = dict(_at_equal_compute(settings))
    for twins, measure in (
        (equal_steps, "equal steps"),
        (equal_compute, "equal compute, interpolated between those measured,"),
    ):
        steps: dict[Outcome, list[str]] = {}
        seeds = 0
        for setting in settings:
            student = setting.scores("student", setting.results.headline)
            found = difference(student, twins[setting.name])
            if found is not None:
                shown = f"{setting.overrides[STEPS]:,}"
                steps.setdefault(outcome(found), []).append(shown)
                seeds = max(seeds, found.seeds)
        parts = [
            f"{words} after {_listed(steps[result])} steps"
            for result, words in _WORDS.items()
            if result in steps
        ]
        if parts:
            single = " (one seed)" if seeds == 1 else ""
            rest = f"the student is{single} {', '.join(parts)}."
            yield f"Beside a twin of {measure} {rest}"


def _at_equal_compute(
    settings: Sequence[Setting],
) -> Iterator[tuple[str, dict[int, float]]]:
    """Yields what twins of the students' FLOPs would reach, by setting and seed.

    Twins of all lengths lie on one curve, on which bits/byte are interpolated over the
    logarithm of their FLOPs. Nothing is told beyond its ends.
    """
    curves: dict[int, dict[float, float]] = {}
    for setting in settings:
        for run in setting.results.runs:
            if run.role in ("twin", EQUAL_COMPUTE) and (flops := _flops(run)):
                bits = run.final[setting.results.headline].bits_per_byte
                curves.setdefault(run.seed, {})[math.log(flops)] = bits
    for setting in settings:
        found = {}
        for run in setting.results.runs:
            curve = sorted(curves.get(run.seed, {}).items())
            if run.role == "student" and (flops := _flops(run)) and curve:
                at, (x, y) = math.log(flops), zip(*curve, strict=True)
                if x[0] <= at <= x[-1] + _ROUNDING:
                    found[run.seed] = float(np.interp(at, x, y))
        yield setting.name, found


def _flops(run: Run) -> float | None:
    return run.training.flops if run.training else None


def _is_like(setting: Setting, best: Setting, axes: Collection[str]) -> bool:
    """Returns whether all keys but the steps have the best setting's values."""
    keys = {*axes} - {STEPS}
    return all(
        is_same(setting.overrides.get(key), best.overrides.get(key)) for key in keys
    )


def _listed(values: Sequence[str]) -> str:
    *first, last = values
    return f"{', '.join(first)} and {last}" if first else last
