"""The very program that a run would compile, for devices that need not be here."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kdjax.config.schema import MeshConfig
from kdjax.models import Model, build
from kdjax.parallel.sharding import (
    abstract,
    batch_sharding,
    make_mesh,
    make_placement,
    shardings,
)
from kdjax.planning.arrays import parameter_shapes
from kdjax.planning.resolve import Subject
from kdjax.targets.online import of_ensemble
from kdjax.train.learner import whole_model
from kdjax.train.loop import Job
from kdjax.train.objective import Objective, distillation, hard_labels
from kdjax.train.task import next_token_task

BATCH_LEAVES = ("tokens", "segments")  # int32 [B, T]


def make_job(subject: Subject, devices: Sequence[Any]) -> Job:
    """Returns the student's training, ready to be compiled for the devices.

    Args:
        subject: What is planned; without teachers, it is that of the twin.
        devices: As jax has or describes them.
    """
    config = subject.config
    mesh = make_mesh(MeshConfig(**subject.mesh), devices)
    student = build(
        subject.student, placement=make_placement(mesh, config.student.rules)
    )
    teachers = {
        name: build(teacher.model, placement=make_placement(mesh, teacher.rules))
        for name, teacher in subject.teachers.items()
    }
    train = config.student.train
    shape = (train.batch_size, config.data.length)
    row = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))
    return Job(
        learner=whole_model(student),
        objective=_objective(subject, teachers),
        task=next_token_task(),
        config=train,
        rules=config.student.rules,
        mesh=mesh,
        frozen=_frozen(subject, teachers, mesh),
        batch=dict.fromkeys(BATCH_LEAVES, row),
    )


def _objective(subject: Subject, models: Mapping[str, Model]) -> Objective:
    if not models:
        return hard_labels()
    weights = {name: teacher.weight for name, teacher in subject.teachers.items()}
    train = subject.config.student.train
    return distillation(
        of_ensemble(models, weights), subject.config.distill, train.steps
    )


def _frozen(
    subject: Subject, models: Mapping[str, Model], mesh: Mesh
) -> dict[str, Any]:
    """Returns the shapes of the teachers' parameters, as they are stored."""
    found = {}
    for name, model in models.items():
        teacher = subject.teachers[name]
        shapes = parameter_shapes(model.config, teacher.dtype)
        found[name] = abstract(shapes, shardings(shapes, mesh, teacher.rules))
    return found
