"""What may turn a verdict round if the models were trained longer, in words.

A short training flatters distillation: a student learns fast from soft targets, and is
then held back by its teacher, where the twin goes on learning.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from kdjax.report.cost import trained_with
from kdjax.report.statistics import Scores
from kdjax.results.measured import Results, Run, teacher_role

_FAR = 8.0  # times the students' steps, beyond which nothing is foretold
_FAST = 0.25  # of the difference between student and twin
_ENOUGH = 4  # points of a curve that show how its last quarter went


class _Ended(NamedTuple):
    """How the runs of a role ended, means over seeds.

    Attributes:
        level: Their final bits/byte, of all rows of the split that decides.
        half: How much they gained in the second half of their training.
        quarter: How much in the last quarter.
    """

    level: float
    half: float
    quarter: float


def caveats(results: Results, scores: Mapping[str, Scores]) -> str:
    """Returns what to know before a verdict is taken for that of a longer training.

    That is, whether the twin is about to overtake the teacher or the student, whether a
    teacher was still improving when it stopped, and whether it saw fewer tokens than
    the twin. Levels are final ones; the pace is that of the second half of a training,
    of which the curves tell. A model's bits/byte are taken to fall by the same factor
    with each doubling of its steps, and a lead to shrink by the same amount. Where the
    learning rate decays, the second half is faster than a longer training would be
    there, so the numbers of steps are rather low.

    Args:
        results: What the experiment measured.
        scores: Bits/byte by role and seed.

    Returns:
        Sentences; "" if there are none. Those about pace need curves.
    """
    return " ".join(_sentences(results, scores))


def _sentences(results: Results, scores: Mapping[str, Scores]) -> Iterator[str]:
    student, twin = (_ended(role, results, scores) for role in ("student", "twin"))
    lead = None
    if student and twin:
        lead = twin.level - student.level
        yield from _overtaking(results, scores, student, twin)
    for name in results.teachers:
        role = teacher_role(name)
        ended = _ended(role, results, scores)
        if ended and lead is not None and ended.quarter > _FAST * abs(lead):
            yield (
                f"The {role} was still improving when it stopped, by "
                f"{ended.quarter:.4f} bits/byte in its last quarter."
            )
        seen, twins = (_tokens(each, results) for each in (role, "twin"))
        if 0 < seen < twins:
            yield (
                f"The {role} was trained on fewer tokens than the twin: "
                f"{seen:,} against {twins:,}."
            )


def _overtaking(
    results: Results, scores: Mapping[str, Scores], student: _Ended, twin: _Ended
) -> Iterator[str]:
    teacher = statistics.fmean(scores["teacher"].values())
    steps = results.config.student.train.steps
    factor = (twin.level + twin.half) / twin.level
    if teacher < twin.level and factor > 1:
        doublings = math.log(twin.level / teacher) / math.log(factor)
        if when := _when(doublings, steps):
            yield (
                f"At the pace of its second half the twin would overtake the teacher "
                f"after {when}: students trained that long need a better one."
            )
    lead, shrunk = twin.level - student.level, twin.half - student.half
    if lead > 0 and shrunk > 0 and (when := _when(lead / shrunk, steps)):
        yield (
            f"The student's lead over the twin shrank by {shrunk:.4f} bits/byte in the "
            f"second half; at that pace the twin catches up after {when}."
        )


def _ended(role: str, results: Results, scores: Mapping[str, Scores]) -> _Ended | None:
    """Returns how the runs of a role ended; None if their curves do not show it."""
    runs = _runs(role, results)
    if any(len(run.curve) < _ENOUGH for run in runs) or not runs:
        return None
    return _Ended(
        level=statistics.fmean(scores[role].values()),
        half=_gained(runs, 1 / 2),
        quarter=_gained(runs, 1 / 4),
    )


def _tokens(role: str, results: Results) -> int:
    """Returns how many tokens a role was trained on; 0 if it was not trained."""
    runs = _runs(role, results)
    steps = runs[0].steps if runs else 0
    return steps * trained_with(role, results.config).batch_size * results.data.length


def _runs(role: str, results: Results) -> list[Run]:
    return [run for run in results.runs if run.role == role]


def _gained(runs: Sequence[Run], share: float) -> float:
    """Returns how much bits/byte fell in the last share of a training."""
    found = []
    for run in runs:
        wanted = (1 - share) * run.steps
        before = min(run.curve, key=lambda point: abs(point.step - wanted))
        found.append(before.bits_per_byte - run.curve[-1].bits_per_byte)
    return statistics.fmean(found)


def _when(doublings: float, steps: int) -> str:
    """Returns a number of steps in words; "" if it is too far off to be foretold."""
    if not doublings < math.log2(_FAR):
        return ""
    times = 2**doublings
    return (
        f"about {float(f'{times * steps:.2g}'):,.0f} steps, {times:.1f} times as many"
    )
