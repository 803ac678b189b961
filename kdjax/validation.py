"""Every mistake in a config that needs no device and no file to see.

Neither jax nor anything heavy is imported here, so that a mistake is answered at once.
"""

import dataclasses
import re

import ml_collections

from kdjax.config import (
    SOURCES,
    Config,
    DistillConfig,
    MeshConfig,
    ModelConfig,
    RopeScalingConfig,
    Rules,
    ScheduleConfig,
    TrainConfig,
)
from kdjax.errors import UsageError
from kdjax.inheritance import student_model
from kdjax.parsing import from_mapping


def validate(config: ml_collections.ConfigDict) -> Config:
    """Returns the config as frozen dataclasses, or raises one line saying what is off.

    Args:
        config: What a config file returned, with the command line's overrides.

    Raises:
        UsageError: An unknown key, a wrong type, or values that contradict each other.

    Example:
        >>> from kdjax.config import default
        >>> config = default()
        >>> config.distill.alpha = {"kind": "linear", "start": 1.0, "end": 0.5}
        >>> validate(config).distill.alpha.end
        0.5
    """
    if not hasattr(config, "to_dict"):
        raise UsageError(
            "get_config() must return a ConfigDict, such as kdjax.config.default(); it "
            f"returned {type(config).__name__}"
        )
    parsed = from_mapping(Config, config.to_dict(), "config")
    _check(parsed)
    return parsed


def _check(config: Config) -> None:
    """Raises on the first contradiction that needs no device and no file to see."""
    for value, name in (
        (config.seeds, "seeds"),
        (config.log_every, "log_every"),
        (config.evaluate.every, "evaluate.every"),
        (config.evaluate.rows, "evaluate.rows"),
        (config.evaluate.batch_size, "evaluate.batch_size"),
        (config.checkpoint.every, "checkpoint.every"),
        (config.checkpoint.keep, "checkpoint.keep"),
    ):
        _at_least(value, 1, f"config.{name}")
    _at_least(config.seed, 0, "config.seed")
    _at_least(config.teacher.seed, 0, "config.teacher.seed")
    _at_least(config.data.length, 2, "config.data.length")
    _between(
        config.data.validation_fraction, 0.0, 0.5, "config.data.validation_fraction"
    )
    _check_data(config)
    _check_distill(config.distill)
    _check_mesh(config.mesh)
    for name, part in (("teacher", config.teacher), ("student", config.student)):
        _check_train(part.train, f"config.{name}.train")
        _check_rules(part.rules, f"config.{name}.rules")
    if not config.teacher.path:
        check_model(config.teacher.model, config, "config.teacher.model")
    _check_student(config)
    mesh = config.mesh
    check_batches(config, max(mesh.data, 1) * max(mesh.fsdp, 1))
    _check_divergence(config.distill)


def _check_data(config: Config) -> None:
    data, tokenizer = config.data, config.tokenizer
    source, _, name = data.source.partition(":")
    if source not in SOURCES or (source == "tfds") != bool(name):
        raise UsageError(
            f"config.data.source must be one of {', '.join(SOURCES)} (as tfds:NAME); "
            f"it is {data.source!r}"
        )
    if data.source == "files" and not data.pattern:
        raise UsageError(
            "config.data.pattern is empty; set it to a glob such as 'corpus/**/*.md'"
        )
    if tokenizer.kind == "file" and not tokenizer.path:
        raise UsageError(
            "config.tokenizer.path is empty; set it to a tokenizer.json, "
            "or choose config.tokenizer.kind = 'bpe'"
        )
    if tokenizer.kind == "bpe" and tokenizer.vocab_size < 257:
        raise UsageError(
            "config.tokenizer.vocab_size must be at least 257 (every byte and the end "
            f"of text); it is {tokenizer.vocab_size}"
        )


def _check_distill(distill: DistillConfig) -> None:
    for value in _ends(distill.temperature):
        if not 0 < value < float("inf"):
            raise UsageError(f"config.distill.temperature must be > 0; it is {value:g}")
    for value in _ends(distill.alpha):
        _between(value, 0.0, 1.0, "config.distill.alpha")


def _check_divergence(distill: DistillConfig) -> None:
    # Imported here because it brings jax: other mistakes are answered before.
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
        if size < 1 and size != -1:
            raise UsageError(
                f"config.mesh.{axis} must be -1 or at least 1; it is {size}"
            )
    if list(sizes.values()).count(-1) > 1:
        raise UsageError(f"only one axis of config.mesh may be -1; it is {sizes}")


def _check_train(train: TrainConfig, path: str) -> None:
    _at_least(train.steps, 1, f"{path}.steps")
    _at_least(train.batch_size, 1, f"{path}.batch_size")
    _at_least(train.micro_batches, 1, f"{path}.micro_batches")
    if not 0 < train.data_fraction <= 1:
        raise UsageError(
            f"{path}.data_fraction must be in (0, 1]; it is {train.data_fraction:g}"
        )
    optimizer = train.optimizer
    for name in ("learning_rate", "clip"):
        value = getattr(optimizer, name)
        if not 0 < value < float("inf"):
            raise UsageError(f"{path}.optimizer.{name} must be > 0; it is {value:g}")
    for name in ("warmup_fraction", "final_fraction", "weight_decay"):
        _between(getattr(optimizer, name), 0.0, 1.0, f"{path}.optimizer.{name}")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(optimizer, name) < 1:
            raise UsageError(f"{path}.optimizer.{name} must be in [0, 1)")


def _check_student(config: Config) -> None:
    """Raises on what can be seen without the directories that the config may name."""
    student, teacher = config.student, config.teacher
    _at_least(student.calibration_rows, 1, "config.student.calibration_rows")
    if student.layer_map and student.init != "random":
        raise UsageError(
            f"config.student.layer_map and config.student.init = {student.init!r} both "
            "say which layers stay; drop one of them"
        )
    if student.path and student.is_cut:
        raise UsageError(
            "config.student.path is set, so nothing is cut out of the teacher; leave "
            "config.student.init and config.student.layer_map at their defaults"
        )
    if not student.path and not teacher.path:
        model = student_model(student, teacher.model)
        check_model(model, config, "config.student.model")


def _check_rules(rules: Rules, path: str) -> None:
    for pattern, _ in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"{path}: {pattern!r} is no regular expression ({error})"
            ) from None


def check_batches(config: Config, shards: int) -> None:
    """Raises unless every batch divides over micro-batches and mesh.

    Args:
        config: The config.
        shards: Devices along `data` times devices along `fsdp`.
    """
    teacher, student = config.teacher.train, config.student.train
    for path, size, micro_batches in (
        ("teacher.train", teacher.batch_size, teacher.micro_batches),
        ("student.train", student.batch_size, student.micro_batches),
        ("evaluate", config.evaluate.batch_size, 1),
    ):
        if size % (micro_batches * shards):
            raise UsageError(
                f"config.{path}.batch_size = {size} is not divisible by micro_batches "
                f"* mesh.data * mesh.fsdp = {micro_batches} * {shards}"
            )


def check_model(model: ModelConfig, config: Config, path: str) -> None:
    """Raises unless the model can be built, cut along the mesh and fed the rows."""
    check_architecture(model, path)
    for name, heads in (("heads", model.heads), ("kv_heads", model.key_value_heads)):
        if config.mesh.tensor > 0 and heads % config.mesh.tensor:
            raise UsageError(
                f"{path}.{name} = {heads} is not divisible by config.mesh.tensor = "
                f"{config.mesh.tensor}"
            )
    if model.positions == "learned" and config.data.length > model.max_length:
        raise UsageError(
            f"config.data.length = {config.data.length} exceeds the learned positions "
            f"{path}.max_length = {model.max_length}"
        )


def check_architecture(model: ModelConfig, path: str) -> None:
    """Raises unless the model can be built; `path` names it in the message."""
    for name in ("layers", "width", "heads", "vocab_multiple"):
        _at_least(getattr(model, name), 1, f"{path}.{name}")
    for name in ("kv_heads", "head_width", "ffn_width", "vocab_size", "max_length"):
        _at_least(getattr(model, name), 0, f"{path}.{name}")
    for name in ("rope_theta", "norm_epsilon"):
        if not 0 < getattr(model, name) < float("inf"):
            raise UsageError(f"{path}.{name} must be > 0")
    for name in (
        "local_rope_theta",
        "query_scalar",
        "attention_softcap",
        "logit_softcap",
    ):
        if not 0 <= getattr(model, name) < float("inf"):
            raise UsageError(f"{path}.{name} must be >= 0; 0 turns it off")
    _check_windows(model.windows, f"{path}.windows")
    _check_scaling(model.rope_scaling, f"{path}.rope_scaling")
    _between(model.rope_fraction, 0.0, 1.0, f"{path}.rope_fraction")
    if not model.head_width and model.width % model.heads:
        raise UsageError(
            f"{path}.width = {model.width} is not divisible by {path}.heads = "
            f"{model.heads}; change one or set head_width"
        )
    kv_heads = model.key_value_heads
    if kv_heads < 1 or model.heads % kv_heads:
        raise UsageError(
            f"{path}.heads = {model.heads} is not divisible by "
            f"{path}.kv_heads = {kv_heads}"
        )
    head_width = model.width_of_head
    if model.positions == "rope" and int(head_width * model.rope_fraction) % 2:
        raise UsageError(
            f"{path}: head width {head_width} * rope_fraction {model.rope_fraction:g} "
            "must be even"
        )
    if model.norm_offset and model.norm != "rmsnorm":
        raise UsageError(f"{path}.norm_offset needs {path}.norm = 'rmsnorm'")
    if model.attention_softcap and model.attention == "cudnn":
        raise UsageError(
            f"{path}.attention_softcap needs {path}.attention = 'auto' or 'xla': "
            "cudnn cannot cap"
        )


def _check_windows(windows: tuple[int, ...], path: str) -> None:
    if not windows:
        raise UsageError(f"{path} is empty; (0,) is a model without windows")
    for window in windows:
        _at_least(window, 0, path)
        if window >= 2**31:
            raise UsageError(f"{path} must be less than 2**31; it is {window}")


def _check_scaling(scaling: RopeScalingConfig, path: str) -> None:
    for name in ("factor", "low_factor", "high_factor"):
        if not 0 < getattr(scaling, name) < float("inf"):
            raise UsageError(f"{path}.{name} must be > 0")
    _at_least(scaling.original_length, 1, f"{path}.original_length")
    if scaling.kind == "llama3" and scaling.low_factor >= scaling.high_factor:
        raise UsageError(
            f"{path}.low_factor = {scaling.low_factor:g} must be less than "
            f"{path}.high_factor = {scaling.high_factor:g}"
        )


def _at_least(value: int, least: int, path: str) -> None:
    if value < least:
        raise UsageError(f"{path} must be at least {least}; it is {value}")


def _between(value: float, low: float, high: float, path: str) -> None:
    if not low <= value <= high:
        raise UsageError(f"{path} must be in [{low:g}, {high:g}]; it is {value:g}")
