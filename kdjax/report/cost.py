"""What training cost, in device-seconds and FLOPs."""

from typing import NamedTuple

from kdjax.config.schema import Config, TrainConfig
from kdjax.results.measured import Results, Run, teacher_role


class Cost(NamedTuple):
    """What one training took; None where that is unknown.

    Attributes:
        seconds: Of all devices, added up: from the median speed of the steps, without
            compilation and evaluation.
        flops: Of its matrix products, teachers in the step included.
    """

    seconds: float | None
    flops: float | None


def training_cost(run: Run, results: Results) -> Cost:
    """Returns what the training of a run cost; nothing is known of loaded models."""
    if run.training is None or not run.steps:
        return Cost(None, None)
    seconds, speed = None, run.training.tokens_per_second
    if speed:
        rows = run.steps * trained_with(run.role, results.config).batch_size
        tokens = rows * results.data.length
        # Those of a cached teacher or a shared twin may have been others.
        devices = run.training.devices or results.environment.devices
        seconds = tokens / speed * devices
    return Cost(seconds, run.training.flops)


def cost_words(results: Results) -> str:
    """Returns what training took, in words; "" if unknown."""
    parts = []
    for role in dict.fromkeys(run.role for run in results.runs):
        runs = [run for run in results.runs if run.role == role]
        costs = [training_cost(run, results) for run in runs]
        seconds = [cost.seconds for cost in costs if cost.seconds is not None]
        flops = [cost.flops for cost in costs if cost.flops is not None]
        if seconds:
            arithmetic = f" ({sum(flops) / len(flops):.1e} FLOPs)" if flops else ""
            each = " a seed" if len(runs) > 1 else ""
            spent = duration(sum(seconds) / len(seconds))
            parts.append(f"{role} {spent}{each}{arithmetic}")
    if not parts:
        return ""
    where = results.environment
    return f"Training time of {where.devices} x {where.device}: {'; '.join(parts)}."


def duration(seconds: float) -> str:
    """Returns device-seconds in words.

    Example:
        >>> [duration(seconds) for seconds in (0.25, 61.4, 86_400.0)]
        ['0.2 s', '61 s', '24.0 h']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def trained_with(role: str, config: Config) -> TrainConfig:
    """Returns how the runs of a role were trained; twins as their students are."""
    for name, teacher in config.all_teachers.items():
        if role == teacher_role(name):
            return teacher.train
    return config.student.train
