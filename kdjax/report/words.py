"""Results in words, for the page and the model card."""

import re
from collections.abc import Sequence

from kdjax.config.schema import ScheduleConfig, TrainConfig
from kdjax.results.measured import Results, TeacherInfo


def origin(results: Results) -> str:
    """Returns what a student was initialised from, in words; "" if at random."""
    return next((run.origin for run in results.runs if run.role == "start"), "")


def stored_weights(teacher: TeacherInfo) -> str:
    """Returns how a loaded teacher's weights are stored, in words; "" for others."""
    if not teacher.formats:
        return ""
    return f"{bits(teacher.formats)} weights ({', '.join(teacher.formats)})"


def bits(formats: Sequence[str]) -> str:
    """Returns the bits of the most common format: "4-bit" for Q4_1."""
    found = re.match(r"\D+(\d+)", formats[0])
    return f"{found[1]}-bit" if found else formats[0]


def optimizer(config: TrainConfig) -> str:
    """Returns an optimiser and its learning rate in words.

    Example:
        >>> optimizer(TrainConfig())
        'adamw, learning rate 0.003 (cosine to 10%, warm-up over 10% of the steps)'
    """
    found = config.optimizer
    warmup = f"{found.warmup_fraction:.0%} of the steps"
    if found.warmup_steps >= 0:
        warmup = f"{found.warmup_steps:,} steps"
    decay: str = found.decay
    if decay != "constant":
        decay += f" to {found.final_fraction:.0%}"
    return (
        f"{found.name}, learning rate {found.learning_rate:g} ({decay}, warm-up over "
        f"{warmup})"
    )


def steps(results: Results) -> str:
    """Returns how long students were trained, with the lengths planned before."""
    trained = [run.training for run in results.runs if run.role == "student"]
    plans = next((found.plans for found in trained if found and found.plans), ())
    earlier = [f"{plan.steps:,}" for plan in plans[:-1]]
    last = f"{results.config.student.train.steps:,}"
    if not earlier:
        return last
    return (
        f"{', '.join(earlier)}, then on to {last}, each with the schedules of a run "
        "of that length"
    )


def cpu_seconds(results: Results) -> str:
    """Returns what the CPU seconds went into, in words; "" if that is unknown."""
    spent = results.cpu_seconds
    total = sum(spent.values())
    if not total:
        return ""
    shares = (f"{activity} {value / total:.1%}" for activity, value in spent.items())
    return f"{total:,.0f}: {', '.join(shares)}"


def setting(value: float | ScheduleConfig) -> str:
    """Returns a number, or a schedule over the run, in words."""
    if isinstance(value, ScheduleConfig):
        return f"{value.start:g} to {value.end:g} ({value.kind})"
    return f"{value:g}"
