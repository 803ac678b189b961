"""What an experiment measured, as `report.json` stores it and the report shows it.

A role says what a run is for and names a column of the report: "teacher" is what the
students learn from, a single model or an ensemble of several; "teacher NAME" is one
member of an ensemble; "start" is a student before any training; "student" and "twin"
are the models compared; "equal-compute twin" is trained for as many more steps as the
student's FLOPs allow; "student of NAME" is a student of that member alone.
"""

import dataclasses
from collections.abc import Sequence

from kdjax.config.architecture import ModelConfig
from kdjax.config.schema import Config
from kdjax.results.data import DataInfo, headline
from kdjax.results.samples import Continuation, Passage

EQUAL_COMPUTE = "equal-compute twin"  # the role whose steps no key of the config says


@dataclasses.dataclass(frozen=True)
class CalibrationBin:
    """Tokens of similar confidence: how sure the model was, and how often right.

    Attributes:
        confidence: The mean probability of the top-1 prediction, in [0, 1].
        accuracy: The share of top-1 predictions that were right, in [0, 1].
        count: The number of tokens.
    """

    confidence: float
    accuracy: float
    count: int


@dataclasses.dataclass(frozen=True)
class EntropyBucket:
    """Tokens about which the teacher is similarly unsure, in nats and means over them.

    Attributes:
        low: The least entropy of the teacher's distribution in this bucket.
        high: Where the next bucket begins; None for the last one.
        entropy: The entropy.
        forward_kl: KL(p||q).
        agreement: The share whose top-1 prediction is the teacher's.
        count: The number of tokens.
    """

    low: float
    high: float | None
    entropy: float
    forward_kl: float
    agreement: float
    count: int


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """All metrics of one model on one held-out split; p is the teacher, q the model.

    Attributes:
        cross_entropy: In nats/token.
        bits_per_byte: The same, per UTF-8 byte of the text.
        forward_kl: KL(p||q) in nats/token.
        reverse_kl: KL(q||p) in nats/token.
        agreement: The share of tokens whose top-1 prediction is the teacher's.
        acceptance: The share of drafted tokens that speculative decoding would keep.
        calibration_error: The expected calibration error, in [0, 1].
        calibration: The bins behind it, by confidence; empty ones are left out.
        own: The user's own metrics, means over the tokens, by name.
        by_entropy: KL(p||q) by the teacher's entropy; empty buckets are left out, and
            results of older versions have none.
    """

    cross_entropy: float
    bits_per_byte: float
    forward_kl: float
    reverse_kl: float
    agreement: float
    acceptance: float
    calibration_error: float
    calibration: tuple[CalibrationBin, ...]
    own: dict[str, float] = dataclasses.field(default_factory=dict)
    by_entropy: tuple[EntropyBucket, ...] = ()


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """A held-out evaluation during training.

    Attributes:
        step: How many steps had been taken.
        cross_entropy: In nats/token.
        bits_per_byte: The same, per UTF-8 byte of the text.
        others: The user's own metrics by name, and those of tasks as "TASK/METRIC".
    """

    step: int
    cross_entropy: float
    bits_per_byte: float
    others: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run was meant to be, which all its schedules depend on.

    Attributes:
        start: The step after which the plan applied.
        steps: The number of steps of the whole run.
    """

    start: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Training:
    """How training went; speeds are medians over the whole run.

    Attributes:
        tokens_per_second: Over all devices; None if training was too short.
        mfu: Model FLOP/s as a share of the devices' peak; None where that is unknown.
        skipped_steps: Steps not applied because loss or gradients were not finite.
        plans: Several if the steps were raised; empty in older results.
        flops: Of all steps, teachers in the step included; None in older results.
        devices: On how many it was finished; None in older results.
        cpu_seconds: What all steps took of the CPU, all threads together, where a CPU
            is the device of a single process; else None, as in older results.
        rows_left_out: Because the loss jumped where they were read.
    """

    tokens_per_second: float | None
    mfu: float | None
    skipped_steps: int
    plans: tuple[Plan, ...] = ()
    flops: float | None = None
    devices: int | None = None
    cpu_seconds: float | None = None
    rows_left_out: int = 0


@dataclasses.dataclass(frozen=True)
class Run:
    """One model of the experiment: how it was trained and how good it is.

    Attributes:
        role: What the run is for; see the module docstring.
        seed: The seed of its initialisation and of the order of its data.
        model: The entry of `Results.models` with its size and speed.
        final: Its metrics on every held-out split, by the split's name.
        curve: Held-out loss by step; empty for models not trained here.
        training: How training went; None for models not trained here.
        origin: In words, what the model was initialised from; "" if at random.
        teachers: The entries of `Results.teachers` that it learned from.
        tasks: The metrics of `config.evaluate.tasks`, by task and name; that of a mean
            with its standard error as "NAME_stderr".
        passage: What it predicts in a held-out text; None: not measured.
        continuations: How it continues held-out texts; empty: not measured.
    """

    role: str
    seed: int
    model: str
    final: dict[str, HeldOut]
    curve: tuple[CurvePoint, ...] = ()
    training: Training | None = None
    origin: str = ""
    teachers: tuple[str, ...] = ()
    tasks: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    passage: Passage | None = None
    continuations: tuple[Continuation, ...] = ()

    @property
    def name(self) -> str:
        """The name of the run and its directory, such as "student-of-wide-0"."""
        return run_name(self.role, self.seed)

    @property
    def steps(self) -> int:
        """How many steps the model was trained for; 0 if it was not trained here."""
        return trained_steps(self.curve)


@dataclasses.dataclass(frozen=True)
class Environment:
    """Where the experiment finished."""

    python: str
    jax: str
    platform: str
    device: str  # the kind of all `devices`
    devices: int
    processes: int


@dataclasses.dataclass(frozen=True)
class TeacherInfo:
    """Where a teacher comes from."""

    path: str
    sha256: str  # of its parameters
    from_config: bool  # whether it was trained from this config, here or earlier
    formats: tuple[str, ...] = ()  # of the weights if loaded, most common first
    hub: str = ""  # ORG/NAME@COMMIT if it is from the Hugging Face hub


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """A model's size, padding included, and its inference speed without a cache.

    Attributes:
        parameters: How many; of an ensemble, those of all members.
        forward_tokens_per_second: The speed of forward passes.
        architecture: Its config with nothing left to fill in; None for ensembles and
            results of older versions.
        forward_flops: FLOPs per token; None for results of older versions.
    """

    parameters: int
    forward_tokens_per_second: float
    architecture: ModelConfig | None = None
    forward_flops: float | None = None


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything known about a finished experiment.

    Attributes:
        created: The time, in ISO 8601.
        workdir: The experiment's directory.
        config: The experiment's config.
        environment: Machine and software.
        data: The text and the rows.
        teachers: By name; a single one is called "teacher".
        models: By name, as in `Run.model`.
        runs: All models that were measured, in the order of the report's columns.
        cpu_seconds: Those of the first process since it was last started, by what
            they went into, largest first; empty for reports of older versions.
    """

    created: str
    workdir: str
    config: Config
    environment: Environment
    data: DataInfo
    teachers: dict[str, TeacherInfo]
    models: dict[str, ModelInfo]
    runs: tuple[Run, ...]
    cpu_seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The split that decides the verdict."""
        return headline(self.data.splits)


def trained_steps(curve: Sequence[CurvePoint]) -> int:
    """Returns how many steps a finished run took: its last step is evaluated."""
    return curve[-1].step if curve else 0


def run_name(role: str, seed: int) -> str:
    """Returns the name of a run and its directory."""
    return f"{role.replace(' ', '-')}-{seed}"


def teacher_role(name: str) -> str:
    """Returns a teacher's role, which is also its key in `Results.models`."""
    return name if name == "teacher" else f"teacher {name}"
