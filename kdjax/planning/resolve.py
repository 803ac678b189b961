"""What a plan is of: a config whose models are fully described, without any data."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from kdjax.checkpoints import hub, open_model
from kdjax.config.architecture import ModelConfig
from kdjax.config.devices import micro_batches_of, remat_of, teacher_dtype
from kdjax.config.model_rules import check_model
from kdjax.config.parsing import convert
from kdjax.config.schema import Config, MeshConfig, Rules, StudentConfig, TeacherConfig
from kdjax.config.student_rules import computed_as, student_model
from kdjax.config.validation import check_batches
from kdjax.core.buckets import is_remote
from kdjax.core.errors import UsageError
from kdjax.core.inputs import exists
from kdjax.experiment.setting import check_vocabularies
from kdjax.models import build
from kdjax.models.transformer.kernels import choose
from kdjax.parallel.placement import Devices, Placement
from kdjax.parallel.sharding import AXES, BATCH_AXES, axis_sizes
from kdjax.planning.target import Target, parse_target
from kdjax.text import load_tokenizer

_BYTES = 257  # ids of the tokenizer of bytes: they, and the end of a text


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher as the step has it.

    Attributes:
        model: Its architecture.
        dtype: That of its parameters.
        rules: Sharding rules that take precedence over the default ones.
        weight: Its weight among several.
        is_trained: Whether this experiment trains it first.
    """

    model: ModelConfig
    dtype: str
    rules: Rules
    weight: float
    is_trained: bool


class Subject(NamedTuple):
    """All that a plan depends on.

    Attributes:
        config: The experiment's.
        student: The student's architecture, nothing left to be filled in.
        teachers: The teachers by name.
        target: The devices.
        mesh: How many of them lie along each axis.
    """

    config: Config
    student: ModelConfig
    teachers: Mapping[str, Teacher]
    target: Target
    mesh: Mapping[str, int]

    @property
    def batch_shards(self) -> int:
        """Into how many parts the rows of a batch are cut."""
        return self.mesh["data"] * self.mesh["fsdp"]


def to_json(subject: Subject) -> dict[str, Any]:
    """Returns the subject as JSON, for another process."""
    return {
        "config": dataclasses.asdict(subject.config),
        "student": dataclasses.asdict(subject.student),
        "teachers": {
            name: dataclasses.asdict(teacher)
            for name, teacher in subject.teachers.items()
        },
        "target": subject.target.name,
        "mesh": dict(subject.mesh),
    }


def from_json(values: Mapping[str, Any]) -> Subject:
    """Returns the subject that `to_json` has written."""
    return Subject(
        convert(values["config"], Config, "config"),
        convert(values["student"], ModelConfig, "student"),
        convert(values["teachers"], Mapping[str, Teacher], "teachers"),
        parse_target(values["target"]),
        values["mesh"],
    )


def resolve(config: Config, target: Target) -> Subject:
    """Returns what is planned. Nothing is downloaded, no text is read.

    Args:
        config: A valid config.
        target: The devices.

    Raises:
        UsageError: A model is not on this disk and the config has no architecture of
            its own for it, or models, mesh, batches and devices do not fit each other.
    """
    sizes = axis_sizes(config.mesh, target.devices, target.chip.name)
    mesh = dict(zip(AXES, sizes, strict=True))
    return checked(unplaced(config, target)._replace(mesh=mesh))


def unplaced(config: Config, target: Target) -> Subject:
    """Returns the same with all devices along the first axis, whatever the config's.

    Raises:
        UsageError: A model is not on this disk, and the config has no architecture.
    """
    ids = _Vocabulary(config)
    teachers = {
        name: _teacher(teacher, config.teacher_path(name), ids, target)
        for name, teacher in config.all_teachers.items()
    }
    first = next(iter(teachers.values())).model
    student = ids.filled(_student(config.student, first))
    mesh = dict.fromkeys(AXES, 1) | {AXES[0]: target.devices}
    return Subject(config, student, teachers, target, mesh)


def checked(subject: Subject) -> Subject:
    """Returns the subject, with what its config leaves to the devices.

    Raises:
        UsageError: Its models, mesh and batches do not fit each other.
    """
    config = subject.config
    config = dataclasses.replace(config, mesh=MeshConfig(**subject.mesh))
    slices = subject.target.slices
    if all(subject.mesh[axis] % slices for axis in BATCH_AXES):
        raise UsageError(
            f"{subject.target.name} has {slices} slices or hosts, which must divide "
            "config.mesh.data or config.mesh.fsdp"
        )
    check_batches(config, subject.batch_shards)
    subject = _settled(subject)
    check_model(subject.student, config, "config.student.model")
    student = build(subject.student)
    for name, teacher in subject.teachers.items():
        check_model(teacher.model, config, f"{config.teacher_path(name)}.model")
        check_vocabularies(student, build(teacher.model), name)
    return subject


def kernel_of(subject: Subject, model: ModelConfig) -> str:
    """Returns what computes the attention of one of the subject's models."""
    train, platform = subject.config.student.train, subject.target.chip.platform
    heads = subject.mesh["tensor"]
    devices = Devices(platform, lambda: subject.batch_shards, heads, lambda run: run)
    shape = train.batch_size // train.micro_batches, subject.config.data.length
    return choose(model, Placement(devices=devices), shape)


def _settled(subject: Subject) -> Subject:
    """Returns the subject with micro-batches and policies as the devices want them."""
    config = subject.config
    train = config.student.train
    parts = micro_batches_of(train, subject.batch_shards)
    train = dataclasses.replace(train, micro_batches=parts, rows_per_device=0)
    student = dataclasses.replace(config.student, train=train)
    subject = subject._replace(config=dataclasses.replace(config, student=student))

    def computed(model: ModelConfig) -> ModelConfig:
        is_blockwise = kernel_of(subject, model) != "xla"
        platform = subject.target.chip.platform
        remat = remat_of(model, platform, is_blockwise=is_blockwise)
        return dataclasses.replace(model, remat=remat)

    teachers = {
        name: dataclasses.replace(teacher, model=computed(teacher.model))
        for name, teacher in subject.teachers.items()
    }
    return subject._replace(student=computed(subject.student), teachers=teachers)


def _teacher(
    config: TeacherConfig, key: str, ids: "_Vocabulary", target: Target
) -> Teacher:
    if not config.path:
        model, dtype = config.model, "float32"
    else:
        model = _stored(config.path, config.model, key)
        found: Any = teacher_dtype(config, target.chip.platform) or model.dtype
        model, dtype = dataclasses.replace(model, dtype=found), found
    is_trained = not config.path
    return Teacher(ids.filled(model), dtype, config.rules, config.weight, is_trained)


def _student(config: StudentConfig, teacher: ModelConfig) -> ModelConfig:
    if not config.path:
        return student_model(config, teacher)
    stored = _stored(config.path, config.model, "config.student")
    return computed_as(config.model, stored)


def _stored(path: str, own: ModelConfig, key: str) -> ModelConfig:
    """Returns the architecture of a model on this disk, or else the config's own."""
    if _is_here(path):
        return open_model(path, named=f"{key}.path").config
    if own.vocab_size:  # all of it is there
        return own
    raise UsageError(
        f"{key}.path={path} is not on this disk, and a plan downloads nothing; give a "
        f"copy's path, or describe the model in {key}.model, vocab_size included"
    )


def _is_here(path: str) -> bool:
    """Returns whether a path names something on this disk."""
    return not hub.is_name(path) and not is_remote(path) and exists(path)


class _Vocabulary:
    """The number of ids of models that leave it to the tokenizer."""

    def __init__(self, config: Config) -> None:
        self._tokenizer = config.tokenizer
        self._size = 0

    def filled(self, model: ModelConfig) -> ModelConfig:
        """Returns the architecture with its vocabulary's size."""
        if not model.vocab_size and not self._size:
            self._size = self._read()
        size = model.vocab_size or self._size
        return dataclasses.replace(model, vocab_size=size)

    def _read(self) -> int:
        config = self._tokenizer
        if config.kind != "file":
            return _BYTES if config.kind == "bytes" else config.vocab_size
        if not _is_here(config.path):
            raise UsageError(
                f"config.tokenizer.path={config.path} is not on this disk, and a plan "
                "downloads nothing; set vocab_size of each model"
            )
        path = os.path.expanduser(config.path)
        loaded: Any = load_tokenizer(path, config.end_of_text, config.bos)
        return int(loaded.vocab_size)
