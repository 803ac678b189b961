"""The fastest mesh, remat policy and number of micro-batches that fit, by formula."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from kdjax.core.errors import UsageError
from kdjax.parallel.sharding import AXES
from kdjax.planning.layers import POLICIES
from kdjax.planning.memory import Memory, memory
from kdjax.planning.resolve import Subject, checked
from kdjax.planning.time import Times, times

MARGIN = 0.9  # of the memory, that an estimate may take: it may be so far off


class Choice(NamedTuple):
    """One way to run the step, and what it takes."""

    subject: Subject
    memory: Memory
    times: Times

    @property
    def fits(self) -> bool:
        """Whether a device has enough memory, with a margin for the estimate."""
        return self.memory.total <= MARGIN * self.subject.target.chip.memory

    @property
    def flags(self) -> str:
        """The flags that choose it."""
        mesh = " ".join(
            f"--config.mesh.{axis}={size}" for axis, size in self.subject.mesh.items()
        )
        micro = self.subject.config.student.train.micro_batches
        return (
            f"{mesh} --config.student.model.remat={self.subject.student.remat} "
            f"--config.student.train.micro_batches={micro}"
        )


def choice_of(subject: Subject) -> Choice:
    """Returns what a subject takes."""
    return Choice(subject, memory(subject), times(subject))


def search(subject: Subject) -> tuple[list[Choice], int]:
    """Returns all choices that fit, the fastest first, and how many were tried.

    Where two are equally fast, the one that exchanges less comes first, then the one
    that needs less memory. The batch stays as it is.

    Raises:
        UsageError: None fits.
    """
    tried = [choice_of(each) for each in _variants(subject)]
    fitting = [choice for choice in tried if choice.fits]
    if not fitting:
        least = min(tried or [choice_of(subject)], key=lambda c: c.memory.total)
        has, needs = least.subject.target.chip.memory, least.memory.total
        raise UsageError(
            f"none of {len(tried)} choices fits into {has / 2**30:.1f} GiB a device; "
            f"the least takes {needs / 2**30:.1f} GiB: use more devices, a smaller "
            "batch or shorter rows"
        )

    def cost(choice: Choice) -> tuple[float, float, float]:
        taken = choice.times
        return round(taken.step, 4), taken.exposed, choice.memory.total

    return sorted(fitting, key=cost), len(tried)


def _variants(subject: Subject) -> Iterator[Subject]:
    """Yields the subject with all meshes, policies and micro-batches that are valid."""
    rows = subject.config.student.train.batch_size
    for sizes in _meshes(subject.target.devices, len(AXES)):
        mesh = dict(zip(AXES, sizes, strict=True))
        moved = subject._replace(mesh=mesh)
        if rows % moved.batch_shards:
            continue
        valid = _valid(moved)
        if valid is None:
            continue
        moved = valid
        parts = rows // moved.batch_shards
        counts = [n for n in range(1, parts + 1) if parts % n == 0]
        for micro, remat in itertools.product(counts, POLICIES):
            yield _with(moved, micro, remat)


def _meshes(devices: int, axes: int) -> Iterator[tuple[int, ...]]:
    """Yields all ways to write a number of devices as a product of so many sizes."""
    if axes == 1:
        yield (devices,)
        return
    for size in (n for n in range(1, devices + 1) if devices % n == 0):
        for rest in _meshes(devices // size, axes - 1):
            yield (size, *rest)


def _with(subject: Subject, micro: int, remat: str) -> Subject:
    config = subject.config
    train = dataclasses.replace(
        config.student.train, micro_batches=micro, rows_per_device=0
    )
    config = dataclasses.replace(
        config, student=dataclasses.replace(config.student, train=train)
    )
    student = dataclasses.replace(subject.student, remat=remat)  # type: ignore[arg-type]
    return subject._replace(config=config, student=student)


def _valid(subject: Subject) -> Subject | None:
    """Returns the subject for its mesh; None: a model cannot be sharded over it."""
    try:
        valid = checked(_with(subject, 1, subject.student.remat))
        memory(valid)  # raises if the mesh does not divide a parameter
    except UsageError:
        return None
    return valid
