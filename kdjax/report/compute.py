"""The verdict at equal compute, in words."""

import statistics
from collections.abc import Mapping

from kdjax.report.statistics import Scores, difference, interval_words, outcome
from kdjax.results.measured import EQUAL_COMPUTE, Results, Run

_WORDS = {
    "won": "distillation pays at equal compute as well",
    "lost": "at equal compute distillation does not pay",
    "unclear": "whether distillation pays at equal compute is unclear",
}


def compute_sentence(results: Results, scores: Mapping[str, Scores]) -> str:
    """Returns how the twin does that takes more steps in place of the teacher's work.

    And how many more it could take for what the teacher's own training cost, which is
    not counted, since other students may share it.

    Args:
        results: What the experiment measured.
        scores: Bits/byte by role and seed.

    Returns:
        A sentence or two, with a space before; "" if there is no such twin.
    """
    twins = [run for run in results.runs if run.role == EQUAL_COMPUTE]
    if not twins:
        return ""
    found = difference(scores["student"], scores[EQUAL_COMPUTE])
    if found is None:  # no seed has both
        return ""
    mean = statistics.fmean(scores[EQUAL_COMPUTE].values())
    sentence = (
        f" For the FLOPs of the student's training the twin takes {twins[0].steps:,} "
        f"steps and reaches {mean:.4f}: {_WORDS[outcome(found)]}"
    )
    if found.standard_error is not None:
        sentence += f" ({abs(found.mean):.4f} bits/byte, {interval_words(found)})"
    return f"{sentence}.{_teachers_training(results, twins[0])}"


def _teachers_training(results: Results, twin: Run) -> str:
    roles = {"teacher", *(f"teacher {name}" for name in results.teachers)}
    spent = sum(
        run.training.flops or 0.0
        for run in results.runs
        if run.role in roles and run.training
    )
    own = twin.training.flops if twin.training else None
    if not (spent and own):
        return ""
    return (
        " The teacher's own training, which is not counted, would pay for "
        f"{round(spent / own * twin.steps):,} more."
    )
