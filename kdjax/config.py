"""The configuration: frozen dataclasses, and every check that needs no device.

A config file starts from `default()`, changes what it wants, and returns the
`ConfigDict`. `validate` turns that into a `Config`; below the command lines only these
frozen dataclasses travel. This module imports neither jax nor anything heavy, so that a
mistake is answered at once.
"""

import dataclasses
from typing import Literal

import ml_collections

from kdjax.errors import UsageError
from kdjax.parsing import from_mapping


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """A value that moves from `start` to `end` over a run's steps."""

    kind: Literal["linear", "cosine"] = "linear"
    start: float = 1.0
    end: float = 1.0


SOURCES = ("stdlib", "files", "tfds")  # the keys of `data.CORPORA`


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the text comes from, and how it becomes rows."""

    source: str = "stdlib"  # "stdlib", "files" or "tfds:<name>"
    pattern: str = ""  # for "files": a glob of .txt, .md and .jsonl files
    text_field: str = "text"  # for .jsonl and tfds: the feature that holds the text
    unreadable: Literal["refuse", "skip"] = "refuse"  # non-UTF-8 or unreadable files
    allow_download: bool = False  # for "tfds:<name>": download if not prepared
    validation_fraction: float = 0.05  # of the files; chosen by a hash of their name
    length: int = 128  # tokens in a row


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes ids."""

    kind: Literal["bpe", "bytes", "file"] = "bpe"
    vocab_size: int = 1024  # for "bpe": ids, the end-of-text id included
    path: str = ""  # for "file": a Hugging Face tokenizer.json
    end_of_text: str = "<|endoftext|>"  # the token that ends a document


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one of them may be -1, "all that are left"."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer; model families are points in this space."""

    layers: int = 2
    width: int = 96
    heads: int = 4
    kv_heads: int = 0  # 0: as many as heads
    head_width: int = 0  # 0: width / heads
    ffn_width: int = 0  # 0: 4 * width
    vocab_size: int = 0  # 0: the tokenizer's
    vocab_multiple: int = 64  # the embedding table is padded to a multiple of this
    tie_embeddings: bool = True
    positions: Literal["rope", "learned"] = "rope"
    max_length: int = 0  # for learned positions: how many there are
    rope_theta: float = 10_000.0
    rope_fraction: float = 1.0  # of each head's width that is rotated (NeoX: 0.25)
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: float = 1e-5
    qk_norm: bool = False  # normalise queries and keys per head (Qwen3)
    parallel_residual: bool = False  # attention and MLP read the same input (NeoX)
    mlp: Literal["gated", "plain"] = "gated"
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "silu"
    qkv_bias: bool = False
    out_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation
    remat: Literal["none", "block", "dots"] = "none"  # what backward recomputes
    attention: Literal["auto", "xla", "cudnn"] = "auto"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optax optimiser with warm-up, decay and clipping by global norm."""

    name: Literal["adamw", "lion"] = "adamw"
    learning_rate: float = 3e-3  # at its peak
    warmup_fraction: float = 0.1  # of the steps
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final_fraction: float = 0.1  # of the peak, where the decay ends
    weight_decay: float = 0.1  # on matrices only
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0  # global gradient norm


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How one model is trained."""

    steps: int = 300
    batch_size: int = 32  # rows of the global batch
    micro_batches: int = 1
    data_fraction: float = 1.0  # of the training rows
    optimizer: OptimizerConfig = OptimizerConfig()


Rules = tuple[tuple[str, tuple[str | None, ...]], ...]


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The teacher: a directory to load, or a model to train first."""

    path: str = ""  # a model directory of an earlier run; "": train one
    seed: int = 0
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    rules: Rules = ()  # sharding rules that go before the default ones


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The student, and its hard-label twin."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    rules: Rules = ()


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """`alpha * temperature**2 * divergence + (1 - alpha) * cross-entropy`."""

    kind: Literal["forward_kl", "reverse_kl", "total_variation"] = "forward_kl"
    alpha: float | ScheduleConfig = 1.0
    temperature: float | ScheduleConfig = 1.0


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Held-out evaluation."""

    every: int = 50  # steps
    rows: int = 512  # held-out rows used while training; the report uses all


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run in progress."""

    every: int = 100  # steps
    keep: int = 2  # latest checkpoints; the best by held-out loss is kept besides


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment."""

    seed: int = 0  # of the first student; the next ones count up
    seeds: int = 1  # how many students (and twins)
    baseline: bool = True  # train the hard-label twin as well
    cache_dir: str = ""  # rows, tokenizers, teachers; "": the user's cache directory
    log_every: int = 10  # steps
    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    mesh: MeshConfig = MeshConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()


def default() -> ml_collections.ConfigDict:
    """Returns the defaults as a locked `ConfigDict`, for a config file to change.

    It is not type-safe on purpose: `distill.alpha` may be a number or a schedule.
    `validate` checks every type, with a message that names the key.

    Example:
        >>> config = default()
        >>> config.distill.alpha = {"kind": "linear", "start": 1.0, "end": 0.5}
        >>> validate(config).distill.alpha.end
        0.5
    """
    config = ml_collections.ConfigDict(dataclasses.asdict(Config()), type_safe=False)
    return config.lock()


def validate(config: ml_collections.ConfigDict) -> Config:
    """Returns the config as frozen dataclasses, or raises one line saying what is off.

    Args:
        config: What a config file returned, with the command line's overrides.

    Raises:
        UsageError: An unknown key, a wrong type, or values that contradict each other.
    """
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
        (config.checkpoint.every, "checkpoint.every"),
        (config.checkpoint.keep, "checkpoint.keep"),
    ):
        _at_least(value, 1, f"config.{name}")
    _at_least(config.data.length, 2, "config.data.length")
    _between(
        config.data.validation_fraction, 0.0, 0.5, "config.data.validation_fraction"
    )
    _check_data(config)
    _check_distill(config.distill)
    _check_mesh(config.mesh)
    for name, part in (("teacher", config.teacher), ("student", config.student)):
        _check_train(part.train, config.mesh, f"config.{name}.train")
        if name == "student" or not config.teacher.path:
            check_model(part.model, config, f"config.{name}.model")


def _check_data(config: Config) -> None:
    data, tokenizer = config.data, config.tokenizer
    if data.source.partition(":")[0] not in SOURCES:
        raise UsageError(
            f"config.data.source must be one of {', '.join(SOURCES)} (as 'tfds:NAME'); "
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


def _check_train(train: TrainConfig, mesh: MeshConfig, path: str) -> None:
    _at_least(train.steps, 1, f"{path}.steps")
    _at_least(train.batch_size, 1, f"{path}.batch_size")
    _at_least(train.micro_batches, 1, f"{path}.micro_batches")
    if not 0 < train.data_fraction <= 1:
        raise UsageError(
            f"{path}.data_fraction must be in (0, 1]; it is {train.data_fraction:g}"
        )
    shards = max(mesh.data, 1) * max(mesh.fsdp, 1)
    check_batch(train, shards, path)
    optimizer = train.optimizer
    for name in ("learning_rate", "clip"):
        if not getattr(optimizer, name) > 0:
            raise UsageError(f"{path}.optimizer.{name} must be > 0")
    for name in ("warmup_fraction", "final_fraction"):
        _between(getattr(optimizer, name), 0.0, 1.0, f"{path}.optimizer.{name}")


def check_batch(train: TrainConfig, shards: int, path: str) -> None:
    """Raises unless the batch divides into micro-batches and those over the mesh."""
    if train.batch_size % (train.micro_batches * shards):
        raise UsageError(
            f"{path}.batch_size = {train.batch_size} is not divisible by "
            f"micro_batches * mesh.data * mesh.fsdp = {train.micro_batches} * {shards}"
        )


def check_model(model: ModelConfig, config: Config, path: str) -> None:
    """Raises unless the model can be built, cut along the mesh and fed the rows."""
    for name in ("layers", "width", "heads", "vocab_multiple"):
        _at_least(getattr(model, name), 1, f"{path}.{name}")
    if not model.head_width and model.width % model.heads:
        raise UsageError(
            f"{path}.width = {model.width} is not divisible by {path}.heads = "
            f"{model.heads}; change one or set head_width"
        )
    kv_heads = model.kv_heads or model.heads
    if kv_heads < 1 or model.heads % kv_heads:
        raise UsageError(
            f"{path}.heads = {model.heads} is not divisible by "
            f"{path}.kv_heads = {kv_heads}"
        )
    for name, heads in (("heads", model.heads), ("kv_heads", kv_heads)):
        if config.mesh.tensor > 0 and heads % config.mesh.tensor:
            raise UsageError(
                f"{path}.{name} = {heads} is not divisible by config.mesh.tensor = "
                f"{config.mesh.tensor}"
            )
    head_width = model.head_width or model.width // model.heads
    if model.positions == "rope" and int(head_width * model.rope_fraction) % 2:
        raise UsageError(
            f"{path}: head width {head_width} * rope_fraction {model.rope_fraction:g} "
            "must be even"
        )
    if model.positions == "learned" and config.data.length > model.max_length:
        raise UsageError(
            f"config.data.length = {config.data.length} exceeds the learned positions "
            f"{path}.max_length = {model.max_length}"
        )


def _at_least(value: int, least: int, path: str) -> None:
    if value < least:
        raise UsageError(f"{path} must be at least {least}; it is {value}")


def _between(value: float, low: float, high: float, path: str) -> None:
    if not low <= value <= high:
        raise UsageError(f"{path} must be in [{low:g}, {high:g}]; it is {value:g}")
