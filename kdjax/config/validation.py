"""Checks of a config that need neither a device nor a file.

Neither jax nor anything heavy is imported here, so that mistakes are reported at once.
"""

import dataclasses
import re

from kdjax.config.architecture import MOST_TOKENS
from kdjax.config.data_rules import check_data
from kdjax.config.devices import micro_batches_of
from kdjax.config.model_rules import check_model, check_used
from kdjax.config.parsing import between, check_texts, from_mapping, shown, whole
from kdjax.config.profiling import read_profile
from kdjax.config.schema import (
    AnyConfig,
    Config,
    DistillConfig,
    MeshConfig,
    Rules,
    ScheduleConfig,
    TeacherConfig,
)
from kdjax.config.student_rules import student_model
from kdjax.config.train_rules import MOST, check_train
from kdjax.core.errors import UsageError

_MOST_SEEDS = 10**6
_LARGEST_SEED = 2**31 - 1  # so that each of the seeds has 32 bits
# Beyond them, what a loss divides by its temperature overflows or is lost in float32.
_TEMPERATURES = 1e-3, 1e3
_WEIGHTS = 1e-6, 1e6


def validate(config: AnyConfig) -> Config:
    """Returns the config as frozen dataclasses, or raises a one-line error.

    Args:
        config: The config file's `ConfigDict`, with the command line's overrides, or a
            `Config` that was made in Python.

    Raises:
        UsageError: An unknown key, a wrong type, or values that contradict each other.

    Example:
        >>> from kdjax.config.schema import default
        >>> config = default()
        >>> config.distill.alpha = {"kind": "linear", "start": 1.0, "end": 0.5}
        >>> validate(config).distill.alpha.end
        0.5
    """
    parsed = parse(config)
    check(parsed)
    _check_divergence(parsed.distill)
    return parsed


def parse(config: AnyConfig) -> Config:
    """Returns the config as frozen dataclasses; its values may contradict each other.

    Args:
        config: As for `validate`.

    Raises:
        UsageError: An unknown key or a wrong type.
    """
    if isinstance(config, Config):
        values = dataclasses.asdict(config)
    elif hasattr(config, "to_dict"):
        values = config.to_dict()
    else:
        raise UsageError(
            "get_config() must return a ConfigDict, such as kdjax.config.default(); "
            f"this is {config if config is None else type(config).__name__}"
        )
    parsed: Config = from_mapping(Config, values, "config")
    return parsed


def check(config: Config) -> None:
    """Raises as `validate`, except for the divergence's name and parameters.

    To know those means to import jax, which takes a second.
    """
    for value, name in (
        (config.log_every, "log_every"),
        (config.evaluate.every, "evaluate.every"),
        (config.evaluate.rows, "evaluate.rows"),
        (config.evaluate.batch_size, "evaluate.batch_size"),
        (config.checkpoint.every, "checkpoint.every"),
        (config.checkpoint.keep, "checkpoint.keep"),
    ):
        whole(value, 1, MOST, f"config.{name}")
    if not 0 <= config.checkpoint.minutes < float("inf"):
        raise UsageError(
            "config.checkpoint.minutes must be at least 0 and finite; it is "
            f"{config.checkpoint.minutes:g}"
        )
    whole(config.evaluate.final_rows, 0, MOST, "config.evaluate.final_rows")
    whole(config.seeds, 1, _MOST_SEEDS, "config.seeds")
    whole(config.seed, 0, _LARGEST_SEED, "config.seed")
    check_texts(dataclasses.asdict(config), "config")
    check_data(config)
    _check_distill(config.distill)
    _check_mesh(config.mesh)
    check_train(config.student.train, "config.student.train")
    _check_rules(config.student.rules, "config.student.rules")
    _check_teachers(config)
    _check_student(config)
    _check_profile(config)
    mesh = config.mesh
    check_batches(config, max(mesh.data, 1) * max(mesh.fsdp, 1))


def _check_profile(config: Config) -> None:
    steps, last = read_profile(config.profile), config.student.train.steps
    if steps and steps[-1] > last:
        raise UsageError(
            f"config.profile = {config.profile!r} ends after the student's last step, "
            f"{last}"
        )


def _check_distill(distill: DistillConfig) -> None:
    for value in _ends(distill.temperature):
        between(value, *_TEMPERATURES, "config.distill.temperature")
    for value in _ends(distill.alpha):
        between(value, 0.0, 1.0, "config.distill.alpha")


def _check_divergence(distill: DistillConfig) -> None:
    # Imported here because it imports jax: see `check`.
    from kdjax.losses import DIVERGENCES, check_parameters

    if distill.kind not in DIVERGENCES:
        raise UsageError(
            f"config.distill.kind must be one of {', '.join(DIVERGENCES)}; it is "
            f"{distill.kind!r}"
        )
    taken = DIVERGENCES[distill.kind].parameters
    try:
        for end in (0, -1):
            values = {name: _ends(getattr(distill, name))[end] for name in taken}
            check_parameters(distill.kind, values)
    except ValueError as error:
        raise UsageError(f"config.distill: {error}") from None
    for field in dataclasses.fields(distill):
        is_general = field.name in ("kind", "alpha", "temperature")
        is_set = getattr(distill, field.name) != field.default
        if is_set and not is_general and field.name not in taken:
            raise UsageError(
                f"config.distill.{field.name} is set, but {distill.kind} takes "
                f"{', '.join(taken) or 'no parameter'}; remove it or change "
                "config.distill.kind"
            )


def _ends(value: float | ScheduleConfig) -> tuple[float, ...]:
    if isinstance(value, ScheduleConfig):
        return value.start, value.end
    return (value,)


def _check_mesh(mesh: MeshConfig) -> None:
    sizes = dataclasses.asdict(mesh)
    for axis, size in sizes.items():
        if size != -1 and not 1 <= size <= MOST:
            raise UsageError(
                f"config.mesh.{axis} must be -1 or at least 1, and at most {MOST:,}; "
                f"it is {shown(size)}"
            )
    if list(sizes.values()).count(-1) > 1:
        raise UsageError(f"only one axis of config.mesh may be -1; it is {sizes}")


def _check_teachers(config: Config) -> None:
    """Raises on errors that can be found without reading the directories it names."""
    if config.teachers and config.teacher != TeacherConfig():
        raise UsageError(
            "config.teachers names the teachers, so config.teacher would do nothing; "
            "leave it at its defaults"
        )
    if config.member_students and len(config.teachers) < 2:
        raise UsageError(
            "config.member_students is for several teachers; name them in "
            "config.teachers"
        )
    for name, teacher in config.all_teachers.items():
        path = config.teacher_path(name)
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise UsageError(f"{path}: a teacher's name has only letters, digits and _")
        whole(teacher.seed, 0, _LARGEST_SEED, f"{path}.seed")
        check_train(teacher.train, f"{path}.train")
        _check_rules(teacher.rules, f"{path}.rules")
        between(teacher.weight, *_WEIGHTS, f"{path}.weight")
        if len(config.all_teachers) == 1 and teacher.weight != 1.0:
            raise UsageError(f"{path}.weight is for several teachers; there is one")
        if teacher.path:
            continue
        check_model(teacher.model, config, f"{path}.model")
        check_used(teacher.model, teacher.model, f"{path}.model")
        if teacher.dtype:
            raise UsageError(
                f"{path}.dtype is for a loaded teacher, and none is loaded; set "
                f"{path}.model.dtype"
            )


def _check_student(config: Config) -> None:
    """Raises on errors that can be found without reading the directories it names."""
    student = config.student
    teacher = next(iter(config.all_teachers.values()))
    whole(student.calibration_rows, 1, MOST, "config.student.calibration_rows")
    if student.layer_map and student.init != "random":
        raise UsageError(
            f"config.student.layer_map and config.student.init = {student.init!r} both "
            "choose which layers are kept; set only one of them"
        )
    if student.path and student.is_pruned:
        raise UsageError(
            "config.student.path is set, so nothing is pruned from the teacher; leave "
            "config.student.init and config.student.layer_map at their defaults"
        )
    if not student.path and not teacher.path:
        model = student_model(student, teacher.model)
        check_model(model, config, "config.student.model")
        check_used(student.model, model, "config.student.model")


def _check_rules(rules: Rules, path: str) -> None:
    for pattern, _ in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"{path}: {pattern!r} is not a regular expression ({error})"
            ) from None


def check_batches(config: Config, shards: int) -> None:
    """Raises unless every batch divides evenly over micro-batches and mesh.

    Args:
        config: The config.
        shards: Devices along `data` times devices along `fsdp`.
    """
    batches = {
        f"{config.teacher_path(name)}.train": teacher.train
        for name, teacher in config.all_teachers.items()
        if not teacher.path  # or else it is not trained
    }
    batches["config.student.train"] = config.student.train
    sizes = {
        path: (train.batch_size, micro_batches_of(train, shards))
        for path, train in batches.items()
    }
    sizes["config.evaluate"] = config.evaluate.batch_size, 1
    for path, (size, micro_batches) in sizes.items():
        if size % (micro_batches * shards):
            raise UsageError(
                f"{path}.batch_size = {size} is not divisible by micro_batches "
                f"* mesh.data * mesh.fsdp = {micro_batches} * {shards}"
            )
        if size * config.data.length > MOST_TOKENS:
            raise UsageError(
                f"{path}.batch_size * config.data.length = "
                f"{size * config.data.length:,} tokens; at most {MOST_TOKENS:,} fit "
                "into a batch: lower one of them"
            )
