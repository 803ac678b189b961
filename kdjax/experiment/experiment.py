"""Runs a whole experiment: data, teachers, students and twins, and their results."""

import dataclasses
import datetime
import platform
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from etils import epath

from kdjax.checkpoints import StoredModel, hub
from kdjax.config.parsing import convert, from_mapping
from kdjax.config.schema import AnyConfig, Config, TokenizerConfig
from kdjax.config.validation import check_batches, validate
from kdjax.core.clock import Clock
from kdjax.core.compilation import keep_compiled
from kdjax.core.files import write_json
from kdjax.core.logging import Progress, mute, say, size_of
from kdjax.data import Document, Prepared, prepare
from kdjax.evaluation.likelihood import Subject
from kdjax.experiment.close_up import CloseUp, Texts
from kdjax.experiment.evaluator import Evaluator
from kdjax.experiment.measuring import measure_models
from kdjax.experiment.plans import read_plans
from kdjax.experiment.runs import Recipe, Role, Trainer, student_roles
from kdjax.experiment.setting import (
    Setting,
    Trained,
    check_vocabularies,
    fetch_named,
)
from kdjax.experiment.students import (
    Start,
    open_student,
    plan_student,
    remembered,
    start_students,
)
from kdjax.experiment.tasks import make_evaluators, read_asked, tasks_of_start
from kdjax.experiment.teachers import (
    Teachers,
    obtain_teachers,
    open_teachers,
    plan_teachers,
    teacher_architecture,
)
from kdjax.experiment.workdir import (
    cache_directory,
    check_data,
    claim,
    compile_cache,
    make_cache,
)
from kdjax.models.flops import training_flops
from kdjax.parallel.sharding import barrier, make_mesh
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
from kdjax.train.objective import Objective, distillation, hard_labels
from kdjax.train.task import next_token_task


def run(
    config: AnyConfig, workdir: epath.PathLike, *, overwrite: bool = False
) -> Results:
    """Runs all stages that are not done yet and returns what was measured.

    Args:
        config: The config, as `kdjax.config.default()` with changes or as a `Config`.
        workdir: The experiment's own directory, claimed for this config.
        overwrite: Whether to delete an experiment found there.

    Raises:
        UsageError: The config contradicts itself, the directory is another config's,
            or devices, data, teacher or disk do not fit the config.
    """
    config, workdir = validate(config), epath.Path(workdir).expanduser()
    asked = read_asked(config)  # first, so that a mistake in it costs nothing
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
        prepared = _prepare(config, fetch_named(config, opened))
    task = next_token_task(prepared.bits_per_byte)
    more = make_evaluators(asked, config, prepared.tokenizer, mesh), asked.metrics
    setting = Setting(config, workdir, prepared, mesh, task, opened, clock, *more)

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
    evaluator = Evaluator(Subject.of(start.model), teachers.predict(), setting)
    texts = Texts(teachers, setting)
    runs = [
        *_teacher_runs(teachers, texts, setting),
        *_start_run(start, evaluator, teachers, setting),
        *_student_runs(start, evaluator, texts, teachers, setting),
    ]
    with clock("evaluation"):
        models = measure_models(setting, teachers, start.model)
    return _results(setting, teachers, models, runs)


def _prepare(config: Config, tokenizer: TokenizerConfig) -> Prepared:
    """Returns the rows, which the first process makes while the others wait."""
    cache = cache_directory(config)

    def track(documents: Iterable[Document], split: str, size: int) -> Iterator[Any]:
        with Progress(f"tokenising {split}", size, unit="byte") as progress:
            for document in documents:
                yield document
                progress.update(len(document.text.encode()))

    def rows() -> Prepared:
        return prepare(config.data, tokenizer, cache, track=track)

    if jax.process_index() == 0:
        prepared = rows()
    barrier("rows")
    if jax.process_index() != 0:
        prepared = rows()
    for name, size in prepared.info["splits"].items():
        lost = f", {size['lost_bytes']:,} bytes without an id"
        say(
            f"data: {name}: {size['rows']:,} rows, {size_of(size['bytes'])}"
            + (lost if size["lost_bytes"] else "")
        )
    return prepared


def _teacher_runs(teachers: Teachers, texts: Texts, setting: Setting) -> Iterator[Run]:
    """Yields the teacher's run and, for an ensemble, those of its members."""
    predict, config = teachers.predict(), setting.config
    frozen = teachers.frozen(tuple(teachers.trained))

    def measured(trained: Trained) -> dict[str, Any]:
        subject = Subject.of(trained.model)
        if len(teachers.trained) == 1:  # compared with itself
            alone = Evaluator(subject, subject.predict, setting)
            return alone.measures(trained.params, trained.params)
        return Evaluator(subject, predict, setting).measures(trained.params, frozen)

    members = [
        Run(
            role=teacher_role(name),
            seed=config.all_teachers[name].seed,
            model=teacher_role(name),
            curve=trained.curve,
            training=trained.training,
            **measured(trained),
            passage=texts.teacher_passage() if name == "teacher" else None,
            continuations=CloseUp(trained.model, texts).continuations(trained.params),
        )
        for name, trained in teachers.trained.items()
    ]
    if len(members) > 1:
        ensemble = Subject(predict, tuple(t.model for t in teachers.trained.values()))
        yield Run(
            role="teacher",
            seed=members[0].seed,
            model="teacher",
            passage=texts.teacher_passage(),
            **Evaluator(ensemble, predict, setting).measures(frozen, frozen),
        )
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
        tasks=tasks_of_start(evaluator, first_params, setting),
    )


def _student_runs(
    start: Start,
    evaluator: Evaluator,
    texts: Texts,
    teachers: Teachers,
    setting: Setting,
) -> Iterator[Run]:
    """Yields all students and twins, training those not finished yet."""
    config, student = setting.config, start.model.config
    close_up = CloseUp(start.model, texts)
    all_teachers = (found.model.config for found in teachers.trained.values())
    alone = training_flops(student, (), config.data.length)
    work = training_flops(student, all_teachers, config.data.length) / alone
    trainers = {
        role: Trainer(_recipe(role, start, teachers, setting), evaluator, setting)
        for role in student_roles(config, work)
    }
    frozen = teachers.frozen(tuple(teachers.trained))
    for seed in range(config.seed, config.seed + config.seeds):
        for role, trainer in trainers.items():
            name = role.run(seed)
            directory = setting.workdir / name
            path = directory / "result.json"
            steps = role.steps(config.student.train.steps)
            if path.exists() and (done := read_run(path)).steps >= steps:
                say(f"{name}: done before")
                yield done
                continue
            trained = trainer(name, seed, directory / "model", directory, start.params)
            found = Run(
                role=role.name,
                seed=seed,
                model="student",
                curve=trained.curve,
                training=trained.training,
                teachers=role.teachers,
                **evaluator.measures(trained.params, frozen),
                **close_up.student(role.name, seed, trained.params),
            )
            if jax.process_index() == 0:
                write_json(path, dataclasses.asdict(found))
            yield found


def _recipe(role: Role, start: Start, teachers: Teachers, setting: Setting) -> Recipe:
    config = setting.config.student
    plans = map(role.steps, read_plans(setting.workdir, config.train.steps))
    train = dataclasses.replace(config.train, steps=role.steps(config.train.steps))
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
        train,
        config.rules,
        tuple(plans),
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
