"""The summary: an experiment's runs become means, spreads and a verdict in words."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from kdjax.results.measured import VALIDATION, Results, Run

ABSENT = "-"
_MEMBER = "student of "  # begins the role of one member's student

Scores = Mapping[int, float]  # bits/byte by seed
Outcome = Literal["won", "lost", "unclear", "no_baseline"]


class Metric(NamedTuple):
    """How a held-out metric is shown; the arrow in the label points to better."""

    label: str
    decimals: int
    scale: float = 1.0


METRICS = {  # by the name in `HeldOut`
    "cross_entropy": Metric("cross-entropy (nats/token) ↓", 4),
    "bits_per_byte": Metric("bits/byte ↓", 4),
    "forward_kl": Metric("KL(teacher||model) (nats/token) ↓", 4),
    "reverse_kl": Metric("KL(model||teacher) (nats/token) ↓", 4),
    "agreement": Metric("top-1 agreement with teacher (%) ↑", 1, 100.0),
    "acceptance": Metric("speculative-decoding acceptance (%) ↑", 1, 100.0),
    "calibration_error": Metric("expected calibration error (%) ↓", 2, 100.0),
}


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A number over seeds.

    Attributes:
        mean: Over the seeds that have the number.
        seeds: How many these are.
        spread: The sample standard deviation; None for a single seed.
        standard_error: Of the mean; None for a single seed.
    """

    mean: float
    seeds: int
    spread: float | None = None
    standard_error: float | None = None


@dataclasses.dataclass(frozen=True)
class RoleSummary:
    """All runs of one role.

    Attributes:
        model: The entry of `Results.models` that tells their size and speed.
        final: By split and metric.
        best_bits_per_byte: The lowest along each run; None without curves.
        best_steps: Where that was, in ascending order.
        tokens_per_second: Of training; None if unknown.
        mfu: Of training; None if unknown.
        skipped_steps: By seed; empty for what was not trained.
        others: The user's own metrics on the validation split by name, and those of
            tasks as "TASK/METRIC".
    """

    model: str
    final: dict[str, dict[str, Statistic]]
    best_bits_per_byte: Statistic | None
    best_steps: tuple[int, ...]
    tokens_per_second: Statistic | None
    mfu: Statistic | None
    skipped_steps: tuple[int, ...]
    others: dict[str, Statistic]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What an experiment showed.

    Attributes:
        roles: By role, in the order of the report's columns.
        difference: twin - student in bits/byte, seed by seed; None without a twin.
        gap_closed: (twin - student) / (twin - teacher) in bits/byte, over the seeds
            whose twin is worse than the teacher; None if there are none.
        outcome: Whether the student beat its twin.
        verdict: The same in words.
    """

    roles: dict[str, RoleSummary]
    difference: Statistic | None
    gap_closed: Statistic | None
    outcome: Outcome
    verdict: str


def summarise(results: Results) -> Summary:
    """Returns means and spreads over seeds, the gap closed, and a verdict in words.

    A spread is the sample standard deviation; a single seed has none. The student and
    the twin of one seed share initialisation and batches, so they are compared seed by
    seed. "won" and "lost" ask for a mean difference beyond two standard errors; with
    one seed the sign decides, and the verdict says that it was one seed.

    Args:
        results: What the experiment measured.
    """
    runs: dict[str, list[Run]] = {}
    for run in results.runs:
        runs.setdefault(run.role, []).append(run)
    scores = {
        role: {run.seed: run.final[VALIDATION].bits_per_byte for run in found}
        for role, found in runs.items()
    }
    student, twin = scores["student"], scores.get("twin", {})
    teacher = statistics.fmean(scores["teacher"].values())
    difference = _difference(student, twin)
    gap_closed = _gap_closed(student, twin, teacher)
    outcome = _outcome(difference)
    if difference is None:
        verdict = _verdict_without_twin(student)
    else:
        verdict = _verdict(outcome, student, twin)
        verdict += _gap_clause(outcome, teacher, difference, gap_closed)
        verdict += ". " + _spread_sentence(outcome, difference)
    return Summary(
        roles={role: _summarise_role(found) for role, found in runs.items()},
        difference=difference,
        gap_closed=gap_closed,
        outcome=outcome,
        verdict=verdict + _members_sentence(scores),
    )


def _statistic(values: Iterable[float | None]) -> Statistic | None:
    """Returns mean, spread and count of the values that are known, if any is."""
    known = [value for value in values if value is not None]
    return _over_seeds(known) if known else None


def _over_seeds(values: Sequence[float]) -> Statistic:
    mean, seeds = statistics.fmean(values), len(values)
    if seeds == 1:
        return Statistic(mean, seeds)
    spread = statistics.stdev(values)
    return Statistic(mean, seeds, spread, spread / math.sqrt(seeds))


def _summarise_role(runs: Sequence[Run]) -> RoleSummary:
    training = [run.training for run in runs if run.training]
    best = [
        min(run.curve, key=lambda point: point.bits_per_byte)
        for run in runs
        if run.curve
    ]
    return RoleSummary(
        model=runs[0].model,
        final={
            split: {
                name: _over_seeds([getattr(run.final[split], name) for run in runs])
                for name in METRICS
            }
            for split in runs[0].final
        },
        best_bits_per_byte=_statistic(point.bits_per_byte for point in best),
        best_steps=tuple(sorted(point.step for point in best)),
        tokens_per_second=_statistic(found.tokens_per_second for found in training),
        mfu=_statistic(found.mfu for found in training),
        skipped_steps=tuple(found.skipped_steps for found in training),
        others=_others(runs),
    )


def _others(runs: Sequence[Run]) -> dict[str, Statistic]:
    """Returns what only some experiments measure, over the runs of one role."""
    values: dict[str, list[float]] = {}
    for run in runs:
        own = run.final[VALIDATION].own
        tasks = {
            f"{task}/{name}": value
            for task, metrics in run.tasks.items()
            for name, value in metrics.items()
            if not name.endswith("_stderr")
        }
        for name, value in (own | tasks).items():
            values.setdefault(name, []).append(value)
    return {name: _over_seeds(found) for name, found in values.items()}


def _difference(better: Scores, worse: Scores) -> Statistic | None:
    """Returns how much lower the first scores are, over the seeds that both have."""
    return _statistic(worse[seed] - better[seed] for seed in better if seed in worse)


def _gap_closed(student: Scores, twin: Scores, teacher: float) -> Statistic | None:
    return _statistic(
        (twin[seed] - student[seed]) / (twin[seed] - teacher)
        for seed in student
        if seed in twin and twin[seed] > teacher
    )


def _outcome(difference: Statistic | None) -> Outcome:
    if difference is None:
        return "no_baseline"
    if abs(difference.mean) > 2 * (difference.standard_error or 0.0):
        return "won" if difference.mean > 0 else "lost"
    return "unclear"


def _verdict_without_twin(student: Scores) -> str:
    mean = statistics.fmean(student.values())
    return (
        f"Nothing is proven: the student reaches {mean:.4f} bits/byte on held-out "
        "text, but there is no twin, trained without the teacher, to hold that "
        "against; --config.baseline=True trains it."
    )


def _verdict(outcome: Outcome, student: Scores, twin: Scores) -> str:
    opening = {
        "won": "Distillation paid",
        "lost": "Distillation did not pay",
        "unclear": "Whether distillation paid is unclear",
    }[outcome]
    return (
        f"{opening}: the student reaches {statistics.fmean(student.values()):.4f} "
        "bits/byte on held-out text, its twin without the teacher "
        f"{statistics.fmean(twin.values()):.4f}"
    )


def _gap_clause(
    outcome: Outcome,
    teacher: float,
    difference: Statistic,
    gap_closed: Statistic | None,
) -> str:
    if gap_closed is None:
        return (
            f"; the twin is no worse than the teacher ({teacher:.4f}), so there is no "
            "gap to close"
        )
    clause = ""
    # A share of the gap that may be luck, or is negative, is left to the table.
    if outcome == "won":
        share = f"{gap_closed.mean:.1%}"
        clause = f"; that closes {share} of the gap to the teacher's {teacher:.4f}"
    if gap_closed.seeds < difference.seeds:
        seeds = f"{gap_closed.seeds} of {difference.seeds} seeds"
        clause += f"; only {seeds} have a twin worse than the teacher, a gap to close"
    return clause


def _spread_sentence(outcome: Outcome, difference: Statistic) -> str:
    if difference.standard_error is None:
        return "This is one seed; --config.seeds=3 would show the spread."
    favoured = "student" if difference.mean > 0 else "twin"
    return (
        f"Over {difference.seeds} seeds the paired difference is "
        f"{abs(difference.mean):.4f} bits/byte in favour of the {favoured}, "
        f"{'within' if outcome == 'unclear' else 'beyond'} the spread "
        f"(two standard errors: {2 * difference.standard_error:.4f})."
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
    difference = _difference(scores["student"], own[role])
    outcome = _outcome(difference)
    comparison = {"won": "better", "lost": "worse"}.get(outcome, "not clearly better")
    sentence = (
        f" The ensemble's student ({ensemble}) is {comparison} than that of its best "
        f"member, {role.removeprefix(_MEMBER)} ({member})"
    )
    if difference is None or difference.standard_error is None:
        return f"{sentence}."
    return (
        f"{sentence}: over {difference.seeds} seeds the paired difference is "
        f"{abs(difference.mean):.4f} bits/byte, "
        f"{'within' if outcome == 'unclear' else 'beyond'} the spread "
        f"(two standard errors: {2 * difference.standard_error:.4f})."
    )


def cell(statistic: Statistic | None, decimals: int, scale: float = 1.0) -> str:
    """Returns a mean of the summary, and its spread if it has one, as text.

    Args:
        statistic: From the summary; None is shown as absent.
        decimals: How many of them.
        scale: What to multiply with first: 100 for a percentage.

    Returns:
        Such as "1.2345 ± 0.0021".
    """
    if statistic is None:
        return ABSENT
    # The z turns the -0.0000 that rounding leaves of a tiny divergence into 0.0000.
    shown = f"{statistic.mean * scale:z,.{decimals}f}"
    if statistic.spread is not None:
        shown += f" ± {statistic.spread * scale:,.{decimals}f}"
    return shown
