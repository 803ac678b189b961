"""Results in words, for the page and the model card."""

import dataclasses
import re
from collections.abc import Sequence

from kdjax.config.schema import DistillConfig, ScheduleConfig, TrainConfig
from kdjax.report.cost import trained_with
from kdjax.results.data import TEST
from kdjax.results.measured import ModelInfo, Results, TeacherInfo


def origin(results: Results) -> str:
    """Returns what a student was initialised from, in words; "" if at random."""
    return next((run.origin for run in results.runs if run.role == "start"), "")


def final_figures(results: Results) -> str:
    """Returns which split final figures are of, and what else that one is used for."""
    if results.headline == TEST:
        return (
            "of the test split, by which nothing is chosen; the validation split is "
            "measured along the runs, and says which checkpoint is the best"
        )
    return (
        "of the validation split, which also says which checkpoint is the best, and "
        "which point of a sweep; --config.data.test_fraction=0.05 splits off text by "
        "which nothing is chosen"
    )


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


def epochs(results: Results) -> str:
    """Returns how often each role's training saw the rows it could see, in words.

    Returns:
        Such as "teacher 0.34, student 0.14"; "" if nothing was trained here.
    """
    parts = {}
    for run in results.runs:
        train = trained_with(run.role, results.config)
        rows = results.data.splits["train"].rows * train.data_fraction
        if run.steps and rows:
            parts[run.role] = f"{run.role} {run.steps * train.batch_size / rows:.2f}"
    return ", ".join(parts.values())


def cpu_seconds(results: Results) -> str:
    """Returns what the CPU seconds went into, in words; "" if that is unknown."""
    spent = results.cpu_seconds
    total = sum(spent.values())
    if not total:
        return ""
    shares = (f"{activity} {value / total:.1%}" for activity, value in spent.items())
    return f"{total:,.0f}: {', '.join(shares)}"


def architecture(model: ModelInfo) -> str:
    """Returns what a model is built of, in words; "" if unknown."""
    config = model.architecture
    if config is None:
        return ""
    heads = f"{config.heads} heads"
    if config.key_value_heads != config.heads:
        heads += f" ({config.key_value_heads} of keys and values)"
    parts = [
        f"{config.layers} {'layer' if config.layers == 1 else 'layers'}",
        f"{config.width} wide, {heads}",
        f"{config.mlp} {config.activation} MLP of {config.width_of_ffn}",
        f"{config.positions} positions",
        config.norm,
        f"{config.vocab_size:,} ids" + (", tied" if config.tie_embeddings else ""),
        config.dtype,
        f"{model.parameters:,} parameters",
    ]
    return ", ".join(parts)


def parameters(config: DistillConfig) -> dict[str, float | ScheduleConfig]:
    """Returns the divergence's own parameters, those that are not at their default."""
    usual = ("kind", "alpha", "temperature")
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in usual and getattr(config, field.name) != field.default
    }


def setting(value: float | ScheduleConfig) -> str:
    """Returns a number, or a schedule over the run, in words."""
    if isinstance(value, ScheduleConfig):
        return f"{value.start:g} to {value.end:g} ({value.kind})"
    return f"{value:g}"
