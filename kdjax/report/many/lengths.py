"""How a verdict changes with the length of training, where several were tried."""

from collections.abc import Iterator, Mapping, Sequence

from kdjax.report.many.comparison import Comparison, Setting
from kdjax.report.many.overrides import is_same
from kdjax.report.statistics import Outcome, difference, outcome
from kdjax.results.measured import EQUAL_COMPUTE

STEPS = "student.train.steps"
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
        if STEPS in setting.overrides and _is_like(setting, best)
    ]
    found.sort(key=lambda setting: setting.overrides[STEPS])
    return found if len(found) > 1 else []


def length_sentences(comparison: Comparison) -> Iterator[str]:
    """Yields at which lengths the student beats its twins."""
    settings = by_length(comparison)
    for role, measure in (("twin", "equal steps"), (EQUAL_COMPUTE, "equal compute")):
        steps: dict[Outcome, list[str]] = {}
        seeds = 0
        for setting in settings:
            split = setting.results.headline
            found = difference(
                setting.scores("student", split), setting.scores(role, split)
            )
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
            where = f"its twin of {measure}{single}"
            yield f"The student against {where}: {', '.join(parts)}."


def _is_like(setting: Setting, best: Setting) -> bool:
    """Returns whether all keys but the steps have the best setting's values."""
    keys = (setting.overrides.keys() | best.overrides.keys()) - {STEPS}
    return all(
        is_same(setting.overrides.get(key), best.overrides.get(key)) for key in keys
    )


def _listed(values: Sequence[str]) -> str:
    *first, last = values
    return f"{', '.join(first)} and {last}" if first else last
