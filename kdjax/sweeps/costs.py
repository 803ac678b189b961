"""What a sweep will cost, from its config alone: nothing is trained or tokenised."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from kdjax.checkpoints import hub, open_model
from kdjax.config.architecture import ModelConfig
from kdjax.config.schema import Config, StudentConfig, TrainConfig
from kdjax.config.student_rules import computed_as, student_model
from kdjax.experiment.runs import student_roles
from kdjax.models import build
from kdjax.models.flops import training_flops
from kdjax.results.measured import EQUAL_COMPUTE
from kdjax.sweeps.bindings import plain
from kdjax.sweeps.halving import rungs
from kdjax.sweeps.plan import Sweep, steps_of
from kdjax.sweeps.scores import read_time
from kdjax.sweeps.words import counted
from kdjax.text import load_tokenizer

_PARAMETER, _STATE = 4, 12  # bytes: float32; with the two moments of a checkpoint
_BYTES_VOCABULARY = 257  # the ids of tokenizer.kind = "bytes"


class Training(NamedTuple):
    """One model that is trained, by several points together if they need the same.

    Attributes:
        role: "student", "teacher", or that of a twin.
        identity: What tells it from others.
        parameters: How many it has.
        flops: Of its training.
        size: Bytes on disk of the model and its checkpoints.
    """

    role: str
    identity: str
    parameters: int
    flops: float
    size: int


class Cost(NamedTuple):
    """What one point needs; None: its models are not known before it runs."""

    name: str
    trainings: tuple[Training, ...] | None
    seconds: float | None


def dry_run(sweep: Sweep, flops_per_second: float = 0.0) -> str:
    """Returns a sweep's points and what each costs, as text.

    Times are those of the sweep's finished points, in proportion to FLOPs.

    Args:
        sweep: The sweep.
        flops_per_second: What times are estimated by while no point has finished; 0:
            they are unknown.

    Raises:
        UsageError: A model or a tokenizer that the config names cannot be read.
    """
    found = {point.name: _trainings(point.config) for point in sweep.points}
    own = {name: _own_flops(t) for name, t in found.items() if t is not None}
    taken = {
        point.name: seconds
        for point in sweep.points
        if (seconds := read_time(sweep, point)) is not None and point.name in own
    }
    rate = flops_per_second
    if taken:
        # The slower ones trained what is shared as well, or waited for it.
        rate = max(own[name] / seconds for name, seconds in taken.items())
    every = [
        Cost(name, trainings, own[name] / rate if rate and name in own else None)
        for name, trainings in found.items()
    ]
    about = _halved(sweep) if sweep.halving else ()
    return "\n".join((_table(every, rate, is_measured=bool(taken)), *about))


def _halved(sweep: Sweep) -> list[str]:
    """Returns what of the costs successive halving takes."""
    full = max(steps_of(sweep.points))
    plan = rungs(len(sweep.points), full, sweep.halving)
    before = (0, *(steps for _, steps in plan))
    taken = sum(
        n * (steps - done) for (n, steps), done in zip(plan, before, strict=False)
    )
    shown = ", ".join(f"{n} x {steps:,}" for n, steps in plan)
    share = taken / (full * len(sweep.points))
    return [
        f"All of this is for {full:,} steps of every point. --halving={sweep.halving} "
        f"trains points x steps: {shown}, {share:.0%} of the students' FLOPs."
    ]


def _table(found: Sequence[Cost], rate: float, *, is_measured: bool) -> str:
    """Returns the costs as text: a line a point, and the sum.

    Args:
        found: The costs.
        rate: FLOP/s; 0: unknown.
        is_measured: Whether the times come from a finished point.
    """
    width = max(len(cost.name) for cost in found)
    lines = [f"{'point':<{width}}  parameters      FLOPs     bytes     time"]
    for cost in found:
        own = [t for t in cost.trainings or () if t.role == "student"]
        cells = ("unknown", "unknown", "unknown")
        if cost.trainings is not None:
            size = sum(t.size for t in own)
            cells = (
                f"{own[0].parameters:,}",
                f"{sum(t.flops for t in own):.2e}",
                _bytes(size),
            )
        lines.append(
            f"{cost.name:<{width}}  {cells[0]:>10}  {cells[1]:>9}  {cells[2]:>8}  "
            f"{_time(cost.seconds):>7}"
        )
    return "\n".join((*lines, "", *_total(found, rate), _ABOUT[is_measured]))


_COUNTED = "FLOPs are those of training, evaluation is not counted."
_ABOUT = {
    True: f"{_COUNTED} Times: as the fastest finished point took, by FLOPs of its "
    "students.",
    False: f"{_COUNTED} Times: FLOPs by --flops_per_second, or unknown until a point "
    "has finished.",
}


def _total(found: Sequence[Cost], rate: float) -> list[str]:
    known = [t for cost in found for t in cost.trainings or ()]
    once = {training.identity: training for training in known}.values()
    parts = []
    for role in ("teacher", "twin", EQUAL_COMPUTE, "student"):
        ones = [training for training in once if training.role == role]
        if ones:
            flops = sum(training.flops for training in ones)
            parts.append(f"{counted(len(ones), role)} {flops:.2e}")
    if not parts:
        return ["trained: unknown until the models' sizes are"]
    size = sum(training.size for training in once)
    flops = sum(training.flops for training in once)
    is_known = rate and all(cost.trainings is not None for cost in found)
    seconds = flops / rate if is_known else None
    return [
        f"trained once each: {', '.join(parts)} FLOPs; {_bytes(size)}; one at a time: "
        f"{_time(seconds)}",
        "A teacher that the cache holds already is not trained.",
    ]


def _trainings(config: Config) -> tuple[Training, ...] | None:
    """Returns what a point needs to be trained, or None if sizes are not known yet."""
    vocabulary = _vocabulary(config)
    teachers: dict[str, ModelConfig] = {}
    for name, teacher in config.all_teachers.items():
        found = _stored(teacher.path) if teacher.path else teacher.model
        if found is None or not (found.vocab_size or vocabulary):
            return None
        teachers[name] = _sized(found, vocabulary)
    first = next(iter(teachers.values()))
    student = config.student
    if student.path:
        stored = _stored(student.path)
        if stored is None:
            return None
        model = computed_as(student.model, stored)
    else:
        model = student_model(student, first)
    if not (model.vocab_size or vocabulary):
        return None
    return (
        *_teachers(config, teachers),
        *_students(config, _sized(model, vocabulary), teachers),
    )


def _teachers(config: Config, models: Mapping[str, ModelConfig]) -> list[Training]:
    data = _data(config)
    return [
        _training(
            "teacher", [plain(teacher), data], models[name], teacher.train, (), config
        )
        for name, teacher in config.all_teachers.items()
        if not teacher.path
    ]


def _students(
    config: Config, model: ModelConfig, teachers: Mapping[str, ModelConfig]
) -> list[Training]:
    student, found = config.student, []
    length = config.data.length
    alone = training_flops(model, (), length)
    work = training_flops(model, teachers.values(), length) / alone
    for seed in range(config.seed, config.seed + config.seeds):
        for role in student_roles(config, work):
            taught = [teachers[name] for name in role.teachers]
            steps = role.steps(student.train.steps)
            train = dataclasses.replace(student.train, steps=steps)
            if taught:
                # The whole config, without which seeds it has.
                own = [role.teachers, seed, plain(config) | {"seed": 0, "seeds": 0}]
                found.append(_training("student", own, model, train, taught, config))
                continue
            own = [seed, plain(student), plain(model), _start(student, config)]
            own += [_data(config), steps]
            found.append(_training(role.name, own, model, train, (), config))
    return found


def _start(student: StudentConfig, config: Config) -> Any:
    """Returns what a student's first parameters depend on beside its own config."""
    return plain(dict(config.all_teachers)) if student.is_pruned else None


def _training(
    role: str,
    identity: Any,
    model: ModelConfig,
    train: TrainConfig,
    teachers: Sequence[ModelConfig],
    config: Config,
) -> Training:
    length = config.data.length
    token = training_flops(model, teachers, length)
    parameters = _count(model)
    # The best checkpoint is kept beside the latest ones.
    checkpoints = min(
        config.checkpoint.keep + 1, -(-train.steps // config.checkpoint.every)
    )
    return Training(
        role,
        f"{role} {json.dumps(identity, sort_keys=True)}",
        parameters,
        token * train.steps * train.batch_size * length,
        parameters * (_PARAMETER + _STATE * checkpoints),
    )


def _own_flops(trainings: Sequence[Training]) -> float:
    return sum(training.flops for training in trainings if training.role == "student")


def _data(config: Config) -> Any:
    return [plain(config.data), plain(config.tokenizer)]


def _stored(path: str) -> ModelConfig | None:
    """Returns the architecture of a model on disk; None if it would be downloaded."""
    return None if hub.is_name(path) else open_model(path, named="path").config


def _vocabulary(config: Config) -> int:
    """Returns how many ids the tokenizer has; 0 if that is unknown."""
    tokenizer = config.tokenizer
    if tokenizer.kind == "file":
        if hub.is_name(tokenizer.path):
            return 0
        path = epath.Path(tokenizer.path).expanduser()
        return load_tokenizer(path, tokenizer.end_of_text, tokenizer.bos).vocab_size
    return _BYTES_VOCABULARY if tokenizer.kind == "bytes" else tokenizer.vocab_size


def _sized(model: ModelConfig, vocabulary: int) -> ModelConfig:
    return dataclasses.replace(model, vocab_size=model.vocab_size or vocabulary)


def _count(model: ModelConfig) -> int:
    shapes = jax.eval_shape(build(model).init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
