"""Results in words, for the page and the model card."""

import re
from collections.abc import Sequence

from kdjax.config.schema import ScheduleConfig
from kdjax.results.measured import Results, TeacherInfo


def origin(results: Results) -> str:
    """Returns what a student was initialised from, in words; "" if at random."""
    return next((run.origin for run in results.runs if run.role == "start"), "")


def stored_weights(teacher: TeacherInfo) -> str:
    """Returns how a loaded teacher's weights are stored, in words; "" for others."""
    if not teacher.formats:
        return ""
    return f"{bits(teacher.formats)} weights ({', '.join(teacher.formats)})"


def bits(formats: Sequence[str]) -> str:
    """Returns the bits of the most common format: "4-bit" for Q4_1."""
    found = re.match(r"\D+(\d+)", formats[0])
    return f"{found[1]}-bit" if found else formats[0]


def setting(value: float | ScheduleConfig) -> str:
    """Returns a number, or a schedule over the run, in words."""
    if isinstance(value, ScheduleConfig):
        return f"{value.start:g} to {value.end:g} ({value.kind})"
    return f"{value:g}"
