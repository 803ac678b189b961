"""A whole experiment: data, teacher, students and twins, and the report's numbers."""

import datetime
import functools
import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from etils import epath

from kdjax.config import Config
from kdjax.data import Document, Prepared, prepare
from kdjax.directories import Setting, Trained, shapes_and_shardings
from kdjax.evaluate import forward_speed
from kdjax.models import Model
from kdjax.parsing import from_mapping
from kdjax.results import (
    DataInfo,
    Environment,
    ModelInfo,
    Results,
    Run,
    TeacherInfo,
)
from kdjax.sharding import barrier, make_mesh
from kdjax.sources import device_batches
from kdjax.stages import (
    check_vocabularies,
    count_parameters,
    make_model,
    obtain_teacher,
    start_results,
    student_results,
    teacher_architecture,
    teacher_results,
)
from kdjax.students import begin_student, student_architecture
from kdjax.validation import check_batches
from kdjax.workdir import cache_directory, check_data
from kdjax.writers import Progress, say


def run(config: Config, workdir: epath.Path) -> Results:
    """Runs all stages that are not done yet and returns the report's numbers.

    Args:
        config: A validated config.
        workdir: The experiment's own directory.

    Raises:
        UsageError: Devices, data, teacher or disk do not fit the config.
    """
    mesh = make_mesh(config.mesh)
    check_batches(config, mesh.shape["data"] * mesh.shape["fsdp"])
    say(f"{jax.device_count()} {jax.devices()[0].device_kind} device(s); {workdir}")
    setting = Setting(config, workdir, _prepare(config), mesh, {})
    architecture = teacher_architecture(setting)
    student = make_model(
        student_architecture(architecture, setting), "student", setting
    )
    teacher_model = make_model(architecture, "teacher", setting)
    check_vocabularies(student, teacher_model)
    if jax.process_index() == 0:
        check_data(workdir, setting.prepared.info)
    teacher = obtain_teacher(teacher_model, setting)
    student, start = begin_student(student, teacher, setting)
    runs = [teacher_results(teacher, setting)]
    if start is not None:
        runs.append(start_results(start, setting))
    for seed in range(config.seed, config.seed + config.seeds):
        for role in ("student", "twin") if config.baseline else ("student",):
            run = student_results(role, seed, student, start, teacher, setting)
            runs.append(run)
    return _results(setting, teacher, student, runs)


def _prepare(config: Config) -> Prepared:
    """Returns the rows; the first process makes them and the others wait."""
    cache = cache_directory(config)

    def track(documents: Iterable[Document], split: str, size: int) -> Iterator[Any]:
        with Progress(f"tokenising {split}", size, unit="byte") as progress:
            for document in documents:
                yield document
                progress.update(len(document.text.encode()))

    def rows() -> Prepared:
        return prepare(config.data, config.tokenizer, cache, track=track)

    if jax.process_index() == 0:
        prepared = rows()
    barrier("rows")
    if jax.process_index() != 0:
        prepared = rows()
    for name, size in prepared.info["splits"].items():
        say(f"data: {name}: {size['rows']:,} rows, {size['bytes'] / 1e6:.1f} MB")
    return prepared


def _results(
    setting: Setting, teacher: Trained, student: Model, runs: list[Run]
) -> Results:
    """Returns what `report.write` takes."""
    config, device = setting.config, jax.devices()[0]
    batch = next(
        device_batches(
            setting.prepared.splits["validation"],
            setting.mesh,
            config.evaluate.batch_size,
        )
    )
    _, placed = shapes_and_shardings(student, config.student.rules, setting)
    params = jax.jit(student.init, out_shardings=placed)(jax.random.key(0))
    forwards = {
        "teacher": functools.partial(_forward(teacher.model), teacher.params),
        "student": functools.partial(_forward(student), params),
    }
    speed = forward_speed(forwards, batch)
    return Results(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        workdir=str(setting.workdir),
        config=config,
        environment=Environment(
            python=platform.python_version(),
            jax=jax.__version__,
            platform=device.platform,
            device=device.device_kind,
            devices=jax.device_count(),
            processes=jax.process_count(),
        ),
        data=from_mapping(DataInfo, setting.prepared.info, "the rows' metadata"),
        teachers={
            "teacher": TeacherInfo(
                path=str(teacher.directory),
                sha256=teacher.card["sha256"],
                from_config=not config.teacher.path,
                formats=tuple(teacher.card.get("formats", ())),
            )
        },
        models={
            name: ModelInfo(count_parameters(model), speed[name])
            for name, model in (("teacher", teacher.model), ("student", student))
        },
        runs=tuple(runs),
    )


def _forward(model: Model) -> Callable[[Any, Any], jax.Array]:
    def forward(params: Any, batch: Any) -> jax.Array:
        return model.logits(params, batch["tokens"], batch["segments"])

    return jax.jit(forward)
