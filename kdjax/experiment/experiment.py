"""Runs a whole experiment: data, teachers, students and twins, and their results."""

import dataclasses
import datetime
import platform
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from kdjax.checkpoints import StoredModel, hub
from kdjax.config.parsing import convert, from_mapping
from kdjax.config.schema import AnyConfig, Config
from kdjax.config.validation import check_batches, validate
from kdjax.core.clock import Clock
from kdjax.core.compilation import keep_compiled
from kdjax.core.files import write_json
from kdjax.core.logging import mute, say
from kdjax.experiment.evaluator import Evaluator
from kdjax.experiment.locking import one_at_a_time, process_lock
from kdjax.experiment.models import measure_models
from kdjax.experiment.plans import read_plans
from kdjax.experiment.rows import prepare_rows
from kdjax.experiment.runs import Recipe, Role, Trainer, student_roles
from kdjax.experiment.setting import (
    Setting,
    check_vocabularies,
    fetch_named,
)
from kdjax.experiment.shared import train_once
from kdjax.experiment.students import (
    Start,
    open_student,
    plan_student,
    remembered,
    start_students,
)
from kdjax.experiment.teachers import (
    Teachers,
    obtain_teachers,
    open_teachers,
    plan_teachers,
    teacher_architecture,
)
from kdjax.experiment.workdir import (
    check_data,
    claim,
    compile_cache,
    make_cache,
)
from kdjax.parallel.sharding import make_mesh
from kdjax.results.files import read_run
from kdjax.results.measured import (
    DataInfo,
    Environment,
    HeldOut,
    ModelInfo,
    Results,
    Run,
    TeacherInfo,
    teacher_role,
)
from kdjax.targets.online import of_model
from kdjax.train.objective import Objective, distillation, hard_labels
from kdjax.train.task import next_token_task


def run(
    config: AnyConfig,
    workdir: epath.PathLike,
    *,
    overwrite: bool = False,
    shared: epath.PathLike | None = None,
) -> Results:
    """Runs all stages that are not done yet and returns what was measured.

    Args:
        config: The config, as `kdjax.config.default()` with changes or as a `Config`.
        workdir: The experiment's own directory, claimed for this config.
        overwrite: Whether to delete an experiment found there.
        shared: A directory where experiments, as those of a sweep, have the runs that
            several of them need; None: this one has all its runs in its own.

    Raises:
        UsageError: The config contradicts itself, the directory is another config's,
            or devices, data, teacher or disk do not fit the config.
    """
    config, workdir = validate(config), epath.Path(workdir).expanduser()
    if shared is None:
        return _run(config, workdir, overwrite, None)
    shared = epath.Path(shared).expanduser()
    # Of a sweep's worker that was killed, the process may have outlived it.
    with one_at_a_time(process_lock(shared, workdir), str(workdir)):
        return _run(config, workdir, overwrite, shared)


def _run(
    config: Config, workdir: epath.Path, overwrite: bool, shared: epath.Path | None
) -> Results:
    """Does what `run` says."""
    if jax.process_index() == 0:
        claim(workdir, config, overwrite=overwrite)
    else:
        mute()
    keep_compiled(compile_cache(config))
    mesh = make_mesh(config.mesh)
    check_batches(config, mesh.shape["data"] * mesh.shape["fsdp"])
    make_cache(config)
    say(f"{jax.device_count()} {jax.devices()[0].device_kind} device(s); {workdir}")
    opened: dict[str, StoredModel] = {}
    clock = Clock()
    with clock("data"):
        prepared = prepare_rows(config, fetch_named(config, opened))
    task = next_token_task(prepared.bits_per_byte)
    setting = Setting(config, workdir, prepared, mesh, task, opened, clock, shared)

    stored_teachers, stored_student = open_teachers(setting), open_student(setting)
    name, first = next(iter(config.all_teachers.items()))
    architecture = teacher_architecture(first, stored_teachers[name])
    student = plan_student(architecture, stored_student, setting)
    candidates = plan_teachers(stored_teachers, setting)
    for candidate in candidates:
        check_vocabularies(student, candidate.model, candidate.name)
    if jax.process_index() == 0:
        check_data(workdir, prepared.info)

    teachers = obtain_teachers(candidates, setting)
    start = start_students(student, stored_student, teachers.first, setting)
    evaluator = Evaluator(of_model(start.model), teachers.predict(), setting)
    runs = [
        *_teacher_runs(teachers, setting),
        *_start_run(start, evaluator, teachers, setting),
        *_student_runs(start, evaluator, teachers, setting),
    ]
    with clock("evaluation"):
        models = measure_models(start.model, teachers, setting)
    return _results(setting, teachers, models, runs)


def _teacher_runs(teachers: Teachers, setting: Setting) -> Iterator[Run]:
    """Yields the teacher's run and, for an ensemble, those of its members."""
    predict, config = teachers.predict(), setting.config
    frozen = teachers.frozen(tuple(teachers.trained))
    members = [
        Run(
            role=teacher_role(name),
            seed=config.all_teachers[name].seed,
            model=teacher_role(name),
            final=Evaluator(of_model(trained.model), predict, setting).final(
                trained.params, frozen
            ),
            curve=trained.curve,
            training=trained.training,
        )
        for name, trained in teachers.trained.items()
    ]
    if len(members) > 1:
        final = Evaluator(predict, predict, setting).final(frozen, frozen)
        yield Run(role="teacher", seed=members[0].seed, model="teacher", final=final)
    yield from members


def _start_run(
    start: Start, evaluator: Evaluator, teachers: Teachers, setting: Setting
) -> Iterator[Run]:
    """Yields the student before any training, unless it is initialised at random."""
    if start.params is None:
        return
    first_params = start.params

    def evaluate() -> dict[str, Any]:
        frozen = teachers.frozen(tuple(teachers.trained))
        found = evaluator.final(first_params(), frozen)
        return {split: dataclasses.asdict(metrics) for split, metrics in found.items()}

    path = setting.workdir / "initial.json"
    yield Run(
        role="start",
        seed=setting.config.seed,
        model="student",
        final=convert(remembered(path, evaluate), dict[str, HeldOut], str(path)),
        origin=start.origin,
    )


def _student_runs(
    start: Start, evaluator: Evaluator, teachers: Teachers, setting: Setting
) -> Iterator[Run]:
    """Yields all students and twins, training those not finished yet."""
    config = setting.config
    trainers = {
        role: Trainer(_recipe(role, start, teachers, setting), evaluator, setting)
        for role in student_roles(config)
    }
    steps = config.student.train.steps
    for seed in range(config.seed, config.seed + config.seeds):
        for role, trainer in trainers.items():
            name = role.run(seed)
            directory = setting.workdir / name
            path = directory / "result.json"
            if path.exists() and (done := read_run(path)).steps >= steps:
                say(f"{name}: done before")
                yield done
                continue
            trained = train_once(trainer, role, seed, start, teachers, setting)
            found = Run(
                role=role.name,
                seed=seed,
                model="student",
                final=evaluator.final(
                    trained.params, teachers.frozen(tuple(teachers.trained))
                ),
                curve=trained.curve,
                training=trained.training,
                teachers=role.teachers,
            )
            if jax.process_index() == 0:
                write_json(path, dataclasses.asdict(found))
            yield found


def _recipe(role: Role, start: Start, teachers: Teachers, setting: Setting) -> Recipe:
    config = setting.config.student
    predict = teachers.predict(role.teachers)

    def objective(steps: int) -> Objective:
        if not role.teachers:
            return hard_labels()
        return distillation(predict, setting.config.distill, steps)

    return Recipe(
        start.model,
        objective,
        tuple(teachers.trained[name].model for name in role.teachers),
        teachers.frozen(role.teachers),
        config.train,
        config.rules,
        read_plans(setting.workdir, config.train.steps),
    )


def _results(
    setting: Setting,
    teachers: Teachers,
    models: dict[str, ModelInfo],
    runs: list[Run],
) -> Results:
    """Returns the results for `report.write`."""
    config, device = setting.config, jax.devices()[0]
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
            name: TeacherInfo(
                path=str(trained.directory),
                sha256=trained.sha256,
                from_config=not config.all_teachers[name].path,
                formats=trained.formats,
                hub=hub.name_of(trained.directory),
            )
            for name, trained in teachers.trained.items()
        },
        models=models,
        runs=tuple(runs),
        cpu_seconds=setting.clock.spent(),
    )
