"""The one teacher of an experiment that a test makes up."""

import types

from etils import epath

from kdjax.config import Config, MeshConfig, StudentConfig, TeacherConfig
from kdjax.core.clock import Clock
from kdjax.experiment.setting import Setting
from kdjax.experiment.teachers import (
    Candidate,
    obtain_teachers,
    open_teachers,
    teacher_architecture,
)
from kdjax.models import build
from kdjax.parallel.sharding import make_mesh
from kdjax.train.task import next_token_task


def make_setting(directory, tokenizer, student="", **teacher):
    """Returns the setting of an experiment with a loaded teacher and no rows."""
    config = Config(
        teacher=TeacherConfig(path=str(directory), **teacher),
        student=StudentConfig(path=str(student)),
    )
    prepared = types.SimpleNamespace(tokenizer=tokenizer)
    mesh, task = make_mesh(MeshConfig()), next_token_task()
    place = epath.Path(directory)
    return Setting(config, place, prepared, mesh, task, {}, Clock())


def architecture_of(setting):
    """Returns the teacher's architecture as an experiment finds it."""
    return teacher_architecture(
        setting.config.teacher, open_teachers(setting)["teacher"], setting
    )


def load_teacher(setting):
    """Returns the teacher with its parameters as an experiment loads it."""
    model = build(architecture_of(setting))
    stored = open_teachers(setting)["teacher"]
    candidate = Candidate("teacher", setting.config.teacher, model, stored)
    return obtain_teachers([candidate], setting).first
