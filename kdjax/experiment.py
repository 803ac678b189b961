"""A whole experiment: data, teacher, students and twins, and the report's numbers."""

import dataclasses
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
from kdjax.sharding import barrier, make_mesh
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
from kdjax.train import device_batches
from kdjax.validation import check_batches
from kdjax.workdir import cache_directory, check_data
from kdjax.writers import Progress, say


def run(config: Config, workdir: epath.Path) -> dict[str, Any]:
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
    setting: Setting, teacher: Trained, student: Model, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns what `report.write` takes."""
    config, device = setting.config, jax.devices()[0]
    batch = next(
        device_batches(
            setting.prepared,
            "validation",
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
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "workdir": str(setting.workdir),
        "config": dataclasses.asdict(config),
        "environment": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "platform": device.platform,
            "device": device.device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
        },
        "data": setting.prepared.info,
        "teacher": {
            "path": str(teacher.directory),
            "sha256": teacher.card["sha256"],
            "from_config": not config.teacher.path,
            "formats": teacher.card.get("formats", []),
        },
        "models": {
            name: {
                "parameters": count_parameters(model),
                "forward_tokens_per_second": speed[name],
            }
            for name, model in (("teacher", teacher.model), ("student", student))
        },
        "runs": runs,
    }


def _forward(model: Model) -> Callable[[Any, Any], jax.Array]:
    def forward(params: Any, batch: Any) -> jax.Array:
        return model.logits(params, batch["tokens"], batch["segments"])

    return jax.jit(forward)
