"""The verdict on one experiment, in words."""

import statistics
from collections.abc import Mapping

from kdjax.report.statistics import (
    Outcome,
    Scores,
    Statistic,
    difference,
    interval_words,
    outcome,
)
from kdjax.results.data import TEST

_MEMBER = "student of "  # begins the role of one member's student


def verdict(
    scores: Mapping[str, Scores], gap_closed: Statistic | None, split: str
) -> str:
    """Returns whether distillation paid, and how sure that is.

    Args:
        scores: Bits/byte by role and seed.
        gap_closed: The share of the gap from twin to teacher, over the seeds that have
            a gap.
        split: The split that they were measured on.
    """
    where = "on held-out text"
    if split == TEST:
        where = "on the test split (by which kdjax chooses nothing)"
    student, twin = scores["student"], scores.get("twin", {})
    found = difference(student, twin)
    if found is None:
        return _verdict_without_twin(student, where) + _members_sentence(scores)
    result, teacher = outcome(found), statistics.fmean(scores["teacher"].values())
    return (
        _opening(result, student, twin, where)
        + _gap_clause(result, teacher, found, gap_closed)
        + f". {_spread_sentence(found)}"
        + _members_sentence(scores)
    )


def _verdict_without_twin(student: Scores, where: str) -> str:
    mean = statistics.fmean(student.values())
    return (
        f"Nothing is proven: the student reaches {mean:.4f} bits/byte {where}, but "
        "there is no twin, trained without the teacher, to hold that against; "
        "--config.baseline=True trains it."
    )


def _opening(result: Outcome, student: Scores, twin: Scores, where: str) -> str:
    opening = {
        "won": "Distillation paid",
        "lost": "Distillation did not pay",
        "unclear": "Whether distillation paid is unclear",
    }[result]
    return (
        f"{opening}: the student reaches {statistics.fmean(student.values()):.4f} "
        f"bits/byte {where}, its twin without the teacher "
        f"{statistics.fmean(twin.values()):.4f}"
    )


def _gap_clause(
    result: Outcome,
    teacher: float,
    found: Statistic,
    gap_closed: Statistic | None,
) -> str:
    if gap_closed is None:
        return (
            f"; the twin is no worse than the teacher ({teacher:.4f}), so there is no "
            "gap to close"
        )
    clause = ""
    # A share of the gap that may be luck, or is negative, is left to the table.
    if result == "won":
        share = f"{gap_closed.mean:.1%}"
        clause = f"; that closes {share} of the gap to the teacher's {teacher:.4f}"
    if gap_closed.seeds < found.seeds:
        seeds = f"{gap_closed.seeds} of {found.seeds} seeds"
        clause += f"; only {seeds} have a twin worse than the teacher, a gap to close"
    return clause


def _spread_sentence(found: Statistic) -> str:
    if found.standard_error is None:
        return "This is one seed; --config.seeds=3 would show the spread."
    favoured = "student" if found.mean > 0 else "twin"
    return (
        f"Over {found.seeds} seeds the paired difference is {abs(found.mean):.4f} "
        f"bits/byte in favour of the {favoured}, {interval_words(found)}."
    )


def _members_sentence(scores: Mapping[str, Scores]) -> str:
    """Returns whether several teachers were worth more to a student than the best one.

    That is the one whose own student is the best. "" where no teacher has its own.
    """
    own = {role: found for role, found in scores.items() if role.startswith(_MEMBER)}
    if not own:
        return ""
    role = min(own, key=lambda role: statistics.fmean(own[role].values()))
    ensemble, member = (
        f"{statistics.fmean(scores[name].values()):.4f}" for name in ("student", role)
    )
    found = difference(scores["student"], own[role])
    comparison = {"won": "better", "lost": "worse"}.get(
        outcome(found), "not clearly better"
    )
    sentence = (
        f" The ensemble's student ({ensemble}) is {comparison} than that of its best "
        f"member, {role.removeprefix(_MEMBER)} ({member})"
    )
    if found is None or found.standard_error is None:
        return f"{sentence}."
    return (
        f"{sentence}: over {found.seeds} seeds the paired difference is "
        f"{abs(found.mean):.4f} bits/byte, {interval_words(found)}."
    )
