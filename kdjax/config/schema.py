"""The configuration: every key, its default, and what it means.

A config file starts from `default()`, changes what it wants, and returns the
`ConfigDict`. `validate` turns that into a `Config`; below the command lines
only these frozen dataclasses travel.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import ml_collections


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
    validation_fraction: float = 0.05  # of the files (if there are few: of their parts)
    length: int = 128  # tokens in a row


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes ids."""

    kind: Literal["bpe", "bytes", "file"] = "bpe"
    vocab_size: int = 1024  # for "bpe": ids, the end-of-text id included
    path: str = ""  # for "file": a Hugging Face tokenizer.json, or a .gguf file
    end_of_text: str = "<|endoftext|>"  # the token that ends a document


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one of them may be -1, "all that are left"."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class RopeScalingConfig:
    """How rotations are slowed for texts longer than a model was first trained on."""

    kind: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0  # linear: of every wavelength; llama3: of the long ones
    low_factor: float = 1.0  # llama3: waves longer than original / this are "long"
    high_factor: float = 4.0  # llama3: waves shorter than original / this stay
    original_length: int = 8192  # llama3: positions of the first training


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
    # Learned positions: how many there are. Rotated ones: how many an exported model
    # declares and `generate` goes up to; 0: 2048 and no end.
    max_length: int = 0
    rope_theta: float = 10_000.0
    rope_fraction: float = 1.0  # of each head's width that is rotated (NeoX: 0.25)
    rope_scaling: RopeScalingConfig = RopeScalingConfig()
    # Of the layers with a window, without scaling (Gemma 3); 0: rotate as the others.
    local_rope_theta: float = 0.0
    # How far layers look back, themselves included; 0: to the start. One number a
    # layer, repeated from the first on: (4096,) is Mistral, (4096, 0) is Gemma 2.
    windows: tuple[int, ...] = (0,)
    query_scalar: float = 0.0  # scores are divided by its root; 0: the head's width
    attention_softcap: float = 0.0  # c in c * tanh(score / c) (Gemma 2); 0: no cap
    logit_softcap: float = 0.0  # the same for the head's logits
    scale_embeddings: bool = False  # token embeddings times sqrt(width) (Gemma)
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: float = 1e-5
    norm_offset: bool = False  # RMSNorm multiplies by 1 + scale (Gemma)
    sandwich_norm: bool = False  # normalise what attention and MLP write too (Gemma)
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

    @property
    def key_value_heads(self) -> int:
        """`kv_heads`, or what it defaults to."""
        return self.kv_heads or self.heads

    @property
    def width_of_head(self) -> int:
        """`head_width`, or what it defaults to."""
        return self.head_width or self.width // self.heads

    @property
    def width_of_ffn(self) -> int:
        """`ffn_width`, or what it defaults to."""
        return self.ffn_width or 4 * self.width

    @property
    def layer_windows(self) -> tuple[int, ...]:
        """The window of each layer."""
        times = -(-self.layers // len(self.windows))
        return (self.windows * times)[: self.layers]


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
    # Tokens whose logits a device holds at a time. 0: so few that they hardly show in
    # its memory; where there is room, more of them are faster.
    chunk_size: int = 0
    data_fraction: float = 1.0  # of the training rows
    optimizer: OptimizerConfig = OptimizerConfig()


Rules = tuple[tuple[str, tuple[str | None, ...]], ...]


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The teacher: a directory to load, or a model to train first."""

    # An earlier run or a model of it, a directory in the Hugging Face format, or a
    # .gguf file; "": train one.
    path: str = ""
    # Of the parameters and the computation of one that is loaded; "": as it is stored.
    dtype: Literal["", "float32", "bfloat16"] = ""
    seed: int = 0
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    rules: Rules = ()  # sharding rules that go before the default ones
    weight: float = 1.0  # what it counts beside other teachers


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The student, and its hard-label twin: a new model, one found, or one cut out.

    Layers, width and heads of 0 are the teacher's. In a model that is cut out of the
    teacher, that goes for everything else that is left at its default, too. Of several
    teachers the first by name is meant.
    """

    # A model directory to start from, as for the teacher; "": build `model`.
    path: str = ""
    # Random numbers, or these of the teacher's layers; see `pruning.prune.choose`.
    init: Literal["random", "every_kth", "first_last", "importance"] = "random"
    # Or exactly these of the teacher's layers: the first of them for the student's
    # first layer, and so on.
    layer_map: tuple[int, ...] = ()
    # Training rows on which it is measured what matters in the teacher.
    calibration_rows: int = 128
    model: ModelConfig = ModelConfig(layers=0, width=0, heads=0)
    train: TrainConfig = TrainConfig()
    rules: Rules = ()

    @property
    def is_pruned(self) -> bool:
        """Whether its first parameters are the teacher's."""
        return self.init != "random" or bool(self.layer_map)


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """`alpha * temperature**2 * divergence + (1 - alpha) * cross-entropy`."""

    kind: str = "forward_kl"  # a name in `losses.DIVERGENCES`
    alpha: float | ScheduleConfig = 1.0
    temperature: float | ScheduleConfig = 1.0
    # What only some divergences take; the table says what it means.
    beta: float = 0.5  # jsd
    skew: float = 0.1  # skew_forward_kl, skew_reverse_kl
    a: float = 1.0  # alpha_beta, decoupled_kd
    b: float = 1.0  # alpha_beta, decoupled_kd
    mu: float = 0.5  # adaptive_kl
    t: float | ScheduleConfig = ScheduleConfig(start=0.0, end=1.0)  # taid


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Held-out evaluation."""

    every: int = 50  # steps
    rows: int = 512  # held-out rows used while training
    final_rows: int = 0  # spread over each split, for the report; 0: all
    batch_size: int = 32  # rows of the global batch


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
    # Of several teachers: also train a student of each of them alone.
    member_students: bool = False
    cache_dir: str = ""  # rows, tokenizers, teachers; "": the user's cache directory
    # Where compiled programs are kept for later runs; "auto": in the cache directory,
    # "": nowhere.
    compile_cache: str = "auto"
    log_every: int = 10  # steps
    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    mesh: MeshConfig = MeshConfig()
    teacher: TeacherConfig = TeacherConfig()
    # Several teachers by name, whose probabilities are averaged; they take the place of
    # `teacher`. Empty: that one alone.
    teachers: Mapping[str, TeacherConfig] = dataclasses.field(default_factory=dict)
    student: StudentConfig = StudentConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def all_teachers(self) -> Mapping[str, TeacherConfig]:
        """The teachers by name, be it one or several."""
        return self.teachers or {"teacher": self.teacher}

    def teacher_path(self, name: str) -> str:
        """Returns where a teacher stands in the config, for messages."""
        return f"config.teachers.{name}" if self.teachers else "config.teacher"


def teacher() -> ml_collections.ConfigDict:
    """Returns the defaults of one of several teachers, for `config.teachers`.

    Example:
        >>> config = default()
        >>> config.teachers = {"wide": teacher(), "deep": teacher()}
        >>> config.teachers.deep.model.layers = 8
    """
    return ml_collections.ConfigDict(dataclasses.asdict(TeacherConfig()))


def default() -> ml_collections.ConfigDict:
    """Returns the defaults as a locked `ConfigDict`, for a config file to change.

    It is not type-safe on purpose: `distill.alpha` may be a number or a schedule.
    `validate` checks every type, with a message that names the key.
    """
    config = ml_collections.ConfigDict(dataclasses.asdict(Config()), type_safe=False)
    return config.lock()
