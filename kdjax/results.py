"""What an experiment measured, as `report.json` keeps it and the report shows it.

A role is what a run is for, in words, and names a column of the report: "teacher" is
what the students learn from, a single model or an ensemble of several, "teacher NAME"
one member of an ensemble, "start" what a student was before any training, "student"
and "twin" the models compared, "student of NAME" a student of one member alone.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from kdjax.config import Config
from kdjax.errors import UsageError
from kdjax.parsing import at_least, convert, from_mapping

VALIDATION = "validation"  # the split that the verdict is about


@dataclasses.dataclass(frozen=True)
class CalibrationBin:
    """Tokens of similar confidence: how sure the model was, and how often right.

    Attributes:
        confidence: The mean probability of the top-1 prediction, in [0, 1].
        accuracy: The share of top-1 predictions that were right, in [0, 1].
        count: Of the tokens.
    """

    confidence: float
    accuracy: float
    count: int


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """All metrics of one model on one held-out split; p is the teacher, q the model.

    Attributes:
        cross_entropy: In nats/token.
        bits_per_byte: The same, of the text's UTF-8 bytes.
        forward_kl: KL(p||q) in nats/token.
        reverse_kl: KL(q||p) in nats/token.
        agreement: The share of tokens whose top-1 prediction is the teacher's.
        acceptance: The share of drafted tokens that speculative decoding would keep.
        calibration_error: The expected one, in [0, 1].
        calibration: What that was made from, by confidence; empty bins left out.
    """

    cross_entropy: float
    bits_per_byte: float
    forward_kl: float
    reverse_kl: float
    agreement: float
    acceptance: float
    calibration_error: float
    calibration: tuple[CalibrationBin, ...]


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """The held-out loss after some training steps: in nats/token and in bits/byte."""

    step: int
    cross_entropy: float
    bits_per_byte: float


@dataclasses.dataclass(frozen=True)
class Training:
    """How a training went; the speeds are medians over all of it.

    Attributes:
        tokens_per_second: Of all devices together; None if it was too short to tell.
        mfu: The share of the devices' peak arithmetic; None where that is not known.
        skipped_steps: Steps without an update, as loss or gradients were not finite.
    """

    tokens_per_second: float | None
    mfu: float | None
    skipped_steps: int


@dataclasses.dataclass(frozen=True)
class Run:
    """One model of the experiment: how it was trained and how good it is.

    Attributes:
        role: What it is for; see above.
        seed: Of its initialisation and of the order of its data.
        model: The entry of `Results.models` that tells its size and speed.
        final: Its metrics on every held-out split, by the split's name.
        curve: By step; empty for what was not trained here.
        training: None for what was not trained here.
        origin: Where a model that did not begin at random is from, in words.
        teachers: The entries of `Results.teachers` that it learnt from.
    """

    role: str
    seed: int
    model: str
    final: dict[str, HeldOut]
    curve: tuple[CurvePoint, ...] = ()
    training: Training | None = None
    origin: str = ""
    teachers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Environment:
    """Where the experiment was finished."""

    python: str
    jax: str
    platform: str
    device: str  # of `devices` equal ones
    devices: int
    processes: int


@dataclasses.dataclass(frozen=True)
class TokenizerInfo:
    """What made ids of the text, and the ids that it begins each text with."""

    kind: str
    vocab_size: int
    sha256: str
    prefix: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """The size of a split's text and of the rows made of it."""

    documents: int
    bytes: int
    tokens: int
    rows: int
    sha256: str  # of the text
    largest_id: int = 0


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """The text, and how it became rows of `length` tokens."""

    source: str
    length: int
    python: str  # whose library the source "stdlib" is
    skipped_files: int
    tokenizer: TokenizerInfo
    splits: dict[str, SplitInfo]


@dataclasses.dataclass(frozen=True)
class TeacherInfo:
    """Where a teacher is from."""

    path: str
    sha256: str  # of its parameters
    from_config: bool  # whether it was trained from this config, here or earlier
    formats: tuple[str, ...] = ()  # of a loaded one's weights, what most have first


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """The size of a model, padding included, and the speed of inference, uncached."""

    parameters: int
    forward_tokens_per_second: float


@dataclasses.dataclass(frozen=True)
class Results:
    """All that is known of a finished experiment.

    Attributes:
        created: When, in ISO 8601.
        workdir: Where.
        config: What was to be done.
        environment: On what.
        data: With which text.
        teachers: By name; a single one is called "teacher".
        models: By what `Run.model` says.
        runs: All models that were measured, in the order of the report's columns.
    """

    created: str
    workdir: str
    config: Config
    environment: Environment
    data: DataInfo
    teachers: dict[str, TeacherInfo]
    models: dict[str, ModelInfo]
    runs: tuple[Run, ...]


def teacher_role(name: str) -> str:
    """Returns the role, and the entry of `Results.models`, of a teacher by its name."""
    return name if name == "teacher" else f"teacher {name}"


def to_json(results: Results) -> dict[str, Any]:
    """Returns what `from_json` takes, and `json.dumps` writes."""
    return dataclasses.asdict(results)


def from_json(values: Any, path: str) -> Results:
    """Returns the results that a parsed report.json holds, of whatever age.

    Args:
        values: The content; its "summary", which follows from the rest, is not read.
        path: What to call it in error messages.

    Raises:
        UsageError: It holds something else, or contradicts itself.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{path} must hold an object, as a report.json does")
    values = {key: value for key, value in values.items() if key != "summary"}
    if "teacher" in values and "teachers" not in values:  # there was only ever one
        values["teachers"] = {"teacher": values.pop("teacher")}
    if isinstance(values.get("runs"), list):
        values["runs"] = [_with_model(run) for run in values["runs"]]
    results: Results = from_mapping(Results, values, path)
    _check(results, path)
    return results


def read(path: epath.Path) -> Results:
    """Returns the results in a report.json.

    Raises:
        UsageError: There is none, or it is damaged.
    """
    return from_json(_load(path), str(path))


def read_run(path: epath.Path) -> Run:
    """Returns the run in a result.json, which is refused in the same way."""
    run: Run = convert(_with_model(_load(path)), Run, str(path))
    return run


def _load(path: epath.Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError:
        raise UsageError(
            f"there is no {path}; --workdir must be that of a finished experiment"
        ) from None
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from None


def _with_model(run: Any) -> Any:
    """Returns a run with what was implied when all students had one teacher."""
    if not isinstance(run, Mapping) or "model" in run:
        return run
    role = run.get("role")
    return {
        **run,
        "model": "teacher" if role == "teacher" else "student",
        "teachers": ["teacher"] if role == "student" else [],
    }


def _check(results: Results, path: str) -> None:
    """Raises unless a report can be made of the results."""
    roles = [run.role for run in results.runs]
    for role in ("teacher", "student"):
        if role not in roles:
            raise UsageError(f"{path}.runs has no {role}")
    for split in ("train", VALIDATION):
        if split not in results.data.splits:
            raise UsageError(f"{path}.data.splits.{split} is missing")
    for name, model in results.models.items():
        where = f"{path}.models.{name}"
        at_least(model.parameters, 1, f"{where}.parameters")
        if not model.forward_tokens_per_second > 0:
            raise UsageError(f"{where}.forward_tokens_per_second must be above 0")
    for name in map(teacher_role, results.teachers):
        if name not in results.models:
            raise UsageError(f"{path}.models.{name} is missing")
    splits = results.runs[0].final.keys() | {VALIDATION}
    for index, run in enumerate(results.runs):
        where = f"{path}.runs[{index}]"
        if run.final.keys() != splits:
            raise UsageError(f"{where}.final must have {', '.join(sorted(splits))}")
        if run.model not in results.models:
            raise UsageError(f"{where}.model = {run.model!r} is no entry of models")
        if not results.teachers.keys() >= set(run.teachers):
            raise UsageError(f"{where}.teachers has what is no entry of teachers")
