"""Where students start: at random, from a directory, or cut out of the teacher."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from kdjax.config import ModelConfig
from kdjax.directories import (
    Setting,
    Trained,
    architecture_in,
    directory_of,
    load,
    shapes_and_shardings,
)
from kdjax.inheritance import computed_as, student_model
from kdjax.models import Model, surgery
from kdjax.models.importance import Importance, measure
from kdjax.parsing import convert
from kdjax.results import HeldOut
from kdjax.sharding import make_placement
from kdjax.sources import device_batches
from kdjax.stages import Start, final_metrics, make_model
from kdjax.workdir import write_json
from kdjax.writers import say


def student_architecture(teacher: ModelConfig, setting: Setting) -> ModelConfig:
    """Returns the student's architecture; which windows a cut one has comes later.

    Raises:
        UsageError: It is no part of the teacher, or there is none in its directory.
    """
    student = setting.config.student
    if student.path:
        return computed_as(student.model, architecture_in("student", setting))
    return student_model(student, teacher)


def begin_student(
    model: Model, teacher: Trained, setting: Setting
) -> tuple[Model, Start | None]:
    """Returns the student, and where it and its twin start; None: at random.

    What is cut, and how good that is untrained, is kept in `cut.json` and
    `initial.json`: all students and twins of an experiment start alike, whenever.
    """
    student = setting.config.student
    if student.path:
        directory = directory_of("student", setting)
        origin = f"loaded from {directory}"

        def params() -> Any:
            return load("student", setting, dtype="float32").params

    elif student.is_cut:
        directory = setting.workdir
        parts = _parts(model, teacher, setting)
        architecture = surgery.with_windows(teacher.model.config, model.config, parts)
        kept = surgery.describe(teacher.model.config, architecture, parts)
        origin = f"cut out of the teacher ({kept})"
        say(f"student: {origin}")
        model = make_model(architecture, "student", setting)
        _, placed = shapes_and_shardings(model, student.rules, setting)

        def params() -> Any:
            source = teacher.model.config, teacher.params
            return surgery.cut(*source, architecture, parts, shardings=placed)[1]

    else:
        return model, None

    def evaluate() -> dict[str, Any]:
        untrained = Trained(model, params(), directory, {})
        final = final_metrics(untrained, teacher, setting)
        return {split: dataclasses.asdict(found) for split, found in final.items()}

    path = setting.workdir / "initial.json"
    final = convert(_kept(path, evaluate), dict[str, HeldOut], str(path))
    return model, Start(params, origin, final)


def _parts(model: Model, teacher: Trained, setting: Setting) -> surgery.Parts:
    """Returns what the student keeps of the teacher."""
    student, config = setting.config.student, teacher.model.config
    layers: surgery.Layers = student.layer_map or student.init  # type: ignore[assignment]

    def choose() -> dict[str, Any]:
        importance = None
        if surgery.needs_importance(config, model.config, layers):
            importance = _measure(teacher, setting)
        return surgery.choose(config, model.config, layers, importance)._asdict()

    return surgery.Parts(**_kept(setting.workdir / "cut.json", choose))


def _measure(teacher: Trained, setting: Setting) -> Importance:
    """Returns what matters in the teacher, on rows spread over the training split."""
    config = setting.config
    size, rows = config.evaluate.batch_size, config.student.calibration_rows
    return measure(
        teacher.model.config,
        teacher.params,
        device_batches(setting.prepared.splits["train"], setting.mesh, size, rows),
        placement=make_placement(setting.mesh, config.teacher.rules),
    )


def _kept(path: epath.Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns what an earlier start of the experiment made, or makes and keeps it.

    No process finds what another has just written: `make` either needs them all, or
    makes the same everywhere.
    """
    if path.exists():
        return dict(json.loads(path.read_text()))
    made = make()
    if jax.process_index() == 0:
        write_json(path, made)
    return made
