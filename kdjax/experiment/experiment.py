"""Runs a whole experiment: data, teachers, students and twins, and their results."""

import datetime
import platform

import jax
from etils import epath

from kdjax.checkpoints import StoredModel, hub
from kdjax.config.parsing import from_mapping
from kdjax.config.schema import AnyConfig, Config
from kdjax.config.validation import check_batches, validate
from kdjax.core.buckets import is_remote
from kdjax.core.clock import Clock
from kdjax.core.compilation import keep_compiled
from kdjax.core.errors import UsageError
from kdjax.core.logging import mute, say
from kdjax.core.mirrors import address
from kdjax.evaluation.likelihood import Subject
from kdjax.experiment.close_up import Texts
from kdjax.experiment.evaluator import Evaluator
from kdjax.experiment.locking import one_at_a_time, process_lock
from kdjax.experiment.measuring import measure_models
from kdjax.experiment.places import fetch
from kdjax.experiment.rows import prepare_rows
from kdjax.experiment.setting import (
    Setting,
    check_kernels,
    check_vocabularies,
    fetch_named,
)
from kdjax.experiment.stages import start_run, student_runs, teacher_runs
from kdjax.experiment.students import (
    open_student,
    plan_student,
    start_students,
)
from kdjax.experiment.tasks import Asked, make_evaluators, read_asked
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
from kdjax.parallel.apart import are_apart
from kdjax.parallel.sharding import make_mesh
from kdjax.results.data import DataInfo
from kdjax.results.measured import (
    Environment,
    ModelInfo,
    Results,
    Run,
    TeacherInfo,
)
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
    asked = read_asked(config)  # first, so that a mistake in it costs nothing
    if is_remote(shared):
        raise UsageError(f"--shared={shared} must be a directory on a disk")
    if shared is None:
        return _run(config, asked, workdir, overwrite, None)
    shared = epath.Path(shared).expanduser()
    # Of a sweep's worker that was killed, the process may have outlived it.
    with one_at_a_time(process_lock(shared, workdir), str(workdir)):
        return _run(config, asked, workdir, overwrite, shared)


def _run(
    config: Config,
    asked: Asked,
    workdir: epath.Path,
    overwrite: bool,
    shared: epath.Path | None,
) -> Results:
    """Does what `run` says."""
    _check_cache(workdir, config)
    if jax.process_index() == 0:
        claim(workdir, config, overwrite=overwrite)
    else:
        mute()
    keep_compiled(compile_cache(config))
    mesh = make_mesh(config.mesh)
    check_kernels(config)
    check_batches(config, mesh.shape["data"] * mesh.shape["fsdp"])
    make_cache(config)
    say(f"{jax.device_count()} {jax.devices()[0].device_kind} device(s); {workdir}")
    opened: dict[str, StoredModel] = {}
    clock = Clock()
    with clock("data"):
        prepared = prepare_rows(config, fetch_named(config, opened))
    if jax.process_index():
        fetch(workdir)  # as the first process has claimed it, before all had the rows
    task = next_token_task(prepared.bits_per_byte)
    evaluators = make_evaluators(asked, config, prepared.tokenizer, mesh)
    setting = Setting(
        *(config, workdir, prepared, mesh, task, opened, clock),
        tasks=evaluators,
        own_metrics=asked.metrics,
        task_hashes=asked.hashes,
        shared=shared,
    )

    stored_teachers, stored_student = open_teachers(setting), open_student(setting)
    name, first = next(iter(config.all_teachers.items()))
    architecture = teacher_architecture(first, stored_teachers[name], setting)
    student = plan_student(architecture, stored_student, setting)
    candidates = plan_teachers(stored_teachers, setting)
    for candidate in candidates:
        check_vocabularies(student, candidate.model, candidate.name)
    if jax.process_index() == 0:
        check_data(workdir, prepared.info, asked.hashes)

    teachers = obtain_teachers(candidates, setting)
    start = start_students(student, stored_student, teachers.first, setting)
    evaluator = Evaluator(Subject.of(start.model), teachers.predict(), setting)
    texts = Texts(teachers, setting)
    runs = [
        *teacher_runs(teachers, texts, setting),
        *start_run(start, evaluator, teachers, setting),
        *student_runs(start, evaluator, texts, teachers, setting),
    ]
    with clock("evaluation"):
        models = measure_models(setting, teachers, start.model)
    return _results(setting, teachers, models, runs)


def _check_cache(workdir: epath.Path, config: Config) -> None:
    """Raises if processes that may share no disk would train a teacher on one.

    Raises:
        UsageError: They would.
    """
    is_trained = not all(teacher.path for teacher in config.all_teachers.values())
    if are_apart(workdir) and is_trained and not is_remote(config.cache_dir):
        raise UsageError(
            f"--workdir={address(workdir)} is in a bucket, and several processes would "
            "train a teacher in the cache of one machine; set config.cache_dir to a "
            "bucket as well"
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
        workdir=address(setting.workdir),
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
                path=address(trained.directory),
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
