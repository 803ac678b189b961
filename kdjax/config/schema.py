"""The configuration: every key, its default, and what it means.

A config file starts from `default()`, changes some of its values, and returns the
`ConfigDict`. `validate` turns it into a `Config`; beyond the command lines only these
frozen dataclasses are passed around.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections

from kdjax.config.architecture import ModelConfig


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """A value that moves from `start` to `end` over a run's steps."""

    kind: Literal["linear", "cosine"] = "linear"
    start: float = 1.0  # before the first step
    end: float = 1.0  # after the last one


SOURCES = ("stdlib", "files", "tfds")  # the keys of `data.CORPORA`


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the text comes from, and how it becomes rows."""

    source: str = "stdlib"  # "stdlib", "files" or "tfds:<name>"
    # For "files": a directory, or a glob of .txt, .md, .jsonl, .json, .parquet files.
    pattern: str = ""
    # For "files": what a document of .txt and .md is, a file or a paragraph of it.
    documents: Literal["file", "blank_lines"] = "file"
    # The field, column or feature that holds the text; "a.b" is field b of field a.
    text_field: str = "text"
    # What becomes of files, lines, rows and examples that hold no readable text.
    unreadable: Literal["refuse", "skip"] = "refuse"
    allow_download: bool = False  # for "tfds:<name>": download if not prepared
    validation_fraction: float = 0.05  # of the files; if few, of what they hold
    # For a split "test": kdjax chooses nothing by it, and the verdict is on it.
    test_fraction: float = 0.0  # 0: there is none
    length: int = 128  # tokens in a row
    # A token such as </s>, spelled in a text: the ids of its letters, or that token.
    special_tokens: Literal["text", "parse"] = "text"


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes ids."""

    kind: Literal["bpe", "bytes", "file"] = "bpe"
    vocab_size: int = 1024  # for "bpe": number of ids, end of text included
    path: str = ""  # for "file": a Hugging Face tokenizer.json, or a .gguf file
    end_of_text: str = "<|endoftext|>"  # the token that ends a document
    # For "file": whether texts begin with the BOS token; "auto": as the files say,
    # unless they contradict each other.
    bos: Literal["auto", "always", "never"] = "auto"
    # The share of a split's bytes, white space apart, that may have no id or an unknown
    # token's. bits/byte, which is per byte of the text, is too low by about as much.
    lost_fraction: float = 0.001


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one of them may be -1, "all remaining devices"."""

    data: int = -1  # rows of the batch
    fsdp: int = 1  # rows of the batch, and the parameters that are stored
    tensor: int = 1  # heads, FFN channels and ids of the vocabulary


# The keys of `train.OPTIMIZERS`, and the parameters below that each of them takes.
OPTIMIZER_PARAMETERS = {
    "adamw": ("beta1", "beta2", "epsilon", "mu_dtype"),
    "lion": ("beta1", "beta2", "mu_dtype"),
    "adafactor": ("beta2_decay",),
    "muon": ("beta1", "beta2", "epsilon", "momentum", "nesterov", "mu_dtype"),
    "sgd": ("momentum", "nesterov", "mu_dtype"),
}


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optax optimiser with warm-up, decay and clipping by global norm."""

    name: str = "adamw"  # a name in `OPTIMIZER_PARAMETERS`
    learning_rate: float = 3e-3  # the peak
    warmup_fraction: float = 0.1  # of the steps
    warmup_steps: int = -1  # in place of the fraction; -1: not used
    # "wsd" (warm-up, stable, decay) stays at the peak until the decay begins.
    decay: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    decay_fraction: float = 0.2  # wsd: of the steps, at the end
    final_fraction: float = 0.1  # of the peak, at the end of the decay
    weight_decay: float = 0.1  # on matrices only, times the learning rate
    beta1: float = 0.9  # adamw, lion, muon (of what its Adam trains)
    beta2: float = 0.98  # the same
    epsilon: float = 1e-8  # adamw, muon
    beta2_decay: float = 0.8  # adafactor: beta2 is 1 - step**-beta2_decay
    momentum: float = 0.95  # sgd, muon; 0: none
    nesterov: bool = True  # sgd, muon
    # adamw, lion, muon, sgd: of the first moment. Adam's second one stays in float32.
    mu_dtype: Literal["float32", "bfloat16"] = "float32"
    clip: float = 1.0  # global gradient norm


@dataclasses.dataclass(frozen=True)
class SpikeGuardConfig:
    """Rewinds a run whose loss jumps, as PaLM's was (arXiv 2204.02311, section 5.1).

    Each run is guarded by itself: see docs/resuming.md for student and twin.
    """

    # A jump is so many standard deviations, of the window and robust against outliers,
    # above its median; try 30. 0: no guard.
    deviations: float = 0.0
    window: int = 128  # steps whose losses are compared with
    rewind: int = 100  # from a planned checkpoint at least so many steps before it
    skip: int = 200  # batches left out from there, and all that led to the jump
    times: int = 3  # how often; at the next jump the run ends


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How one model is trained."""

    steps: int = 300  # updates; a student's may be raised later, see README
    batch_size: int = 32  # rows of the global batch
    micro_batches: int = 1  # parts of the batch processed in turn, to save memory
    # In place of them: the most rows that a device processes at a time, from which they
    # follow, whatever the mesh; 0: not used.
    rows_per_device: int = 0
    # Tokens whose logits a device holds at a time. 0: so few that they hardly add to
    # its memory use, on an accelerator about 1,024 if they take no more than half a
    # GiB; where memory allows, more are faster.
    chunk_size: int = 0
    data_fraction: float = 1.0  # of the training rows
    optimizer: OptimizerConfig = OptimizerConfig()
    spike_guard: SpikeGuardConfig = SpikeGuardConfig()


Rules = tuple[tuple[str, tuple[str | None, ...]], ...]


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The teacher: a directory to load, or a model to train first."""

    # An earlier run or one of its models, a directory in the Hugging Face format, a
    # .gguf file, or ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub; "": train
    # one.
    path: str = ""
    # For a loaded teacher, of parameters and computation; "": as it is stored on CPUs,
    # "bfloat16" on accelerators.
    dtype: Literal["", "stored", "float32", "bfloat16"] = ""
    seed: int = 0
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    rules: Rules = ()  # sharding rules tried before the default ones
    weight: float = 1.0  # its weight among several teachers


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The student and its hard-label twin: a new, a loaded or a pruned model.

    Layers, width and heads of 0 are the teacher's. A student pruned from the teacher
    also takes from it everything else that is left at its default. With several
    teachers, this is the first by name.
    """

    # A model to start from, as for the teacher; "": build `model`.
    path: str = ""
    # Random, or these of the teacher's layers; see `pruning.prune.choose`.
    init: Literal["random", "every_kth", "first_last", "importance"] = "random"
    # Or exactly these of the teacher's layers, in the order of the student's layers.
    layer_map: tuple[int, ...] = ()
    # Training rows on which the importance of the teacher's parts is measured.
    calibration_rows: int = 128
    model: ModelConfig = ModelConfig(layers=0, width=0, heads=0)
    train: TrainConfig = TrainConfig()
    rules: Rules = ()

    @property
    def is_pruned(self) -> bool:
        """Whether it starts from the teacher's parameters."""
        return self.init != "random" or bool(self.layer_map)


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """`alpha * temperature**2 * divergence + (1 - alpha) * cross-entropy`.

    The keys after `temperature` are parameters of some divergences only.
    """

    kind: str = "forward_kl"  # a name in `losses.DIVERGENCES`
    alpha: float | ScheduleConfig = 1.0  # the weight of the soft loss
    temperature: float | ScheduleConfig = 1.0  # of both distributions
    beta: float = 0.5  # jsd
    skew: float = 0.1  # skew_forward_kl, skew_reverse_kl
    a: float = 1.0  # alpha_beta, decoupled_kd
    b: float = 1.0  # alpha_beta, decoupled_kd
    mu: float = 0.5  # adaptive_kl
    t: float | ScheduleConfig = ScheduleConfig(start=0.0, end=1.0)  # taid


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Held-out evaluation."""

    every: int = 50  # steps between evaluations; every checkpoint evaluates as well
    rows: int = 512  # held-out rows used during training
    final_rows: int = 0  # rows of each split, evenly spaced, for the report; 0: all
    batch_size: int = 32  # rows of the global batch
    # Files of multiple-choice or exact-match items (.jsonl), each a task that is
    # measured at every evaluation; docs/evaluate.md.
    tasks: tuple[str, ...] = ()
    # Your own metrics of a token as "package.module:function", measured like the loss.
    metrics: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run in progress."""

    every: int = 100  # steps between checkpoints
    minutes: float = 0.0  # a checkpoint at least so often as well; 0: by steps alone
    keep: int = 2  # latest checkpoints; the best by held-out loss is kept as well


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment."""

    seed: int = 0  # of the first student; later ones count up from it
    seeds: int = 1  # how many students (and twins)
    # Train the hard-label twin as well; "both": and one that, in place of the teacher's
    # forward passes, takes more steps, as many as the student's FLOPs allow.
    baseline: Literal[True, False, "both"] = True
    # With several teachers: also train a student of each one alone.
    member_students: bool = False
    cache_dir: str = ""  # rows, tokenizers, teachers; "": the user's cache directory
    # Where compiled programs are kept for later runs; "auto": in the cache directory;
    # "": nowhere.
    compile_cache: str = "auto"
    log_every: int = 10  # steps between records of the metrics
    # Steps of each run that `jax.profiler` traces, as "10:15"; docs/performance.md.
    profile: str = ""
    # A Weights & Biases project, PROJECT or ORG/PROJECT, that gets the metrics as well.
    wandb: str = ""
    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    mesh: MeshConfig = MeshConfig()
    teacher: TeacherConfig = TeacherConfig()
    # Several teachers by name, whose probabilities are averaged, in place of `teacher`.
    # Empty: `teacher` alone.
    teachers: Mapping[str, TeacherConfig] = dataclasses.field(default_factory=dict)
    student: StudentConfig = StudentConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def all_teachers(self) -> Mapping[str, TeacherConfig]:
        """The teachers by name, whether one or several."""
        return self.teachers or {"teacher": self.teacher}

    def teacher_path(self, name: str) -> str:
        """Returns a teacher's path in the config, for messages."""
        return f"config.teachers.{name}" if self.teachers else "config.teacher"


AnyConfig = Config | ml_collections.ConfigDict


def teacher() -> ml_collections.ConfigDict:
    """Returns the defaults of one of several teachers, for `config.teachers`.

    Example:
        >>> config = default()
        >>> config.teachers = {"wide": teacher(), "deep": teacher()}
        >>> config.teachers.deep.model.layers = 8
    """
    return _keys(dataclasses.asdict(TeacherConfig()), type_safe=True)


def default() -> ml_collections.ConfigDict:
    """Returns the defaults as a locked `ConfigDict`, for a config file to change.

    It is deliberately not type-safe: `distill.alpha` may be a number or a schedule.
    `validate` checks every type, with a message that names the key.
    """
    return _keys(dataclasses.asdict(Config()), type_safe=False).lock()


class _Keys(ml_collections.ConfigDict):
    """Keys that do not silently make a number of a truth value."""

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, bool) and isinstance(self.get(key), float):
            raise TypeError(f"{key} must be a number; it is {value}")
        super().__setitem__(key, value)


def _keys(values: Mapping[str, Any], *, type_safe: bool) -> _Keys:
    nested = {
        key: _keys(value, type_safe=type_safe) if isinstance(value, dict) else value
        for key, value in values.items()
    }
    return _Keys(nested, type_safe=type_safe)
