"""What a whole experiment takes: devices' time, disk, feeding; what a cache saves."""

import dataclasses
from typing import NamedTuple

from kdjax.experiment.runs import student_roles
from kdjax.models.flops import training_flops
from kdjax.planning.arrays import state_shapes, tree_bytes
from kdjax.planning.resolve import Subject, checked
from kdjax.planning.time import times
from kdjax.results.measured import teacher_role

TOKEN_BYTES = 8  # of a token of the batch: its id and its segment
# Of a token in a cache of a teacher's targets: its most likely ids, with their
# probabilities and the rest's: 8 or so of them, and 40.
CACHED_BYTES = 36, 160


class RunCost(NamedTuple):
    """Training runs of one role.

    Attributes:
        role: As in the report.
        runs: One for each seed.
        steps: Of each run.
        step: Seconds of a step.
    """

    role: str
    runs: int
    steps: int
    step: float

    @property
    def seconds(self) -> float:
        """Of all runs together, evaluation and checkpoints left out."""
        return self.runs * self.steps * self.step


class Cache(NamedTuple):
    """What a cache of the teachers' targets would be worth.

    Attributes:
        share: Of the student's step, that the teachers' forward passes take.
        students: Students that learn from the same text.
        tokens: Of one student's run.
    """

    share: float
    students: int
    tokens: int

    def saved(self, passes: int) -> float:
        """Returns the share of the students' time that is saved.

        Args:
            passes: Epochs times students; the first one fills the cache.
        """
        return self.share * (passes - 1) / passes


def training_of(subject: Subject, name: str) -> Subject:
    """Returns the training of a teacher, as if it were a student without teachers."""
    teacher = subject.config.all_teachers[name]
    config = dataclasses.replace(
        subject.config,
        student=dataclasses.replace(
            subject.config.student, train=teacher.train, rules=teacher.rules
        ),
    )
    model = subject.teachers[name].model
    return checked(subject._replace(config=config, student=model, teachers={}))


def run_costs(subject: Subject) -> list[RunCost]:
    """Returns the experiment's training runs, in their order."""
    config = subject.config
    found = [
        RunCost(teacher_role(name), 1, config.all_teachers[name].train.steps, step)
        for name, teacher in subject.teachers.items()
        if teacher.is_trained
        for step in [times(training_of(subject, name)).step]
    ]
    models = [each.model for each in subject.teachers.values()]
    length = config.data.length
    alone = training_flops(subject.student, (), length)
    work = training_flops(subject.student, models, length) / alone
    for role in student_roles(config, work):
        teachers = {name: subject.teachers[name] for name in role.teachers}
        step = times(subject._replace(teachers=teachers)).step
        steps = role.steps(config.student.train.steps)
        found.append(RunCost(role.name, config.seeds, steps, step))
    return found


def checkpoint_bytes(subject: Subject) -> int:
    """Returns the bytes of a checkpoint: parameters and optimiser state."""
    optimizer = subject.config.student.train.optimizer
    return tree_bytes(state_shapes(subject.student, optimizer))


def tokens_of_step(subject: Subject) -> int:
    """Returns the tokens of a global batch."""
    return subject.config.student.train.batch_size * subject.config.data.length


def cache_of(subject: Subject) -> Cache:
    """Returns what a cache of the teachers' targets would be worth."""
    config = subject.config
    alone = times(subject._replace(teachers={})).step
    share = max(1 - alone / times(subject).step, 0.0)
    learners = [role for role in student_roles(config, 1.0) if role.teachers]
    tokens = tokens_of_step(subject) * config.student.train.steps
    return Cache(share, len(learners) * config.seeds, tokens)
