"""Initialises students: at random, from a model on disk, or by pruning a teacher."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from etils import epath

from kdjax.checkpoints import StoredModel
from kdjax.config.architecture import ModelConfig
from kdjax.config.parsing import convert
from kdjax.config.student_rules import computed_as, student_model
from kdjax.core.errors import UsageError
from kdjax.core.files import read_json, write_json
from kdjax.core.logging import say
from kdjax.experiment.setting import (
    Setting,
    Trained,
    make_model,
    open_named,
    parameter_shardings,
)
from kdjax.models import Model
from kdjax.models.pruning import prune
from kdjax.models.pruning.importance import Importance, measure
from kdjax.parallel.sharding import make_placement
from kdjax.train.sources import device_batches

KEY = "config.student"
_REMEDY = "delete it to measure this again"


class Start(NamedTuple):
    """Where all students and twins of an experiment start.

    Attributes:
        model: Their model.
        params: Returns new initial parameters at each call; None: random ones.
        origin: In words, where the parameters come from.
    """

    model: Model
    params: Callable[[], Any] | None = None
    origin: str = ""


def open_student(setting: Setting) -> StoredModel | None:
    """Returns the model on disk that students start from, if the config names one."""
    path = setting.config.student.path
    return open_named(path, KEY, setting) if path else None


def plan_student(
    teacher: ModelConfig, stored: StoredModel | None, setting: Setting
) -> Model:
    """Returns the student, checked before anything compiles.

    The attention windows of a pruned student are final only once its layers are chosen.

    Args:
        teacher: The architecture of the teacher that it may be pruned from.
        stored: The model on disk that it starts from, if any.
        setting: The experiment's setting.

    Raises:
        UsageError: It cannot be pruned from the teacher, or does not fit the tokenizer,
            the rows, the mesh or the disk.
    """
    config = setting.config.student
    if stored is None:
        architecture = student_model(config, teacher)
    else:
        architecture = computed_as(config.model, stored.config)
    return _make(architecture, setting)


def start_students(
    model: Model, stored: StoredModel | None, teacher: Trained, setting: Setting
) -> Start:
    """Returns where all students and twins start, whether the run is new or resumed.

    The parts kept when pruning a teacher are recorded in `cut.json`.

    Args:
        model: The result of `plan_student`.
        stored: The model on disk that they start from, if any.
        teacher: The model that they may be pruned from.
        setting: The experiment's setting.
    """
    config, mesh = setting.config.student, setting.mesh
    if stored is not None:
        return Start(
            model,
            lambda: stored.load(mesh, config.rules, "float32")[1],
            f"loaded from {stored.path}",
        )
    if not config.is_pruned:
        return Start(model)
    source = teacher.model.config
    parts = _parts(model, teacher, setting)
    architecture = prune.with_windows(source, model.config, parts)
    origin = f"pruned from the teacher ({prune.describe(source, architecture, parts)})"
    say(f"student: {origin}")
    model = _make(architecture, setting)
    placed = parameter_shardings(model, config.rules, setting)

    def params() -> Any:
        return prune.prune(
            source, teacher.params, architecture, parts, shardings=placed
        )[1]

    return Start(model, params, origin)


def _make(architecture: ModelConfig, setting: Setting) -> Model:
    rules = setting.config.student.rules
    return make_model(architecture, KEY, rules, setting, is_trained=True)


def _parts(model: Model, teacher: Trained, setting: Setting) -> prune.Parts:
    """Returns the parts of the teacher that the student keeps."""
    student, config = setting.config.student, teacher.model.config
    layers: prune.Layers = student.layer_map or student.init  # type: ignore[assignment]

    def choose() -> dict[str, Any]:
        importance = None
        if prune.needs_importance(config, model.config, layers):
            importance = _measure(teacher, setting)
        return prune.choose(config, model.config, layers, importance)._asdict()

    path = setting.workdir / "cut.json"
    found = remembered(path, choose)
    kept = found.get("layers")
    is_whole = found.keys() == {*prune.Parts._fields} and isinstance(kept, list)
    if not is_whole or not {*map(str, kept)} <= {*map(str, range(config.layers))}:
        raise UsageError(f"{path} names no parts of the teacher; {_REMEDY}")
    return prune.Parts(**found)


def _measure(teacher: Trained, setting: Setting) -> Importance:
    """Returns the importance of the teacher's parts, on rows of the training split."""
    config = setting.config
    size, rows = config.evaluate.batch_size, config.student.calibration_rows
    rules = next(iter(config.all_teachers.values())).rules
    return measure(
        teacher.model.config,
        teacher.params,
        device_batches(setting.prepared.splits["train"], setting.mesh, size, rows),
        placement=make_placement(setting.mesh, rules),
    )


def remembered(
    path: epath.Path, make: Callable[[], dict[str, Any]], hint: Any = None
) -> Any:
    """Returns what an earlier start of the experiment stored, or makes and stores it.

    Processes need no barrier here: `make` either needs them all, or gives the same
    result on each.

    Args:
        path: The file.
        make: Returns what it shall hold.
        hint: The type of what is returned, as `convert` takes it; None: as in JSON.

    Raises:
        UsageError: The file is damaged.
    """
    if path.exists():
        found = read_json(path, _REMEDY)
    else:
        made = make()
        if jax.process_index() == 0:
            write_json(path, made)
        found = json.loads(json.dumps(made))
    if hint is None:
        return found
    try:
        return convert(found, hint, str(path))
    except UsageError as error:
        raise UsageError(f"{error}; {_REMEDY}") from None
