"""The summary: an experiment's runs become means, spreads and a verdict in words."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

VALIDATION = "validation"  # the split that the verdict is about
# Of each role the model. "start" is what student and twin were before any training,
# unless that was random numbers.
ROLES = {
    "teacher": "teacher",
    "start": "student",
    "student": "student",
    "twin": "student",
}
ABSENT = "-"

Scores = Mapping[int, float]  # bits/byte by seed


class Metric(NamedTuple):
    """How a held-out metric is shown; the arrow in the label points to better."""

    label: str
    decimals: int
    scale: float = 1.0


METRICS = {
    "cross_entropy": Metric("cross-entropy (nats/token) ↓", 4),
    "bits_per_byte": Metric("bits/byte ↓", 4),
    "forward_kl": Metric("KL(teacher||model) (nats/token) ↓", 4),
    "reverse_kl": Metric("KL(model||teacher) (nats/token) ↓", 4),
    "agreement": Metric("top-1 agreement with teacher (%) ↑", 1, 100.0),
    "acceptance": Metric("speculative-decoding acceptance (%) ↑", 1, 100.0),
    "calibration_error": Metric("expected calibration error (%) ↓", 2, 100.0),
}


def summarise(results: dict[str, Any]) -> dict[str, Any]:
    """Returns means and spreads over seeds, the gap closed, and a verdict in words.

    A spread is the sample standard deviation; a single seed has none. The student and
    the twin of one seed share initialisation and batches, so they are compared seed by
    seed. "won" and "lost" ask for a mean difference beyond two standard errors; with
    one seed the sign decides, and the verdict says that it was one seed.

    Args:
        results: What the experiment measured.

    Returns:
        The keys roles, difference (twin - student, in bits/byte), gap_closed
        ((twin - student) / (twin - teacher), over the seeds whose twin is worse than
        the teacher), outcome ("won", "lost", "unclear" or "no_baseline") and verdict.
        Without a twin, or without a gap, the entry is None.
    """
    runs: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
    for run in results["runs"]:
        runs[run["role"]].append(run)
    teachers, student, twin = (
        {run["seed"]: run["final"][VALIDATION]["bits_per_byte"] for run in runs[role]}
        for role in ("teacher", "student", "twin")
    )
    teacher = statistics.fmean(teachers.values())
    difference = _difference(student, twin)
    gap_closed = _gap_closed(student, twin, teacher)
    outcome = _outcome(difference)
    if difference is None:
        verdict = _verdict_without_twin(student)
    else:
        verdict = _verdict(outcome, student, twin, difference)
        verdict += _gap_clause(outcome, teacher, difference, gap_closed)
        verdict += ". " + _spread_sentence(outcome, difference)
    return {
        "roles": {role: _summarise_role(runs[role]) for role in ROLES if runs[role]},
        "difference": difference,
        "gap_closed": gap_closed,
        "outcome": outcome,
        "verdict": verdict,
    }


def _statistic(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Returns mean, spread and count of the values that are known, if any is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    result = {"mean": statistics.fmean(known), "seeds": len(known)}
    if len(known) > 1:
        result["spread"] = statistics.stdev(known)
    return result


def _summarise_role(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    training = [run["training"] for run in runs if run["training"]]
    best = [
        min(run["curve"], key=lambda point: point["bits_per_byte"])
        for run in runs
        if run["curve"]
    ]
    return {
        "final": {
            split: {
                metric: _statistic(run["final"][split][metric] for run in runs)
                for metric, value in metrics.items()
                if not isinstance(value, list)
            }
            for split, metrics in runs[0]["final"].items()
        },
        "best_bits_per_byte": _statistic(point["bits_per_byte"] for point in best),
        "best_steps": sorted(point["step"] for point in best),
        "tokens_per_second": _statistic(run["tokens_per_second"] for run in training),
        "mfu": _statistic(run["mfu"] for run in training),
        "skipped_steps": [run["skipped_steps"] for run in training],
    }


def _difference(student: Scores, twin: Scores) -> dict[str, Any] | None:
    result = _statistic(twin[seed] - student[seed] for seed in student if seed in twin)
    if result and "spread" in result:
        result["standard_error"] = result["spread"] / math.sqrt(result["seeds"])
    return result


def _gap_closed(student: Scores, twin: Scores, teacher: float) -> dict[str, Any] | None:
    return _statistic(
        (twin[seed] - student[seed]) / (twin[seed] - teacher)
        for seed in student
        if seed in twin and twin[seed] > teacher
    )


def _outcome(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return "no_baseline"
    if abs(difference["mean"]) > 2 * difference.get("standard_error", 0.0):
        return "won" if difference["mean"] > 0 else "lost"
    return "unclear"


def _verdict_without_twin(student: Scores) -> str:
    mean = statistics.fmean(student.values())
    return (
        f"Nothing is proven: the student reaches {mean:.4f} bits/byte on held-out "
        "text, but there is no twin, trained without the teacher, to hold that "
        "against; --config.baseline=True trains it."
    )


def _verdict(
    outcome: str, student: Scores, twin: Scores, difference: dict[str, Any]
) -> str:
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
    outcome: str,
    teacher: float,
    difference: dict[str, Any],
    gap_closed: dict[str, Any] | None,
) -> str:
    if gap_closed is None:
        return (
            f"; the twin is no worse than the teacher ({teacher:.4f}), so there is no "
            "gap to close"
        )
    clause = ""
    # A share of the gap that may be luck, or is negative, is left to the table.
    if outcome == "won":
        share = f"{gap_closed['mean']:.1%}"
        clause = f"; that closes {share} of the gap to the teacher's {teacher:.4f}"
    if gap_closed["seeds"] < difference["seeds"]:
        seeds = f"{gap_closed['seeds']} of {difference['seeds']} seeds"
        clause += f"; only {seeds} have a twin worse than the teacher, a gap to close"
    return clause


def _spread_sentence(outcome: str, difference: dict[str, Any]) -> str:
    if difference["seeds"] == 1:
        return "This is one seed; --config.seeds=3 would show the spread."
    favoured = "student" if difference["mean"] > 0 else "twin"
    return (
        f"Over {difference['seeds']} seeds the paired difference is "
        f"{abs(difference['mean']):.4f} bits/byte in favour of the {favoured}, "
        f"{'within' if outcome == 'unclear' else 'beyond'} the spread "
        f"(two standard errors: {2 * difference['standard_error']:.4f})."
    )


def cell(statistic: dict[str, Any] | None, decimals: int, scale: float = 1.0) -> str:
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
    shown = f"{statistic['mean'] * scale:z,.{decimals}f}"
    if "spread" in statistic:
        shown += f" ± {statistic['spread'] * scale:,.{decimals}f}"
    return shown
