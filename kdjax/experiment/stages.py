"""The runs of an experiment: what is trained, and what is measured of it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from kdjax.core.files import write_json
from kdjax.core.logging import say
from kdjax.evaluation.likelihood import Subject
from kdjax.experiment.close_up import CloseUp, Texts
from kdjax.experiment.evaluator import Evaluator
from kdjax.experiment.places import commit
from kdjax.experiment.plans import read_plans
from kdjax.experiment.runs import Recipe, Role, Trainer, student_roles
from kdjax.experiment.setting import Setting, Trained
from kdjax.experiment.shared import train_once
from kdjax.experiment.students import Start, remembered
from kdjax.experiment.tasks import tasks_of_start
from kdjax.experiment.teachers import Teachers
from kdjax.models.flops import training_flops
from kdjax.results.files import WORK, read_run
from kdjax.results.measured import HeldOut, Run, teacher_role
from kdjax.train.objective import Objective, distillation, hard_labels


def teacher_runs(teachers: Teachers, texts: Texts, setting: Setting) -> Iterator[Run]:
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


def start_run(
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
        final=remembered(path, evaluate, dict[str, HeldOut]),
        origin=start.origin,
        tasks=tasks_of_start(evaluator, first_params, setting),
    )


def student_runs(
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
    if config.baseline == "both" and jax.process_index() == 0:
        write_json(setting.workdir / WORK, {"work": work})
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
            trained = train_once(trainer, role, seed, start, teachers, setting)
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
                commit(setting.workdir)
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
