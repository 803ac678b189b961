"""A plan as text, for terminals of 80 columns."""

import pathlib
import textwrap
from collections.abc import Iterable, Sequence

from kdjax.planning.arrays import count_of
from kdjax.planning.compiled import OUT_OF_MEMORY, Compiled
from kdjax.planning.costs import (
    CACHED_BYTES,
    TOKEN_BYTES,
    cache_of,
    checkpoint_bytes,
    run_costs,
    tokens_of_step,
    training_of,
)
from kdjax.planning.layers import layer_of
from kdjax.planning.resolve import Subject
from kdjax.planning.search import MARGIN, Choice, choice_of
from kdjax.planning.time import Times, assumptions

GIB = 2**30
_WIDTH = 80
_HOUR, _DAY = 3600.0, 86400.0
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_TAKEN = 0.75  # of a GPU's memory, that jax takes unless it is told otherwise
_SHOWN = 5  # choices of a search


def page(choice: Choice, compiled: Compiled | None, why_not: str, name: str) -> str:
    """Returns the plan as text.

    Args:
        choice: What is planned, with its estimates.
        compiled: What the compiler says of it; None: it was not asked, or failed.
        why_not: Why not, in that case.
        name: The config's.
    """
    subject, times = choice.subject, choice.times
    sections = [
        _heading(subject, name),
        _memory(choice, compiled, why_not),
        _step(times, subject),
        _experiment(subject),
        _disk(times, subject),
    ]
    if subject.teachers:
        sections.append(_cache(times, subject))
    assumed = [f"  - {each}" for each in assumptions(subject)]
    sections.append("\n".join(["The estimates assume", *assumed]))
    return "\n\n".join(sections)


def found(choices: Sequence[Choice], tried: int) -> str:
    """Returns the best choices of a search as text, and the flags of the first."""
    axes = " ".join(choices[0].subject.mesh)
    rows = [(axes, "remat", "micro", "GiB", "ms", "MFU")]
    for choice in choices[:_SHOWN]:
        mesh = choice.subject.mesh
        rows.append(
            (
                " ".join(str(size) for size in mesh.values()),
                choice.subject.student.remat,
                str(choice.subject.config.student.train.micro_batches),
                f"{choice.memory.total / GIB:.2f}",
                f"{choice.times.step * 1e3:.1f}",
                f"{choice.times.mfu:.0%}",
            )
        )
    return "\n".join(
        [
            f"Search: {len(choices):,} of {tried:,} choices fit by formula, with "
            f"{1 - MARGIN:.0%} to spare; the fastest:",
            *_columns(rows),
            "The best: " + choices[0].flags.replace(" ", "\n  "),
        ]
    )


def _heading(subject: Subject, name: str) -> str:
    target, train = subject.target, subject.config.student.train
    mesh = " ".join(f"{axis}={size}" for axis, size in subject.mesh.items())
    kernel = layer_of(subject, subject.student).kernel
    size = count_of(subject.student)
    lines = [
        f"{pathlib.PurePath(name).name} on {target.name}: "
        f"{_counted(target.devices, 'device')}, {_counted(target.hosts, 'host')}",
        f"mesh: {mesh}",
        f"student: {_short(size)} parameters, remat {subject.student.remat}, attention "
        f"by {kernel}",
    ]
    for key, teacher in subject.teachers.items():
        origin = "trained first" if teacher.is_trained else "loaded"
        size = count_of(teacher.model)
        lines.append(f"{key}: {_short(size)} parameters in {teacher.dtype}, {origin}")
    micro = _counted(train.micro_batches, "micro-batch")
    length = subject.config.data.length
    lines.append(f"batch: {train.batch_size:,} rows of {length:,} tokens in {micro}")
    return "\n".join(lines)


def _memory(choice: Choice, compiled: Compiled | None, why_not: str) -> str:
    chip = choice.subject.target.chip
    rows = [
        (kind, f"{size / GIB:.3f} GiB")
        for kind, size in choice.memory.kinds.items()
        if size
    ]
    total = choice.memory.total
    rows.append(("total by formula", f"{total / GIB:.3f} GiB"))
    if compiled is not None:
        total = compiled.total
        rows.append(("total by the compiler", f"{total / GIB:.3f} GiB"))
        source = f"compiled ahead of time in {compiled.seconds:.0f} s"
        fits = total <= chip.memory
    else:
        source = f"estimated, to about 10% ({why_not})"
        fits = choice.fits and OUT_OF_MEMORY not in why_not
    verdict = "fits into" if fits else "does NOT fit into"
    lines = [
        f"Memory a device, at its peak in {choice.memory.moment}",
        *_columns(rows),
        f"  {verdict} the {chip.memory / GIB:.2f} GiB of {chip.name} "
        f"({total / chip.memory:.0%})",
        textwrap.fill(source, _WIDTH, initial_indent="  ", subsequent_indent="  "),
    ]
    if chip.platform == "gpu" and fits and total > _TAKEN * chip.memory:
        lines.append(
            f"  jax takes {_TAKEN:.0%} of a GPU's memory: set "
            "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95"
        )
    return "\n".join(lines)


def _step(times: Times, subject: Subject) -> str:
    tokens = tokens_of_step(subject)
    flops = times.model_flops * subject.target.devices
    rows = [
        ("model FLOPs", f"{_short(flops)}, {_short(times.model_flops)} a device"),
        ("products of matrices", _milliseconds(times.products)),
        ("attention", _milliseconds(times.attention)),
        ("memory traffic", _milliseconds(times.traffic)),
        *((f"transfers: {k}", _milliseconds(v)) for k, v in times.transfers.items()),
        ("estimated step", f"{_milliseconds(times.step)}, bound by {times.bound}"),
        ("if no transfer hides", _milliseconds(times.exposed)),
        ("MFU", f"{times.mfu:.1%} of {_short(times.peak)}FLOP/s"),
        ("tokens/s", f"{tokens / times.step:,.0f}"),
    ]
    return "\n".join(["The student's step", *_columns(rows)])


def _experiment(subject: Subject) -> str:
    costs, devices = run_costs(subject), subject.target.devices
    rows = [("run", "steps", "step", "days", "chip-hours")]
    for cost in costs:
        rows.append(
            (
                cost.role if cost.runs == 1 else f"{cost.runs} x {cost.role}",
                f"{cost.steps:,}",
                _milliseconds(cost.step),
                f"{cost.seconds / _DAY:.2f}",
                _hours(cost.seconds * devices / subject.target.chip.devices),
            )
        )
    total = sum(cost.seconds for cost in costs)
    hours = _hours(total * devices / subject.target.chip.devices)
    rows.append(("together", "", "", f"{total / _DAY:.2f}", hours))
    lines = ["The experiment, without evaluation and compilation", *_columns(rows)]
    for name, teacher in subject.teachers.items():
        training = choice_of(training_of(subject, name)) if teacher.is_trained else None
        if training is not None and not training.fits:
            lines.append(
                f"  training {name} does NOT fit: {training.memory.total / GIB:.1f} GiB"
            )
    return "\n".join(lines)


def _disk(times: Times, subject: Subject) -> str:
    size = checkpoint_bytes(subject)
    rate = tokens_of_step(subject) * TOKEN_BYTES / times.step / subject.target.hosts
    kept = subject.config.checkpoint.keep + 2  # the best, and one that is being written
    rows = [
        ("a checkpoint", f"{_short(size)}B; {kept} at most: {_short(kept * size)}B"),
        ("feeding", f"{_short(rate)}B/s a host, each its own rows"),
    ]
    return "\n".join(["Disk", *_columns(rows)])


def _cache(times: Times, subject: Subject) -> str:
    cache = cache_of(subject)
    sizes = " to ".join(f"{_short(cache.tokens * each)}B" for each in CACHED_BYTES)
    per = " to ".join(str(each) for each in CACHED_BYTES)
    speed = cache.tokens / (subject.config.student.train.steps * times.step)
    speed /= (1 - cache.share) * subject.target.hosts
    reads = " to ".join(f"{_short(speed * each)}B/s" for each in CACHED_BYTES)
    students = _counted(cache.students, "student")
    passes = max(2, cache.students)
    rows = [
        ("the teacher's share of a step", f"{cache.share:.0%}"),
        (f"size, {per} bytes/token", f"{sizes} for a run's tokens"),
        ("reading it", f"{reads} a host"),
        (f"saved by {passes} passes", f"{cache.saved(passes):.0%} of students' time"),
    ]
    return "\n".join(
        [
            "A cache of the teacher's targets pays once a text is passed over twice:",
            f"epochs x students > 1 (here: {students})",
            *_columns(rows),
        ]
    )


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns rows as lines, the first column to the left, the others aligned."""
    rows = [*rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(width) if not i or len(row) == 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  " + "  ".join([first, *others]).rstrip())
    return lines


def _counted(count: int, what: str) -> str:
    plural = "es" if what.endswith("ch") else "s"
    return f"{count:,} {what}{plural if count != 1 else ''}"


def _short(number: float) -> str:
    """Returns a number in three digits: 124M, 1.24G."""
    for unit, letter in _UNITS:
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"


def _hours(seconds: float) -> str:
    return f"{seconds / _HOUR:,.1f}"
