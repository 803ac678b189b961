"""The report card's plots, from settings to what the plots take."""

import collections
import itertools
import statistics
from collections.abc import Iterator, Sequence

from kdjax.report.many.comparison import Comparison, Setting
from kdjax.report.many.heat_maps import heat_maps
from kdjax.report.many.lengths import STEPS, by_length
from kdjax.report.many.overrides import place, shown, tick
from kdjax.report.plots.axis import Mark, axis
from kdjax.report.plots.lengths import Length, Level, Line, lengths
from kdjax.report.plots.many_curves import Course, many_curves
from kdjax.report.plots.pareto import Measure, Model, pareto
from kdjax.report.summary import METRICS, RoleSummary
from kdjax.results.data import VALIDATION
from kdjax.results.measured import EQUAL_COMPUTE

_SHOWN = ("bits_per_byte", "forward_kl")
_MEASURES = (
    Measure("parameters", less_is_better=True),
    Measure("forward tokens/s", less_is_better=False),
    Measure("training FLOPs", less_is_better=True),
)


def plots(comparison: Comparison) -> Iterator[tuple[str, str, bytes]]:
    """Yields the name, a description and the PNG of each plot that there is data for.

    Args:
        comparison: The settings; only ranked ones are drawn.
    """
    if len(comparison.ranked) < 2:
        return
    for number, key in enumerate(comparison.axes, start=1):
        yield (
            f"axis-{number}",
            f"Bits per byte and KL against {comparison.names[key]}, with the seeds' "
            "standard deviation.",
            _axis(comparison, key),
        )
    yield from heat_maps(comparison)
    if longer := by_length(comparison):
        yield (
            "lengths",
            f"{longer[0].results.headline.capitalize()} bits per byte against the "
            "length of training, in steps and in time.",
            _lengths(longer),
        )
    if png := _curves(comparison):
        yield "curves", "Validation bits per byte against the training step.", png
    if png := pareto(_MEASURES, [*_models(comparison)]):
        words = "Bits per byte against parameters, speed and training FLOPs."
        yield "pareto", words, png


def _axis(comparison: Comparison, key: str) -> bytes:
    tried = [s.overrides[key] for s in comparison.ranked if key in s.overrides]
    values = [
        value
        for number, value in enumerate(comparison.axes[key])
        if any(place(comparison.axes[key], other) == number for other in tried)
    ]
    marks = []
    for setting in comparison.ranked:
        if key not in setting.overrides:
            continue
        final = setting.summary.roles["student"].final[VALIDATION]
        twin = setting.summary.roles.get("twin")
        others = [
            f"{comparison.names[other]} {shown(setting.overrides[other])}"
            for other in comparison.axes
            if other != key and other in setting.overrides
        ]
        marks.append(
            Mark(
                place(values, setting.overrides[key]),
                ", ".join(others),
                tuple(final[name].mean for name in _SHOWN),
                tuple(final[name].spread or 0.0 for name in _SHOWN),
                twin.final[VALIDATION]["bits_per_byte"].mean if twin else None,
                setting is comparison.best,
            )
        )
    labels = ["bits/byte", METRICS["forward_kl"].label.removesuffix(" \u2193")]
    labels[1] = labels[1].replace(" (nats/token)", ",\nnats/token")
    name = comparison.names[key]
    return axis(name, values, [*map(tick, values)], labels, marks)


def _lengths(settings: Sequence[Setting]) -> bytes:
    roles = ("student", "twin", EQUAL_COMPUTE)
    all_roles = [s.summary.roles.get(role) for s in settings for role in roles]
    # On a CPU, time by the clock would also tell what else the machine did.
    is_cpu = all(found is None or found.cpu_seconds for found in all_roles)
    found = []
    for role in roles:
        points = [
            _length(setting, role, is_cpu)
            for setting in settings
            if role in setting.summary.roles
        ]
        if points:
            found.append(Line(role, points))
    last = settings[-1]
    teacher = last.summary.roles["teacher"]
    level = teacher.final[last.results.headline]["bits_per_byte"].mean
    unit = "CPU" if is_cpu else "device"
    return lengths(found, Level(level, _seconds(teacher, is_cpu)), unit)


def _length(setting: Setting, role: str, is_cpu: bool) -> Length:
    found = setting.summary.roles[role]
    bits = found.final[setting.results.headline]["bits_per_byte"]
    steps = setting.overrides[STEPS]
    return Length(steps, _seconds(found, is_cpu), bits.mean, bits.spread or 0.0)


def _seconds(role: RoleSummary, is_cpu: bool) -> float | None:
    found = role.cpu_seconds if is_cpu else role.seconds
    return found.mean if found else None


def _curves(comparison: Comparison) -> bytes | None:
    courses = []
    for setting in comparison.ranked:
        if points := _course(setting, "student"):
            courses.append(Course(setting.name, points))
    if not courses or comparison.best is None:
        return None
    twin = _course(comparison.best, "twin")
    return many_curves(courses, Course("twin", twin) if twin else None)


def _course(setting: Setting, role: str) -> Sequence[tuple[int, float]]:
    """Returns the mean over seeds at the steps that all seeds have."""
    runs = [run for run in setting.results.runs if run.role == role and run.curve]
    by_step: dict[int, list[float]] = collections.defaultdict(list)
    for point in itertools.chain.from_iterable(run.curve for run in runs):
        by_step[point.step].append(point.bits_per_byte)
    return [
        (step, statistics.fmean(values))
        for step, values in sorted(by_step.items())
        if len(values) == len(runs)
    ]


def _models(comparison: Comparison) -> Iterator[Model]:
    seen = set()
    for setting in comparison.ranked:
        for role in ("student", "twin", EQUAL_COMPUTE, "teacher"):
            found = setting.summary.roles.get(role)
            if found is None:
                continue
            info = setting.results.models[found.model]
            costs: tuple[float | None, ...] = (
                float(info.parameters),
                info.forward_tokens_per_second,
                found.flops.mean if found.flops else None,
            )
            bits = found.final[VALIDATION]["bits_per_byte"].mean
            is_best = setting is comparison.best and role == "student"
            # Settings share teachers and twins, whose speed is measured each time.
            if (role, bits) not in seen or role == "student":
                yield Model(role, costs, bits, is_best)
            seen.add((role, bits))
