"""The summary: an experiment's runs become means, spreads and a verdict in words."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from kdjax.report.caveats import caveats
from kdjax.report.compute import compute_sentence
from kdjax.report.cost import cost_words, training_cost
from kdjax.report.statistics import (
    Outcome,
    Scores,
    Statistic,
    difference,
    outcome,
    over_seeds,
    statistic,
)
from kdjax.report.verdict import verdict
from kdjax.results.measured import Results, Run

ABSENT = "-"


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
        rows_left_out: By seed, where the loss jumped.
        others: The user's own metrics by name, on the split that decides the verdict,
            and those of tasks as "TASK/METRIC".
        seconds: Device-seconds of training; None if unknown.
        cpu_seconds: CPU-seconds of training; None if unknown or of another device.
        flops: Of training; None if unknown.
    """

    model: str
    final: dict[str, dict[str, Statistic]]
    best_bits_per_byte: Statistic | None
    best_steps: tuple[int, ...]
    tokens_per_second: Statistic | None
    mfu: Statistic | None
    skipped_steps: tuple[int, ...]
    rows_left_out: tuple[int, ...]
    others: dict[str, Statistic]
    seconds: Statistic | None
    cpu_seconds: Statistic | None
    flops: Statistic | None


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
        caveats: What a longer training may change, in words; "" if nothing is known.
        cost: What training took, in words; "" if unknown.
    """

    roles: dict[str, RoleSummary]
    difference: Statistic | None
    gap_closed: Statistic | None
    outcome: Outcome
    verdict: str
    caveats: str
    cost: str

    @property
    def paragraphs(self) -> list[str]:
        """The verdict, and what may change it if there is anything."""
        return [self.verdict, *filter(None, [self.caveats])]


def summarise(results: Results) -> Summary:
    """Returns means and spreads over seeds, the gap closed, and a verdict in words.

    A spread is the sample standard deviation; a single seed has none. The student and
    the twin of one seed share initialisation and batches, so they are compared seed by
    seed. "won" and "lost" ask for a 95% interval of the mean difference, by Student's
    t, that excludes zero; with one seed the sign decides, and the verdict says that it
    was one seed.

    Args:
        results: What the experiment measured.
    """
    runs: dict[str, list[Run]] = {}
    for run in results.runs:
        runs.setdefault(run.role, []).append(run)
    scores = {
        role: {run.seed: run.final[results.headline].bits_per_byte for run in found}
        for role, found in runs.items()
    }
    student, twin = scores["student"], scores.get("twin", {})
    gap_closed = _gap_closed(student, twin, scores["teacher"])
    found = difference(student, twin)
    return Summary(
        roles={role: _summarise_role(each, results) for role, each in runs.items()},
        difference=found,
        gap_closed=gap_closed,
        outcome=outcome(found),
        verdict=verdict(scores, gap_closed, results.headline)
        + compute_sentence(results, scores),
        caveats=caveats(results, scores),
        cost=cost_words(results),
    )


def _summarise_role(runs: Sequence[Run], results: Results) -> RoleSummary:
    training = [run.training for run in runs if run.training]
    best = [
        min(run.curve, key=lambda point: point.bits_per_byte)
        for run in runs
        if run.curve
    ]
    costs = [training_cost(run, results) for run in runs]
    return RoleSummary(
        model=runs[0].model,
        final={
            split: {
                name: over_seeds([getattr(run.final[split], name) for run in runs])
                for name in METRICS
            }
            for split in runs[0].final
        },
        best_bits_per_byte=statistic(point.bits_per_byte for point in best),
        best_steps=tuple(sorted(point.step for point in best)),
        tokens_per_second=statistic(found.tokens_per_second for found in training),
        mfu=statistic(found.mfu for found in training),
        skipped_steps=tuple(found.skipped_steps for found in training),
        rows_left_out=tuple(found.rows_left_out for found in training),
        others=_others(runs, results.headline),
        seconds=statistic(cost.seconds for cost in costs),
        cpu_seconds=statistic(found.cpu_seconds for found in training),
        flops=statistic(cost.flops for cost in costs),
    )


def _others(runs: Sequence[Run], split: str) -> dict[str, Statistic]:
    """Returns what only some experiments measure, over the runs of one role."""
    values: dict[str, list[float]] = {}
    for run in runs:
        own = run.final[split].own
        tasks = {
            f"{task}/{name}": value
            for task, metrics in run.tasks.items()
            for name, value in metrics.items()
            if not name.endswith("_stderr")
        }
        for name, value in (own | tasks).items():
            values.setdefault(name, []).append(value)
    return {name: over_seeds(found) for name, found in values.items()}


def _gap_closed(student: Scores, twin: Scores, teachers: Scores) -> Statistic | None:
    teacher = statistics.fmean(teachers.values())
    return statistic(
        (twin[seed] - student[seed]) / (twin[seed] - teacher)
        for seed in student
        if seed in twin and twin[seed] > teacher
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
