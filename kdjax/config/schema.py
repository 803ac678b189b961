"""The configuration: every key, its default, and what it means.

A config file starts from `default()`, changes some of its values, and returns the
`ConfigDict`. `validate` turns it into a `Config`; beyond the command lines only these
frozen dataclasses are passed around.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import ml_collections


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


@dataclasses.dataclass(frozen=True)
class RopeScalingConfig:
    """How rotations are slowed for texts longer than those of the first training."""

    kind: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0  # linear: scales every wavelength; llama3: the long ones
    low_factor: float = 1.0  # llama3: waves longer than original / this are "long"
    high_factor: float = 4.0  # llama3: waves shorter than original / this are kept
    original_length: int = 8192  # llama3: length of the first training


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer; model families are points in this space."""

    layers: int = 2  # blocks
    width: int = 96  # of the residual stream
    heads: int = 4  # of the queries
    kv_heads: int = 0  # 0: as many as heads
    head_width: int = 0  # 0: width / heads
    ffn_width: int = 0  # 0: 4 * width
    vocab_size: int = 0  # 0: the tokenizer's
    vocab_multiple: int = 64  # the embedding table is padded to a multiple of this
    tie_embeddings: bool = True  # the head is the table of embeddings
    positions: Literal["rope", "learned"] = "rope"  # "learned": a table, as GPT-2 has
    # Learned positions: how many there are. RoPE: how many an exported model declares,
    # and where `generate` stops; 0: it declares 2048 and `generate` has no limit.
    max_length: int = 0
    rope_theta: float = 10_000.0  # the base of the wavelengths
    rope_fraction: float = 1.0  # the share of a head's width to rotate (NeoX: 0.25)
    rope_scaling: RopeScalingConfig = RopeScalingConfig()
    # For layers with a window, without scaling (Gemma 3); 0: the same as other layers.
    local_rope_theta: float = 0.0
    # How many positions a layer attends to, its own included; 0: all up to the start.
    # One per layer, repeated cyclically: (4096,) is Mistral, (4096, 0) is Gemma 2.
    windows: tuple[int, ...] = (0,)
    query_scalar: float = 0.0  # scores are divided by its square root; 0: head width
    attention_softcap: float = 0.0  # c in c * tanh(score / c) (Gemma 2); 0: no cap
    logit_softcap: float = 0.0  # the same for the head's logits
    scale_embeddings: bool = False  # token embeddings times sqrt(width) (Gemma)
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"  # before attention and MLP
    norm_epsilon: float = 1e-5  # added to the variance
    norm_offset: bool = False  # RMSNorm multiplies by 1 + scale (Gemma)
    sandwich_norm: bool = False  # also normalise attention and MLP outputs (Gemma)
    qk_norm: bool = False  # normalise queries and keys per head (Qwen3)
    parallel_residual: bool = False  # attention and MLP read the same input (NeoX)
    mlp: Literal["gated", "plain"] = "gated"  # gated: activation(gate(x)) * up(x)
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "silu"
    qkv_bias: bool = False  # of the projections to queries, keys and values
    out_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False  # of all projections of the MLP
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation
    remat: Literal["none", "block", "dots"] = "none"  # what backward recomputes
    # The kernel of the attention; "auto" chooses by platform and shape.
    attention: Literal["auto", "xla", "cudnn"] = "auto"

    @property
    def key_value_heads(self) -> int:
        """`kv_heads`, or its default."""
        return self.kv_heads or self.heads

    @property
    def width_of_head(self) -> int:
        """`head_width`, or its default."""
        return self.head_width or self.width // self.heads

    @property
    def width_of_ffn(self) -> int:
        """`ffn_width`, or its default."""
        return self.ffn_width or 4 * self.width

    @property
    def layer_windows(self) -> tuple[int, ...]:
        """The window of each layer."""
        times = -(-self.layers // len(self.windows))
        return (self.windows * times)[: self.layers]


# The keys of `train.OPTIMIZERS`, and the parameters below that each of them takes.
OPTIMIZER_PARAMETERS = {
    "adamw": ("beta1", "beta2", "epsilon"),
    "lion": ("beta1", "beta2"),
    "adafactor": ("beta2_decay",),
    "muon": ("beta1", "beta2", "epsilon", "momentum", "nesterov"),
    "sgd": ("momentum", "nesterov"),
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
    clip: float = 1.0  # global gradient norm


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How one model is trained."""

    steps: int = 300  # updates; may be raised later, see README
    batch_size: int = 32  # rows of the global batch
    micro_batches: int = 1  # parts of the batch processed in turn, to save memory
    # Tokens whose logits a device holds at a time. 0: so few that they hardly add to
    # its memory use; where memory allows, more are faster.
    chunk_size: int = 0
    data_fraction: float = 1.0  # of the training rows
    optimizer: OptimizerConfig = OptimizerConfig()


Rules = tuple[tuple[str, tuple[str | None, ...]], ...]


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The teacher: a directory to load, or a model to train first."""

    # An earlier run or one of its models, a directory in the Hugging Face format, a
    # .gguf file, or ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub; "": train
    # one.
    path: str = ""
    # For a loaded teacher, of parameters and computation; "": as it is stored.
    dtype: Literal["", "float32", "bfloat16"] = ""
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

    every: int = 50  # steps
    rows: int = 512  # held-out rows used during training
    final_rows: int = 0  # rows of each split, evenly spaced, for the report; 0: all
    batch_size: int = 32  # rows of the global batch


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run in progress."""

    every: int = 100  # steps
    keep: int = 2  # latest checkpoints; the best by held-out loss is kept as well


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment."""

    seed: int = 0  # of the first student; later ones count up from it
    seeds: int = 1  # how many students (and twins)
    baseline: bool = True  # train the hard-label twin as well
    # With several teachers: also train a student of each one alone.
    member_students: bool = False
    cache_dir: str = ""  # rows, tokenizers, teachers; "": the user's cache directory
    # Where compiled programs are kept for later runs; "auto": in the cache directory;
    # "": nowhere.
    compile_cache: str = "auto"
    log_every: int = 10  # steps
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
    return ml_collections.ConfigDict(dataclasses.asdict(TeacherConfig()))


def default() -> ml_collections.ConfigDict:
    """Returns the defaults as a locked `ConfigDict`, for a config file to change.

    It is deliberately not type-safe: `distill.alpha` may be a number or a schedule.
    `validate` checks every type, with a message that names the key.
    """
    config = ml_collections.ConfigDict(dataclasses.asdict(Config()), type_safe=False)
    return config.lock()
