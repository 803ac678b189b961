"""Settings compared: the points that differ in nothing but their seeds are one."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdjax.report.cost import Cost, training_cost
from kdjax.report.many.overrides import SEED, axes, setting_key, short_names, shown
from kdjax.report.many.points import Point
from kdjax.report.statistics import (
    CONFIDENCE,
    Outcome,
    Scores,
    Statistic,
    difference,
    outcome,
)
from kdjax.report.summary import Summary, summarise
from kdjax.results.data import VALIDATION
from kdjax.results.measured import Results, Run


@dataclasses.dataclass(frozen=True)
class Setting:
    """Finished points that differ in nothing but their seeds.

    Attributes:
        name: Its values of all axes, in words.
        overrides: Its values of the config's keys, the seed left out.
        points: The names of its points.
        repeated: Those of them whose seeds other points have had already, and that do
            not count therefore.
        results: What these measured, all seeds together.
        summary: The summary of that.
    """

    name: str
    overrides: Mapping[str, Any]
    points: tuple[str, ...]
    repeated: tuple[str, ...]
    results: Results
    summary: Summary

    @property
    def score(self) -> Statistic:
        """The students' bits/byte on the validation split, by which it is ranked."""
        return self.summary.roles["student"].final[VALIDATION]["bits_per_byte"]

    def scores(self, role: str = "student", split: str = VALIDATION) -> Scores:
        """Returns the bits/byte of a role on a split by seed."""
        return {
            run.seed: run.final[split].bits_per_byte
            for run in self.results.runs
            if run.role == role
        }


@dataclasses.dataclass(frozen=True)
class Rival:
    """A setting beside the best one.

    Attributes:
        name: The setting's.
        lead: How many bits/byte the best is lower, seed by seed; None: the two share
            no seed.
        outcome: Whether that is beyond the seeds' spread; of one seed, it is unclear.
    """

    name: str
    lead: Statistic | None
    outcome: Outcome


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All points and what they show.

    Attributes:
        points: All of them.
        axes: The keys that were varied, with their values.
        names: A short name for each axis.
        settings: Those that finished, in the order of the points.
        ranked: Those that can be compared, the best first.
        rivals: What follows the best, nearest first.
        confidence: Of the rivals' intervals: as many comparisons as there are share
            the usual chance of a mistake.
        texts: How many different validation texts there are; with several, no setting
            is ranked.
    """

    points: tuple[Point, ...]
    axes: dict[str, list[Any]]
    names: dict[str, str]
    settings: tuple[Setting, ...]
    ranked: tuple[Setting, ...]
    rivals: tuple[Rival, ...]
    confidence: float
    texts: int

    @property
    def best(self) -> Setting | None:
        """The setting of the lowest mean bits/byte."""
        return self.ranked[0] if self.ranked else None


def compare(points: Sequence[Point]) -> Comparison:
    """Returns the settings of the points, ranked by bits/byte on the validation split.

    Settings are ranked only if that split is the same text. Their test splits are not
    looked at, so that the best can be judged by its own. Those whose students were
    trained for fewer steps than others, as by successive halving, are left out, unless
    steps are an axis.

    Args:
        points: The points.
    """
    found = axes(point.overrides for point in points)
    names = short_names([*found])
    settings = tuple(_settings(points, found, names))
    texts = {_text(setting.results) for setting in settings}
    comparable = [] if len(texts) > 1 else [*settings]
    if "student.train.steps" not in found:
        most = max((_steps(setting) for setting in comparable), default=0)
        comparable = [setting for setting in comparable if _steps(setting) == most]
    ranked = sorted(comparable, key=lambda setting: setting.score.mean)
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(ranked) - 1)
    rivals = []
    for setting in ranked[1:]:
        lead = difference(ranked[0].scores(), setting.scores(), confidence)
        is_known = lead is not None and lead.half_width is not None
        rivals.append(
            Rival(setting.name, lead, outcome(lead) if is_known else "unclear")
        )
    return Comparison(
        points=tuple(points),
        axes=found,
        names=names,
        settings=settings,
        ranked=tuple(ranked),
        rivals=tuple(rivals),
        confidence=confidence,
        texts=len(texts),
    )


def total_cost(settings: Sequence[Setting]) -> Cost:
    """Returns what all trainings took; what several points share counts once."""
    seen, seconds, flops = set(), 0.0, 0.0
    for setting in settings:
        for run in setting.results.runs:
            key = run.role, run.seed, repr(run.training), repr(run.curve)
            if key not in seen:
                seen.add(key)
                cost = training_cost(run, setting.results)
                seconds += cost.seconds or 0.0
                flops += cost.flops or 0.0
    return Cost(seconds or None, flops or None)


def _settings(
    points: Sequence[Point],
    found: Mapping[str, Sequence[Any]],
    names: Mapping[str, str],
) -> Iterator[Setting]:
    groups: dict[str, list[Point]] = {}
    for point in points:
        if point.results is not None:
            groups.setdefault(setting_key(point.overrides), []).append(point)
    for group in groups.values():
        first = group[0]
        overrides = {k: v for k, v in first.overrides.items() if k != SEED}
        words = [f"{names[k]} {shown(overrides[k])}" for k in found if k in overrides]
        results = _merged([point.results for point in group if point.results])
        yield Setting(
            ", ".join(words) or first.name,
            overrides,
            tuple(point.name for point in group),
            _repeated(group),
            results,
            summarise(results),
        )


def _repeated(group: Sequence[Point]) -> tuple[str, ...]:
    """Returns the points that add no seed to those of the points before them."""
    seen: set[int] = set()
    found = []
    for point in group:
        runs = point.results.runs if point.results else ()
        seeds = {run.seed for run in runs if run.role == "student"}
        if seeds <= seen:
            found.append(point.name)
        seen |= seeds
    return tuple(found)


def _merged(every: Sequence[Results]) -> Results:
    """Returns the first results with the runs of all, one of each role and seed."""
    runs: dict[tuple[str, int], Run] = {}
    for results in every:
        for run in results.runs:
            # The same role has the same columns, but not always the same splits.
            if run.final.keys() == every[0].runs[0].final.keys():
                runs.setdefault((run.role, run.seed), run)
    roles = [*dict.fromkeys(role for role, _ in runs)]
    merged = sorted(runs.values(), key=lambda run: (roles.index(run.role), run.seed))
    return dataclasses.replace(every[0], runs=tuple(merged))


def _text(results: Results) -> tuple[str, int]:
    """Returns what the ranking depends on: the text, and how much of it."""
    split = results.data.splits[VALIDATION]
    rows = results.config.evaluate.final_rows
    return split.sha256, rows if 0 < rows < split.rows else 0


def _steps(setting: Setting) -> int:
    return setting.results.config.student.train.steps
